use crate::call::{Loss, Request, Run, class_methods};
use crate::cpu::math::Math;
use crate::cpu::rowwise::{self, Row, RowTarget, Rowwise, for_chunks};
use crate::cpu::simd::{LANES, Lanes, Simd, Span, lanes};
use crate::cpu::softmax::{Input, Logits, Softmax, Visit};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::bce::check_smoothing;
use crate::loss::rowwise_loss;
use crate::params::{CrossEntropyParams, CrossEntropyProbsParams};

/// Categorical cross-entropy on logits: log-softmax, negative log-likelihood and their gradient in one.
///
/// With `z` the logits of a row (soft-capped, if asked), `p = softmax(z)`, `lse = ln(sum_j exp(z_j))`,
/// smoothing `s` over `C` classes and class weights `w` (1 without), a target is a weight `a` on every class:
///
/// | target | `a_k` |
/// |---|---|
/// | class index `t` | `(1 - s) w_t [k = t] + s w_k / C` |
/// | dense `q` | `w_k ((1 - s) q_k + s / C)` |
///
/// | | |
/// |---|---|
/// | value | `l = sum_k a_k (lse - z_k) + z_loss lse^2` |
/// | gradient | `dl/dz_k = p_k (sum_j a_j + 2 z_loss lse) - a_k`; `dl/dq_k = w_k (1 - s) (lse - z_k)` |
/// | shapes | logits of a [`Shape`](crate::Shape); targets one index a row, or dense of the logits' shape |
/// | mean | index targets: divides by the sum of `w_t` over the rows that are not ignored; dense: by the rows |
/// | defaults | `ignore_index = -100`, no smoothing, no z-loss, no soft-cap |
/// | PyTorch | `F.cross_entropy` |
/// | Keras | `SparseCategoricalCrossentropy(from_logits=True)`, `CategoricalCrossentropy(from_logits=True)` |
///
/// z-loss is Gemma's and PaLM's (the `lse_square_scale` of Liger); it is not multiplied by class
/// weights. The soft-cap is Gemma 2's. All options combine. Smoothing weighs every class by its own
/// weight, as PyTorch does, so that with class weights a one-hot target and its index have different means.
///
/// A row with a class of probability 1 - 1e-9 has a loss and a gradient right to seven digits. Edge cases:
///
/// * A row whose index is `ignore_index` counts for nothing and gets a gradient of exactly 0, even if it
///   holds NaN (PyTorch gives NaN there). If all rows are ignored the mean is NaN and the gradients 0.
/// * A class masked by a logit of minus infinity is fine unless it is the target (infinite value, gradient -1)
///   or smoothing gives it weight (infinite value). With a dense target of 0 it contributes 0 (PyTorch: NaN).
/// * A row of minus infinities, plus infinity, or NaN makes value and row gradient NaN.
/// * An index that is neither a class nor `ignore_index` is [`Error::ClassIndex`](crate::Error::ClassIndex).
/// * Dense targets need not sum to one.
///
/// ```
/// use fused_loss::{CrossEntropy, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let logits = [1.0, 2.0, 3.0, 0.0, 0.0, 5.0, -1.0, 4.0, 0.5];
/// let mut grad = [0.0; 9];
/// let loss = CrossEntropy::new().forward_backward(&logits, &[2i64, 0, -100], (3, 3), Reduction::Mean, &mut grad)?;
/// assert!((loss - 2.710495933_f32).abs() < 1e-6);
/// assert_eq!(grad[6..], [0.0; 3]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    params: CrossEntropyParams,
    ignore_index: Option<i64>,
}

