use super::{Combination, IntoSum, Join, Refused, Scaled, Weighted, operators, weighted};
use crate::call::{AnyRequest, Loss, Run, for_request};
use crate::cpu::row::{Row, RowTarget, for_chunks};
use crate::cpu::rowwise::{self, Rowwise};
use crate::cpu::simd::{F32s, Machine, Span};
use crate::cpu::softmax::{BlockSum, Input, Logits, Softmax, Visit};
use crate::cuda::kernel::{self, HasKernel, Kernel};
use crate::device::Buffer;
use crate::element::Element;
use crate::error::Result;
use crate::loss::cross_entropy::{Slopes, TargetSums};
use crate::loss::kl::{Divergence, Student};
use crate::loss::target_weights::TargetWeights;
use crate::loss::{CrossEntropy, Distillation};
use crate::on::{Also, BufferTarget, On};
use crate::params::{CombinedRowsParams, CrossEntropyParams, DistillationParams};
use crate::reduction::Reduction;
use crate::shape::Shape;
use crate::third::{ThirdOf, methods_of_three};

/// Cross-entropy and distillation of the same logits: what students are trained with who have labels and a teacher.
///
/// It is made by operators, and called with the teacher's logits beside the classes:
///
/// ```
/// use fused_loss::{CrossEntropy, Distillation, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let loss = 0.3 * CrossEntropy::new().z_loss(1e-4)? + 0.7 * Distillation::new().temperature(2.0)?;
/// let (student, classes, teacher) = ([0.5, 1.0, -1.0, 2.0, 0.0, 0.1], [1u32, 0], [0.0, 2.0, -2.0, 3.0, 1.0, -1.0]);
/// let (mut grad, mut terms) = ([0.0; 6], [0.0; 3]);
/// let call = loss.call(&student, &classes, &teacher, (2, 3)).terms(&mut terms);
/// let value = call.forward_backward(Reduction::Mean, &mut grad)?;
/// let [cross_entropy, z_loss, distillation] = terms;
/// assert!((value - (0.3 * (cross_entropy + z_loss) + 0.7 * distillation)).abs() < 1e-6);
/// assert!((cross_entropy - CrossEntropy::new().forward(&student, &classes, (2, 3), Reduction::Mean)?).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// | | |
/// |---|---|
/// | terms | one [`CrossEntropy`], with label smoothing, z-loss and an ignored index; one [`Distillation`], with any option |
/// | value | `w_0 (cross-entropy + z-loss) + w_1 distillation` (weights are 1 where none is written) |
/// | gradient | for the student's logits, the same of the gradients |
/// | [`Call::terms`](crate::Call::terms) | three: cross-entropy, its z-loss (0 where it has none), distillation, whichever was written first, without their weights |
/// | shapes | logits of student and teacher of one [`Shape`]; one index a row |
/// | ignored rows | are left out of all terms, and get a gradient of exactly 0, even if they hold NaN |
/// | mean | divides all terms by the rows that are not ignored. [`Distillation`] alone, which has no index, divides by all |
/// | PyTorch | `w0 * F.cross_entropy(s, y) + w1 * T**2 * F.kl_div(log_softmax(s / T), log_softmax(t / T), log_target=True)`, masked |
///
/// Source of the sum: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). One pass: both tensors are read once and one
/// gradient is written, in one launch on a GPU. With `T = 1` both terms share the student's softmax.
///
/// Errors: operators cannot fail, so that what they cannot do is an error of the calls: a soft-cap (is the student's softmax that of
/// bent logits in both terms?), and a weight that is not finite. Class weights, dense targets beside a teacher, and a gradient for the
/// teacher are not supported. A term that is infinite or NaN makes the sum so, even if its weight is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CombinedRows {
    cross_entropy: CrossEntropy,
    distillation: Distillation,
    /// In this order.
    weights: [f32; 2],
}

impl CombinedRows {
    /// Why it cannot be computed.
    fn refused(&self) -> Option<Refused> {
        if self.cross_entropy.params().softcap != 0.0 {
            return Some(Refused::Unsupported("a soft-cap beside a distillation"));
        }
        self.weights.into_iter().find(|w| !w.is_finite()).map(Refused::Weight)
    }

    fn params(&self) -> CombinedRowsParams {
        let CrossEntropyParams { smoothing, z_loss, .. } = self.cross_entropy.params();
        let DistillationParams { inv_temperature, factor } = self.distillation.params();
        CombinedRowsParams { weights: self.weights, smoothing, z_loss, inv_temperature, factor }
    }
}

