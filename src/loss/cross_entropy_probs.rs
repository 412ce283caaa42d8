use crate::call::class_methods;
use crate::cpu::math::Math;
use crate::cpu::row::{Row, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{LANES, Simd, lanes};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::bce::check_smoothing;
use crate::loss::cross_entropy::TargetWeights;
use crate::loss::rowwise_loss;
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
                    value[l] -= if a[l] == 0.0 && !q.is_nan() { 0.0 } else { term };
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

crate::cuda::kernel::kernel!(CrossEntropyProbs, |l| Kernel::rows(
    l,
    "cross_entropy_probs",
    "cross_entropy_probs",
    l.params
));
