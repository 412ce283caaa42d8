use crate::call::{AnyRequest, Loss, Run, class_methods, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::row::{Row, Rows, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, Machine, Mask, Simd, Span};
use crate::cpu::softmax::{BlockSum, Exps, Logits, Softmax, Visit, for_eights};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::loss::{elementwise_loss, rowwise_loss};
use crate::params::{DistillationParams, KlDivProbsParams};
use crate::shape::Shape;

/// Kullback-Leibler divergence of the target from an input of **log-probabilities**.
///
/// | | |
/// |---|---|
/// | value | `l = t (ln t - x)`; with log targets `l = exp(t) (t - x)` |
/// | gradient | `dl/dx = -t`; `dl/dt = ln t + 1 - x`; with log targets `-exp(t)` and `exp(t) (t - x + 1)` |
/// | shapes | input and target of equal length |
/// | defaults | targets are probabilities |
/// | PyTorch | `F.kl_div`; the divergence proper is [`BatchMean`](crate::Reduction::BatchMean), not `Mean`, which also divides by the number of classes |
/// | Keras | [`KlDivProbs`], which takes probabilities and the arguments the other way round |
///
/// The direction is `KL(target || exp(input))`. Single elements may be negative; their sum over a
/// distribution is not.
///
/// Edge cases: a target probability of 0 (a log target of minus infinity) contributes exactly 0 to
/// value and gradient, whatever the input, minus infinity included (PyTorch: NaN); its own gradient,
/// whose limit is minus infinity, is given as 0. The value of a negative target is NaN. To distil from
/// logits, [`Distillation`] does softmax and divergence in one.
///
/// ```
/// use fused_loss::{KlDiv, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let log_probs = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
/// let mut grad = [0.0; 3];
/// let loss = KlDiv::new().forward_backward(&log_probs, &[0.5, 0.5, 0.0], Reduction::BatchMean(1), &mut grad)?;
/// assert!((loss - 0.5 * 2.0f32.ln()).abs() < 1e-6);
/// assert_eq!(grad, [-0.5, -0.5, 0.0]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KlDiv {
    log_target: bool,
}

impl KlDiv {
    /// Targets are probabilities.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the targets are log-probabilities too. Defaults to false.
    pub fn log_target(mut self, log_target: bool) -> Self {
        self.log_target = log_target;
        self
    }
}

impl Loss for KlDiv {
    const NAME: &'static str = "KL divergence";
}
impl Run for KlDiv {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if self.log_target {
            for_request!(request, |r| elementwise::run(LogTarget, r))
        } else {
            for_request!(request, |r| elementwise::run(ProbTarget, r))
        }
    }
}
elementwise_methods!(KlDiv);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ProbTarget;

