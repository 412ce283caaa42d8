use super::{Combination, Combined, Element, IntoSum, Join, Refused, Scaled, Weighted, operators, weighted};
use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::region::{self, Activation, Beside, OfSoftmax, Region};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, Simd};
use crate::cuda::kernel::{self, HasKernel, Kernel};
use crate::device::Buffer;
use crate::error::Result;
use crate::loss::{BceWithLogits, CrossEntropy, DiceLoss, Logistic, SoftmaxFocal, TverskyLoss, focal};
use crate::on::{Also, BufferTarget, On};
use crate::params::{self, CrossEntropyParams, DiceCrossEntropyParams, DiceFocalParams, DiceLogitsParams, NoParams};
use crate::reduction::Reduction;
use crate::shape::Shape;

/// Dice or Tversky, and a loss of single predictions from the same logits: the sums that segmentation networks are trained with.
///
/// It is made by operators, and called like any other loss:
///
/// ```
/// use fused_loss::{CrossEntropy, DiceLoss, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let loss = 0.5 * DiceLoss::new().softmax() + 0.5 * CrossEntropy::new();
/// let (logits, classes) = ([2.0, -1.0, 0.5, 0.1, 0.2, 0.3], [0u8, 1]); // one image of three channels and two pixels
/// let (mut grad, mut terms) = ([0.0; 6], [0.0; 2]);
/// let value = loss.call(&logits, &classes, [1, 3, 1, 2]).terms(&mut terms).forward_backward(Reduction::Mean, &mut grad)?;
/// assert!((value - 0.5 * (terms[0] + terms[1])).abs() < 1e-6);
/// let dice = DiceLoss::new().softmax().forward(&logits, &classes, [1, 3, 1, 2], Reduction::Mean)?;
/// let cross_entropy = CrossEntropy::new().forward(&logits, &classes, [1, 3, 1, 2], Reduction::Mean)?;
/// assert!((terms[0] - dice).abs() < 1e-6 && (terms[1] - cross_entropy).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// With a sigmoid, where channels do not exclude each other:
///
/// ```
/// # use fused_loss::*;
/// # fn main() -> Result<()> {
/// let loss = DiceLoss::new().sigmoid() + 0.5 * SigmoidFocal::new();
/// let (logits, masks) = ([2.0, -1.0, 0.5, 0.1], [1.0, 0.0, 1.0, 1.0]); // one image of two channels and two pixels
/// let mut terms = [0.0; 2];
/// let value = loss.call(&logits, &masks, [1, 2, 2]).terms(&mut terms).forward(Reduction::Mean)?;
/// assert!((value - (terms[0] + 0.5 * terms[1])).abs() < 1e-6);
/// assert!((terms[1] - SigmoidFocal::new().forward(&logits, &masks, Reduction::Mean)?).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// | | |
/// |---|---|
/// | region loss | [`DiceLoss`] or [`TverskyLoss`], with `.softmax()` or `.sigmoid()` and any other option |
/// | with `.softmax()` | [`CrossEntropy`] with label smoothing and z-loss; or [`SoftmaxFocal`] of class indices, with any gamma |
/// | with `.sigmoid()` | [`BceWithLogits`] or [`SigmoidFocal`](crate::SigmoidFocal), with any option |
/// | value | `w_0 region + w_1 other` (weights are 1 where none is written), each reduced over its own: the region loss over regions, losses of a softmax over positions, those of a sigmoid over elements |
/// | gradient | the same of the gradients |
/// | [`Call::terms`](crate::Call::terms) | the region loss, then the other, whichever was written first, without their weights |
/// | shapes | as [`DiceLoss`]. [`Call::class_weight`](crate::Call::class_weight) beside losses of a softmax has one weight for each channel and is both terms'; beside those of a sigmoid it is not supported |
/// | background | where Dice leaves out channel 0, so do the losses of elements, as in MONAI; those of positions do not, but for Dice the first class weight is left out |
/// | mean | Dice divides by the regions; cross-entropy by the positions, or for index targets by the class weights of the targets; softmax focal by the positions; the others by the elements that are not left out |
/// | MONAI | `DiceCELoss(softmax=True)`, `DiceFocalLoss(sigmoid=True)`; its softmax focal loss also divides by the classes |
///
/// No more passes than the region loss takes: the softmax or sigmoid of a position is computed once for both, in each of its two looks.
///
/// Errors: operators cannot fail, so that what they cannot do is an error of the calls: a region loss without the activation that the
/// other term has; a soft-cap, or a class that the other ignores (regions ignore none); element-wise losses other than
/// those two, or more than one; a weight that is not finite. The form without a reduction, and weights of single losses, are not
/// supported: the terms are not of the same things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CombinedRegions {
    region: Region,
    other: Other,
    /// Of the region loss, and of the other.
    weights: [f32; 2],
}

