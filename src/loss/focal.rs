use crate::call::{AnyRequest, Loss, Run, class_methods, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::row::{Row, RowTarget, Rows, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, LANES, Lanes, Machine, Simd};
use crate::cpu::softmax::{Input, Softmax};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::loss::cross_entropy::lanes::{HardLosses, HardSums};
use crate::loss::{CrossEntropy, Logistic, rowwise_loss};
use crate::params::{SigmoidFocalParams, SoftmaxFocalParams};
use crate::shape::Shape;

/// Focal loss on logits with a sigmoid: binary cross-entropy in which easy examples count for little.
///
/// With `p = sigmoid(x)`, `m = p (1 - t) + (1 - p) t` (how wrong the prediction is),
/// `L` the [binary cross-entropy](crate::BceWithLogits) and `a = alpha t + (1 - alpha) (1 - t)`:
///
/// | | |
/// |---|---|
/// | value | `l = a m^gamma L` |
/// | gradient | `dl/dx = a m^gamma ((p - t) + gamma (1 - 2t) p (1 - p) L / m)` |
/// | shapes | logits and targets of equal length; targets in `[0, 1]`, soft ones too |
/// | defaults | `alpha = 0.25`, `gamma = 2` |
/// | torchvision | `sigmoid_focal_loss` (default reduction there: none) |
/// | Keras | `BinaryFocalCrossentropy(from_logits=True)` ignores alpha unless `apply_class_balancing` |
///
/// Source: Lin et al., "Focal Loss for Dense Object Detection" (2017), equation 5, and its extension
/// to soft targets by torchvision. Guides that write `-alpha (1 - p)^gamma ln p` for binary labels
/// give half of it: negatives then cost nothing, and predicting 1 everywhere is optimal.
///
/// Edge cases: for hard targets `m^gamma` is `exp(-gamma softplus(..))`, so no gamma, not even one
/// below 1, makes a saturated prediction NaN (torchvision, Keras: NaN). `gamma = 0` is weighted binary
/// cross-entropy exactly.
///
/// ```
/// use fused_loss::{Reduction, SigmoidFocal};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 4];
/// let (logits, targets) = ([-2.0, 0.5, 3.0, 0.0], [0.0, 1.0, 1.0, 0.0]);
/// let loss = SigmoidFocal::new().forward_backward(&logits, &targets, Reduction::Sum, &mut grad)?;
/// assert!((loss - (0.001352672 + 0.016893373 + 2.7321e-5 + 0.129965096_f32)).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigmoidFocal(SigmoidFocalParams);

impl SigmoidFocal {
    /// `alpha = 0.25`, `gamma = 2`.
    pub fn new() -> Self {
        SigmoidFocal(SigmoidFocalParams { alpha_pos: 0.25, alpha_neg: 0.75, gamma: 2.0 })
    }

    /// The weight of positives, that of negatives being `1 - alpha`; `None` weighs neither.
    pub fn alpha(mut self, alpha: impl Into<Option<f32>>) -> Result<Self> {
        (self.0.alpha_pos, self.0.alpha_neg) = match alpha.into() {
            Some(alpha) => {
                let alpha = check_option("alpha", "a number in [0, 1]", alpha, (0.0..=1.0).contains(&alpha))?;
                (alpha, 1.0 - alpha)
            }
            None => (1.0, 1.0),
        };
        Ok(self)
    }

    /// The exponent, zero or above.
    pub fn gamma(mut self, gamma: f32) -> Result<Self> {
        self.0.gamma = check_gamma(gamma)?;
        Ok(self)
    }
}

/// Any finite exponent from zero up.
pub(crate) fn check_gamma(gamma: f32) -> Result<f32> {
    check_option("gamma", "a finite number, zero or above", gamma, gamma.is_finite() && gamma >= 0.0)
}

impl Default for SigmoidFocal {
    fn default() -> Self {
        SigmoidFocal::new()
    }
}

impl Loss for SigmoidFocal {
    const NAME: &'static str = "sigmoid focal";
}
impl Run for SigmoidFocal {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if self.0.gamma == 2.0 {
            for_request!(request, |r| elementwise::run(Square(self.0), r))
        } else {
            for_request!(request, |r| elementwise::run(AnyGamma(self.0), r))
        }
    }
}
elementwise_methods!(SigmoidFocal);

/// `gamma = 2`, which nearly everybody uses: no power, no division by m.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Square(SigmoidFocalParams);

impl Pointwise for Square {
    const NAME: &'static str = SigmoidFocal::NAME;
    const FAINT: bool = true;
    const LOGISTIC: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, l: &Logistic<S>, _: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let u = 1.0 - t;
        let alpha = t.mul_add(self.0.alpha_pos, u * self.0.alpha_neg);
        let w = l.weight(u, t);
        let (lean, m) = wrong(l, w);
        // Value and gradient go with the cube of m, which below 2^-42 f32 does not have as a normal number. (Where one logit in
        // sixteen goes up to 32, this and FAINT make the loss 1.4 times as fast; where none goes beyond 5, 0.9 times.)
        let m = m.not_lt(f32::from_bits(85 << 23)).pick(m, 0.0);
        let bce = l.cost_of_one(w);
        let bend = lean * (2.0 * l.variance());
        // Where the variance is 0 the cost may be infinite.
        let pull = (m * (w - l.tail)).add_product_where(bend.ne(0.0), bend, bce);
        let am = alpha * m;
        Point { value: am * (m * bce), grad: l.with_sign(am * pull) }
    }
}

