use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Begun, Point, Pointwise, UsualRun};
use crate::cpu::simd::{F32s, Machine, Simd};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::loss::{Logistic, elementwise_loss, logistic};
use crate::params::{BceParams, BceWithLogitsParams};

/// Binary cross-entropy on probabilities. Prefer [`BceWithLogits`]: a sigmoid that has saturated to 0
/// or 1 has lost what the loss needs.
///
/// | | |
/// |---|---|
/// | value | `l = -(t max(ln x, -100) + (1 - t) max(ln(1 - x), -100))` |
/// | gradient | `dl/dx = (x - t) / max(x (1 - x), 1e-12)`; `dl/dt = max(ln(1 - x), -100) - max(ln x, -100)` |
/// | shapes | input and target of equal length; targets in `[0, 1]`, soft ones too |
/// | defaults | PyTorch's clamp; no smoothing |
/// | PyTorch | `F.binary_cross_entropy` |
/// | Keras | `BinaryCrossentropy()`: [`epsilon(1e-7)`](Self::epsilon) |
///
/// Edge cases: at `x = 0, t = 1` the value is 100 and the gradient -1e12, as in PyTorch; this holds
/// for f16 inputs too, where PyTorch's 1e-12 underflows to NaN. (An f16 gradient of 1e12 is stored as
/// infinity unless the reduction or `grad_output` scales it down.) An input outside `[0, 1]` or NaN
/// gives NaN in value and gradient, where PyTorch raises. PyTorch's gradient for the targets is
/// infinite at 0 and 1; this one is the derivative of the clamped value.
///
/// With `epsilon` the input is clipped to `[epsilon, 1 - epsilon]` and the gradient is zero where it
/// was: a prediction that is wrong with certainty learns nothing.
///
/// ```
/// use fused_loss::{Bce, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 4];
/// let loss = Bce::new().forward_backward(&[0.1, 0.5, 0.9, 0.7], &[0.0, 1.0, 1.0, 0.25], Reduction::Mean, &mut grad)?;
/// assert!((loss - 0.474004138_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bce(BceParams);

impl Bce {
    /// PyTorch's form.
    pub fn new() -> Self {
        Bce(BceParams { epsilon: 0.0, smoothing: 0.0 })
    }

    /// Keras's form: clips the input to `[epsilon, 1 - epsilon]`. Zero is PyTorch's form.
    pub fn epsilon(mut self, epsilon: f32) -> Result<Self> {
        self.0.epsilon = check_option("epsilon", "a number in [0, 0.5)", epsilon, (0.0..0.5).contains(&epsilon))?;
        Ok(self)
    }

    /// Keras's rule: `t (1 - smoothing) + smoothing / 2`. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        self.0.smoothing = check_smoothing(smoothing)?;
        Ok(self)
    }
}

impl Default for Bce {
    fn default() -> Self {
        Bce::new()
    }
}

impl Pointwise for Bce {
    const NAME: &'static str = "BCE";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let [rest, t] = smooth(t, self.0.smoothing);
        let c = self.clip(x);
        let (ln_x, ln_1mx) = logs(c);
        let variance = (c * (1.0 - c)).at_least(1e-12);
        let slope = (c - t).over(variance);
        // 0 < epsilon: a clipped input has no gradient. 0 = epsilon: an impossible one has NaN.
        let outside = if self.0.epsilon > 0.0 { x.is_nan().pick(f32::NAN, 0.0) } else { x.simd().splat(f32::NAN) };
        let inside = x.ge(self.0.epsilon) & x.le(1.0 - self.0.epsilon);
        Point { value: -t.mul_add(ln_x, rest * ln_1mx), grad: inside.pick(slope, outside) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, _: F32s<S>, _: F32s<S>) -> F32s<S> {
        let (ln_x, ln_1mx) = logs(self.clip(x));
        (1.0 - self.0.smoothing) * (ln_1mx - ln_x)
    }
}

impl Bce {
    #[cfg_attr(optimized, inline(always))]
    fn clip<S: Simd>(&self, x: F32s<S>) -> F32s<S> {
        let BceParams { epsilon, .. } = self.0;
        // With epsilon = 0 an impossible input must stay one, and its logarithm NaN.
        if epsilon > 0.0 { x.at_least(epsilon).at_most(1.0 - epsilon) } else { x }
    }
}

/// `max(ln x, -100)` and `max(ln(1 - x), -100)`; NaN outside `[0, 1]`.
#[cfg_attr(optimized, inline(always))]
fn logs<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>) {
    let (ln_x, ln_1mx) = x.ln_and_ln_of_rest();
    (ln_x.at_least(-100.0), ln_1mx.at_least(-100.0))
}

elementwise_loss!(Bce);
elementwise_methods!(Bce);