impl Scaled for CombinedRows {
    fn scaled(self, by: f32) -> Self {
        CombinedRows { weights: self.weights.map(|w| w * by), ..self }
    }
}

impl IntoSum for CombinedRows {
    type Sum = CombinedRows;
    fn into_sum(self) -> CombinedRows {
        self
    }
}
operators!(CombinedRows);
weighted!(Distillation);

impl Join<Weighted<Distillation>> for Weighted<CrossEntropy> {
    type Sum = CombinedRows;
    fn join(self, other: Weighted<Distillation>) -> CombinedRows {
        CombinedRows { cross_entropy: self.loss, distillation: other.loss, weights: [self.weight, other.weight] }
    }
}
impl Join<Weighted<CrossEntropy>> for Weighted<Distillation> {
    type Sum = CombinedRows;
    fn join(self, other: Weighted<CrossEntropy>) -> CombinedRows {
        other.join(self)
    }
}

methods_of_three!(CombinedRows, (target: impl Into<crate::Target<'a, T>>, teacher: &'a [T], shape: impl Into<Shape>) =>
    (target.into(), teacher, Some(shape.into())),);
crate::on::methods_of_three!(CombinedRows, (target: impl Into<BufferTarget<'a, T>>, teacher: &'a Buffer<T>, shape: impl Into<Shape>) =>
    (target.into(), teacher, Some(shape.into())),);
crate::cuda::methods::methods_of_three!(CombinedRows, (
    target: impl Into<crate::cuda::DeviceTarget<'a, T>>,
    teacher: impl Into<crate::cuda::DeviceRef<'a, T>>,
    shape: impl Into<Shape>
) => (target.into(), teacher, Some(shape.into())),);

impl On<'_, CombinedRows> {
    /// The value, and its gradient for the input into `grad_input`, and the values of the terms into `terms`; see
    /// [`Call::terms`](crate::Call::terms).
    #[allow(clippy::too_many_arguments)]
    pub fn forward_backward_terms<'a, T: Element>(
        &self,
        input: &Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        teacher: &Buffer<T>,
        shape: impl Into<Shape>,
        reduction: Reduction,
        grad_input: &mut Buffer<T>,
        terms: &mut Buffer<f32>,
    ) -> Result<f32> {
        let (targets, shape) = ((target.into(), Some(teacher)), Some(shape.into()));
        self.run(input, targets, shape, reduction, [Some(grad_input), None, None], Also::Terms(terms))
    }
}

impl Combination for CombinedRows {}
impl Loss for CombinedRows {
    const NAME: &'static str = <Self as Rowwise>::NAME;
}
impl Run for CombinedRows {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if let Some(refused) = self.refused() {
            return Err(refused.error(<Self as Loss>::NAME));
        }
        for_request!(request, |r| rowwise::run(*self, r))
    }
}

/// The logits of the teacher, which is the third tensor.
#[derive(Clone, Copy)]
struct Teacher {
    inv_temperature: f32,
}

impl Logits for Teacher {
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        row.third(s, k, p, f32::NEG_INFINITY) * self.inv_temperature
    }
}

/// A temperature at which the exponentials of the logits have nothing to do with those without.
const ANY: u32 = u32::MAX;

/// What sees the logits at a temperature of 2 or 4, and has their softmax without a temperature too: the exponentials, squared once or
/// twice, are those of the logits.
struct Raised<S: Machine, V, const SQUARINGS: u32> {
    /// The sum of those that are not 1. They are 1 where they are before.
    rest: BlockSum<S>,
    visitor: V,
}

/// Exponentials, squared so many times.
#[cfg_attr(optimized, inline(always))]
fn raise<S: Machine, const SQUARINGS: u32>(e: F32s<S>) -> F32s<S> {
    // What would be denormal then is 0.
    match SQUARINGS {
        0 => e,
        1 => {
            let e = e.not_lt(f32::from_bits(64 << 23)).pick(e, 0.0);
            e * e
        }
        _ => {
            let e = e.not_lt(f32::from_bits(96 << 23)).pick(e, 0.0);
            (e * e) * (e * e)
        }
    }
}

impl<S: Machine, T: Element, V: Visit<S, T>, const SQUARINGS: u32> Visit<S, T> for Raised<S, V, SQUARINGS> {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, row: &Row<'_, T>, k: usize, p: P, u: F32s<S>, e: F32s<S>) {
        let raised = raise::<S, SQUARINGS>(e);
        self.rest.add_where(e.ne(1.0), raised);
        self.visitor.visit(row, k, p, u, raised);
    }

    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        self.rest.end_block();
        self.visitor.end_block();
    }
}

