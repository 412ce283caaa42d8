//! Weighted sums of losses in one pass: `0.7 * Mse::new() + 0.3 * Mae::new()`.
//!
//! A sum is a value like a loss, and a [`Loss`] itself, whatever its terms: they are not types of a generic, so that it is compiled
//! with this crate, and its kernel is one for all combinations.

use crate::call::Loss;
use crate::error::Error;
use crate::params::MAX_TERMS;

mod elements;

pub use elements::Combined;
pub(super) use elements::{Element, term};

/// Most terms of a sum.
pub(crate) const MOST: usize = MAX_TERMS as usize;

/// A sum of losses. Its calls have [`Call::terms`](crate::Call::terms) for the values of its terms.
#[allow(private_bounds)]
pub trait Combination: Loss + Scaled {}

/// What can be multiplied by a number.
pub(crate) trait Scaled {
    fn scaled(self, by: f32) -> Self;
}

/// A loss that can be a term of a sum, or a sum.
pub trait IntoSum {
    /// The sum that has it as a term.
    type Sum;

    /// That sum, with the weight 1.
    fn into_sum(self) -> Self::Sum;
}

/// A sum that can be one with another.
#[diagnostic::on_unimplemented(message = "losses of these kinds cannot be computed in one pass over the same input")]
pub trait Join<Other> {
    /// Of all terms.
    type Sum;

    /// The terms of both.
    fn join(self, other: Other) -> Self::Sum;
}

/// The operators of a loss or a sum.
macro_rules! operators {
    ($loss:ty) => {
        impl std::ops::Mul<$loss> for f32 {
            type Output = <$loss as $crate::loss::combine::IntoSum>::Sum;
            fn mul(self, loss: $loss) -> Self::Output {
                use $crate::loss::combine::{IntoSum, Scaled};
                loss.into_sum().scaled(self)
            }
        }
        impl std::ops::Mul<f32> for $loss {
            type Output = <$loss as $crate::loss::combine::IntoSum>::Sum;
            fn mul(self, weight: f32) -> Self::Output {
                weight * self
            }
        }
        impl<R: $crate::loss::combine::IntoSum> std::ops::Add<R> for $loss
        where
            <$loss as $crate::loss::combine::IntoSum>::Sum: $crate::loss::combine::Join<R::Sum>,
        {
            type Output = <<$loss as $crate::loss::combine::IntoSum>::Sum as $crate::loss::combine::Join<R::Sum>>::Sum;
            fn add(self, other: R) -> Self::Output {
                use $crate::loss::combine::{IntoSum, Join};
                self.into_sum().join(other.into_sum())
            }
        }
        impl<R: $crate::loss::combine::IntoSum> std::ops::Sub<R> for $loss
        where
            R::Sum: std::ops::Mul<f32, Output = R::Sum>,
            <$loss as $crate::loss::combine::IntoSum>::Sum: $crate::loss::combine::Join<R::Sum>,
        {
            type Output = <<$loss as $crate::loss::combine::IntoSum>::Sum as $crate::loss::combine::Join<R::Sum>>::Sum;
            fn sub(self, other: R) -> Self::Output {
                use $crate::loss::combine::{IntoSum, Join};
                self.into_sum().join(other.into_sum() * -1.0)
            }
        }
    };
}
pub(crate) use operators;

/// Why terms cannot be combined. Operators cannot fail; the calls of the sum do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refused {
    /// More than there is room for.
    Terms(usize),
    /// One that is no finite number.
    Weight(f32),
    /// A rule that takes a look at all labels first.
    Labels,
}

impl Refused {
    pub(crate) fn error(self) -> Error {
        match self {
            Refused::Terms(got) => Error::Option { name: "terms", expected: "at most 4 of them", got: got as f64 },
            Refused::Weight(got) => {
                Error::Option { name: "weight of a term", expected: "a finite number", got: got.into() }
            }
            Refused::Labels => Error::Unsupported { loss: Combined::NAME, what: "Keras's rule for labels" },
        }
    }
}
