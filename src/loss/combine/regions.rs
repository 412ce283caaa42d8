use super::{Combination, IntoSum, Join, Refused, Scaled, Weighted, operators, weighted};
use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::region::{self, Activation, Beside, Region};
use crate::cpu::rowwise::Rowwise;
use crate::cuda::kernel::{self, HasKernel, Kernel};
use crate::device::Buffer;
use crate::error::Result;
use crate::loss::{CrossEntropy, DiceLoss, TverskyLoss};
use crate::on::{BufferTarget, On};
use crate::params::{CrossEntropyParams, DiceCrossEntropyParams};
use crate::reduction::Reduction;
use crate::shape::Shape;

/// Dice or Tversky with a softmax, and cross-entropy, of the same logits: the sum that segmentation networks are trained with.
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
/// | | |
/// |---|---|
/// | value | `w_0 region + w_1 cross_entropy` (weights are 1 where none is written), each reduced over its own: the region loss over regions, cross-entropy over positions |
/// | gradient | the same of the gradients |
/// | [`Call::terms`](crate::Call::terms) | the region loss, then cross-entropy, whichever was written first, without their weights |
/// | region loss | [`DiceLoss`] or [`TverskyLoss`], with `.softmax()` and any other option |
/// | cross-entropy | [`CrossEntropy`] with label smoothing and z-loss |
/// | shapes | as [`DiceLoss`]; [`Call::class_weight`](crate::Call::class_weight) has one weight for each channel and is both terms'; without the background Dice leaves out the first of them |
/// | mean | Dice divides by the regions; cross-entropy by the positions, or for index targets by the class weights of the targets |
/// | MONAI | `DiceCELoss(softmax=True)` |
///
/// No more passes than the region loss takes: the softmax of a position is computed once for both, in each of its two looks.
///
/// Errors: operators cannot fail, so that what they cannot do is an error of the calls: a region loss without `.softmax()`, a
/// cross-entropy with a soft-cap or a class that it ignores (regions ignore none), a weight that is not finite. The form without a
/// reduction, and weights of single losses, are not supported: the terms are not of the same things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CombinedRegions {
    region: Region,
    cross_entropy: CrossEntropy,
    /// Of the region loss, and of the other.
    weights: [f32; 2],
}

impl CombinedRegions {
    fn new(region: Region, cross_entropy: CrossEntropy, weights: [f32; 2]) -> Self {
        CombinedRegions { region: Region { name: Self::NAME, ..region }, cross_entropy, weights }
    }

    /// Why it cannot be computed.
    fn refused(&self) -> Option<Refused> {
        let what = if self.region.activation != Activation::Softmax {
            Some("cross-entropy beside a region loss without a softmax")
        } else if self.cross_entropy.params().softcap != 0.0 {
            Some("a soft-cap beside a region loss")
        } else if Rowwise::ignore_index(&self.cross_entropy).is_some_and(|index| index >= 0) {
            Some("an ignored class beside a region loss")
        } else {
            None
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
weighted!(DiceLoss TverskyLoss CrossEntropy);

macro_rules! beside_cross_entropy {
    ($($region:ty)*) => {$(
        impl Join<Weighted<CrossEntropy>> for Weighted<$region> {
            type Sum = CombinedRegions;
            fn join(self, other: Weighted<CrossEntropy>) -> CombinedRegions {
                CombinedRegions::new(self.loss.0, other.loss, [self.weight, other.weight])
            }
        }
        impl Join<Weighted<$region>> for Weighted<CrossEntropy> {
            type Sum = CombinedRegions;
            fn join(self, other: Weighted<$region>) -> CombinedRegions {
                other.join(self)
            }
        }
    )*};
}
beside_cross_entropy!(DiceLoss TverskyLoss);

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
            Some(terms),
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
        let CrossEntropyParams { smoothing, z_loss, .. } = self.cross_entropy.params();
        let beside = Beside { smoothing, z_loss, weights: self.weights };
        for_request!(request, |r| region::run(self.region, Some(beside), r))
    }
}

impl HasKernel for CombinedRegions {
    fn kernel(&self) -> Kernel {
        let CrossEntropyParams { smoothing, z_loss, .. } = self.cross_entropy.params();
        let params = DiceCrossEntropyParams { region: self.region.params, weights: self.weights, smoothing, z_loss };
        Kernel::regions(&self.region).beside_cross_entropy(params, kernel::Terms { count: 2, refused: self.refused() })
    }
}