impl Pointwise for ProbTarget {
    const NAME: &'static str = KlDiv::NAME;
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let none = t.eq(0.0);
        Point { value: none.pick(0.0, t * (t.ln() - x)), grad: none.pick(0.0, -t) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> F32s<S> {
        t.eq(0.0).pick(0.0, t.ln() + 1.0 - x)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LogTarget;

impl Pointwise for LogTarget {
    const NAME: &'static str = KlDiv::NAME;
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let p = t.exp();
        let none = p.eq(0.0);
        Point { value: none.pick(0.0, p * (t - x)), grad: none.pick(0.0, -p) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> F32s<S> {
        let p = t.exp();
        p.eq(0.0).pick(0.0, p * (t - x + 1.0))
    }
}

/// Kullback-Leibler divergence between **probabilities**, Keras's form.
///
/// Both sides are clipped first: `q = clip(x, epsilon, 1)`, `p = clip(t, epsilon, 1)`.
///
/// | | |
/// |---|---|
/// | value | `l = p (ln p - ln q)` |
/// | gradient | `dl/dx = -p / q` where x was not clipped, else 0; `dl/dt = ln p - ln q + 1`, likewise |
/// | shapes | input and target of equal length |
/// | default | `epsilon = 1e-7` |
/// | Keras | `KLDivergence`, which sums the last axis and averages the rest: [`Reduction::BatchMean`](crate::Reduction::BatchMean) with the number of rows |
/// | PyTorch | [`KlDiv`] takes log-probabilities |
///
/// Edge cases: clipping makes a target of 0 contribute about `epsilon ln(epsilon / q)`, not 0.
///
/// ```
/// use fused_loss::{KlDivProbs, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let loss = KlDivProbs::new().forward(&[0.25f32, 0.75], &[0.5, 0.5], Reduction::BatchMean(1))?;
/// assert!((loss - (0.5 * 2.0f32.ln() + 0.5 * (2.0f32 / 3.0).ln())).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlDivProbs(KlDivProbsParams);

impl KlDivProbs {
    /// Clips to `[1e-7, 1]`.
    pub fn new() -> Self {
        KlDivProbs(KlDivProbsParams { epsilon: 1e-7 })
    }

    /// Clips to `[epsilon, 1]`; above zero.
    pub fn epsilon(mut self, epsilon: f32) -> Result<Self> {
        let ok = epsilon > 0.0 && epsilon < 1.0;
        self.0.epsilon = check_option("epsilon", "a number in (0, 1)", epsilon, ok)?;
        Ok(self)
    }

    /// The clipped value, and whether it is the value itself.
    #[cfg_attr(optimized, inline(always))]
    fn clip<S: Simd>(&self, x: F32s<S>) -> (F32s<S>, Mask<S>) {
        (x.at_least(self.0.epsilon).at_most(1.0), !(x.lt(self.0.epsilon) | x.gt(1.0)))
    }
}

impl Default for KlDivProbs {
    fn default() -> Self {
        KlDivProbs::new()
    }
}

impl Pointwise for KlDivProbs {
    const NAME: &'static str = "KL divergence on probabilities";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let ((q, free), (p, _)) = (self.clip(x), self.clip(t));
        Point { value: p * (p.ln() - q.ln()), grad: free.pick(-p / q, 0.0) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> F32s<S> {
        let ((q, _), (p, free)) = (self.clip(x), self.clip(t));
        free.pick(p.ln() - q.ln() + 1.0, 0.0)
    }
}

elementwise_loss!(KlDivProbs);
elementwise_methods!(KlDivProbs);

/// Knowledge distillation: the divergence between the softmaxes of two logit tensors, both softmaxes,
/// the divergence and the gradient in one.
///
/// With `p = softmax(student / T)`, `q = softmax(teacher / T)`:
///
/// | | |
/// |---|---|
/// | value | `l = T^2 sum_k q_k (ln q_k - ln p_k)` a row |
/// | gradient | `dl/ds_k = T (p_k - q_k)`; `dl/dt_k = T q_k (ln q_k - ln p_k - KL)` for the teacher, on request |
/// | shapes | both tensors of one [`Shape`] |
/// | mean | divides by the rows: PyTorch's `batchmean` for `(rows, classes)` |
/// | defaults | `T = 1`, multiplied by `T^2` |
/// | PyTorch | `T**2 * F.kl_div(log_softmax(s / T), log_softmax(t / T), log_target=True, reduction="batchmean")` |
///
/// Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); the `T^2` keeps the size of
/// the gradients when the temperature changes. Edge cases: a class that the teacher gives probability 0
/// (minus infinity) contributes 0, whatever the student says.
///
/// ```
/// use fused_loss::{Distillation, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (student, teacher) = ([0.0f32, 0.0], [2.0, -2.0]);
/// let mut grad = [0.0; 2];
/// let distil = Distillation::new().temperature(4.0)?;
/// distil.forward_backward(&student, &teacher, (1, 2), Reduction::Mean, &mut grad)?;
/// assert!(grad[0] < 0.0 && (grad[0] + grad[1]).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    temperature: f32,
    squared: bool,
}

impl Distillation {
    /// `T = 1`.
    pub fn new() -> Self {
        Distillation { temperature: 1.0, squared: true }
    }

    /// Divides both logit tensors by this; above zero, and its square finite.
    pub fn temperature(mut self, temperature: f32) -> Result<Self> {
        let ok = temperature > 0.0 && [temperature * temperature, 1.0 / temperature].iter().all(|x| x.is_finite());
        self.temperature = check_option("temperature", "a number above zero of finite square", temperature, ok)?;
        Ok(self)
    }

    /// Whether the value is multiplied by `T^2`. Defaults to true.
    pub fn scale_by_t2(mut self, squared: bool) -> Self {
        self.squared = squared;
        self
    }

    pub(super) fn params(&self) -> DistillationParams {
        let t = self.temperature;
        DistillationParams { inv_temperature: 1.0 / t, factor: if self.squared { t * t } else { 1.0 } }
    }
}

impl Default for Distillation {
    fn default() -> Self {
        Distillation::new()
    }
}

impl Rowwise for Distillation {
    const NAME: &'static str = "distillation";
    const INDEX: bool = false;
    const GRAD_TARGET: bool = true;

    fn side_by_side(shape: Shape) -> bool {
        // Where rows lie side by side in memory: 4x4x1048576 of f32 took 486 ms one by one, and take 24 ms. Where they do not, targets are
        // gathered, three times: 0.24 of the time of 4 classes (bf16 0.39), 0.55 (0.94) of 10, but 0.8 (1.5) of 16. (Zen 4.)
        shape.classes <= if shape.inner == 1 { 10 } else { 256 }
    }

    /// `row`, sixteen times: the same formulas, in f32 lanes.
    #[cfg_attr(optimized, inline(always))]
    fn rows<S: Machine, T: Element>(&self, rows: &mut Rows<'_, '_, S, T>) -> F32s<S> {
        let DistillationParams { inv_temperature, factor } = self.params();
        let (s, classes) = (rows.s, rows.classes);
        let (student_max, teacher_max) = maxima(rows, inv_temperature);
        let (mut student, mut teacher, mut cross) = (Exps::new(s), Exps::new(s), s.zero_wide());
        for_eights!(
            classes,
            |c| {
                let u = rows.kept(c) * inv_temperature - student_max;
                let v = rows.dense(c) * inv_temperature - teacher_max;
                let (ep, eq) = (u.exp_neg(), v.exp_neg());
                student.add(ep);
                teacher.add(eq);
                // In f64, for its terms cancel where student and teacher are nearly alike.
                cross = cross + eq.eq(0.0).pick(0.0, eq * (v - u)).widen();
                rows.keep(c, ep);
            },
            {
                student.end_block();
                teacher.end_block();
            }
        );
        let (student, teacher) = (student.softmax(), teacher.softmax());
        let shift = student.ln_ratio(&teacher);
        let kl = (cross * teacher.inv_sum.widen() + shift.widen()).narrow();
        let scale = rows.scale * (factor * inv_temperature);
        let both_ones = teacher.miss_of_leader() - student.miss_of_leader();
        for c in 0..classes {
            let v = rows.dense(c) * inv_temperature - teacher_max;
            let (ep, eq) = (rows.kept(c), v.exp_neg());
            if rows.wants_grad_target() {
                let gap = v - (rows.input(c) * inv_temperature - student_max) + (shift - kl);
                rows.put_target(c, eq.eq(0.0).pick(0.0, scale * eq * teacher.inv_sum * gap));
            }
            if rows.wants_grad() {
                let slope = ep * student.inv_sum - eq * teacher.inv_sum;
                rows.put(c, scale * (ep.eq(1.0) & eq.eq(1.0)).pick(both_ones, slope));
            }
        }
        factor * kl
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let DistillationParams { inv_temperature, factor } = self.params();
        let (student_logits, teacher_logits) = (Student { inv_temperature }, Teacher { inv_temperature });
        let student = Softmax::new(s, row, 0, student_logits, &mut ());
        let both = Divergence::new(s, row, (student, student_logits), (1, teacher_logits));
        let scale = row.scale * factor * inv_temperature;
        // Before the gradient of the student, which in place overwrites its logits.
        if row.wants_grad_target() {
            let (teacher, inv_q) = (both.teacher, both.inv_q as f32);
            let offset = (both.shift - both.kl) as f32;
            for_chunks!(row, |k, p| {
                let (zs, zt) = (student_logits.at(s, row, k, p), teacher_logits.at(s, row, k, p));
                let eq = teacher.exp(s, row, 1, (k, p), teacher_logits);
                let gap = (zt - teacher.max) - (zs - student.max) + offset;
                row.put_target(s, k, p, eq.eq(0.0).pick(0.0, scale * eq * inv_q * gap));
            });
        }
        if row.wants_grad() {
            let gaps = both.gaps(scale);
            for_chunks!(row, |k, p| {
                let of_student = student.exp(s, row, 0, (k, p), student_logits);
                row.put(s, k, p, gaps.at(of_student, both.exp(s, row, k, p)));
            });
        }
        f64::from(factor) * both.kl
    }
}

/// The largest logits of sixteen students and of their teachers, of which nothing but the input is kept yet.
#[cfg_attr(optimized, inline(always))]
pub(super) fn maxima<S: Machine, T: Element>(rows: &Rows<'_, '_, S, T>, inv_temperature: f32) -> (F32s<S>, F32s<S>) {
    let lowest = rows.s.splat(f32::NEG_INFINITY);
    let (mut student, mut teacher) = (lowest, lowest);
    for c in 0..rows.classes {
        student = student.or_larger(rows.kept(c) * inv_temperature);
        teacher = teacher.or_larger(rows.dense(c) * inv_temperature);
    }
    (student, teacher)
}

/// The divergence of a teacher's softmax from a student's, of one row.
pub(super) struct Divergence<L> {
    teacher: Softmax,
    teacher_logits: L,
    /// Where the teacher's exponentials are kept.
    slot: usize,
    inv_p: f64,
    inv_q: f64,
    /// `p - q`, where both are near 1: what the one misses less what the other does.
    both_ones: f64,
    /// The logarithm of the student's sum.
    pub(super) ln_sum: f64,
    /// That less the teacher's.
    shift: f64,
    pub(super) kl: f64,
}

impl<L: Logits> Divergence<L> {
    /// Given the softmax of the student and its logits, and the teacher's.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn new<S: Machine, T: Element>(
        s: S,
        row: &mut Row<'_, T>,
        (student, student_logits): (Softmax, impl Logits),
        (slot, teacher_logits): (usize, L),
    ) -> Self {
        let mut cross = Cross { student_logits, max: student.max, sum: BlockSum::new(s) };
        let teacher = Softmax::new(s, row, slot, teacher_logits, &mut cross);
        let ln_sum = student.ln_sum();
        let shift = ln_sum - teacher.ln_sum();
        Divergence {
            teacher,
            teacher_logits,
            slot,
            inv_p: 1.0 / student.sum(),
            inv_q: 1.0 / teacher.sum(),
            both_ones: teacher.miss(1.0) - student.miss(1.0),
            ln_sum,
            shift,
            kl: cross.sum.sum() / teacher.sum() + shift,
        }
    }

    /// The teacher's exponentials of sixteen classes.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn exp<S: Machine, T: Element, P: Span>(&self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        self.teacher.exp(s, row, self.slot, (k, p), self.teacher_logits)
    }

    /// `p - q`, times this.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn gaps(&self, scale: f32) -> Gaps {
        let scaled = |x: f64| (x * f64::from(scale)) as f32;
        Gaps { p: scaled(self.inv_p), q: scaled(self.inv_q), both_ones: scaled(self.both_ones) }
    }
}

/// What makes gradients of exponentials.
pub(super) struct Gaps {
    p: f32,
    q: f32,
    both_ones: f32,
}

impl Gaps {
    /// Of sixteen classes with these exponentials, of the student and of the teacher.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn at<S: Machine>(&self, ep: F32s<S>, eq: F32s<S>) -> F32s<S> {
        (ep.eq(1.0) & eq.eq(1.0)).pick(self.both_ones, ep * self.p - eq * self.q)
    }
}

