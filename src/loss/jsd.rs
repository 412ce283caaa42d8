use crate::call::class_methods;
use crate::cpu::row::{Row, Rows, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, Machine};
use crate::cpu::softmax::{BlockSum, Exps, Logits, Softmax, for_eights};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::kl::{Student, Teacher, maxima};
use crate::loss::{Distillation, rowwise_loss};
use crate::params::JsdParams;
use crate::shape::Shape;

/// Generalised Jensen-Shannon divergence between the softmaxes of two logit tensors: distillation between mode covering and mode
/// seeking.
///
/// With `p = softmax(student / T)`, `q = softmax(teacher / T)`, and the mixture `m = beta q + (1 - beta) p`:
///
/// | | |
/// |---|---|
/// | value | `l = beta KL(q \|\| m) + (1 - beta) KL(p \|\| m)` a row |
/// | gradient | `dl/ds_k = (1 - beta) / T p_k (ln(p_k / m_k) - KL(p \|\| m))`; for the teacher, on request, `beta / T q_k (ln(q_k / m_k) - KL(q \|\| m))` |
/// | `beta = 0` | would be `KL(q \|\| p)`: that is [`Distillation`] with [`scale_by_t2(false)`](Distillation::scale_by_t2) |
/// | `beta = 1` | `KL(p \|\| q)`, the reverse divergence, with `m = q` and both factors 1 |
/// | shapes | both tensors of one [`Shape`] |
/// | mean | divides by the rows |
/// | defaults | `beta = 0.5`, the Jensen-Shannon divergence; `T = 1` |
/// | PyTorch | none; TRL's `GKDTrainer.generalized_jsd_loss`, Liger's `LigerFusedLinearJSDLoss` |
///
/// Source: Agarwal et al., "On-Policy Distillation of Language Models" (2024). Edge cases: a class that one of the two gives probability 0
/// (minus infinity) is fine; with `beta = 1` a class that only the teacher rules out costs infinity.
///
/// ```
/// use fused_loss::{Jsd, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (student, teacher) = ([0.0f32, f32::NEG_INFINITY], [f32::NEG_INFINITY, 0.0]);
/// let loss = Jsd::new().forward(&student, &teacher, (1, 2), Reduction::Mean)?;
/// assert!((loss - 2.0f32.ln()).abs() < 1e-6); // as far apart as two distributions can be
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jsd {
    beta: f32,
    temperature: f32,
}

impl Jsd {
    /// `beta = 0.5`, `T = 1`.
    pub fn new() -> Self {
        Jsd { beta: 0.5, temperature: 1.0 }
    }

    /// The share of the teacher in the mixture, above 0 and at most 1. Defaults to 0.5.
    pub fn beta(mut self, beta: f32) -> Result<Self> {
        self.beta = check_option("beta", "a number in (0, 1]", beta, beta > 0.0 && beta <= 1.0)?;
        Ok(self)
    }

    /// Divides both logit tensors by this; finite and above zero. Defaults to 1.
    pub fn temperature(mut self, temperature: f32) -> Result<Self> {
        Distillation::new().temperature(temperature)?;
        self.temperature = temperature;
        Ok(self)
    }

    fn params(&self) -> JsdParams {
        let Jsd { beta, temperature } = *self;
        let (student, teacher) = if beta == 1.0 { (1.0, 0.0) } else { (1.0 - beta, beta) };
        JsdParams { inv_temperature: 1.0 / temperature, beta, student, teacher }
    }
}

impl Default for Jsd {
    fn default() -> Self {
        Jsd::new()
    }
}

rowwise_loss!(Jsd);
class_methods!(Jsd);

/// `ln(p / m)` and `ln(q / m)`, from `d = ln(q / p)`: the exponential is of minus its size, so that it does not overflow.
#[cfg_attr(optimized, inline(always))]
fn against_mixture<S: Machine>(beta: f32, d: F32s<S>) -> (F32s<S>, F32s<S>) {
    if beta == 1.0 {
        return (-d, d.simd().zero());
    }
    let teacher = d.gt(0.0);
    let rest = (-d.abs()).exp_neg() - 1.0;
    let mixed = (teacher.pick(1.0 - beta, d.simd().splat(beta)) * rest).ln_1p();
    (teacher.pick(-d - mixed, -mixed), teacher.pick(-mixed, d - mixed))
}

impl Rowwise for Jsd {
    const NAME: &'static str = "JSD";
    const INDEX: bool = false;
    const GRAD_TARGET: bool = true;

    fn side_by_side(shape: Shape) -> bool {
        Distillation::side_by_side(shape)
    }

