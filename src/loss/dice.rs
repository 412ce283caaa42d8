use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::region::{self, Activation, Region};
use crate::error::{Result, check_option};
use crate::params::{DiceParams, WEIGH_SIMPLE, WEIGH_SQUARE, WEIGH_UNIFORM};

/// The options that Dice and its kin share, and what smoothing they have by default.
macro_rules! region_options {
    ($loss:ty, $smooth:literal) => {
        impl $loss {
            /// The input is logits; a sigmoid comes first.
            pub fn sigmoid(mut self) -> Self {
                self.0.activation = Activation::Sigmoid;
                self
            }

            /// The input is logits; a softmax over the channels comes first.
            pub fn softmax(mut self) -> Self {
                self.0.activation = Activation::Softmax;
                self
            }

            /// A region is a channel of the whole batch and not of one sample. Defaults to false.
            pub fn batch(mut self, batch: bool) -> Self {
                self.0.batch = batch;
                self
            }

            /// Whether channel 0 has a loss. Defaults to true.
            pub fn include_background(mut self, include: bool) -> Self {
                self.0.include_background = include;
                self
            }

            /// Added to numerator and denominator. Zero or above; defaults to
            #[doc = concat!($smooth, ".")]
            pub fn smooth(self, smooth: f32) -> Result<Self> {
                self.smooth_nr(smooth)?.smooth_dr(smooth)
            }

            /// Added to the numerator. Zero or above; defaults to
            #[doc = concat!($smooth, ".")]
            pub fn smooth_nr(mut self, smooth: f32) -> Result<Self> {
                self.0.params.smooth_nr = check_factor("smooth_nr", smooth)?;
                Ok(self)
            }

            /// Added to the denominator. Zero or above; defaults to
            #[doc = concat!($smooth, ".")]
            pub fn smooth_dr(mut self, smooth: f32) -> Result<Self> {
                self.0.params.smooth_dr = check_factor("smooth_dr", smooth)?;
                Ok(self)
            }
        }

        impl Loss for $loss {
            const NAME: &'static str = stringify!($loss);
        }
        impl Run for $loss {
            fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
                for_request!(request, |r| region::run(self.0, None, r))
            }
        }
        class_methods!($loss);
    };
}

fn check_factor(name: &'static str, value: f32) -> Result<f32> {
    check_option(name, "a finite number, zero or above", value, value.is_finite() && value >= 0.0)
}

/// Dice loss: one minus the overlap of prediction and target, as a share of their size.
///
/// With `p` the prediction (after [`sigmoid`](Self::sigmoid) or [`softmax`](Self::softmax), if asked),
/// `I = sum p t`, `P = sum p`, `T = sum t` over a region, which is one channel of one sample:
///
/// | | |
/// |---|---|
/// | value | `l = 1 - (2 I + smooth_nr) / (P + T + smooth_dr)` a region |
/// | gradient | with `D` the denominator, `s` the fraction: `dl/dp = (s - 2 t) / D`, times the activation's derivative |
/// | [`squared_pred`](Self::squared_pred) | `P = sum p^2`, `T = sum t^2` |
/// | [`jaccard`](Self::jaccard) | the denominator is `2 (P + T - I) + smooth_dr` |
/// | shapes | input of a [`Shape`](crate::Shape) such as `[n, c, h, w]`; targets dense of that shape, or one class index a position |
/// | mean | divides by the regions, class weights or not; unreduced: `n * c` values, or `c` with [`batch`](Self::batch) |
/// | defaults | `smooth = 1`, no activation, every option off |
/// | MONAI | `DiceLoss(smooth_nr=1, smooth_dr=1)`; its own default is `smooth(1e-5)` |
///
/// Class weights by [`Call::class_weight`](crate::Call::class_weight) multiply and do not renormalise, as in
/// MONAI; with `include_background(false)` there is one less. Class-index targets need no one-hot tensor.
///
/// Edge cases: prediction and target both empty give 0 for `smooth > 0` and NaN for 0. Sums are f64, so f16
/// masks of any size work (PyTorch code that sums in f16 gives NaN above 65504 pixels). Guides that write
/// `.sum(dim=2).sum(dim=2)` leave the last axis of 5-D volumes unsummed; here all spatial axes are.
///
/// ```
/// use fused_loss::{DiceLoss, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (p, t) = ([0.9, 0.2, 0.4, 0.1, 0.5, 0.5, 0.3, 0.8], [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
/// let mut grad = [0.0; 8];
/// let loss = DiceLoss::new().forward_backward(&p, &t, [1, 2, 2, 2], Reduction::Mean, &mut grad)?;
/// assert!((loss - 0.447405330_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiceLoss(pub(super) Region);