/// What is beside a region loss.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    CrossEntropy(CrossEntropy),
    Focal(SoftmaxFocal),
    /// With the options as the kernel has them.
    Logits(OfLogits, [f32; 3]),
    Refused(Refused),
}

/// A loss of elements that are the logits of a sigmoid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum OfLogits {
    Bce(BceWithLogits),
    Focal(focal::Square),
    FocalAny(focal::AnyGamma),
}

impl OfLogits {
    fn kind(self) -> u32 {
        match self {
            OfLogits::Bce(_) => params::TERM_BCE_WITH_LOGITS,
            OfLogits::Focal(_) => params::TERM_SIGMOID_FOCAL,
            OfLogits::FocalAny(_) => params::TERM_SIGMOID_FOCAL_ANY,
        }
    }

    /// Value and gradient, given the logistic function of the logits.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn eval<S: Simd>(&self, l: &Logistic<S>, x: F32s<S>, t: F32s<S>) -> Point<S> {
        let one = x.simd().splat(1.0);
        match self {
            OfLogits::Bce(loss) => loss.eval_with(l, x, t, one),
            OfLogits::Focal(loss) => loss.eval_with(l, x, t, one),
            OfLogits::FocalAny(loss) => loss.eval_with(l, x, t, one),
        }
    }
}

impl CombinedRegions {
    fn new(region: Region, other: Other, weights: [f32; 2]) -> Self {
        CombinedRegions { region: Region { name: Self::NAME, ..region }, other, weights }
    }

    /// Beside a sum of element-wise losses, if it is of one that there is a kernel with.
    fn beside(region: Region, weight: f32, sum: Combined) -> Self {
        let (other, of_sum) = match sum.only() {
            Ok((Element::BceWithLogits(loss), weight, options)) => {
                (Other::Logits(OfLogits::Bce(loss), options), weight)
            }
            Ok((Element::SigmoidFocal(loss), weight, options)) => {
                (Other::Logits(OfLogits::Focal(loss), options), weight)
            }
            Ok((Element::SigmoidFocalAny(loss), weight, options)) => {
                (Other::Logits(OfLogits::FocalAny(loss), options), weight)
            }
            Ok(_) => (Other::Refused(Refused::Unsupported("this element-wise loss beside a region loss")), 1.0),
            Err(refused) => (Other::Refused(refused), 1.0),
        };
        CombinedRegions::new(region, other, [weight, of_sum])
    }

    /// Why it cannot be computed.
    fn refused(&self) -> Option<Refused> {
        let activation = self.region.activation;
        // Of a softmax: the class that is ignored, which for most is none.
        let ignored = match &self.other {
            Other::CrossEntropy(loss) => Some(Rowwise::ignore_index(loss)),
            Other::Focal(loss) => Some(Rowwise::ignore_index(loss)),
            _ => None,
        };
        let what = match self.other {
            Other::Refused(refused) => return Some(refused),
            _ if ignored.is_some() && activation != Activation::Softmax => {
                Some("a loss of a softmax beside a region loss without one")
            }
            Other::CrossEntropy(loss) if loss.params().softcap != 0.0 => Some("a soft-cap beside a region loss"),
            _ if ignored.flatten().is_some_and(|index| index >= 0) => Some("an ignored class beside a region loss"),
            Other::Logits(..) if activation != Activation::Sigmoid => {
                Some("a loss of logits beside a region loss without a sigmoid")
            }
            _ => None,
        };
        let weight = self.weights.into_iter().find(|w| !w.is_finite()).map(Refused::Weight);
        what.map(Refused::Unsupported).or(weight)
    }
}

impl Scaled for CombinedRegions {
    fn scaled(self, by: f32) -> Self {
        CombinedRegions { weights: self.weights.map(|w| w * by), ..self }
    }
}

