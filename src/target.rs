//! What a loss compares its input with.

use crate::cpu::simd::{Kernel, Machine};
use crate::element::Element;

/// The targets of a call: a tensor of the input's type, class indices, or nothing at all.
///
/// It is made by `into()` from a slice, array or `Vec` of the input's type (dense targets) or of
/// `i64`, `i32`, `u32` or `u8` (class indices, one a row).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Target<'a, T> {
    /// The loss needs none, as a GAN term.
    Nothing,
    /// One value for each input element.
    Dense(&'a [T]),
    /// One class a row.
    I64(&'a [i64]),
    /// One class a row.
    I32(&'a [i32]),
    /// One class a row.
    U32(&'a [u32]),
    /// One class a row.
    U8(&'a [u8]),
}

/// Generic over the element, so that code generic over it can use them; a class index is no element, so
/// they do not overlap.
macro_rules! from_slices {
    ($($variant:ident: $t:ty,)*) => {$(
        impl<'a, T: Element> From<&'a [$t]> for Target<'a, T> {
            fn from(x: &'a [$t]) -> Self { Target::$variant(x) }
        }
        impl<'a, T: Element> From<&'a Vec<$t>> for Target<'a, T> {
            fn from(x: &'a Vec<$t>) -> Self { Target::$variant(x) }
        }
        impl<'a, T: Element, const N: usize> From<&'a [$t; N]> for Target<'a, T> {
            fn from(x: &'a [$t; N]) -> Self { Target::$variant(x) }
        }
    )*};
}
from_slices! {
    Dense: T,
    I64: i64,
    I32: i32,
    U32: u32,
    U8: u8,
}

/// Class indices of any integer type, read as `i64`.
#[derive(Clone, Copy)]
pub(crate) enum Indices<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
    U32(&'a [u32]),
    U8(&'a [u8]),
}

/// Runs an expression for the slice behind [`Indices`].
macro_rules! for_indices {
    ($indices:expr, |$x:ident| $body:expr) => {{
        // A conversion that is one for most of the types.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::let_and_return)]
        let value = match $indices {
            $crate::target::Indices::I64($x) => $body,
            $crate::target::Indices::I32($x) => $body,
            $crate::target::Indices::U32($x) => $body,
            $crate::target::Indices::U8($x) => $body,
        };
        value
    }};
}
pub(crate) use for_indices;

impl Indices<'_> {
    pub(crate) fn len(self) -> usize {
        for_indices!(self, |x| x.len())
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn get(self, row: usize) -> i64 {
        for_indices!(self, |x| x[row].into())
    }
}

/// What is no class.
pub(crate) const NO_CLASS: u32 = u32::MAX;

/// Reads the classes from index `start` on, which have been checked: [`NO_CLASS`] where one is ignored, and past `count`. (A function
/// apart from the losses, which would have it for four types.)
pub(crate) struct ReadClasses<'c, 'a> {
    pub(crate) indices: Indices<'a>,
    pub(crate) start: usize,
    pub(crate) count: usize,
    pub(crate) ignore: Option<i64>,
    pub(crate) classes: &'c mut [u32],
}

impl Kernel for ReadClasses<'_, '_> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, _: S) {
        let ReadClasses { indices, start, count, ignore, classes } = self;
        let (classes, rest) = classes.split_at_mut(count);
        for_indices!(indices, |x| {
            let x = &x[start..start + count];
            // A loop each, for LLVM to make vectors of.
            match ignore {
                Some(ignore) => {
                    for (class, &x) in classes.iter_mut().zip(x) {
                        *class = if i64::from(x) == ignore { NO_CLASS } else { x as u32 };
                    }
                }
                None => {
                    for (class, &x) in classes.iter_mut().zip(x) {
                        *class = x as u32;
                    }
                }
            }
        });
        rest.fill(NO_CLASS);
    }
}

impl<'a, T: Element> Target<'a, T> {
    /// The class indices, if these are the targets.
    pub(crate) fn indices(self) -> Option<Indices<'a>> {
        match self {
            Target::I64(x) => Some(Indices::I64(x)),
            Target::I32(x) => Some(Indices::I32(x)),
            Target::U32(x) => Some(Indices::U32(x)),
            Target::U8(x) => Some(Indices::U8(x)),
            Target::Nothing | Target::Dense(_) => None,
        }
    }
}
