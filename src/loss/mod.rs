//! The losses, one file each: what it is, where its formula comes from, and the formula.

use crate::cpu::math::Math;
use crate::cpu::simd::Simd;

mod bce;
mod cross_entropy;
mod cross_entropy_probs;
mod dice;
mod focal;
mod gan;
mod hinge;
mod huber;
mod kl;
mod mae;
mod margin;
mod mse;
mod nll;
mod penalty;
#[allow(unsafe_code)] // loads and stores of its own, for it fits no skeleton
mod relativistic;

pub use bce::{Bce, BceWithLogits};
pub use cross_entropy::CrossEntropy;
pub use cross_entropy_probs::CrossEntropyProbs;
pub use dice::{DiceLoss, TverskyLoss};
pub use focal::{SigmoidFocal, SoftmaxFocal};
pub use gan::{GanLoss, GanMode, GanTerm};
pub use hinge::{Hinge, HingeLabels, SquaredHinge};
pub use huber::{Huber, SmoothL1};
pub use kl::{Distillation, KlDiv, KlDivProbs};
pub use mae::Mae;
pub use margin::{CategoricalHinge, MultiMargin};
pub use mse::Mse;
pub use nll::Nll;
pub use penalty::GradientPenalty;
pub use relativistic::{RelativisticAverage, RelativisticPair};

/// Makes a [`Pointwise`](crate::cpu::elementwise::Pointwise) type a [`Loss`](crate::Loss).
macro_rules! elementwise_loss {
    ($loss:ty) => {
        impl $crate::call::Loss for $loss {
            const NAME: &'static str = <$loss as $crate::cpu::elementwise::Pointwise>::NAME;
        }
        impl $crate::call::Run for $loss {
            fn run(&self, request: $crate::call::AnyRequest<'_>) -> $crate::Result<f32> {
                $crate::call::for_request!(request, |r| $crate::cpu::elementwise::run(*self, r))
            }
        }
    };
}
pub(crate) use elementwise_loss;

/// Makes a [`Rowwise`](crate::cpu::rowwise::Rowwise) type a [`Loss`](crate::Loss).
macro_rules! rowwise_loss {
    ($loss:ty) => {
        impl $crate::call::Loss for $loss {
            const NAME: &'static str = <$loss as $crate::cpu::rowwise::Rowwise>::NAME;
        }
        impl $crate::call::Run for $loss {
            fn run(&self, request: $crate::call::AnyRequest<'_>) -> $crate::Result<f32> {
                $crate::call::for_request!(request, |r| $crate::cpu::rowwise::run(*self, r))
            }
        }
    };
}
pub(crate) use rowwise_loss;

/// -1, 0 or 1; NaN for NaN.
#[inline(always)]
pub(crate) fn sign(e: f32) -> f32 {
    let positive = if e > 0.0 { 1.0 } else { 0.0 };
    let sign = if e < 0.0 { -1.0 } else { positive };
    if e.is_nan() { e } else { sign }
}

/// Sigmoid and softplus of a logit and of its negative, from one exponential: none of the four is
/// the difference of two close numbers, however far out the logit is.
#[derive(Clone, Copy)]
pub(crate) struct Logistic {
    /// `sigmoid(x)`
    pub(crate) sigmoid: f32,
    /// `sigmoid(-x) = 1 - sigmoid(x)`
    pub(crate) sigmoid_neg: f32,
    /// `softplus(x) = -ln(sigmoid(-x))`
    pub(crate) softplus: f32,
    /// `softplus(-x) = -ln(sigmoid(x))`
    pub(crate) softplus_neg: f32,
}

#[inline(always)]
pub(crate) fn logistic<S: Simd>(s: S, x: f32) -> Logistic {
    let (small, l) = s.sigmoid_softplus(-x.abs());
    let large = 1.0 - small;
    let positive = x >= 0.0;
    Logistic {
        sigmoid: if positive { large } else { small },
        sigmoid_neg: if positive { small } else { large },
        softplus: if positive { x + l } else { l },
        softplus_neg: if positive { l } else { l - x },
    }
}