impl CrossEntropy {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        let params = CrossEntropyParams { smoothing: 0.0, z_loss: 0.0, softcap: 0.0 };
        CrossEntropy { params, ignore_index: Some(-100) }
    }

    /// Spreads this part of the target over all classes. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        self.params.smoothing = check_smoothing(smoothing)?;
        Ok(self)
    }

    /// Rows with this index are left out; it may be a class. `None` leaves out none. Defaults to -100.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.ignore_index = index.into();
        self
    }

    /// Adds `z_loss * lse^2`, which keeps logits from drifting. Defaults to 0; 1e-4 is usual.
    pub fn z_loss(mut self, z_loss: f32) -> Result<Self> {
        let ok = z_loss.is_finite() && z_loss >= 0.0;
        self.params.z_loss = check_option("z_loss", "a finite number, zero or above", z_loss, ok)?;
        Ok(self)
    }

    /// Bends logits to `softcap * tanh(z / softcap)` first; `None` leaves them. Defaults to `None`.
    pub fn softcap(mut self, softcap: impl Into<Option<f32>>) -> Result<Self> {
        self.params.softcap = match softcap.into() {
            Some(cap) => check_option("softcap", "a finite number above zero", cap, cap.is_finite() && cap > 0.0)?,
            None => 0.0,
        };
        Ok(self)
    }
}

impl Default for CrossEntropy {
    fn default() -> Self {
        CrossEntropy::new()
    }
}

impl Loss for CrossEntropy {
    const NAME: &'static str = "cross-entropy";
}
impl Run for CrossEntropy {
    fn run<T: Element>(&self, request: Request<'_, T>) -> Result<f32> {
        match self.params.softcap {
            0.0 => rowwise::run(WithLogits { loss: *self, logits: Input }, request),
            softcap => rowwise::run(WithLogits { loss: *self, logits: Capped { softcap } }, request),
        }
    }
}

/// Cross-entropy, compiled with and without a soft-cap.
#[derive(Clone, Copy)]
struct WithLogits<G> {
    loss: CrossEntropy,
    logits: G,
}

/// Logits bent to `softcap * tanh(z / softcap)`.
#[derive(Clone, Copy)]
struct Capped {
    softcap: f32,
}

impl Logits for Capped {
    #[inline(always)]
    fn at<S: Simd, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes {
        let z = row.input(s, k, p, f32::NEG_INFINITY);
        // Past the last class minus infinity must stay what it is.
        lanes!(|l| {
            let capped = self.softcap * s.tanh(z[l] / self.softcap);
            if k + l < row.classes { capped } else { z[l] }
        })
    }

    #[inline(always)]
    fn chain<S: Simd, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P, grad: &mut Lanes) {
        let z = row.input(s, k, p, 0.0);
        for l in 0..LANES {
            let bent = s.tanh(z[l] / self.softcap);
            grad[l] *= 1.0 - bent * bent;
        }
    }
}

