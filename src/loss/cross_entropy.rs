use self::lanes::{HardSums, LaneSums};
use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::row::{Row, RowTarget, Rows, for_chunks};
use crate::cpu::rowwise::{self, Rowwise};
use crate::cpu::simd::{F32s, Kernel, LANES, Lanes, Machine, Operand, Pair, Part, Span, Whole};
use crate::cpu::softmax::{BlockSum, Logits, Softmax, Visit, for_eights};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::bce::check_smoothing;
use crate::loss::reporting::Reporting;
use crate::loss::target_weights::TargetWeights;
use crate::params::CrossEntropyParams;
use crate::shape::Shape;

pub(crate) mod lanes;
pub(crate) mod sharded;

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
///
/// # Contrastive learning
///
/// InfoNCE, and its symmetric form, which trained CLIP, are cross-entropies of a matrix of logits `z = scale * similarity` whose row `i`
/// belongs to column `i`: by rows, and by columns with the classes on axis 1, which adds to the gradient. (`head::InfoNce` does it from
/// the embeddings, without that matrix.) For the logarithm of a learned scale the gradient of a row is
/// `sum_k (p_k - [k = t]) z_k`, which is its loss less its entropy: both are reported. With f16 and bf16 the gradient is rounded after
/// each of the two calls.
///
/// ```
/// use fused_loss::{CrossEntropy, Reduction, Shape};
/// # fn main() -> fused_loss::Result<()> {
/// let (n, logits, diagonal) = (2, [3.0f32, 1.0, -1.0, 2.0], [0u32, 1]);
/// let (mut grad, mut value, mut on_log_scale) = ([0.0; 4], 0.0, 0.0);
/// for shape in [Shape::from((n, n)), Shape::from([1, n, n])] {
///     let (mut log_prob, mut entropy) = ([0.0; 2], [0.0; 2]);
///     let call = CrossEntropy::new().call(&logits, &diagonal, shape).log_prob(&mut log_prob).entropy(&mut entropy);
///     value += 0.5 * call.grad_output(0.5).accumulate().forward_backward(Reduction::Mean, &mut grad)?;
///     on_log_scale += log_prob.iter().zip(entropy).map(|(lp, h)| 0.5 * (-lp - h) / n as f32).sum::<f32>();
/// }
/// assert!((value - 0.126_731_7_f32).abs() < 1e-6 && (on_log_scale + 0.180_392_4_f32).abs() < 1e-6);
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

    pub(crate) fn params(&self) -> CrossEntropyParams {
        self.params
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
        for_request!(request, |r| match r.extras.report.is_asked_for() {
            false => rowwise::run(*self, r),
            true => rowwise::run(Reporting(*self), r),
        })
    }
}

/// Logits bent to `cap * tanh(z / cap)`, where the cap is not 0.
#[derive(Clone, Copy)]
struct Capped {
    cap: f32,
    inv: f32,
}

impl Capped {
    fn new(cap: f32) -> Self {
        Capped { cap, inv: 1.0 / cap }
    }

    #[cfg_attr(optimized, inline(always))]
    fn bend<S: Machine>(self, z: F32s<S>) -> F32s<S> {
        let s = z.simd();
        if self.cap == 0.0 { z } else { s.lanes(&s.run(Bend(self, z.to_array()))) }
    }

    /// Turns the gradient for the bent logit into that for `z`.
    #[cfg_attr(optimized, inline(always))]
    fn straighten<S: Machine>(self, z: F32s<S>, grad: F32s<S>) -> F32s<S> {
        let s = z.simd();
        grad * s.lanes(&s.run(Straighten(self, z.to_array())))
    }
}

/// `cap tanh(z / cap)`. A function of its own, for few logits have a cap and all looks at them would have this in them, which doubles
/// what cross-entropy takes to compile.
struct Bend(Capped, Lanes);

impl Kernel for Bend {
    type Output = Lanes;
    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> Lanes {
        let Bend(Capped { cap, inv }, z) = self;
        (cap * (s.lanes(&z) * inv).tanh()).to_array()
    }
}

/// The derivative of that.
struct Straighten(Capped, Lanes);

impl Kernel for Straighten {
    type Output = Lanes;
    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> Lanes {
        let Straighten(Capped { inv, .. }, z) = self;
        let bent = (s.lanes(&z) * inv).tanh();
        (1.0 - bent * bent).to_array()
    }
}

