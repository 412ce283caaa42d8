//! Choosing a loss: by the task, with the reason, and what to mind.
//!
//! # At a glance
//!
//! | what the model says | take | because | mind |
//! |---|---|---|---|
//! | a number | [`Mse`](crate::Mse) | its minimum is the mean, its gradient goes to zero with the error | one outlier of 100 weighs as much as 10,000 errors of 1 |
//! | a number, with outliers | [`Huber`](crate::Huber) | squares what is small, bounds the pull of what is not | `delta` is in the unit of the target: about the size of a usual error |
//! | a number, whose median is wanted | [`Mae`](crate::Mae) | half of the targets are above its minimum | the gradient never gets smaller: lower the rate of learning at the end |
//! | an interval | [`Quantile`](crate::Quantile), one loss a bound | each bound is a quantile by construction | bounds can cross |
//! | a number and how sure it is | [`GaussianNll`](crate::GaussianNll) | learns the variance from the errors | the variance, above zero: `softplus` or `exp` of what the model says |
//! | a count | [`PoissonNll`](crate::PoissonNll) | variance grows with the mean, as that of counts does | the input is the logarithm of the rate |
//! | yes or no; several labels at once | [`BceWithLogits`](crate::BceWithLogits) | exact for any logit | logits, not their sigmoid |
//! | yes or no, yes being rare | [`BceWithLogits::pos_weight`](crate::BceWithLogits::pos_weight), then [`SigmoidFocal`](crate::SigmoidFocal) | weighs what is rare, or what is not yet learnt | probabilities are no longer calibrated |
//! | yes or no, by a margin | [`Hinge`](crate::Hinge), [`SquaredHinge`](crate::SquaredHinge) | right by enough costs nothing | say whether labels are -1/1 or 0/1 |
//! | one of many | [`CrossEntropy`](crate::CrossEntropy) | softmax and logarithm in one, exact | logits, not a softmax; classes on the last axis or on axis 1 |
//! | one of many, most of them easy | [`SoftmaxFocal`](crate::SoftmaxFocal) | what is learnt stops to dominate | the mean gets small: raise the rate of learning |
//! | the next of very many words | `head::LinearCrossEntropy` | the logits are never all held | its memory is a budget |
//! | a mask, of a region that is small | [`DiceLoss`](crate::DiceLoss), with [`CrossEntropy`](crate::CrossEntropy) | overlap does not see the background | say what the input is: `.sigmoid()`, `.softmax()` or probabilities |
//! | a mask, where misses and false alarms differ | [`TverskyLoss`](crate::TverskyLoss) | a price each | `alpha` is of false positives; Keras up to 3.15 has them the other way round |
//! | a mask, judged by its Jaccard index (mIoU) | [`LovaszSoftmax`](crate::LovaszSoftmax), [`LovaszHinge`](crate::LovaszHinge), after training with cross-entropy | follows the index itself, pixel by pixel, where Dice follows a mean | sorts all pixels: many times the price of Dice; gradients at few pixels: begin with cross-entropy |
//! | a box | [`BoxIou`](crate::BoxIou) | what is measured is what is trained | plain IoU has no gradient for boxes that do not touch: take `giou` |
//! | a distribution | [`KlDiv`](crate::KlDiv) | the distance that likelihood means | log-probabilities in; `BatchMean` is the divergence, `Mean` is not |
//! | what a teacher says | [`Distillation`](crate::Distillation), [`Jsd`](crate::Jsd) | logits of both, one pass | gradients shrink with the square of the temperature unless they are scaled |
//! | a ranking, a preference | [`MarginRanking`](crate::MarginRanking), [`Dpo`](crate::Dpo) | differences alone are judged | labels -1 and 1 |
//! | samples that look real | [`GanLoss`](crate::GanLoss), [`RelativisticAverage`](crate::RelativisticAverage) | `NonSaturating` learns from the start | `Minimax` is what textbooks write and does not |
//! | several things at once | a sum: `0.5 * a + 0.5 * b` | one pass, one launch | look at the terms by themselves: `terms` |
//! | several outputs, each with its loss | a call each, weighed by [`TaskUncertainty`](crate::TaskUncertainty) | the weights are learned | the loss may be below zero |
//!
//! # Numbers
//!
//! Begin with [`Mse`](crate::Mse) on targets of mean 0 and variance 1. If some targets are wrong, [`Huber`](crate::Huber): an error of 100
//! pulls a hundred times as hard as one of 1 under the first, and no harder than `delta` under the second.
//!
//! ```
//! use fused_loss::{Huber, Mse, Reduction, SmoothL1};
//! # fn main() -> fused_loss::Result<()> {
//! let (input, target, mut grad) = ([1.0f32, 100.0], [0.0, 0.0], [0.0; 2]);
//! Mse::new().forward_backward(&input, &target, Reduction::Sum, &mut grad)?;
//! assert_eq!(grad, [2.0, 200.0]);
//! Huber::new(2.0)?.forward_backward(&input, &target, Reduction::Sum, &mut grad)?;
//! assert_eq!(grad, [1.0, 2.0]);
//! // PyTorch's two names are not the same loss: one is the other times delta.
//! let (huber, smooth) = (Huber::new(2.0)?, SmoothL1::new(2.0)?);
//! let of = |value: fused_loss::Result<f32>| value;
//! let twice = 2.0 * of(smooth.forward(&input, &target, Reduction::Sum))?;
//! assert_eq!(of(huber.forward(&input, &target, Reduction::Sum))?, twice);
//! # Ok(()) }
//! ```
//!
//! # Yes or no
//!
//! [`BceWithLogits`](crate::BceWithLogits), on what the last layer says, without a sigmoid. [`Bce`](crate::Bce) is for probabilities that
//! come from elsewhere: once a sigmoid has been rounded to 1 nothing of the mistake is left to learn from.
//!
//! ```
//! use fused_loss::{Bce, BceWithLogits, Reduction};
//! # fn main() -> fused_loss::Result<()> {
//! // Sure, and wrong.
//! let (logit, mut grad) = (20.0f32, [0.0]);
//! BceWithLogits::new().forward_backward(&[logit], &[0.0], Reduction::Sum, &mut grad)?;
//! assert_eq!(grad, [1.0]);
//! // The same by way of a probability, which is 1 in f32.
//! let sigmoid = 1.0 / (1.0 + (-logit).exp());
//! assert_eq!(Bce::new().forward(&[sigmoid], &[0.0], Reduction::Sum)?, 100.0); // where PyTorch clamps the logarithm
//! # Ok(()) }
//! ```
//!
//! If yes is rare, weigh it: `pos_weight` of about the number of noes to each yes. If there are ten thousand easy noes to each, as in
//! detection, [`SigmoidFocal`](crate::SigmoidFocal). The formula `-alpha (1 - p)^gamma y ln p` that circulates has no term for a no, and is
//! best pleased by yes to everything; here both sides count.
//!
//! # One of many
//!
//! [`CrossEntropy`](crate::CrossEntropy) on logits. A softmax before it is the commonest mistake: with three classes the loss then cannot
//! fall below 0.55, and learns slowly.
//!
//! ```
//! use fused_loss::{CrossEntropy, Reduction};
//! # fn main() -> fused_loss::Result<()> {
//! let loss = |logits: &[f32]| CrossEntropy::new().forward(logits, &[0i64], (1, 3), Reduction::Mean);
//! assert!(loss(&[30.0, 0.0, 0.0])? < 1e-9);
//! assert!(loss(&[1.0, 0.0, 0.0])? > 0.55); // the best that a softmax can say
//! # Ok(()) }
//! ```
//!
//! * Rows to leave out (padding) have the ignored index, -100 unless you say otherwise. They cost nothing, their gradient is zero
//!   whatever they hold, and the mean does not count them. A mean of none is NaN, as PyTorch's: `Reduction::SumOver` has no such case.
//! * With class weights the mean divides by the weights of the targets, as PyTorch's does for indices and not for probabilities.
//! * Logits that are minus infinity mask a class; a target there costs infinity.
//! * `label_smoothing` with a mask puts weight on classes that are ruled out, and costs infinity too.
//!
//! # Masks
//!
//! [`DiceLoss`](crate::DiceLoss) looks at overlap, so that a small region counts as much as a large one; pixel-wise
//! [`CrossEntropy`](crate::CrossEntropy) has the smoother gradient early on. Their sum is what most use, and is one pass here:
//! `0.5 * DiceLoss::new().softmax() + 0.5 * CrossEntropy::new()`; where channels do not exclude each other,
//! `DiceLoss::new().sigmoid() + SigmoidFocal::new()`, and where most pixels are easy `DiceLoss::new().softmax() + SoftmaxFocal::new()`.
//!
//! * Without `.sigmoid()` or `.softmax()` the input is taken for probabilities.
//! * `smooth` is 1, so that a region that is empty on both sides is perfect. MONAI's default is 1e-5, which is harsher on small ones.
//! * With `batch(true)` a region is a channel of all samples: for regions that many samples do not have.
//!
//! # Distributions
//!
//! [`KlDiv`](crate::KlDiv) takes log-probabilities and then the target; Keras has them the other way round. From two sets of logits
//! [`Distillation`](crate::Distillation) is exact where `kl_div(log_softmax(..), softmax(..))` is not. With labels beside the teacher,
//! `0.3 * CrossEntropy::new() + 0.7 * Distillation::new()` is one pass ([`CombinedRows`](crate::CombinedRows)).
//!
//! # Adversaries
//!
//! [`GanLoss`](crate::GanLoss) `NonSaturating` trains the generator against the label 1. The minimax value has no gradient where the
//! generator is bad, which is where it begins:
//!
//! ```
//! use fused_loss::{GanLoss, GanMode, Reduction};
//! # fn main() -> fused_loss::Result<()> {
//! let (fake, mut grad) = ([-10.0f32], [0.0]); // the discriminator is sure
//! GanLoss::new(GanMode::Minimax).generator(&fake, Reduction::Mean, &mut grad)?;
//! assert!(grad[0].abs() < 1e-4);
//! GanLoss::new(GanMode::NonSaturating).generator(&fake, Reduction::Mean, &mut grad)?;
//! assert!(grad[0] < -0.99);
//! # Ok(()) }
//! ```
//!
//! # When it does not learn
//!
//! | symptom | look at |
//! |---|---|
//! | the loss is NaN from the first step | an input that is NaN or infinite: no loss here hides one; a mean of nothing; a batch of ignored rows alone |
//! | NaN after a while, in f16 | the loss scale: give it to `grad_output`, which multiplies before the gradient is rounded |
//! | gradients of exactly zero, in f16 | the same: a mean over 10^7 elements has gradients that f16 does not have |
//! | the loss stops at ln(classes) or at 0.55 | a softmax or sigmoid before a loss that takes logits |
//! | twice the gradient that was expected | `accumulate`, or a buffer that a call before has left |
//! | a loss that depends on the size of the batch | `Sum` in place of `Mean`; for steps of several batches `SumOver` of the tokens in all of them |
//! | a sum that is larger than Keras's | Keras averages the last axis before it sums |
