//! The losses, one file each: what it is, where its formula comes from, and the formula.

use crate::cpu::simd::{F32s, Mask, Operand, Simd};

mod bce;
mod boxes;
mod combine;
mod cosine;
pub(crate) mod cross_entropy;
mod cross_entropy_probs;
mod custom;
mod dice;
mod dpo;
pub(crate) mod focal;
mod gan;
mod gaussian_nll;
mod hinge;
mod huber;
mod jsd;
mod kl;
mod log_cosh;
mod lovasz;
mod mae;
mod margin;
mod mse;
mod nll;
mod penalty;
mod poisson_nll;
mod quantile;
mod ranking;
#[allow(unsafe_code)] // loads and stores of its own, for it fits no skeleton
mod relativistic;
mod reporting;
mod soft_margin;
mod target_weights;
mod triplet;
mod uncertainty;

pub use bce::{Bce, BceWithLogits};
pub use boxes::BoxIou;
pub use combine::{Combination, Combined, CombinedRegions, CombinedRows, Weighted};
pub(crate) use combine::{OfLogits, Refused};
pub use cosine::CosineEmbedding;
pub use cross_entropy::CrossEntropy;
pub use cross_entropy_probs::CrossEntropyProbs;
pub use custom::Custom;
pub use dice::{DiceLoss, DiceWeight, GeneralizedDiceLoss, TverskyLoss};
pub use dpo::{Dpo, DpoVariant};
pub use focal::{SigmoidFocal, SoftmaxFocal};
pub use gan::{GanLoss, GanMode, GanTerm};
pub use gaussian_nll::GaussianNll;
pub use hinge::{Hinge, HingeLabels, SquaredHinge};
pub use huber::{Huber, SmoothL1};
pub use jsd::Jsd;
pub use kl::{Distillation, KlDiv, KlDivProbs};
pub use log_cosh::LogCosh;
pub use lovasz::{LovaszHinge, LovaszSoftmax};
pub use mae::Mae;
pub use margin::{CategoricalHinge, MultiMargin};
pub use mse::Mse;
pub use nll::Nll;
pub use penalty::GradientPenalty;
pub use poisson_nll::PoissonNll;
pub use quantile::Quantile;
pub use ranking::MarginRanking;
pub use relativistic::{RelativisticAverage, RelativisticPair};
pub use soft_margin::SoftMargin;
pub use triplet::TripletMargin;
pub use uncertainty::TaskUncertainty;

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

/// What the sigmoid losses have in common: with `tail = sigmoid(-|x|)` and `soft = ln(1 + e^-|x|)`,
///
/// | | `x > 0` | `x <= 0` |
/// |---|---|---|
/// | `sigmoid(x)` | `1 - tail` | `tail` |
/// | `softplus(x) = -ln(sigmoid(-x))` | `soft + \|x\|` | `soft` |
/// | `softplus(-x) = -ln(sigmoid(x))` | `soft` | `soft + \|x\|` |
///
/// One exponential, and none of them is the difference of two close numbers, however far out the logit is.
///
/// A loss that weighs the two softpluses is a function of `|x|` and of the [`weight`](Self::weight) of the one that has `|x|`, and so is the
/// size of its gradient, the sign of which is [`with_sign`](Self::with_sign).
#[derive(Clone, Copy)]
pub(crate) struct Logistic<S: Simd> {
    pub(crate) negative: Mask<S>,
    pub(crate) abs: F32s<S>,
    pub(crate) tail: F32s<S>,
    pub(crate) soft: F32s<S>,
}

#[cfg_attr(optimized, inline(always))]
pub(crate) fn logistic<S: Simd>(x: F32s<S>) -> Logistic<S> {
    let (tail, soft) = x.logistic_tail();
    Logistic::new(x, tail, soft)
}

impl<S: Simd> Logistic<S> {
    /// Of `x`, with what [`logistic_tail`](F32s::logistic_tail) gives for it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(x: F32s<S>, tail: F32s<S>, soft: F32s<S>) -> Self {
        Logistic { negative: x.le(0.0), abs: x.abs(), tail, soft }
    }

    /// Of the weights of `softplus(x)` and `softplus(-x)` that of the larger, which the sign of `x` speaks for.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn weight(&self, neg: impl Operand<S>, pos: impl Operand<S>) -> F32s<S> {
        self.negative.pick(pos, neg)
    }

    /// A derivative for `|x|` as one for `x`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn with_sign(&self, slope: F32s<S>) -> F32s<S> {
        slope.neg_where(self.negative)
    }

    /// `neg softplus(x) + pos softplus(-x)`: binary cross-entropy that weighs negatives and positives so.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn cost(&self, neg: impl Operand<S>, pos: impl Operand<S>) -> F32s<S> {
        let s = self.abs.simd();
        let (neg, pos) = (neg.on(s), pos.on(s));
        self.abs.mul_add(self.weight(neg, pos), (neg + pos) * self.soft)
    }

    /// The same of weights that are 1 together, given [that of the larger](Self::weight): one of zero leaves out an infinite `|x|`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn cost_of_one(&self, weight: F32s<S>) -> F32s<S> {
        self.soft.add_product_where(weight.ne(0.0), self.abs, weight)
    }

    /// `neg sigmoid(x) - pos sigmoid(-x)`: the derivative of `cost`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn slope(&self, neg: impl Operand<S>, pos: impl Operand<S>) -> F32s<S> {
        let s = self.abs.simd();
        let (neg, pos) = (neg.on(s), pos.on(s));
        self.with_sign((-(neg + pos)).mul_add(self.tail, self.weight(neg, pos)))
    }

    /// `sigmoid(x)`
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sigmoid(&self) -> F32s<S> {
        self.negative.pick(self.tail, 1.0 - self.tail)
    }

    /// `sigmoid(x) sigmoid(-x)`: the derivative of the sigmoid.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn variance(&self) -> F32s<S> {
        (-self.tail).mul_add(self.tail, self.tail)
    }
}
