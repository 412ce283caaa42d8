use crate::call::class_methods;
use crate::cpu::row::{Row, RowTarget, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, LANES, Machine, Span};
use crate::element::Element;
use crate::error::{Error, Result, check_option};
use crate::loss::rowwise_loss;
use crate::params::MultiMarginParams;

/// Categorical hinge, Keras's form.
///
/// | | |
/// |---|---|
/// | value | `l = max(0, 1 + max_k((1 - y_k) x_k) - sum_k y_k x_k)` |
/// | gradient | where positive: `dl/dx_k = (1 - y_k) [k is the maximum] - y_k`; at a tie the lowest k |
/// | shapes | scores of a [`Shape`](crate::Shape); targets one index a row, or dense (one-hot) |
/// | mean | divides by the rows |
/// | Keras | `CategoricalHinge` |
///
/// Edge cases: the zero in the place of the true class takes part in the maximum, as in Keras: if all
/// other scores are negative, `l = 1 - x_t`. (Crammer and Singer's form leaves it out; that is
/// [`MultiMargin`] with a sum in place of the maximum.) The gradient at 0 is the subgradient 0.
///
/// ```
/// use fused_loss::{CategoricalHinge, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = CategoricalHinge::new().forward_backward(&[-3.0, -2.0, -4.0], &[1i64], (1, 3), Reduction::Mean, &mut grad)?;
/// assert_eq!((loss, grad), (3.0, [0.0, -1.0, 0.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CategoricalHinge;

impl CategoricalHinge {
    /// The loss; it has no options.
    pub fn new() -> Self {
        CategoricalHinge
    }
}

impl Rowwise for CategoricalHinge {
    const NAME: &'static str = "categorical hinge";

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        // Of each lane: the largest wrong score, and the bits of the number of its chunk; the score of the target.
        let (mut wrong, mut chunk, mut right) = (s.splat(f32::NEG_INFINITY), s.zero(), s.zero_wide());
        let mut nan = s.first(0);
        for_chunks!(row, |k, p| {
            let (x, y) = (row.input(s, k, p, f32::NEG_INFINITY), labels(s, row, k, p));
            let score = y.eq(1.0).pick(0.0, (1.0 - y) * x);
            let larger = score.gt(wrong);
            wrong = larger.pick(score, wrong);
            chunk = larger.pick(s.bits((k / LANES) as u32).to_float(), chunk);
            let none = y.eq(0.0);
            right = right + none.pick(0.0, y).widen() * none.pick(0.0, x).widen();
            nan = nan | x.is_nan() | y.is_nan();
        });
        let chunk = chunk.to_array().map(|c| c.to_bits() as usize);
        // The first of the largest.
        let largest =
            |(wrong, at), (score, k)| if score > wrong || score == wrong && k < at { (score, k) } else { (wrong, at) };
        let scores = wrong.to_array().into_iter().enumerate().map(|(l, score)| (score, chunk[l] * LANES + l));
        let (wrong, at) = scores.reduce(largest).unwrap_or((f32::NEG_INFINITY, 0));
        let short = 1.0 + f64::from(wrong) - right.sum() + if nan.any() { f64::NAN } else { 0.0 };
        if row.wants_grad() {
            let active = if short > 0.0 { row.scale } else { 0.0 };
            let active = if short.is_nan() { f32::NAN } else { active };
            for_chunks!(row, |k, p| {
                let y = labels(s, row, k, p);
                let pull = s.only(at.wrapping_sub(k)).pick(1.0 - y, 0.0);
                row.put(s, k, p, active * (pull - y));
            });
        }
        if short <= 0.0 { 0.0 } else { short }
    }
}

/// The labels of sixteen classes, one-hot for an index.
#[cfg_attr(optimized, inline(always))]
fn labels<S: Machine, T: Element, P: Span>(s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
    match row.target {
        RowTarget::Class(t) => s.only(t.wrapping_sub(k)).pick(1.0, 0.0),
        _ => row.dense(s, k, p, 0.0),
    }
}

rowwise_loss!(CategoricalHinge);
class_methods!(CategoricalHinge);