impl<G: Logits> Rowwise for WithLogits<G> {
    const NAME: &'static str = CrossEntropy::NAME;
    const CLASS_WEIGHT: bool = true;
    const GRAD_TARGET: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.loss.ignore_index
    }

    #[inline(always)]
    fn row<S: Simd, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let CrossEntropyParams { smoothing, z_loss, .. } = self.loss.params;
        let logits = self.logits;
        let weights = TargetWeights::new(row, smoothing);
        let mut sums = TargetSums { weights, mass: [0.0; LANES], cost: [0.0; LANES] };
        let softmax = Softmax::new(s, row, 0, logits, &mut sums);
        let (mass, cost): (f64, f64) = (sums.mass.iter().sum(), sums.cost.iter().sum());
        let lse = softmax.lse();
        // Masses of zero, all targets being zero, must not meet an infinity.
        let value = if mass == 0.0 { 0.0 } else { mass * softmax.ln_sum() } + cost;
        let value = if z_loss == 0.0 { value } else { value + f64::from(z_loss) * lse * lse };

        // Before the gradient of the input, which in place overwrites the logits.
        if row.wants_grad_target() {
            let (ln_sum, max) = (softmax.ln_sum() as f32, softmax.max);
            for_chunks!(row, |k, p| {
                let (z, w) = (logits.at(s, row, k, p), row.class_weights(k, p));
                let grad = lanes!(|l| {
                    let factor = w[l] * (1.0 - smoothing) * row.scale;
                    if factor == 0.0 { 0.0 } else { factor * (ln_sum + (max - z[l])) }
                });
                row.put_target(s, k, p, grad);
            });
        }
        if row.wants_grad() {
            // dl/dz = p (mass + pull) - a, and where p is near 1 the same as (mass - a) - mass (1 - p) + pull p.
            let scale = f64::from(row.scale);
            let pull = 2.0 * f64::from(z_loss) * lse;
            let miss = softmax.miss(1.0);
            let slope = ((mass + pull) / softmax.sum() * scale) as f32;
            let top = ((pull * (1.0 - miss) - mass * miss) * scale) as f32;
            let (mass, scale) = (mass as f32, row.scale);
            for_chunks!(row, |k, p| {
                let e = softmax.exp(s, row, 0, (k, p), logits);
                let mut grad: Lanes = [0.0; LANES];
                if weights.some(k) {
                    let a = weights.at(s, row, k, p);
                    for l in 0..LANES {
                        let near_one = (mass - a[l]) * scale + top;
                        let usual = e[l] * slope - a[l] * scale;
                        grad[l] = if e[l] == 1.0 { near_one } else { usual };
                    }
                } else {
                    for l in 0..LANES {
                        grad[l] = e[l] * slope;
                    }
                }
                logits.chain(s, row, k, p, &mut grad);
                row.put(s, k, p, grad);
            });
        }
        value
    }
}

class_methods!(CrossEntropy);

/// `sum a` and `sum a (max - z)`.
struct TargetSums<'a, T> {
    weights: TargetWeights<'a, T>,
    mass: [f64; LANES],
    cost: [f64; LANES],
}

impl<T: Element> Visit<T> for TargetSums<'_, T> {
    #[inline(always)]
    fn visit<S: Simd, P: Span>(&mut self, s: S, row: &Row<'_, T>, k: usize, p: P, u: &Lanes, _: &Lanes) {
        if self.weights.some(k) {
            let a = self.weights.at(s, row, k, p);
            // Zero times minus infinity is a masked class that the target does not ask for.
            let u = lanes!(|l| if a[l] == 0.0 { 0.0 } else { u[l] });
            s.add_wide(&mut self.mass, &a);
            for l in 0..LANES {
                self.cost[l] -= f64::from(a[l]) * f64::from(u[l]);
            }
        }
    }
}

/// The weight `a` that the target of a row puts on every class, smoothing and class weights included.
#[derive(Clone, Copy)]
pub(crate) struct TargetWeights<'a, T> {
    target: RowTarget<'a, T>,
    /// `1 - smoothing`, times the class weight of an index.
    on_target: f32,
    /// `smoothing / C`.
    on_all: f32,
}

impl<'a, T: Element> TargetWeights<'a, T> {
    #[inline(always)]
    pub(crate) fn new(row: &Row<'a, T>, smoothing: f32) -> Self {
        let weight = match row.target {
            RowTarget::Class(t) => row.class_weight_at(t),
            _ => 1.0,
        };
        TargetWeights {
            target: row.target,
            on_target: (1.0 - smoothing) * weight,
            on_all: smoothing / row.classes as f32,
        }
    }

    /// Whether any of the classes `k..k + 16` has a weight. Most have none, if the target is an index.
    #[inline(always)]
    pub(crate) fn some(&self, k: usize) -> bool {
        match self.target {
            RowTarget::Class(t) => self.on_all != 0.0 || (t >= k && t - k < LANES),
            _ => true,
        }
    }

