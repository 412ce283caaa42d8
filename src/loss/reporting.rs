//! Cross-entropy that tells what else it has found out about each row.

use crate::call::Call;
use crate::cpu::row::{Row, RowTarget};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, LANES, Machine, Span};
use crate::cpu::softmax::{BlockSum, Visit};
use crate::element::Element;
use crate::error::Result;
use crate::loss::CrossEntropy;
use crate::report::{HostReport, Reported, report_methods};
use crate::shape::Shape;
use crate::target::Target;

/// What a call of cross-entropy writes besides: on the CPU from the exponentials that it computes anyway, on a GPU by one more look at the
/// row while it is on the chip; and for calls that do not ask, at no cost. Policy gradients want `log_prob` and `entropy`, evaluation wants `hit`. With a soft-cap all of it is of the
/// bent logits.
///
/// ```
/// use fused_loss::{CrossEntropy, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let logits = [2.0f32, 0.0, 0.0, 0.0, 1.0, 0.0];
/// let (mut log_prob, mut entropy, mut hit, mut argmax) = ([0.0; 2], [0.0; 2], [0.0; 2], [0; 2]);
/// let mut grad = [0.0; 6];
/// let loss = CrossEntropy::new()
///     .call(&logits, &[0i64, 2], (2, 3))
///     .log_prob(&mut log_prob)
///     .entropy(&mut entropy)
///     .hit(&mut hit)
///     .argmax(&mut argmax)
///     .forward_backward(Reduction::Mean, &mut grad)?;
/// assert!((loss + (log_prob[0] + log_prob[1]) / 2.0).abs() < 1e-6);
/// assert_eq!((hit, argmax), ([1.0, 0.0], [0, 1]));
/// # Ok(()) }
/// ```
impl<'a, T: Element, I> Call<'a, CrossEntropy, T, I> {
    report_methods!(&'a mut [f32], &'a mut [i64]);

    fn report(&mut self) -> &mut HostReport<'a> {
        &mut self.extras.report
    }
}

impl CrossEntropy {
    /// The log-probability of each row's target into `log_prob`, and nothing else: no value, no gradient. Policy gradients weigh them by
    /// advantages; the gradient of such a sum is that of [`Call::forward_backward_unreduced`] with the advantages, negated, as
    /// `grad_output`.
    ///
    /// ```
    /// use fused_loss::CrossEntropy;
    /// # fn main() -> fused_loss::Result<()> {
    /// let mut log_prob = [0.0; 2];
    /// CrossEntropy::new().log_probs(&[0.0f32, 0.0, 5.0, 5.0], &[1i64, -100], (2, 2), &mut log_prob)?;
    /// assert_eq!(log_prob, [-(2.0f32.ln()), 0.0]);
    /// # Ok(()) }
    /// ```
    pub fn log_probs<'a, T: Element>(
        &self,
        input: &'a [T],
        target: impl Into<Target<'a, T>>,
        shape: impl Into<Shape>,
        log_prob: &'a mut [f32],
    ) -> Result<()> {
        self.call(input, target, shape).log_prob(log_prob).without_a_value()
    }
}

/// Cross-entropy of a call that asks.
#[derive(Clone, Copy)]
pub(super) struct Reporting(pub(super) CrossEntropy);

impl Rowwise for Reporting {
    const NAME: &'static str = <CrossEntropy as Rowwise>::NAME;
    const CLASS_WEIGHT: bool = true;
    const GRAD_TARGET: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;
    const REPORTS: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        Rowwise::ignore_index(&self.0)
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        // Before the gradient, which in place overwrites the logits.
        let class = if let RowTarget::Class(t) = row.target { Some((t, self.0.logit(s, row, t))) } else { None };
        let looks = Looks { spread: BlockSum::new(s), first: s.splat(f32::NAN) };
        let ((softmax, looks), value) = self.0.one_row(s, row, looks);
        let (ln_sum, spread) = (softmax.ln_sum(), looks.spread.sum() / softmax.sum());
        let argmax = if ln_sum.is_nan() { -1 } else { looks.argmax() };
        row.report = Reported {
            log_prob: class.map_or(0.0, |(_, z)| ((f64::from(z) - f64::from(softmax.max)) - ln_sum) as f32),
            // -sum p ln p, a sum of two numbers that are not negative.
            entropy: (ln_sum - spread) as f32,
            lse: softmax.lse() as f32,
            argmax,
            hit: class.is_some_and(|(t, _)| t as i64 == argmax),
        };
        value
    }
}

/// `sum e u`, and of each lane the first chunk that holds the maximum.
struct Looks<S: Machine> {
    spread: BlockSum<S>,
    /// Its number as bits, or NaN.
    first: F32s<S>,
}

impl<S: Machine, T> Visit<S, T> for Looks<S> {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, _: &Row<'_, T>, k: usize, _: P, u: F32s<S>, e: F32s<S>) {
        // Zero times minus infinity is a masked class.
        self.spread.add_where(e.ne(0.0), e * u);
        let chunk = u.simd().bits((k / LANES) as u32).to_float();
        self.first = (u.eq(0.0) & self.first.is_nan()).pick(chunk, self.first);
    }

    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        self.spread.end_block();
    }
}

impl<S: Machine> Looks<S> {
    #[cfg_attr(optimized, inline(always))]
    fn argmax(&self) -> i64 {
        let lanes = self.first.to_array().into_iter().enumerate().filter(|(_, chunk)| !chunk.is_nan());
        lanes.map(|(lane, chunk)| chunk.to_bits() as i64 * LANES as i64 + lane as i64).min().unwrap_or(-1)
    }
}