impl DiceLoss {
    /// `smooth = 1`, every option off.
    pub fn new() -> Self {
        DiceLoss(Region {
            name: Self::NAME,
            params: DiceParams {
                overlap: 2.0,
                union_i: 0.0,
                union_p: 1.0,
                union_t: 1.0,
                smooth_nr: 1.0,
                smooth_dr: 1.0,
                squared: 0,
                gamma: 1.0,
                together: 0,
            },
            activation: Activation::None,
            batch: false,
            include_background: true,
        })
    }

    /// Squares predictions and targets in the denominator. Defaults to false.
    pub fn squared_pred(mut self, squared: bool) -> Self {
        self.0.params.squared = squared.into();
        self
    }

    /// Jaccard (intersection over union) in place of Dice. Defaults to false.
    pub fn jaccard(mut self, jaccard: bool) -> Self {
        let p = &mut self.0.params;
        (p.union_i, p.union_p, p.union_t) = if jaccard { (-2.0, 2.0, 2.0) } else { (0.0, 1.0, 1.0) };
        self
    }
}

impl Default for DiceLoss {
    fn default() -> Self {
        DiceLoss::new()
    }
}

region_options!(DiceLoss, "1");

/// Tversky loss: Dice with a price each for false positives and false negatives.
///
/// With `I = sum p t`, false positives `FP = sum p (1 - t)`, false negatives `FN = sum (1 - p) t` over a region:
///
/// | | |
/// |---|---|
/// | value | `l = 1 - (I + smooth_nr) / (I + alpha FP + beta FN + smooth_dr)` a region |
/// | gradient | with `D` the denominator, `s` the fraction: `dl/dp = (s ((1 - alpha - beta) t + alpha) - t) / D` |
/// | shapes, mean | as [`DiceLoss`] |
/// | defaults | `alpha = beta = 0.5`, `smooth = 1`, no activation |
/// | [`focal`](Self::focal) | `l^gamma`: regions that are missed more count more, the higher gamma |
/// | MONAI | `TverskyLoss` |
/// | Keras | `Tversky`; up to 3.15.1 it had alpha and beta swapped |
///
/// Source: Salehi et al. 2017; the focal form Abraham and Khan 2018, whose gamma is the inverse of this one: theirs of 4/3 is
/// `focal(0.75)`, which makes regions that are nearly right count more. At a loss of 0 its gradient, which for `gamma < 1` has no end, is
/// given as 0. `alpha = beta = 0.5` is Dice with half its smoothing, 1 and 1 is Jaccard.
///
/// ```
/// use fused_loss::{Reduction, TverskyLoss};
/// # fn main() -> fused_loss::Result<()> {
/// // A false positive costs more the higher alpha is, a false negative does not.
/// let cost = |alpha| TverskyLoss::new(alpha, 0.5)?.forward(&[1.0f32, 1.0], &[1.0, 0.0], [1, 1, 2], Reduction::Mean);
/// assert!(cost(0.9)? > cost(0.1)?);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TverskyLoss(pub(super) Region);

impl TverskyLoss {
    /// The price of false positives and that of false negatives, both zero or above.
    pub fn new(alpha: f32, beta: f32) -> Result<Self> {
        let (alpha, beta) = (check_factor("alpha", alpha)?, check_factor("beta", beta)?);
        let base = DiceLoss::new().0;
        let params =
            DiceParams { overlap: 1.0, union_i: 1.0 - alpha - beta, union_p: alpha, union_t: beta, ..base.params };
        Ok(TverskyLoss(Region { name: Self::NAME, params, ..base }))
    }

