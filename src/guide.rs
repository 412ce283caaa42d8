//! Choosing a loss: by the task, with the reason, and what to mind.
//!
//! # At a glance
//!
//! | what the model says | take | because | mind |
//! |---|---|---|---|
//! | a number | [`Mse`](crate::Mse) | its minimum is the mean, its gradient goes to zero with the error | one outlier of 100 weighs as much as 10,000 errors of 1 |
//! | a number, with outliers | [`Huber`](crate::Huber) | squares what is small, bounds the pull of what is not | `delta` is in the unit of the target: about the size of a usual error |
//! | a number, whose median is wanted | [`Mae`](crate::Mae) | half of the targets are above its minimum | the gradient never gets smaller: lower the rate of learning at the end |
//! | a number, with outliers, by a method of second order | [`LogCosh`](crate::LogCosh) | Huber without a corner in its second derivative, and no `delta` | it turns from square to absolute at an error of about 1: scale targets so that this is a usual one |
//! | an interval | [`Quantile`](crate::Quantile), one loss a bound | each bound is a quantile by construction | bounds can cross |
//! | a number and how sure it is | [`GaussianNll`](crate::GaussianNll) | learns the variance from the errors | the variance, above zero: `softplus` or `exp` of what the model says |
//! | a count | [`PoissonNll`](crate::PoissonNll) | variance grows with the mean, as that of counts does | the input is the logarithm of the rate |
//! | yes or no; several labels at once | [`BceWithLogits`](crate::BceWithLogits) | exact for any logit | logits, not their sigmoid |
//! | yes or no, yes being rare | [`BceWithLogits::pos_weight`](crate::BceWithLogits::pos_weight), then [`SigmoidFocal`](crate::SigmoidFocal) | weighs what is rare, or what is not yet learnt | probabilities are no longer calibrated |
//! | yes or no, as labels -1 and 1 | [`SoftMargin`](crate::SoftMargin) | [`BceWithLogits`](crate::BceWithLogits) of such labels | a label of 0 costs ln 2 and teaches nothing |
//! | yes or no, by a margin | [`Hinge`](crate::Hinge), [`SquaredHinge`](crate::SquaredHinge) | right by enough costs nothing | say whether labels are -1/1 or 0/1 |
//! | one of many | [`CrossEntropy`](crate::CrossEntropy) | softmax and logarithm in one, exact | logits, not a softmax; classes on the last axis or on axis 1 |
//! | one of many, most of them easy | [`SoftmaxFocal`](crate::SoftmaxFocal) | what is learnt stops dominating | the mean gets small: raise the rate of learning |
//! | one of many, by a margin | [`CategoricalHinge`](crate::CategoricalHinge), [`MultiMargin`](crate::MultiMargin) | right by enough costs nothing; the first asks it of the best wrong class, the second of each | scores are no probabilities |
//! | the next of very many words | `head::LinearCrossEntropy` | the logits are never all held | its memory is a budget |
//! | one of so many classes that GPUs share them | `CrossEntropy::across` and `LinearCall::across`, of [`parallel`](crate::parallel) | each rank looks at its own classes, and two small all-reduces put that together | all ranks call, with the same targets |
//! | how sure it is, and whether it is right, beside the loss | [`Call::entropy`](crate::Call::entropy), [`hit`](crate::Call::hit), [`argmax`](crate::Call::argmax), [`lse`](crate::Call::lse) of [`CrossEntropy`](crate::CrossEntropy) | from the same pass | a row that is ignored has zeros, and the class -1 |
//! | what to do, learnt from rewards | [`CrossEntropy`](crate::CrossEntropy) of what was drawn, weighed by advantages; [`log_probs`](crate::CrossEntropy::log_probs) | minus its value is the log-probability | see [below](#a-policy) for the bonus of entropy |
//! | a mask, of a region that is small | [`DiceLoss`](crate::DiceLoss), with [`CrossEntropy`](crate::CrossEntropy) | overlap does not see the background | say what the input is: `.sigmoid()`, `.softmax()` or probabilities |
//! | a mask, of classes of very unequal size | [`GeneralizedDiceLoss`](crate::GeneralizedDiceLoss) | weighs each class by one over its size squared | one value a sample; a class that is not there weighs as the rarest that is |
//! | a mask, where misses and false alarms differ | [`TverskyLoss`](crate::TverskyLoss) | a price each | `alpha` is of false positives; Keras up to 3.15.1 has them the other way round |
//! | a mask, some regions of which are nearly right and others missed | [`TverskyLoss::focal`](crate::TverskyLoss::focal) | a power above 1 turns to what is missed, one below 1 finishes what is nearly right | the paper's 4/3 is `focal(0.75)` |
//! | a mask, judged by its Jaccard index (mIoU) | [`LovaszSoftmax`](crate::LovaszSoftmax), [`LovaszHinge`](crate::LovaszHinge), after training with cross-entropy | follows the index itself, pixel by pixel, where Dice follows a mean | sorts all pixels: many times the price of Dice; gradients at few pixels: begin with cross-entropy |
//! | probabilities, or their logarithms, made elsewhere | [`CrossEntropyProbs`](crate::CrossEntropyProbs), [`KlDivProbs`](crate::KlDivProbs); [`Nll`](crate::Nll), [`KlDiv`](crate::KlDiv) | numbers are taken as they are | what was rounded to 1 has nothing left to learn from: logits where there is a choice |
//! | a box | [`BoxIou`](crate::BoxIou): `giou`, or `diou` | what is measured is what is trained; `diou` pulls centres together, which is the quicker way where boxes do not touch | plain `iou` has no gradient for boxes that do not touch |
//! | a box whose shape matters | [`BoxIou::ciou`](crate::BoxIou::ciou) | `diou`, and the ratio of width to height | say a centre and the logarithms of width and height, not corners |
//! | a distribution | [`KlDiv`](crate::KlDiv) | the distance that likelihood means | log-probabilities in; `BatchMean` is the divergence, `Mean` is not |
//! | what a teacher says | [`Distillation`](crate::Distillation), [`Jsd`](crate::Jsd) | logits of both, one pass | gradients shrink with the square of the temperature unless they are scaled |
//! | two views of one thing, as pictures and their texts | `head::InfoNce` | every other pair of the batch is a negative, and their similarities are never held: CLIP | rows of length one, a scale that is learnt, large batches; `one_way` where only one side asks |
//! | whether two embeddings belong together | [`CosineEmbedding`](crate::CosineEmbedding) | the angle alone is judged | labels -1 and 1; pairs that do not belong are left alone where their cosine is below `margin` |
//! | an embedding, from examples that are nearer and further | [`TripletMargin`](crate::TripletMargin) | only the order of distances is asked for | triplets that are right by the margin teach nothing: choose hard ones, and `swap` |
//! | a ranking, a preference | [`MarginRanking`](crate::MarginRanking), [`Dpo`](crate::Dpo) | differences alone are judged | the first takes labels -1 and 1; the second log-probabilities of what was chosen and of what was rejected, and their difference under the reference |
//! | a preference of which some labels are wrong | [`Dpo::label_smoothing`](crate::Dpo::label_smoothing) | the share that is wrong pulls back | of the sigmoid alone |
//! | a preference that the policy takes too far | [`DpoVariant::Ipo`](crate::DpoVariant::Ipo), [`DpoVariant::Hinge`](crate::DpoVariant::Hinge) | the first pulls the log-ratio to `1 / (2 beta)`, the second lets go where it is `1 / beta`; the sigmoid pushes for ever | `beta` is another number in each |
//! | samples that look real | [`GanLoss`](crate::GanLoss), [`RelativisticAverage`](crate::RelativisticAverage), [`RelativisticPair`](crate::RelativisticPair) | `NonSaturating` learns from the start | `Minimax` is what textbooks write and does not |
//! | the same, with a critic that gets too steep | [`GradientPenalty`](crate::GradientPenalty) beside it | WGAN-GP's and R1's | its input is the critic's gradient for the samples; the second way back is yours |
//! | none of these | [`Custom`](crate::Custom) | a value and a gradient of an element, in your words, run as the others are | the gradient is not checked: compare it with differences |
//! | several things at once | a sum, `0.5 * a + 0.5 * b`: [`Combined`](crate::Combined), [`CombinedRegions`](crate::CombinedRegions), [`CombinedRows`](crate::CombinedRows) | no more passes than the costliest term | look at the terms by themselves: `terms` |
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
//! let twice = 2.0 * SmoothL1::new(2.0)?.forward(&input, &target, Reduction::Sum)?;
//! assert_eq!(Huber::new(2.0)?.forward(&input, &target, Reduction::Sum)?, twice);
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
//! # A policy
//!
//! A policy draws its answer, and is told what that was worth. A step down the gradient of [`CrossEntropy`](crate::CrossEntropy) for what
//! was drawn, times the advantage (reward less what was expected), is REINFORCE. That the policy goes on trying is what a bonus of entropy
//! is for. The entropy is reported in the same pass. Its gradient is that of minus [`Jsd`](crate::Jsd) with `beta` 1 from a teacher whose
//! logits are zeros, which is the logarithm of the number of classes less the entropy:
//!
//! ```
//! use fused_loss::{CrossEntropy, Jsd, Reduction};
//! # fn main() -> fused_loss::Result<()> {
//! let (logits, drawn, advantages) = ([0.5f32, 0.0, -0.5, 1.0, 0.0, 0.0], [2u8, 0], [1.0, -0.5]);
//! let (mut losses, mut entropy, mut grad) = ([0.0; 2], [0.0; 2], [0.0; 6]);
//! let call = CrossEntropy::new().call(&logits, &drawn, (2, 3)).entropy(&mut entropy);
//! call.forward_backward_unreduced(&advantages, &mut losses, &mut grad)?;
//! assert!(grad[2] < 0.0); // what was worth more than expected is made likelier
//! let bonus = Jsd::new().beta(1.0)?.call(&logits, &[0.0; 6], (2, 3)).grad_output(0.01).accumulate();
//! let missing = bonus.forward_backward(Reduction::Sum, &mut grad)?;
//! assert!((missing - (2.0 * 3f32.ln() - entropy[0] - entropy[1])).abs() < 1e-6);
//! # Ok(()) }
//! ```
//!
//! On real data: `examples/more/preferences.rs`.
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
//! [`GanLoss`](crate::GanLoss), or for one batch at a time its [`GanTerm`](crate::GanTerm)s: `NonSaturating` trains the generator
//! against the label 1. The minimax value has no gradient where the generator is bad, which is where it begins:
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
//! | the loss stops at ln(classes), or above zero (at 0.55 with three classes; at 0.31 and 0.69 of yes and no) | a softmax or sigmoid before a loss that takes logits |
//! | twice the gradient that was expected | `accumulate`, or a buffer that a call before has left |
//! | a loss that depends on the size of the batch | `Sum` in place of `Mean`; for steps of several batches `SumOver` of the tokens in all of them |
//! | a sum that is larger than Keras's | Keras averages the last axis before it sums |