/// Of the weight of the larger softplus, where those of both are 1 together: what it has more than the other, which is the derivative of
/// `u sigmoid(x) + t sigmoid(-x)`, how wrong the prediction is, but for a factor; and that.
#[cfg_attr(optimized, inline(always))]
fn wrong<S: Simd>(l: &Logistic<S>, w: F32s<S>) -> (F32s<S>, F32s<S>) {
    let lean = w.mul_add(2.0, -1.0);
    (lean, (-lean).mul_add(l.tail, w))
}

/// Any gamma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AnyGamma(SigmoidFocalParams);

impl Pointwise for AnyGamma {
    const NAME: &'static str = SigmoidFocal::NAME;
    const FAINT: bool = true;
    const LOGISTIC: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, l: &Logistic<S>, _: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let SigmoidFocalParams { alpha_pos, alpha_neg, gamma } = self.0;
        let u = 1.0 - t;
        let alpha = t.mul_add(alpha_pos, u * alpha_neg);
        let w = l.weight(u, t);
        let ((lean, m), bce) = (wrong(l, w), l.cost_of_one(w));
        // ln m and p (1 - p) / m, which for hard targets are known without dividing by an m that may
        // have underflowed: there ln m is the cost of the other label, and the ratio the probability of this one.
        let missed = w.eq(1.0);
        let hard = missed | w.eq(0.0);
        let other = l.soft.add_where(!missed, l.abs);
        let ln_m = hard.pick(-other, m.ln());
        let ratio = hard.pick(missed.pick(l.tail, 1.0 - l.tail), l.variance() / m);
        let power = (gamma * ln_m.at_least(-3.4e38)).exp(); // not zero times infinity
        let bend = gamma * lean * ratio;
        let pull = (w - l.tail).add_product_where(bend.ne(0.0), bend, bce);
        Point { value: alpha * no_nan(power, bce), grad: l.with_sign(alpha * power * pull) }
    }
}

/// `a * b`, where zero times infinity is zero.
#[cfg_attr(optimized, inline(always))]
fn no_nan<S: Simd>(a: F32s<S>, b: F32s<S>) -> F32s<S> {
    (a.eq(0.0) & b.abs().eq(f32::INFINITY)).pick(0.0, a * b)
}

/// Focal loss on logits with a softmax.
///
/// With `p = softmax(z)`, `t` the target class and `alpha` a weight per class (1 without):
///
/// | | |
/// |---|---|
/// | value | `l = -alpha_t (1 - p_t)^gamma ln p_t` |
/// | gradient | `dl/dz_k = alpha_t (gamma (1 - p_t)^(gamma - 1) p_t ln p_t - (1 - p_t)^gamma) ([k = t] - p_k)` |
/// | shapes | logits of a [`Shape`]; targets one index a row; alpha by [`Call::class_weight`](crate::Call::class_weight) |
/// | mean | divides by the number of rows that are not ignored, as the losses of Lin et al. and Keras do; MONAI and kornia also divide by the classes |
/// | defaults | `gamma = 2`, no alpha, `ignore_index = -100` |
/// | Keras | `CategoricalFocalCrossentropy` (its scalar alpha of 0.25 multiplies every class) |
///
/// Edge cases: finite for any gamma where `p_t` saturates; `gamma = 0` is [`CrossEntropy`]
/// but for the denominator under class weights. Ignored rows as there.
///
/// ```
/// use fused_loss::{Reduction, SoftmaxFocal};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = SoftmaxFocal::new().forward_backward(&[0.0f32; 3], &[1i64], (1, 3), Reduction::Mean, &mut grad)?;
/// assert!((loss - (4.0 / 9.0) * 3.0f32.ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxFocal {
    params: SoftmaxFocalParams,
    ignore_index: Option<i64>,
}

impl SoftmaxFocal {
    /// `gamma = 2`.
    pub fn new() -> Self {
        SoftmaxFocal { params: SoftmaxFocalParams { gamma: 2.0 }, ignore_index: Some(-100) }
    }

    /// The exponent, zero or above.
    pub fn gamma(mut self, gamma: f32) -> Result<Self> {
        self.params.gamma = check_gamma(gamma)?;
        Ok(self)
    }

    /// Rows with this index are left out; it may be a class. `None` leaves out none. Defaults to -100.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.ignore_index = index.into();
        self
    }
}

impl SoftmaxFocal {
    pub(crate) fn params(&self) -> SoftmaxFocalParams {
        self.params
    }
}