    /// Raises the loss of each region to the power `gamma`; finite and above zero. Defaults to 1.
    pub fn focal(mut self, gamma: f32) -> Result<Self> {
        let ok = gamma.is_finite() && gamma > 0.0;
        self.0.params.gamma = check_option("gamma", "a finite number above zero", gamma, ok)?;
        Ok(self)
    }
}

impl Default for TverskyLoss {
    fn default() -> Self {
        TverskyLoss::new(0.5, 0.5).expect("both are valid")
    }
}

region_options!(TverskyLoss, "1");

/// How [`GeneralizedDiceLoss`] weighs a channel, by what its target adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiceWeight {
    /// `1 / T^2`: a channel counts alike, however large it is. MONAI's `"square"`.
    #[default]
    Square,
    /// `1 / T`. MONAI's `"simple"`.
    Simple,
    /// 1: a channel counts as much as it is large. MONAI's `"uniform"`.
    Uniform,
}

/// Generalised Dice loss: one overlap of all channels of a sample, in which rare channels weigh more.
///
/// With `I_c = sum p t`, `P_c = sum p`, `T_c = sum t` over channel `c` of a sample, and the weight `w_c = 1 / T_c^2`:
///
/// | | |
/// |---|---|
/// | value | `l = 1 - (2 sum_c w_c I_c + smooth_nr) / (sum_c w_c (P_c + T_c) + smooth_dr)` a sample |
/// | gradient | with `D` the denominator, `s` the fraction: `dl/dp = w_c (s - 2 t) / D`, times the activation's derivative |
/// | [`weight`](Self::weight) | `w_c = 1 / T_c`, or 1 |
/// | shapes | input and targets as [`DiceLoss`] |
/// | mean | divides by the samples; unreduced: `n` values, or one with [`batch`](Self::batch), which adds up `I`, `P` and `T` over the batch |
/// | defaults | weights by the square, `smooth = 1e-5`, no activation, every option off |
/// | MONAI | `GeneralizedDiceLoss` |
///
/// Source: Sudre et al. 2017. Where the activation is a softmax and the target has every position in one channel, uniform weights
/// give Dice of the whole image, which a network learns by the background alone: that is what the weights are for.
///
/// Edge cases: a channel without any target, whose weight would be infinite, has the largest weight of the others of its sample, as in
/// MONAI; if all are without, weights are 0 and the loss is `1 - smooth_nr / smooth_dr` with a gradient of zero. Class weights are
/// refused: channels have weights already.
///
/// ```
/// use fused_loss::{GeneralizedDiceLoss, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// // One pixel of channel 0, three of channel 1; the first is missed.
/// let (p, t) = ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// let mut grad = [0.0; 8];
/// let loss = GeneralizedDiceLoss::new().forward_backward(&p, &t, [1, 2, 4], Reduction::Mean, &mut grad)?;
/// assert!((loss - 0.625_f32).abs() < 1e-5); // 1 - 2 (3/9) / (1 + 7/9)
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneralizedDiceLoss(Region);

impl GeneralizedDiceLoss {
    /// Weights by the square, `smooth = 1e-5`, every option off.
    pub fn new() -> Self {
        let base = DiceLoss::new().0;
        let params = DiceParams { smooth_nr: 1e-5, smooth_dr: 1e-5, together: WEIGH_SQUARE, ..base.params };
        GeneralizedDiceLoss(Region { name: Self::NAME, params, ..base })
    }

    /// How channels are weighed. Defaults to [`DiceWeight::Square`].
    pub fn weight(mut self, weight: DiceWeight) -> Self {
        self.0.params.together = match weight {
            DiceWeight::Square => WEIGH_SQUARE,
            DiceWeight::Simple => WEIGH_SIMPLE,
            DiceWeight::Uniform => WEIGH_UNIFORM,
        };
        self
    }
}

impl Default for GeneralizedDiceLoss {
    fn default() -> Self {
        GeneralizedDiceLoss::new()
    }
}

region_options!(GeneralizedDiceLoss, "1e-5");

crate::cuda::kernel::kernel!(GeneralizedDiceLoss, |l| Kernel::regions(&l.0));
crate::cuda::kernel::kernel!(DiceLoss, |l| Kernel::regions(&l.0));
crate::cuda::kernel::kernel!(TverskyLoss, |l| Kernel::regions(&l.0));