    /// `row`, sixteen times: the same formulas, in f32 lanes.
    #[cfg_attr(optimized, inline(always))]
    fn rows<S: Machine, T: Element>(&self, rows: &mut Rows<'_, '_, S, T>) -> F32s<S> {
        let params = self.params();
        let JsdParams { inv_temperature, beta, .. } = params;
        let (s, classes) = (rows.s, rows.classes);
        let (student_max, teacher_max) = maxima(rows, inv_temperature);
        let (mut student, mut teacher) = (Exps::new(s), Exps::new(s));
        for_eights!(
            classes,
            |c| {
                let ep = (rows.kept(c) * inv_temperature - student_max).exp_neg();
                student.add(ep);
                teacher.add((rows.dense(c) * inv_temperature - teacher_max).exp_neg());
                rows.keep(c, ep);
            },
            {
                student.end_block();
                teacher.end_block();
            }
        );
        let (student, teacher) = (student.softmax(), teacher.softmax());
        let shift = student.ln_ratio(&teacher);
        // As in `row`.
        macro_rules! look {
            ($c:ident) => {{
                let u = rows.input($c) * inv_temperature - student_max;
                let v = rows.dense($c) * inv_temperature - teacher_max;
                let (ep, eq) = (rows.kept($c), v.exp_neg());
                let (of_p, of_q) = against_mixture(beta, (v - u) + shift);
                (ep, eq, ep.eq(0.0).pick(0.0, of_p), eq.eq(0.0).pick(0.0, of_q))
            }};
        }
        // In f64, for they cancel where student and teacher are nearly alike.
        let (mut from_p, mut from_q) = (s.zero_wide(), s.zero_wide());
        for c in 0..classes {
            let (ep, eq, of_p, of_q) = look!(c);
            from_p = from_p + (ep * of_p).widen();
            from_q = from_q + (eq * of_q).widen();
        }
        let (kl_p, kl_q) = (from_p.narrow() * student.inv_sum, from_q.narrow() * teacher.inv_sum);
        if rows.wants_grad() || rows.wants_grad_target() {
            let scale = rows.scale * inv_temperature;
            let (on_p, on_q) = (scale * params.student * student.inv_sum, scale * params.teacher * teacher.inv_sum);
            for c in 0..classes {
                let (ep, eq, of_p, of_q) = look!(c);
                if rows.wants_grad_target() {
                    let grad = match beta {
                        1.0 => scale * (eq * teacher.inv_sum - ep * student.inv_sum),
                        _ => on_q * eq * (of_q - kl_q),
                    };
                    rows.put_target(c, grad);
                }
                if rows.wants_grad() {
                    rows.put(c, on_p * ep * (of_p - kl_p));
                }
            }
        }
        params.student * kl_p + params.teacher * kl_q
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let params = self.params();
        let JsdParams { inv_temperature, beta, .. } = params;
        let (student_logits, teacher_logits) = (Student { inv_temperature }, Teacher { inv_temperature });
        let student = Softmax::new(s, row, 0, student_logits, &mut ());
        let teacher = Softmax::new(s, row, 1, teacher_logits, &mut ());
        let shift = (student.ln_sum() - teacher.ln_sum()) as f32;
        // Of sixteen classes: the two exponentials, and the two logarithms.
        macro_rules! look {
            ($k:ident, $p:ident) => {{
                let u = student_logits.at(s, row, $k, $p) - student.max;
                let v = teacher_logits.at(s, row, $k, $p) - teacher.max;
                let ep = student.exp(s, row, 0, ($k, $p), student_logits);
                let eq = teacher.exp(s, row, 1, ($k, $p), teacher_logits);
                let (of_p, of_q) = against_mixture(beta, (v - u) + shift);
                // What has no probability counts for nothing.
                (ep, eq, ep.eq(0.0).pick(0.0, of_p), eq.eq(0.0).pick(0.0, of_q))
            }};
        }
        let (mut from_p, mut from_q) = (BlockSum::new(s), BlockSum::new(s));
        for_chunks!(row, |k, p| {
            let (ep, eq, of_p, of_q) = look!(k, p);
            from_p.add(ep * of_p);
            from_q.add(eq * of_q);
            from_p.end_block();
            from_q.end_block();
        });
        let (kl_p, kl_q) = (from_p.sum() / student.sum(), from_q.sum() / teacher.sum());

        let scale = row.scale * inv_temperature;
        let (inv_p, inv_q) = ((1.0 / student.sum()) as f32, (1.0 / teacher.sum()) as f32);
        // Both in one look, for in place the gradient overwrites the student's logits.
        if row.wants_grad() || row.wants_grad_target() {
            let (on_p, on_q) = (scale * params.student * inv_p, scale * params.teacher * inv_q);
            let (kl_p, kl_q) = (kl_p as f32, kl_q as f32);
            for_chunks!(row, |k, p| {
                let (ep, eq, of_p, of_q) = look!(k, p);
                if row.wants_grad_target() {
                    let grad = match beta {
                        // The teacher is the mixture.
                        1.0 => scale * (eq * inv_q - ep * inv_p),
                        _ => on_q * eq * (of_q - kl_q),
                    };
                    row.put_target(s, k, p, grad);
                }
                row.put(s, k, p, on_p * ep * (of_p - kl_p));
            });
        }
        f64::from(params.student) * kl_p + f64::from(params.teacher) * kl_q
    }
}

crate::cuda::kernel::kernel!(Jsd, |l| Kernel::rows(l, "jsd", "jsd", l.params()));