    /// The weights of classes `k..k + 16`, zero past the last class.
    #[inline(always)]
    pub(crate) fn at<S: Simd, P: Span>(&self, s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes {
        let mut a = row.class_weights(k, p);
        match self.target {
            RowTarget::Dense(_) => {
                let q = row.dense(s, k, p, 0.0);
                for l in 0..LANES {
                    a[l] *= self.on_target * q[l] + self.on_all;
                }
            }
            RowTarget::Class(t) => {
                for l in 0..LANES {
                    a[l] *= self.on_all;
                    a[l] += if k + l == t { self.on_target } else { 0.0 };
                }
            }
            RowTarget::Nothing => a = [0.0; LANES],
        }
        a
    }
}

/// Categorical cross-entropy on probabilities, Keras's form. Prefer [`CrossEntropy`] on logits.
///
/// With `q_k = clip(x_k / sum_j x_j, epsilon, 1 - epsilon)` and target weights `a` as for [`CrossEntropy`]:
///
/// | | |
/// |---|---|
/// | value | `l = -sum_k a_k ln q_k` |
/// | gradient | `dl/dx_k = (B - a_k / q_k [not clipped]) / sum_j x_j`, where `B` is the sum of `a` over the classes that were not clipped; `dl/dt_k = -w_k (1 - s) ln q_k` |
/// | shapes | as [`CrossEntropy`] |
/// | mean | as [`CrossEntropy`]; Keras divides by the valid rows, weights or not |
/// | defaults | `epsilon = 1e-7`, `ignore_index = -100`, no smoothing |
/// | Keras | `CategoricalCrossentropy()`, `SparseCategoricalCrossentropy(ignore_class=..)` |
/// | PyTorch | none; [`Nll`](crate::Nll) takes log-probabilities |
///
/// Edge cases: a row that sums to 0 gives NaN. A clipped target class has a constant value (16.1 at
/// `epsilon = 1e-7`) and little or no gradient: predictions that are wrong with certainty do not recover.
///
/// ```
/// use fused_loss::{CrossEntropyProbs, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let probs = [0.2f32, 0.3, 0.5];
/// let loss = CrossEntropyProbs::new().forward(&probs, &[2i64], (1, 3), Reduction::Mean)?;
/// assert!((loss - 2.0f32.ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyProbs {
    params: CrossEntropyProbsParams,
    ignore_index: Option<i64>,
}

impl CrossEntropyProbs {
    /// Keras's defaults, and PyTorch's `ignore_index`.
    pub fn new() -> Self {
        let params = CrossEntropyProbsParams { epsilon: 1e-7, smoothing: 0.0 };
        CrossEntropyProbs { params, ignore_index: Some(-100) }
    }

    /// Clips normalised probabilities to `[epsilon, 1 - epsilon]`; above zero.
    pub fn epsilon(mut self, epsilon: f32) -> Result<Self> {
        let ok = epsilon > 0.0 && epsilon < 0.5;
        self.params.epsilon = check_option("epsilon", "a number in (0, 0.5)", epsilon, ok)?;
        Ok(self)
    }

    /// Spreads this part of the target over all classes. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        self.params.smoothing = check_smoothing(smoothing)?;
        Ok(self)
    }

    /// Rows with this index are left out; it may be a class. `None` leaves out none. Defaults to -100.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.ignore_index = index.into();
        self
    }
}

impl Default for CrossEntropyProbs {
    fn default() -> Self {
        CrossEntropyProbs::new()
    }
}