impl Logits for Capped {
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        let z = row.input(s, k, p, f32::NEG_INFINITY);
        // Past the last class minus infinity must stay what it is.
        if P::WHOLE || self.cap == 0.0 { self.bend(z) } else { s.first(p.count()).pick(self.bend(z), z) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn chain<S: Machine, T: Element, P: Span>(self, row: &Row<'_, T>, k: usize, p: P, grad: F32s<S>) -> F32s<S> {
        if self.cap == 0.0 { grad } else { self.straighten(row.input(grad.simd(), k, p, 0.0), grad) }
    }
}

impl Rowwise for CrossEntropy {
    const NAME: &'static str = <CrossEntropy as Loss>::NAME;
    const CLASS_WEIGHT: bool = true;
    const GRAD_TARGET: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.ignore_index
    }

    fn side_by_side(shape: Shape) -> bool {
        // The rows of a strided shape lie side by side in memory. Those of few classes do not, but the
        // logarithms and the horizontal sums of a row cost more than turning sixteen rows over.
        shape.classes <= if shape.inner == 1 { 64 } else { 256 }
    }

    /// `row`, sixteen times: the same formulas, in f32 lanes.
    #[cfg_attr(optimized, inline(always))]
    fn rows<S: Machine, T: Element>(&self, rows: &mut Rows<'_, '_, S, T>) -> F32s<S> {
        let CrossEntropyParams { smoothing, z_loss, softcap } = self.params;
        let cap = Capped::new(softcap);
        let (s, classes) = (rows.s, rows.classes);
        let mut max = s.splat(f32::NEG_INFINITY);
        for c in 0..classes {
            let mut z = rows.kept(c);
            if softcap != 0.0 {
                z = cap.bend(z);
                rows.keep(c, z);
            }
            max = max.or_larger(z);
        }
        if smoothing == 0.0 && !rows.is_dense() {
            // 0.8 of the time that the sums below take.
            let losses = HardSums::of_rows(rows, max)
                .losses(true, max, rows.class_weights_of_targets(), z_loss)
                .scaled(rows.scale);
            if rows.wants_grad() {
                for c in 0..classes {
                    let mut grad = losses.grad(rows.kept(c), rows.has_class(c));
                    if softcap != 0.0 {
                        grad = cap.straighten(rows.input(c), grad);
                    }
                    rows.put(c, grad);
                }
            }
            return losses.value;
        }
        // The weight of the target's class; where the target is dense the index is no class.
        let on_target = (1.0 - smoothing) * rows.class_weights_of_targets();
        let on_all = smoothing / classes as f32;
        let mut sums = LaneSums::new(s);
        for_eights!(
            classes,
            |c| {
                let u = rows.kept(c) - max;
                let e = u.exp_neg();
                sums.add(u, e, weights(rows, c, on_target, on_all));
                rows.keep(c, e);
            },
            {
                sums.end_block();
            }
        );
        let losses = sums.losses(true, max, z_loss);
        if rows.wants_grad_target() {
            for c in 0..classes {
                let z = cap.bend(rows.input(c));
                let factor = rows.class_weight.map_or(1.0, |w| w[c]) * (1.0 - smoothing) * rows.scale;
                let grad = factor * (losses.ln_sum + (max - z));
                // Zero times infinity is zero, but NaN stays.
                let none = factor.eq(0.0) & !rows.kept(c).is_nan();
                rows.put_target(c, none.pick(0.0, grad));
            }
        }
        if rows.wants_grad() {
            for c in 0..classes {
                let (e, a) = (rows.kept(c), weights(rows, c, on_target, on_all));
                let mut grad = rows.scale * losses.grad(e, a);
                if softcap != 0.0 {
                    grad = cap.straighten(rows.input(c), grad);
                }
                rows.put(c, grad);
            }
        }
        losses.value
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        self.one_row(s, row, ()).1
    }
}

class_methods!(CrossEntropy);

/// What the gradient of a row needs: with `m = sum_j a_j + 2 z_loss lse` it is `p_k m - a_k`.
///
/// Where p is near 1 that is the difference of two close numbers, and the same as
/// `(sum a - a) - sum a (1 - p) + 2 z_loss lse p`. That is of one class at most; where none leads, this form would be
/// the one that cancels.
pub(super) struct Slopes {
    mass: f32,
    scale: f32,
    slope: f32,
    top: f32,
    /// The exponential of the leading class; NaN where none leads.
    top_e: f32,
}

impl Slopes {
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn new(softmax: &Softmax, mass: f64, z_loss: f32, scale: f32) -> Self {
        let pull = if z_loss == 0.0 { 0.0 } else { 2.0 * f64::from(z_loss) * softmax.lse() };
        let miss = softmax.miss(1.0);
        Slopes {
            mass: mass as f32,
            scale,
            slope: ((mass + pull) / softmax.sum() * f64::from(scale)) as f32,
            top: ((pull * (1.0 - miss) - mass * miss) * f64::from(scale)) as f32,
            top_e: if softmax.one_class_leads() { 1.0 } else { f32::NAN },
        }
    }