impl Rowwise for CombinedRows {
    const NAME: &'static str = "combined row loss";
    const DENSE: bool = false;
    const THIRD: Option<ThirdOf> = Some(ThirdOf::Elements);
    const TERMS: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        Rowwise::ignore_index(&self.cross_entropy)
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let CombinedRowsParams { inv_temperature, .. } = self.params();
        match row.target {
            RowTarget::Class(_) if row.class_weight.is_none() => {
                if inv_temperature == 1.0 {
                    self.row_of::<S, T, true, 0>(s, row)
                } else if inv_temperature == 0.5 {
                    self.row_of::<S, T, true, 1>(s, row)
                } else if inv_temperature == 0.25 {
                    self.row_of::<S, T, true, 2>(s, row)
                } else {
                    self.row_of::<S, T, true, ANY>(s, row)
                }
            }
            _ => self.row_of::<S, T, false, ANY>(s, row),
        }
    }
}

impl CombinedRows {
    /// `EVEN`: see [`TargetSums`]; `SQUARINGS`: how often the student's exponentials are squared to be those without a temperature, or
    /// [`ANY`].
    #[cfg_attr(optimized, inline(always))]
    fn row_of<S: Machine, T: Element, const EVEN: bool, const SQUARINGS: u32>(
        &self,
        s: S,
        row: &mut Row<'_, T>,
    ) -> f64 {
        let CombinedRowsParams { weights, smoothing, z_loss, inv_temperature, factor } = self.params();
        let on_classes = TargetWeights::new(row, smoothing);
        let z = if let RowTarget::Class(t) = row.target { row.input_at(t) } else { 0.0 };
        let mut sums = TargetSums::<S, T, EVEN>::new(s, on_classes);
        let (student_logits, teacher_logits) = (Student { inv_temperature }, Teacher { inv_temperature });
        let (softmax, student) = match SQUARINGS {
            0 => {
                let softmax = Softmax::new(s, row, 0, Input, &mut sums);
                (softmax, softmax)
            }
            ANY => {
                let softmax = Softmax::new(s, row, 1, Input, &mut sums);
                (softmax, Softmax::new(s, row, 0, student_logits, &mut ()))
            }
            _ => {
                // 0.8 of the time that it takes with an exponential more.
                let mut raised = Raised::<S, _, SQUARINGS> { rest: BlockSum::new(s), visitor: sums };
                let student = Softmax::new(s, row, 0, student_logits, &mut raised);
                sums = raised.visitor;
                (Softmax { max: student.max / inv_temperature, ones: student.ones, rest: raised.rest.sum() }, student)
            }
        };
        let seen = if SQUARINGS == ANY { 1.0 } else { inv_temperature };
        let (mass, cost) = sums.mass_and_cost(row, f64::from(softmax.max) - f64::from(z), seen);
        let both = Divergence::new(s, row, (student, student_logits), (2, teacher_logits));
        if row.wants_grad() {
            let scale = row.scale * weights[0];
            let slopes = Slopes::new(&softmax, mass, z_loss, scale);
            let gaps = both.gaps(row.scale * weights[1] * factor * inv_temperature);
            for_chunks!(row, |k, p| {
                let of_student = student.exp(s, row, 0, (k, p), student_logits);
                let e = match SQUARINGS {
                    ANY => softmax.exp(s, row, 1, (k, p), Input),
                    _ => raise::<S, SQUARINGS>(of_student),
                };
                let of_teacher = gaps.at(of_student, both.exp(s, row, k, p));
                let grad = match on_classes.apart_from(k) {
                    Some(a) if EVEN => slopes.apart(e, of_teacher - a * scale),
                    _ => slopes.at(e, on_classes.at(s, row, k, p)) + of_teacher,
                };
                row.put(s, k, p, grad);
            });
        }
        let ln_sum = if SQUARINGS == 0 { both.ln_sum } else { softmax.ln_sum() };
        let lse = f64::from(softmax.max) + ln_sum;
        let of_lse = if z_loss == 0.0 { 0.0 } else { f64::from(z_loss) * lse * lse };
        let terms = [mass * ln_sum + cost, of_lse, f64::from(factor) * both.kl];
        *row.terms = terms;
        let [of_target, of_lse, of_teacher] = terms;
        f64::from(weights[0]) * (of_target + of_lse) + f64::from(weights[1]) * of_teacher
    }
}

impl HasKernel for CombinedRows {
    fn kernel(&self) -> Kernel {
        let terms = kernel::Terms { count: 3, refused: self.refused() };
        Kernel::rows(self, "combined_rows", "combined_rows", self.params()).with_terms(terms)
    }
}