impl Rowwise for CrossEntropyProbs {
    const NAME: &'static str = "cross-entropy on probabilities";
    const CLASS_WEIGHT: bool = true;
    const GRAD_TARGET: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.ignore_index
    }

    #[inline(always)]
    fn row<S: Simd, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let CrossEntropyProbsParams { epsilon, smoothing } = self.params;
        let mut sum = [0f64; LANES];
        for_chunks!(row, |k, p| {
            let x = row.input(s, k, p, 0.0);
            for l in 0..LANES {
                sum[l] += f64::from(x[l]);
            }
        });
        let sum: f64 = sum.iter().sum();
        let inv_sum = (1.0 / sum) as f32;
        let weights = TargetWeights::new(row, smoothing);
        // The clipped probability, and whether it is the probability itself.
        let clip = |x: f32| {
            let q = x * inv_sum;
            let low = if q < epsilon { epsilon } else { q };
            let c = if low > 1.0 - epsilon { 1.0 - epsilon } else { low };
            (c, !(q < epsilon || q > 1.0 - epsilon))
        };
        let (mut value, mut free) = ([0f64; LANES], [0f64; LANES]);
        for_chunks!(row, |k, p| {
            if weights.some(k) {
                let (x, a) = (row.input(s, k, p, 0.0), weights.at(s, row, k, p));
                for l in 0..LANES {
                    let (q, inside) = clip(x[l]);
                    let term = f64::from(a[l]) * f64::from(s.ln(q));
                    value[l] -= if a[l] == 0.0 && q == q { 0.0 } else { term };
                    free[l] += if inside { f64::from(a[l]) } else { 0.0 };
                }
            }
        });
        let value = value.iter().sum();
        if row.wants_grad_target() {
            for_chunks!(row, |k, p| {
                let (x, w) = (row.input(s, k, p, 0.0), row.class_weights(k, p));
                let grad = lanes!(|l| -w[l] * (1.0 - smoothing) * s.ln(clip(x[l]).0) * row.scale);
                row.put_target(s, k, p, grad);
            });
        }
        if row.wants_grad() {
            let free = free.iter().sum::<f64>() as f32;
            let scale = inv_sum * row.scale;
            for_chunks!(row, |k, p| {
                let x = row.input(s, k, p, 0.0);
                let a = if weights.some(k) { weights.at(s, row, k, p) } else { [0.0; LANES] };
                let grad = lanes!(|l| {
                    let (q, inside) = clip(x[l]);
                    (free - if inside { a[l] / q } else { 0.0 }) * scale
                });
                row.put(s, k, p, grad);
            });
        }
        // A sum that is not a number above zero is not a distribution, whatever class was asked for.
        if sum.is_nan() || sum == 0.0 { f64::NAN } else { value }
    }
}

rowwise_loss!(CrossEntropyProbs);
class_methods!(CrossEntropyProbs);

/// Negative log-likelihood on log-probabilities.
///
/// | | |
/// |---|---|
/// | value | `l = -w_t x_t` |
/// | gradient | `dl/dx_t = -w_t`, 0 for every other class |
/// | shapes | log-probabilities of a [`Shape`](crate::Shape); targets one index a row |
/// | mean | divides by the sum of `w_t` over the rows that are not ignored |
/// | default | `ignore_index = -100` |
/// | PyTorch | `F.nll_loss` |
///
/// Edge cases: as [`CrossEntropy`], which does the log-softmax too and has no reason not to be used.
///
/// ```
/// use fused_loss::{Nll, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = Nll::new().forward_backward(&[-0.5f32, -1.0, -2.0], &[1i32], (1, 3), Reduction::Mean, &mut grad)?;
/// assert_eq!((loss, grad), (1.0, [0.0, -1.0, 0.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nll {
    ignore_index: Option<i64>,
}

impl Nll {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        Nll { ignore_index: Some(-100) }
    }

    /// Rows with this index are left out; it may be a class. `None` leaves out none. Defaults to -100.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.ignore_index = index.into();
        self
    }
}

impl Default for Nll {
    fn default() -> Self {
        Nll::new()
    }
}

impl Rowwise for Nll {
    const NAME: &'static str = "NLL";
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.ignore_index
    }

    #[inline(always)]
    fn row<S: Simd, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Class(t) = row.target else { return 0.0 };
        let weight = row.class_weight_at(t);
        let value = -f64::from(weight) * f64::from(row.input_at(t));
        for_chunks!(row, |k, p| {
            row.put(s, k, p, lanes!(|l| if k + l == t { -weight * row.scale } else { 0.0 }));
        });
        value
    }
}

rowwise_loss!(Nll);
class_methods!(Nll);