    /// The gradient of classes with these exponentials and weights.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn at<S: Machine>(&self, e: F32s<S>, a: F32s<S>) -> F32s<S> {
        e.eq(self.top_e).pick((self.mass - a) * self.scale + self.top, e * self.slope - a * self.scale)
    }

    /// The same of classes that are not the target, without what their weight adds: there is nothing to cancel, whoever leads.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn apart<S: Machine>(&self, e: F32s<S>, and: impl Operand<S>) -> F32s<S> {
        e.mul_add(self.slope, and)
    }
}

/// The weights that the targets of sixteen rows put on class `c`.
#[cfg_attr(optimized, inline(always))]
fn weights<S: Machine, T: Element>(rows: &Rows<'_, '_, S, T>, c: usize, on_target: F32s<S>, on_all: f32) -> F32s<S> {
    let w = rows.class_weight.map_or(1.0, |w| w[c]);
    if rows.is_dense() {
        w * (on_target * rows.dense(c) + on_all)
    } else {
        rows.has_class(c).pick(on_target, 0.0) + w * on_all
    }
}

impl CrossEntropy {
    /// One row, its softmax seen by somebody else too: the softmax, the visitor, and the value.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn one_row<S: Machine, T: Element, V: Visit<S, T>>(
        &self,
        s: S,
        row: &mut Row<'_, T>,
        visitor: V,
    ) -> ((Softmax, V), f64) {
        match row.target {
            RowTarget::Class(t) if self.params.smoothing == 0.0 => self.hard_row(s, row, t, visitor),
            RowTarget::Class(_) if row.class_weight.is_none() => self.soft_row::<S, T, V, true>(s, row, visitor),
            _ => self.soft_row::<S, T, V, false>(s, row, visitor),
        }
    }

    /// The logit of class `t`.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn logit<S: Machine, T: Element>(&self, s: S, row: &Row<'_, T>, t: usize) -> f32 {
        // In the chunk that it is in.
        let (at, near) = (t - t % LANES, Part(LANES.min(row.classes - (t - t % LANES))));
        Capped::new(self.params.softcap).at(s, row, at, near).to_array()[t % LANES]
    }

    /// A row whose target is one class.
    #[cfg_attr(optimized, inline(always))]
    fn hard_row<S: Machine, T: Element, V: Visit<S, T>>(
        &self,
        s: S,
        row: &mut Row<'_, T>,
        t: usize,
        mut visitor: V,
    ) -> ((Softmax, V), f64) {
        let (z_loss, logits) = (self.params.z_loss, Capped::new(self.params.softcap));
        // The chunk that the target is in.
        let (at, near) = (t - t % LANES, Part(LANES.min(row.classes - (t - t % LANES))));
        let weight = row.class_weight_at(t);
        let u = self.logit(s, row, t);
        let softmax = Softmax::new(s, row, 0, logits, &mut visitor);
        let mass = f64::from(weight);
        // Zero times minus infinity is a masked class that the target does not ask for.
        let cost = if weight == 0.0 { 0.0 } else { mass * (f64::from(softmax.max) - f64::from(u)) };
        if row.wants_grad() {
            let slopes = Slopes::new(&softmax, mass, z_loss, row.scale);
            // All but that chunk.
            for range in [0..at, (at + LANES).min(row.classes)..row.classes] {
                if row.fits() {
                    for_chunks!(row, range, |k, p| {
                        let e = softmax.kept(s, row, 0, k);
                        row.put(s, k, p, logits.chain(row, k, p, e * slopes.slope));
                    });
                } else {
                    let (mut k, whole, pair) = (range.start, row.whole().min(range.end), Pair(s));
                    while k + 2 * LANES <= whole {
                        let z = pair.join(logits.at(s, row, k, Whole), logits.at(s, row, k + LANES, Whole));
                        let (g0, g1) = pair.split((z - softmax.max).exp_neg() * slopes.slope);
                        row.put(s, k, Whole, logits.chain(row, k, Whole, g0));
                        row.put(s, k + LANES, Whole, logits.chain(row, k + LANES, Whole, g1));
                        k += 2 * LANES;
                    }
                    for_chunks!(row, k..range.end, |k, p| {
                        let e = (logits.at(s, row, k, p) - softmax.max).exp_neg();
                        row.put(s, k, p, logits.chain(row, k, p, e * slopes.slope));
                    });
                }
            }
            let e = (logits.at(s, row, at, near) - softmax.max).exp_neg();
            let grad = slopes.at(e, s.only(t - at).pick(weight, 0.0));
            row.put(s, at, near, logits.chain(row, at, near, grad));
        }
        let value = Self::value(&softmax, mass, cost, z_loss);
        ((softmax, visitor), value)
    }

    /// A row whose target has weight on many classes; see [`TargetSums`].
    #[cfg_attr(optimized, inline(always))]
    fn soft_row<S: Machine, T: Element, V: Visit<S, T>, const EVEN: bool>(
        &self,
        s: S,
        row: &mut Row<'_, T>,
        visitor: V,
    ) -> ((Softmax, V), f64) {
        let CrossEntropyParams { smoothing, z_loss, .. } = self.params;
        let logits = Capped::new(self.params.softcap);
        let weights = TargetWeights::new(row, smoothing);
        let z = if let RowTarget::Class(t) = row.target { self.logit(s, row, t) } else { 0.0 };
        let mut both = (TargetSums::<S, T, EVEN>::new(s, weights), visitor);
        let softmax = Softmax::new(s, row, 0, logits, &mut both);
        let (sums, visitor) = both;
        let (mass, cost) = sums.mass_and_cost(row, f64::from(softmax.max) - f64::from(z), 1.0);
        // Before the gradient of the input, which in place overwrites the logits.
        if row.wants_grad_target() {
            let (ln_sum, max) = (softmax.ln_sum() as f32, softmax.max);
            for_chunks!(row, |k, p| {
                let (z, w) = (logits.at(s, row, k, p), row.class_weights(s, k, p));
                let factor = w * (1.0 - smoothing) * row.scale;
                row.put_target(s, k, p, factor.eq(0.0).pick(0.0, factor * (ln_sum + (max - z))));
            });
        }
        if row.wants_grad() {
            let slopes = Slopes::new(&softmax, mass, z_loss, row.scale);
            for_chunks!(row, |k, p| {
                let e = softmax.exp(s, row, 0, (k, p), logits);
                let grad = match weights.apart_from(k) {
                    Some(a) if EVEN => slopes.apart(e, -a * row.scale),
                    _ => slopes.at(e, weights.at(s, row, k, p)),
                };
                row.put(s, k, p, logits.chain(row, k, p, grad));
            });
        }
        let value = Self::value(&softmax, mass, cost, z_loss);
        ((softmax, visitor), value)
    }

    #[cfg_attr(optimized, inline(always))]
    fn value(softmax: &Softmax, mass: f64, cost: f64, z_loss: f32) -> f64 {
        let ln_sum = softmax.ln_sum();
        let lse = f64::from(softmax.max) + ln_sum;
        let value = mass * ln_sum + cost;
        if z_loss == 0.0 { value } else { value + f64::from(z_loss) * lse * lse }
    }
}

