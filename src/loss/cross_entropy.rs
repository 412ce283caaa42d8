use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::math::Math;
use crate::cpu::row::{Row, RowTarget, Rows, for_chunks};
use crate::cpu::rowwise::{self, Rowwise};
use crate::cpu::simd::{LANES, Lanes, Simd, Span, lanes};
use crate::cpu::softmax::{Input, Logits, Softmax, Visit};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::bce::check_smoothing;
use crate::params::CrossEntropyParams;
use crate::shape::Shape;

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
/// | shapes | logits of a [`Shape`]; targets one index a row, or dense of the logits' shape |
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
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        match self.params.softcap {
            0.0 => for_request!(request, |r| rowwise::run(WithLogits { loss: *self, logits: Input }, r)),
            softcap => {
                for_request!(request, |r| rowwise::run(WithLogits { loss: *self, logits: Capped { softcap } }, r))
            }
        }
    }
}

/// Cross-entropy, compiled with and without a soft-cap.
#[derive(Clone, Copy)]
struct WithLogits<G> {
    loss: CrossEntropy,
    logits: G,
}

impl<G> WithLogits<G> {
    /// The weights that the targets of sixteen rows put on class `c`.
    #[inline(always)]
    fn weights<S: Simd, T: Element>(
        &self,
        s: S,
        rows: &Rows<'_, T>,
        c: usize,
        on_target: &Lanes,
        on_all: f32,
    ) -> Lanes {
        let w = rows.class_weight.map_or(1.0, |w| w[c]);
        if rows.is_dense() {
            let q = rows.dense(s, c);
            lanes!(|l| w * (on_target[l] * q[l] + on_all))
        } else {
            lanes!(|l| w * on_all + if rows.index[l] == c as i32 { on_target[l] } else { 0.0 })
        }
    }
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

    fn side_by_side(shape: Shape) -> bool {
        // The rows of a strided shape lie side by side in memory. Those of few classes do not, but the
        // logarithms and the horizontal sums of a row cost more than turning sixteen rows over.
        shape.classes <= if shape.inner == 1 { 64 } else { 256 }
    }

