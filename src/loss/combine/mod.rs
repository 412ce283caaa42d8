//! Weighted sums of losses in one pass: `0.7 * Mse::new() + 0.3 * Mae::new()`.
//!
//! A sum is a value like a loss, and a [`Loss`] itself, whatever its terms: they are not types of a generic, so that it is compiled
//! with this crate, and its kernel is one for all combinations.

use crate::call::Loss;
use crate::error::Error;
use crate::params::MAX_TERMS;

mod elements;
mod regions;
mod rows;

pub use elements::Combined;
pub(super) use elements::{Element, term};
pub use regions::CombinedRegions;
pub(crate) use regions::OfLogits;
pub use rows::CombinedRows;

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

/// A loss with its weight, which is no sum yet: what [`CombinedRegions`] and [`CombinedRows`] are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted<L> {
    loss: L,
    weight: f32,
}

impl<L> Scaled for Weighted<L> {
    fn scaled(self, by: f32) -> Self {
        Weighted { weight: self.weight * by, ..self }
    }
}

/// Gives losses a weight by the operators.
macro_rules! weighted {
    ($($loss:ty)*) => {$(
        impl $crate::loss::combine::IntoSum for $loss {
            type Sum = $crate::loss::combine::Weighted<$loss>;
            fn into_sum(self) -> Self::Sum {
                $crate::loss::combine::Weighted { loss: self, weight: 1.0 }
            }
        }
        impl $crate::loss::combine::IntoSum for $crate::loss::combine::Weighted<$loss> {
            type Sum = Self;
            fn into_sum(self) -> Self {
                self
            }
        }
        $crate::loss::combine::operators!($loss);
        $crate::loss::combine::operators!($crate::loss::combine::Weighted<$loss>);
    )*};
}
use weighted;

/// Why terms cannot be combined. Operators cannot fail; the calls of the sum do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refused {
    /// More than there is room for.
    Terms(usize),
    /// One that is no finite number.
    Weight(f32),
    /// Something that a term does on its own.
    Unsupported(&'static str),
}

impl Refused {
    pub(crate) fn error(self, loss: &'static str) -> Error {
        match self {
            Refused::Terms(got) => Error::Option { name: "terms", expected: "at most 4 of them", got: got as f64 },
            Refused::Weight(got) => {
                Error::Option { name: "weight of a term", expected: "a finite number", got: got.into() }
            }
            Refused::Unsupported(what) => Error::Unsupported { loss, what },
        }
    }
}