/// `sum e_q (ln q - ln p)`, less what the two normalisers add.
struct Cross<S: Machine, A> {
    student_logits: A,
    max: f32,
    sum: BlockSum<S>,
}

impl<S: Machine, T: Element, A: Logits> Visit<S, T> for Cross<S, A> {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, row: &Row<'_, T>, k: usize, p: P, u: F32s<S>, e: F32s<S>) {
        let z = self.student_logits.at(u.simd(), row, k, p);
        self.sum.add_where(e.ne(0.0), e * (u - (z - self.max)));
    }

    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        self.sum.end_block();
    }
}

rowwise_loss!(Distillation);
class_methods!(Distillation);

#[derive(Clone, Copy)]
pub(super) struct Student {
    pub(super) inv_temperature: f32,
}

impl Logits for Student {
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        row.input(s, k, p, f32::NEG_INFINITY) * self.inv_temperature
    }
}

#[derive(Clone, Copy)]
pub(super) struct Teacher {
    pub(super) inv_temperature: f32,
}

impl Logits for Teacher {
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        row.dense(s, k, p, f32::NEG_INFINITY) * self.inv_temperature
    }
}

crate::cuda::kernel::kernel!(KlDiv, |l| if l.log_target {
    Kernel::elements::<LogTarget>("kl", "kl_div_log_target", NO_PARAMS)
} else {
    Kernel::elements::<ProbTarget>("kl", "kl_div", NO_PARAMS)
});
crate::cuda::kernel::kernel!(KlDivProbs, |l| Kernel::elements::<KlDivProbs>("kl", "kl_div_probs", l.0));
crate::cuda::kernel::kernel!(Distillation, |l| Kernel::rows(l, "distillation", "distillation", l.params()));
term!(KlDiv, |l| if l.log_target { KlDivLogTarget(LogTarget) } else { KlDiv(ProbTarget) });
term!(KlDivProbs, |l| KlDivProbs(l));