impl IntoSum for CombinedRegions {
    type Sum = CombinedRegions;
    fn into_sum(self) -> CombinedRegions {
        self
    }
}
operators!(CombinedRegions);
weighted!(DiceLoss TverskyLoss CrossEntropy SoftmaxFocal);

/// A region loss with one of positions, either way round.
macro_rules! beside_positions {
    ($region:ty, $($loss:ty => $other:ident),*) => {$(
        impl Join<Weighted<$loss>> for Weighted<$region> {
            type Sum = CombinedRegions;
            fn join(self, other: Weighted<$loss>) -> CombinedRegions {
                CombinedRegions::new(self.loss.0, Other::$other(other.loss), [self.weight, other.weight])
            }
        }
        impl Join<Weighted<$region>> for Weighted<$loss> {
            type Sum = CombinedRegions;
            fn join(self, other: Weighted<$region>) -> CombinedRegions {
                other.join(self)
            }
        }
    )*};
}
macro_rules! beside {
    ($($region:ty)*) => {$(
        beside_positions!($region, CrossEntropy => CrossEntropy, SoftmaxFocal => Focal);
        impl Join<Combined> for Weighted<$region> {
            type Sum = CombinedRegions;
            fn join(self, other: Combined) -> CombinedRegions {
                CombinedRegions::beside(self.loss.0, self.weight, other)
            }
        }
        impl Join<Weighted<$region>> for Combined {
            type Sum = CombinedRegions;
            fn join(self, other: Weighted<$region>) -> CombinedRegions {
                other.join(self)
            }
        }
    )*};
}
beside!(DiceLoss TverskyLoss);

class_methods!(CombinedRegions);

impl On<'_, CombinedRegions> {
    /// The value, and its gradient for the input into `grad_input`, and the values of the terms into `terms`; see
    /// [`Call::terms`](crate::Call::terms).
    pub fn forward_backward_terms<'a, T: crate::Element>(
        &self,
        input: &'a Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        shape: impl Into<Shape>,
        reduction: Reduction,
        grad_input: &'a mut Buffer<T>,
        terms: &'a mut Buffer<f32>,
    ) -> Result<f32> {
        self.run(
            input,
            (target.into(), None),
            Some(shape.into()),
            reduction,
            [Some(grad_input), None, None],
            Also::Terms(terms),
        )
    }
}

impl Combination for CombinedRegions {}
impl Loss for CombinedRegions {
    const NAME: &'static str = "combined region loss";
}
impl Run for CombinedRegions {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if let Some(refused) = self.refused() {
            return Err(refused.error(Self::NAME));
        }
        let beside = match self.other {
            Other::CrossEntropy(loss) => {
                let CrossEntropyParams { smoothing, z_loss, .. } = loss.params();
                Some(Beside::Softmax(OfSoftmax::CrossEntropy { smoothing, z_loss }))
            }
            Other::Focal(loss) => Some(Beside::Softmax(OfSoftmax::Focal { gamma: loss.params().gamma })),
            Other::Logits(loss, _) => Some(Beside::Logits(loss)),
            Other::Refused(_) => None,
        };
        for_request!(request, |r| region::run(self.region, beside.map(|beside| (beside, self.weights)), r))
    }
}

impl HasKernel for CombinedRegions {
    fn kernel(&self) -> Kernel {
        let (region, weights) = (self.region.params, self.weights);
        let terms = kernel::Terms { count: 2, refused: self.refused() };
        let alone = Kernel::regions(&self.region);
        match self.other {
            Other::CrossEntropy(loss) => {
                let CrossEntropyParams { smoothing, z_loss, .. } = loss.params();
                let params = DiceCrossEntropyParams { region, weights, smoothing, z_loss };
                alone.beside("region_cross_entropy", true, params, terms)
            }
            Other::Focal(loss) => {
                let params = DiceFocalParams { region, weights, gamma: loss.params().gamma };
                alone.beside("region_focal", true, params, terms).of_indices()
            }
            Other::Logits(loss, [a, b, c]) => {
                let params = DiceLogitsParams { region, weights, kind: loss.kind(), a, b, c };
                alone.beside("region_logits", false, params, terms)
            }
            Other::Refused(_) => alone.beside("region_logits", false, NoParams { unused: 0 }, terms),
        }
    }
}