/// `sum a` and `sum a (max - z)`. `EVEN`: the target is a class, and all others have the same weight; then `sum (max - z)` is enough,
/// one operation for eight.
pub(super) struct TargetSums<'a, S: Machine, T, const EVEN: bool> {
    weights: TargetWeights<'a, T>,
    mass: BlockSum<S>,
    cost: BlockSum<S>,
}

impl<'a, S: Machine, T: Element, const EVEN: bool> TargetSums<'a, S, T, EVEN> {
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn new(s: S, weights: TargetWeights<'a, T>) -> Self {
        TargetSums { weights, mass: BlockSum::new(s), cost: BlockSum::new(s) }
    }

    /// Given how far the target's logit is below the largest, if it is a class, and the part of such distances that was seen.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn mass_and_cost(&self, row: &Row<'_, T>, of_target: f64, seen: f32) -> (f64, f64) {
        let (mass, cost) = (self.mass.sum(), self.cost.sum() / f64::from(seen));
        if EVEN { self.weights.mass_and_cost(row.classes, of_target, cost) } else { (mass, cost) }
    }
}

impl<S: Machine, T: Element, const EVEN: bool> Visit<S, T> for TargetSums<'_, S, T, EVEN> {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, row: &Row<'_, T>, k: usize, p: P, u: F32s<S>, _: F32s<S>) {
        if EVEN {
            let below = -u;
            self.cost.add(if P::WHOLE { below } else { u.simd().first(p.count()).pick(below, 0.0) });
            return;
        }
        let a = self.weights.at(u.simd(), row, k, p);
        self.mass.add(a);
        // Zero times minus infinity is a masked class that the target does not ask for.
        self.cost.add_where(a.ne(0.0), -a * u);
    }

    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        self.mass.end_block();
        self.cost.end_block();
    }
}

crate::cuda::kernel::kernel!(CrossEntropy, |l| {
    let (name, dense) = match l.params {
        p if p.softcap != 0.0 => ("cross_entropy_softcap", "cross_entropy_softcap"),
        p if p.smoothing != 0.0 => ("cross_entropy_every", "cross_entropy_every"),
        _ => ("cross_entropy", "cross_entropy_every"),
    };
    let report = if l.params.softcap != 0.0 { "cross_entropy_softcap_report" } else { "cross_entropy_report" };
    Kernel::rows(l, name, name, l.params).dense(dense).with_report(report)
});