/// Multi-class margin loss.
///
/// | | |
/// |---|---|
/// | value | `l = w_t / C sum_{k != t} max(0, margin - x_t + x_k)^p` |
/// | gradient | `dl/dx_k = w_t / C p max(0, ..)^(p - 1)` for `k != t`; for the target minus the sum of these |
/// | shapes | scores of a [`Shape`](crate::Shape); targets one index a row |
/// | mean | divides by the rows |
/// | defaults | `p = 1`, `margin = 1` |
/// | PyTorch | `F.multi_margin_loss` |
///
/// Edge cases: divided by `C` though the sum has `C - 1` terms, as in PyTorch. With `p = 1` the gradient at
/// the margin is the subgradient 0. An empty batch gives NaN (PyTorch: uninitialised memory).
///
/// ```
/// use fused_loss::{MultiMargin, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 2];
/// let loss = MultiMargin::new().forward_backward(&[0.5, 0.0], &[0u8], (1, 2), Reduction::Mean, &mut grad)?;
/// assert_eq!((loss, grad), (0.25, [-0.5, 0.5]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiMargin(MultiMarginParams);

impl MultiMargin {
    /// `p = 1`, `margin = 1`.
    pub fn new() -> Self {
        MultiMargin(MultiMarginParams { margin: 1.0, p: 1 })
    }

    /// The exponent: 1 or 2.
    pub fn p(mut self, p: u32) -> Result<Self> {
        if p != 1 && p != 2 {
            return Err(Error::Option { name: "p", expected: "1 or 2", got: p.into() });
        }
        self.0.p = p;
        Ok(self)
    }

    /// The margin; finite.
    pub fn margin(mut self, margin: f32) -> Result<Self> {
        self.0.margin = check_option("margin", "a finite number", margin, margin.is_finite())?;
        Ok(self)
    }
}

impl Default for MultiMargin {
    fn default() -> Self {
        MultiMargin::new()
    }
}

impl Rowwise for MultiMargin {
    const NAME: &'static str = "multi-class margin";
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Class(t) = row.target else { return 0.0 };
        let MultiMarginParams { margin, p: power } = self.0;
        let x_t = row.input_at(t);
        let weight = row.class_weight_at(t) / row.classes as f32;
        let shorts = Shorts { margin, x_t, t };
        // The derivative of short^p; NaN stays NaN.
        let (mut value, mut slopes) = (s.zero_wide(), s.zero_wide());
        for_chunks!(row, |k, p| {
            let short = shorts.at(s, row, k, p);
            value = value + if power == 1 { short } else { short * short }.widen();
            slopes = slopes + slope(short, power).widen();
        });
        if row.wants_grad() {
            let scale = weight * row.scale;
            let at_target = -(slopes.sum() as f32) * scale;
            for_chunks!(row, |k, p| {
                let short = shorts.at(s, row, k, p);
                row.put(s, k, p, s.only(t.wrapping_sub(k)).pick(at_target, scale * slope(short, power)));
            });
        }
        f64::from(weight) * value.sum()
    }
}

#[derive(Clone, Copy)]
struct Shorts {
    margin: f32,
    x_t: f32,
    t: usize,
}

impl Shorts {
    /// `max(0, margin - x_t + x_k)` of sixteen classes, zero for the target and past the last.
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        let x = row.input(s, k, p, f32::NEG_INFINITY);
        // In this order a small sum is exact, if the scores are close.
        let short = (x - self.x_t) + self.margin;
        let none = short.le(0.0) | s.only(self.t.wrapping_sub(k)) | !s.first(p.count());
        none.pick(0.0, short)
    }
}

/// The derivative of `short^power`; NaN stays NaN.
#[cfg_attr(optimized, inline(always))]
fn slope<S: Machine>(short: F32s<S>, power: u32) -> F32s<S> {
    if power == 1 { short.gt(0.0).pick(1.0, short) } else { 2.0 * short }
}

rowwise_loss!(MultiMargin);
class_methods!(MultiMargin);

crate::cuda::kernel::kernel!(CategoricalHinge, |l| Kernel::rows(l, "margin", "categorical_hinge", NO_PARAMS));
crate::cuda::kernel::kernel!(MultiMargin, |l| Kernel::rows(l, "margin", "multi_margin", l.0));