/// Binary cross-entropy on logits: sigmoid and logarithm in one, exact for any logit.
///
/// With `p` = `pos_weight` and `sp` = softplus:
///
/// | | |
/// |---|---|
/// | value | `l = (1 - t) sp(x) + p t sp(-x)` |
/// | gradient | `dl/dx = (1 - t) sigmoid(x) - p t sigmoid(-x)`; `dl/dt = p sp(-x) - sp(x)` |
/// | shapes | input and target of equal length; targets in `[0, 1]`, soft ones too; `pos_weight` per class along the last axis by [`Call::class_weight`](crate::Call::class_weight) |
/// | defaults | `pos_weight = 1`, no smoothing |
/// | PyTorch | `F.binary_cross_entropy_with_logits` |
/// | Keras | `BinaryCrossentropy(from_logits=True)` |
///
/// This form of the value is a sum of two terms of one sign: at `x = -12, t = 0` it gives 6.1442e-6,
/// where `max(x, 0) - x t + ln(exp(..) + exp(..))` in f32 gives 5.72e-6 and candle gives infinity at
/// `x = 20`. Edge cases: an infinite logit gives a finite gradient, and a value that is infinite or
/// NaN (0 times infinity). Targets outside `[0, 1]` are taken as they are; the value may be negative.
///
/// ```
/// use fused_loss::{BceWithLogits, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 4];
/// let (logits, targets) = ([-2.0, 0.5, 3.0, 0.0], [0.0, 1.0, 1.0, 0.25]);
/// let loss = BceWithLogits::new().forward_backward(&logits, &targets, Reduction::Mean, &mut grad)?;
/// assert!((loss - 0.335684882_f32).abs() < 1e-6);
/// let weighted = BceWithLogits::new().pos_weight(3.0)?.forward(&logits, &targets, Reduction::Sum)?;
/// assert!((weighted - 2.734641789_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BceWithLogits(BceWithLogitsParams);

impl BceWithLogits {
    /// No weight for positives, no smoothing.
    pub fn new() -> Self {
        BceWithLogits(BceWithLogitsParams { pos_weight: 1.0, smoothing: 0.0 })
    }

    /// Multiplies the cost of positives; above 1 it raises recall, below 1 precision. It multiplies
    /// the per-class weights too, where both are given.
    pub fn pos_weight(mut self, pos_weight: f32) -> Result<Self> {
        let ok = pos_weight.is_finite() && pos_weight >= 0.0;
        self.0.pos_weight = check_option("pos_weight", "a finite number, zero or above", pos_weight, ok)?;
        Ok(self)
    }

    /// Keras's rule: `t (1 - smoothing) + smoothing / 2`. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        self.0.smoothing = check_smoothing(smoothing)?;
        Ok(self)
    }
}

impl Default for BceWithLogits {
    fn default() -> Self {
        BceWithLogits::new()
    }
}

impl Pointwise for BceWithLogits {
    const NAME: &'static str = "BCE with logits";
    const GRAD_TARGET: bool = true;
    const CLASS_WEIGHT: bool = true;
    const LOGISTIC: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, l: &Logistic<S>, _: F32s<S>, t: F32s<S>, class_weight: F32s<S>) -> Point<S> {
        let [neg, t] = smooth(t, self.0.smoothing);
        let pos = self.0.pos_weight * class_weight * t;
        Point { value: l.cost(neg, pos), grad: l.slope(neg, pos) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn usual<T: Element, S: Machine>(&self, s: S, run: UsualRun<'_, '_, T>) -> Begun<1> {
        if self.is_plain() { run.of(s, Plain) } else { run.of(s, *self) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, _: F32s<S>, class_weight: F32s<S>) -> F32s<S> {
        let pos = self.0.pos_weight * class_weight;
        // One is the soft part alone, the other has |x| as well, which must not go through a product with zero.
        let l = logistic(x);
        let gap = l.negative.pick(pos * (l.soft + l.abs) - l.soft, pos * l.soft - (l.soft + l.abs));
        (1.0 - self.0.smoothing) * gap
    }
}

elementwise_loss!(BceWithLogits);
elementwise_methods!(BceWithLogits);

impl BceWithLogits {
    /// Whether it is [`Plain`], if no class has a weight.
    pub(crate) fn is_plain(&self) -> bool {
        self.0 == BceWithLogitsParams { pos_weight: 1.0, smoothing: 0.0 }
    }
}

/// Binary cross-entropy on logits without options: the weights of both softplus are 1 together, to the bit for targets in `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plain;

impl Pointwise for Plain {
    const NAME: &'static str = <BceWithLogits as Pointwise>::NAME;
    const LOGISTIC: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, l: &Logistic<S>, _: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let w = l.weight(1.0 - t, t);
        Point { value: l.abs.mul_add(w, l.soft), grad: l.with_sign(w - l.tail) }
    }
}

/// What Keras's smoothing leaves on no and on yes. Either by itself: one less the other would have lost what little a small smoothing
/// has put there, which costs more than all the rest where the prediction is sure.
#[cfg_attr(optimized, inline(always))]
fn smooth<S: Simd>(t: F32s<S>, smoothing: f32) -> [F32s<S>; 2] {
    let (rest, kept, added) = (1.0 - t, 1.0 - smoothing, 0.5 * smoothing);
    [rest.mul_add(kept, added), t.mul_add(kept, added)]
}

/// A smoothing must leave something of the target, or at most nothing.
pub(crate) fn check_smoothing(smoothing: f32) -> Result<f32> {
    check_option("label_smoothing", "a number in [0, 1]", smoothing, (0.0..=1.0).contains(&smoothing))
}

crate::cuda::kernel::kernel!(Bce, |l| Kernel::elements::<Bce>("bce", "bce", l.0));
crate::cuda::kernel::kernel!(BceWithLogits, |l| {
    let kernel = Kernel::elements::<BceWithLogits>("bce", "bce_with_logits", l.0);
    if l.is_plain() { kernel.usual("bce_with_logits_plain") } else { kernel }
});
term!(Bce, |l| Bce(l));
term!(BceWithLogits, |l| BceWithLogits(l));
