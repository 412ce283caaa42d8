use crate::cpu::row::{Row, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::Machine;
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::rowwise_loss;
use crate::params::CosineEmbeddingParams;
use crate::third::{ThirdOf, row_methods_of_three};

/// Cosine embedding: rows that belong together point the same way, others do not.
///
/// With `cos = sum x t / sqrt((sum x^2 + 1e-12) (sum t^2 + 1e-12))` of a row of the input and the same row of the target:
///
/// | | label 1 | label -1 |
/// |---|---|---|
/// | value | `l = 1 - cos` | `l = max(0, cos - margin)` |
/// | gradient | `-dcos` | `dcos` where that is positive, else 0 |
///
/// where `dcos/dx = (t / \|t\| - cos x / \|x\|) / \|x\|`, and the same with the two exchanged for the target.
///
/// | | |
/// |---|---|
/// | shapes | input and target of one [`Shape`](crate::Shape), `(rows, features)`; labels one a row, of the same type |
/// | mean | divides by the rows |
/// | default | `margin = 0` |
/// | PyTorch | `F.cosine_embedding_loss(input, target, labels)` |
///
/// Edge cases: a label that is neither 1 nor -1 costs nothing and gives no gradient, as in PyTorch. A row of zeros has the cosine 0 and a
/// gradient of 1e6 in the direction of the other row, for the root of 1e-12 takes the place of its length. The gradient at the margin is the subgradient 0. NaN stays NaN in value and gradient. On a GPU squares are summed in f32: a row
/// longer than 1e19 gives NaN there.
///
/// ```
/// use fused_loss::{CosineEmbedding, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (input, target) = ([1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 3.0, 0.0]); // two rows: at right angles, and the same way
/// let labels = [1.0, -1.0];
/// let (mut grad, mut grad_target) = ([0.0; 4], [0.0; 4]);
/// let loss = CosineEmbedding::new(0.5)?
///     .forward_backward(&input, &target, &labels, (2, 2), Reduction::Sum, &mut grad, &mut grad_target)?;
/// assert!((loss - 1.5_f32).abs() < 1e-6);
/// assert!((grad[1] + 1.0).abs() < 1e-6); // the first should turn towards its target
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineEmbedding(CosineEmbeddingParams);

impl CosineEmbedding {
    /// The margin must be in [-1, 1], as cosines are; PyTorch suggests 0 to 0.5.
    pub fn new(margin: f32) -> Result<Self> {
        let margin = check_option("margin", "a number in [-1, 1]", margin, (-1.0..=1.0).contains(&margin))?;
        Ok(CosineEmbedding(CosineEmbeddingParams { margin }))
    }
}

impl Default for CosineEmbedding {
    fn default() -> Self {
        CosineEmbedding(CosineEmbeddingParams { margin: 0.0 })
    }
}

/// PyTorch's, added to the squared lengths.
const EPSILON: f64 = 1e-12;

impl Rowwise for CosineEmbedding {
    const NAME: &'static str = "cosine embedding";
    const INDEX: bool = false;
    const GRAD_TARGET: bool = true;
    const THIRD: Option<ThirdOf> = Some(ThirdOf::Rows);

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let (mut xt, mut xx, mut tt) = (s.zero_wide(), s.zero_wide(), s.zero_wide());
        for_chunks!(row, |k, p| {
            let (x, t) = (row.input(s, k, p, 0.0).widen(), row.dense(s, k, p, 0.0).widen());
            xt = xt + x * t;
            xx = xx + x * x;
            tt = tt + t * t;
        });
        let (inv_x, inv_t) = (1.0 / (xx.sum() + EPSILON).sqrt(), 1.0 / (tt.sum() + EPSILON).sqrt());
        let cos = xt.sum() * inv_x * inv_t;
        let excess = cos - f64::from(self.0.margin);
        // The value, and its derivative for the cosine. Written so that NaN takes neither of the two numbers.
        let (value, slope) = match row.label {
            1.0 => (1.0 - cos, -1.0),
            -1.0 if excess <= 0.0 => (0.0, 0.0),
            -1.0 => (excess, if excess > 0.0 { 1.0 } else { excess }),
            _ => (0.0, 0.0),
        };
        if slope == 0.0 {
            // Exactly zero, whatever the row holds.
            for_chunks!(row, |k, p| {
                row.put_target(s, k, p, s.zero());
                row.put(s, k, p, s.zero());
            });
        } else if row.wants_grad() {
            let scale = f64::from(row.scale) * slope;
            let across = (scale * inv_x * inv_t) as f32;
            let (along_x, along_t) = ((scale * cos * inv_x * inv_x) as f32, (scale * cos * inv_t * inv_t) as f32);
            for_chunks!(row, |k, p| {
                let (x, t) = (row.input(s, k, p, 0.0), row.dense(s, k, p, 0.0));
                row.put_target(s, k, p, across * x - along_t * t);
                row.put(s, k, p, across * t - along_x * x);
            });
        }
        value
    }
}

rowwise_loss!(CosineEmbedding);
row_methods_of_three!(CosineEmbedding, target, labels, grad_target(grad_target));

crate::cuda::kernel::kernel!(CosineEmbedding, |l| Kernel::rows(l, "cosine_embedding", "cosine_embedding", l.0));