impl Default for SoftmaxFocal {
    fn default() -> Self {
        SoftmaxFocal::new()
    }
}

impl Rowwise for SoftmaxFocal {
    const NAME: &'static str = "softmax focal";
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.ignore_index
    }

    fn side_by_side(shape: Shape) -> bool {
        CrossEntropy::side_by_side(shape)
    }

    /// `row`, sixteen times: the same formulas, in f32 lanes.
    #[cfg_attr(optimized, inline(always))]
    fn rows<S: Machine, T: Element>(&self, rows: &mut Rows<'_, '_, S, T>) -> F32s<S> {
        let (s, classes) = (rows.s, rows.classes);
        let mut max = s.splat(f32::NEG_INFINITY);
        for c in 0..classes {
            max = max.or_larger(rows.kept(c));
        }
        let sums = HardSums::of_rows(rows, max);
        let losses = focal_losses(sums, self.params.gamma, rows.class_weights_of_targets()).scaled(rows.scale);
        if rows.wants_grad() {
            for c in 0..classes {
                rows.put(c, losses.grad(rows.kept(c), rows.has_class(c)));
            }
        }
        losses.value
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Class(t) = row.target else { return 0.0 };
        let gamma = f64::from(self.params.gamma);
        let alpha = f64::from(row.class_weight_at(t));
        let z_t = row.input_at(t);
        let softmax = Softmax::new(s, row, 0, Input, &mut ());
        let u_t = z_t - softmax.max;
        let e_t = s.splat(u_t).exp_neg().to_array()[0];
        // -ln p, 1 - p and p of the target; the first two without cancellation.
        let nll = softmax.ln_sum() - f64::from(u_t);
        let (miss, p_t) = (softmax.miss(e_t), f64::from(e_t) / softmax.sum());
        let power = if gamma == 0.0 { 1.0 } else { miss.powf(gamma) };
        // -ln p / (1 - p), which tends to 1 where both vanish, and p ln p, which tends to 0.
        let ratio = if miss == 0.0 { 1.0 } else { nll / miss };
        let bend = if p_t == 0.0 { 0.0 } else { gamma * p_t * ratio };
        let slope = alpha * power * (1.0 + bend) * f64::from(row.scale);
        if row.wants_grad() {
            let (each, at_target) = ((slope / softmax.sum()) as f32, (-slope * miss) as f32);
            for_chunks!(row, |k, p| {
                let e = softmax.exp(s, row, 0, (k, p), Input);
                row.put(s, k, p, s.only(t.wrapping_sub(k)).pick(at_target, e * each));
            });
        }
        alpha * if power == 0.0 { 0.0 } else { power * nll }
    }
}

/// In f64, as [`SoftmaxFocal`] has it for one row: of `exp(gamma ln m)` f32 loses the last digits. Not inlined, as in
/// [`outline`](crate::cpu::simd::outline).
#[inline(never)]
fn powers(m: &Lanes, gamma: f32) -> Lanes {
    let mut powers = [0.0; LANES];
    for l in 0..LANES {
        powers[l] = f64::from(m[l]).powf(f64::from(gamma)) as f32;
    }
    powers
}

/// Softmax focal loss of sixteen positions at once, one in each lane: the formulas of [`SoftmaxFocal`]. `alpha` are the weights of the
/// classes.
#[cfg_attr(optimized, inline(always))]
pub(crate) fn focal_losses<S: Machine>(sums: HardSums<S>, gamma: f32, alpha: F32s<S>) -> HardLosses<S> {
    let (softmax, u) = sums.softmax_and_target();
    let (s, e_t) = (u.simd(), u.exp_neg());
    let (nll, miss, p_t) = (softmax.ln_sum() - u, softmax.miss(e_t), e_t * softmax.inv_sum);
    let power = match gamma {
        0.0 => s.splat(1.0),
        1.0 => miss,
        2.0 => miss * miss,
        _ => s.lanes(&powers(&miss.to_array(), gamma)),
    };
    let bend = gamma * p_t * miss.eq(0.0).pick(1.0, nll / miss);
    // Where p is 0 the other factor may be infinite.
    let slope = alpha * power * s.splat(1.0).add_where(p_t.ne(0.0), bend);
    let value = alpha * power.eq(0.0).pick(0.0, power * nll);
    HardLosses { value, each: slope * softmax.inv_sum, at_target: -slope * miss }
}

rowwise_loss!(SoftmaxFocal);
class_methods!(SoftmaxFocal);

crate::cuda::kernel::kernel!(SigmoidFocal, |l| {
    let name = if l.0.gamma == 2.0 { "sigmoid_focal" } else { "sigmoid_focal_any" };
    Kernel::elements::<Square>("sigmoid_focal", name, l.0)
});
crate::cuda::kernel::kernel!(SoftmaxFocal, |l| Kernel::rows(l, "softmax_focal", "softmax_focal", l.params));
term!(SigmoidFocal, |l| if l.0.gamma == 2.0 { SigmoidFocal(Square(l.0)) } else { SigmoidFocalAny(AnyGamma(l.0)) });