    /// `row`, sixteen times: the same formulas, in f32 lanes.
    #[inline(always)]
    fn rows<S: Simd, T: Element>(&self, s: S, rows: &mut Rows<'_, T>) -> Lanes {
        let CrossEntropyParams { smoothing, z_loss, softcap } = self.loss.params;
        let classes = rows.classes;
        let mut max = [f32::NEG_INFINITY; LANES];
        for c in 0..classes {
            let mut z = rows.input(s, c);
            if softcap != 0.0 {
                z = lanes!(|l| softcap * s.tanh(z[l] / softcap));
            }
            max = lanes!(|l| if z[l] > max[l] { z[l] } else { max[l] });
            rows.keep.put(c * LANES, z);
        }
        // The weight of the target's class; where the target is dense the index is no class.
        let on_target = lanes!(|l| (1.0 - smoothing) * rows.class_weight_of(rows.index[l]));
        let on_all = smoothing / classes as f32;
        // ones, rest, mass and cost: in f32 for eight classes, then in f64
        let mut total = [[0f64; LANES]; 4];
        for block in (0..classes).step_by(8) {
            let (mut ones, mut rest, mut mass, mut cost): (Lanes, Lanes, Lanes, Lanes) = Default::default();
            for c in block..classes.min(block + 8) {
                let (z, a) = (rows.kept(c), self.weights(s, rows, c, &on_target, on_all));
                let u = lanes!(|l| z[l] - max[l]);
                let e = lanes!(|l| s.exp_neg(u[l]));
                let one = lanes!(|l| if e[l] == 1.0 { 1.0 } else { 0.0 });
                let other = lanes!(|l| e[l] - one[l]);
                let term = lanes!(|l| if a[l] == 0.0 { 0.0 } else { -a[l] * u[l] });
                s.add(&mut ones, &one);
                s.add(&mut rest, &other);
                s.add(&mut mass, &a);
                s.add(&mut cost, &term);
                rows.keep.put(c * LANES, e);
            }
            for (total, sum) in total.iter_mut().zip([&ones, &rest, &mass, &cost]) {
                s.add_wide(total, sum);
            }
        }
        let [ones, rest, mass, cost] = total;
        let (ones, rest) = (lanes!(|l| ones[l] as f32), lanes!(|l| rest[l] as f32));
        let (mass, cost) = (lanes!(|l| mass[l] as f32), lanes!(|l| cost[l] as f32));
        let ln_sum = lanes!(|l| s.ln(ones[l]) + s.ln_1p(rest[l] / ones[l]));
        let lse = lanes!(|l| max[l] + ln_sum[l]);
        let value = lanes!(|l| {
            let value = mass[l] * ln_sum[l] + cost[l];
            if z_loss == 0.0 { value } else { value + z_loss * lse[l] * lse[l] }
        });
        if rows.wants_grad_target() {
            for c in 0..classes {
                let (e, w) = (rows.kept(c), rows.class_weight.map_or(1.0, |w| w[c]));
                // ln e, but where it has underflowed
                let z = rows.input(s, c);
                let z = if softcap == 0.0 { z } else { lanes!(|l| softcap * s.tanh(z[l] / softcap)) };
                let grad = lanes!(|l| {
                    let factor = w * (1.0 - smoothing) * rows.scale[l];
                    let slope = factor * (ln_sum[l] + (max[l] - z[l]));
                    if factor == 0.0 && !e[l].is_nan() { 0.0 } else { slope }
                });
                rows.put_target(s, c, grad);
            }
        }
        if rows.wants_grad() {
            let pull = lanes!(|l| 2.0 * z_loss * lse[l]);
            let inv = lanes!(|l| 1.0 / (ones[l] + rest[l]));
            let miss = lanes!(|l| (ones[l] - 1.0 + rest[l]) * inv[l]);
            let slope = lanes!(|l| (mass[l] + pull[l]) * inv[l]);
            let top = lanes!(|l| pull[l] * (1.0 - miss[l]) - mass[l] * miss[l]);
            for c in 0..classes {
                let (e, a) = (rows.kept(c), self.weights(s, rows, c, &on_target, on_all));
                let mut grad = lanes!(|l| {
                    let near_one = (mass[l] - a[l]) + top[l];
                    let usual = e[l] * slope[l] - a[l];
                    rows.scale[l] * if e[l] == 1.0 && ones[l] + rest[l] < 2.0 { near_one } else { usual }
                });
                if softcap != 0.0 {
                    let z = rows.input(s, c);
                    let bent = lanes!(|l| s.tanh(z[l] / softcap));
                    grad = lanes!(|l| grad[l] * (1.0 - bent[l] * bent[l]));
                }
                rows.put(s, c, grad);
            }
        }
        value
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
        let value = mass * softmax.ln_sum() + cost;
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
            // That is, of one class at most; where none leads, this form would be the one that cancels.
            let scale = f64::from(row.scale);
            let pull = 2.0 * f64::from(z_loss) * lse;
            let miss = softmax.miss(1.0);
            let slope = ((mass + pull) / softmax.sum() * scale) as f32;
            let top = ((pull * (1.0 - miss) - mass * miss) * scale) as f32;
            let (mass, scale) = (mass as f32, row.scale);
            let top_e = if softmax.one_class_leads() { 1.0 } else { f32::NAN };
            for_chunks!(row, |k, p| {
                let e = softmax.exp(s, row, 0, (k, p), logits);
                let mut grad: Lanes = [0.0; LANES];
                if weights.some(k) {
                    let a = weights.at(s, row, k, p);
                    for l in 0..LANES {
                        let near_one = (mass - a[l]) * scale + top;
                        let usual = e[l] * slope - a[l] * scale;
                        grad[l] = if e[l] == top_e { near_one } else { usual };
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

crate::cuda::kernel::kernel!(CrossEntropy, |l| {
    let name = if l.params.softcap == 0.0 { "cross_entropy" } else { "cross_entropy_softcap" };
    Kernel::rows(&WithLogits { loss: *l, logits: Input }, "cross_entropy", name, l.params)
});
