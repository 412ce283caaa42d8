//! Where the classes are.

use crate::error::{Error, Result, check_len};

/// The shape of a tensor with a class axis: `(outer, classes, inner)`, row-major.
///
/// There are two layouts, and a shape is made from either:
///
/// | written | layout | PyTorch |
/// |---|---|---|
/// | `(rows, classes)` or `[rows, classes]` | classes on the last axis | `(N, C)` |
/// | `[n, c, d1]`, `[n, c, d1, d2]`, ... | classes on axis 1 | `(N, C, d1, d2, ...)` |
/// | [`Shape::last_axis`]`(&[b, t, v])` | classes on the last axis | - |
///
/// A *row* is what has one distribution over the classes: there are `outer * inner` of them, in the
/// order of the class-index targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub(crate) outer: usize,
    pub(crate) classes: usize,
    pub(crate) inner: usize,
}

impl Shape {
    /// Classes on the last axis of `dims`, which has at least one axis.
    pub fn last_axis(dims: &[usize]) -> Result<Self> {
        let Some((&classes, rest)) = dims.split_last() else { return Err(Error::Rank { expected: 1, got: 0 }) };
        Shape { outer: product(rest)?, classes, inner: 1 }.checked()
    }

    /// Classes on axis 1 of `dims`, which has at least two axes: PyTorch's `(N, C, d1, d2, ...)`.
    pub fn channels_first(dims: &[usize]) -> Result<Self> {
        let [outer, classes, rest @ ..] = dims else { return Err(Error::Rank { expected: 2, got: dims.len() }) };
        Shape { outer: *outer, classes: *classes, inner: product(rest)? }.checked()
    }

    /// The number of classes.
    pub fn classes(self) -> usize {
        self.classes
    }

    /// The number of rows: all axes but the classes.
    pub fn rows(self) -> usize {
        self.outer.saturating_mul(self.inner)
    }

    /// The number of elements.
    pub fn elements(self) -> usize {
        self.rows().saturating_mul(self.classes)
    }

    fn checked(self) -> Result<Self> {
        // A zero must not hide what the other axes come to: code that leaves it out would overflow.
        let product = [self.classes, self.inner].iter().try_fold(self.outer.max(1), |n, &d| n.checked_mul(d.max(1)));
        product.filter(|&n| n <= isize::MAX as usize).map(|_| self).ok_or(Error::ShapeOverflow)
    }

    /// Checks the shape itself, which `From` cannot refuse, against the number of input elements.
    pub(crate) fn check_input(self, elements: usize) -> Result<()> {
        self.checked()?;
        if self.classes == 0 {
            let expected = "at least one class";
            return Err(Error::Option { name: "shape", expected, got: 0.0 });
        }
        check_len("input", self.elements(), elements)
    }
}

fn product(dims: &[usize]) -> Result<usize> {
    dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or(Error::ShapeOverflow)
}

impl From<(usize, usize)> for Shape {
    /// `(rows, classes)`.
    fn from((rows, classes): (usize, usize)) -> Self {
        Shape { outer: rows, classes, inner: 1 }
    }
}

macro_rules! from_array {
    ($($n:literal)*) => {$(
        impl From<[usize; $n]> for Shape {
            /// Classes on axis 1. A product that overflows is refused by the call that uses the shape.
            fn from(dims: [usize; $n]) -> Self {
                Shape { outer: dims[0], classes: dims[1], inner: product(&dims[2..]).unwrap_or(usize::MAX) }
            }
        }
    )*};
}
from_array!(2 3 4 5);
