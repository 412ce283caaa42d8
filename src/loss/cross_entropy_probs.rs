use crate::call::class_methods;
use crate::cpu::row::{Row, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, Machine, Mask};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::bce::check_smoothing;
use crate::loss::rowwise_loss;
use crate::loss::target_weights::TargetWeights;
use crate::params::CrossEntropyProbsParams;

/// Categorical cross-entropy on probabilities, Keras's form. Prefer [`CrossEntropy`](crate::CrossEntropy) on logits.
///
/// With `q_k = clip(x_k / sum_j x_j, epsilon, 1 - epsilon)` and target weights `a` as for [`CrossEntropy`](crate::CrossEntropy):
///
/// | | |
/// |---|---|
/// | value | `l = -sum_k a_k ln q_k` |
/// | gradient | `dl/dx_k = (B - a_k / q_k [not clipped]) / sum_j x_j`, where `B` is the sum of `a` over the classes that were not clipped; `dl/dt_k = -w_k (1 - s) ln q_k` |
/// | shapes | as [`CrossEntropy`](crate::CrossEntropy) |
/// | mean | as [`CrossEntropy`](crate::CrossEntropy); Keras divides by the valid rows, weights or not |
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

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let CrossEntropyProbsParams { epsilon, smoothing } = self.params;
        let mut sum = s.zero_wide();
        for_chunks!(row, |k, p| { sum = sum + row.input(s, k, p, 0.0).widen() });
        let sum = sum.sum();
        let inv_sum = (1.0 / sum) as f32;
        let weights = TargetWeights::new(row, smoothing);
        let clip = Clip { inv_sum, epsilon };
        let (mut value, mut free) = (s.zero_wide(), s.zero_wide());
        for_chunks!(row, |k, p| {
            if weights.some(k) {
                let (x, a) = (row.input(s, k, p, 0.0), weights.at(s, row, k, p));
                let (q, inside) = clip.at(x);
                let none = a.eq(0.0) & !q.is_nan();
                value = value - none.pick(0.0, a).widen() * none.pick(0.0, q.ln()).widen();
                free = free + inside.pick(a, 0.0).widen();
            }
        });
        let value = value.sum();
        if row.wants_grad_target() {
            for_chunks!(row, |k, p| {
                let (x, w) = (row.input(s, k, p, 0.0), row.class_weights(s, k, p));
                row.put_target(s, k, p, -w * (1.0 - smoothing) * clip.at(x).0.ln() * row.scale);
            });
        }
        if row.wants_grad() {
            let free = free.sum() as f32;
            let scale = inv_sum * row.scale;
            for_chunks!(row, |k, p| {
                let x = row.input(s, k, p, 0.0);
                let a = if weights.some(k) { weights.at(s, row, k, p) } else { s.zero() };
                let (q, inside) = clip.at(x);
                row.put(s, k, p, (free - inside.pick(a / q, 0.0)) * scale);
            });
        }
        // A sum that is not a number above zero is not a distribution, whatever class was asked for.
        if sum.is_nan() || sum == 0.0 { f64::NAN } else { value }
    }
}

#[derive(Clone, Copy)]
struct Clip {
    inv_sum: f32,
    epsilon: f32,
}

impl Clip {
    /// The clipped probability, and whether it is the probability itself.
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine>(self, x: F32s<S>) -> (F32s<S>, Mask<S>) {
        let q = x * self.inv_sum;
        let (low, high) = (self.epsilon, 1.0 - self.epsilon);
        (q.at_least(low).at_most(high), !(q.lt(low) | q.gt(high)))
    }
}

rowwise_loss!(CrossEntropyProbs);
class_methods!(CrossEntropyProbs);

crate::cuda::kernel::kernel!(CrossEntropyProbs, |l| Kernel::rows(
    l,
    "cross_entropy_probs",
    "cross_entropy_probs",
    l.params
));
