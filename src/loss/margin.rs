use crate::call::class_methods;
use crate::cpu::row::{Row, RowTarget, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{LANES, Lanes, Simd, Span, lanes};
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

    #[inline(always)]
    fn row<S: Simd, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let classes = row.classes;
        // The largest wrong score and where it is; the score of the target; NaN if there is any.
        let (mut wrong, mut at, mut right, mut nan) = (f32::NEG_INFINITY, 0, 0f64, 0f32);
        for_chunks!(row, |k, p| {
            let (x, y) = (row.input(s, k, p, 0.0), labels(s, row, k, p));
            for l in 0..LANES.min(classes - k) {
                let score = if y[l] == 1.0 { 0.0 } else { (1.0 - y[l]) * x[l] };
                if score > wrong {
                    (wrong, at) = (score, k + l);
                }
                right += if y[l] == 0.0 { 0.0 } else { f64::from(y[l]) * f64::from(x[l]) };
                nan += if x[l].is_nan() || y[l].is_nan() { f32::NAN } else { 0.0 };
            }
        });
        let short = 1.0 + f64::from(wrong) - right + f64::from(nan);
        if row.wants_grad() {
            let active = if short > 0.0 { row.scale } else { 0.0 };
            let active = if short.is_nan() { f32::NAN } else { active };
            for_chunks!(row, |k, p| {
                let y = labels(s, row, k, p);
                let grad = lanes!(|l| {
                    let pull = if k + l == at { 1.0 - y[l] } else { 0.0 };
                    active * (pull - y[l])
                });
                row.put(s, k, p, grad);
            });
        }
        if short <= 0.0 { 0.0 } else { short }
    }
}

/// The labels of sixteen classes, one-hot for an index.
#[inline(always)]
fn labels<S: Simd, T: Element, P: Span>(s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes {
    match row.target {
        RowTarget::Class(t) => lanes!(|l| if k + l == t { 1.0 } else { 0.0 }),
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

    #[inline(always)]
    fn row<S: Simd, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Class(t) = row.target else { return 0.0 };
        let MultiMarginParams { margin, p: power } = self.0;
        let x_t = row.input_at(t);
        let weight = row.class_weight_at(t) / row.classes as f32;
        let shorts = Shorts { margin, x_t, t };
        // The derivative of short^p; NaN stays NaN.
        let slope = |short: f32| {
            let step = if short > 0.0 { 1.0 } else { short };
            if power == 1 { step } else { 2.0 * short }
        };
        let (mut value, mut slopes) = ([0f64; LANES], [0f64; LANES]);
        for_chunks!(row, |k, p| {
            let short = shorts.at(s, row, k, p);
            for l in 0..LANES {
                value[l] += f64::from(if power == 1 { short[l] } else { short[l] * short[l] });
                slopes[l] += f64::from(slope(short[l]));
            }
        });
        if row.wants_grad() {
            let scale = weight * row.scale;
            let at_target = -(slopes.iter().sum::<f64>() as f32) * scale;
            for_chunks!(row, |k, p| {
                let short = shorts.at(s, row, k, p);
                row.put(s, k, p, lanes!(|l| if k + l == t { at_target } else { scale * slope(short[l]) }));
            });
        }
        f64::from(weight) * value.iter().sum::<f64>()
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
    #[inline(always)]
    fn at<S: Simd, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes {
        let x = row.input(s, k, p, f32::NEG_INFINITY);
        lanes!(|l| {
            // In this order a small sum is exact, if the scores are close.
            let short = (x[l] - self.x_t) + self.margin;
            let short = if short <= 0.0 { 0.0 } else { short };
            if k + l == self.t || l >= p.count() { 0.0 } else { short }
        })
    }
}

rowwise_loss!(MultiMargin);
class_methods!(MultiMargin);

crate::cuda::kernel::kernel!(CategoricalHinge, |l| Kernel::rows(l, "margin", "categorical_hinge", NO_PARAMS));
crate::cuda::kernel::kernel!(MultiMargin, |l| Kernel::rows(l, "margin", "multi_margin", l.0));
