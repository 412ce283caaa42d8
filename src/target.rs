//! What a loss compares its input with.

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

impl Indices<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Indices::I64(x) => x.len(),
            Indices::I32(x) => x.len(),
            Indices::U32(x) => x.len(),
            Indices::U8(x) => x.len(),
        }
    }

    #[inline(always)]
    pub(crate) fn get(self, row: usize) -> i64 {
        match self {
            Indices::I64(x) => x[row],
            Indices::I32(x) => x[row].into(),
            Indices::U32(x) => x[row].into(),
            Indices::U8(x) => x[row].into(),
        }
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
