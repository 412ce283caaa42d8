use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::elementwise_loss;
use crate::params::MarginRankingParams;
use crate::third::elementwise_methods_of_three;

/// Margin ranking: of two scores, the one that should be higher is, by a margin.
///
/// With `y` 1 where the input should be higher and -1 where the target should:
///
/// | | |
/// |---|---|
/// | value | `l = max(0, margin - y (x - t))` |
/// | gradient | `dl/dx = -y` where that is positive, else 0; `dl/dt = -dl/dx` |
/// | shapes | input, target and labels of equal length |
/// | default | `margin = 0` |
/// | PyTorch | `F.margin_ranking_loss(input, target, y)` |
///
/// Edge cases: the gradient at the margin is the subgradient 0 (PyTorch: half of it). NaN stays NaN in value and gradient.
///
/// ```
/// use fused_loss::{MarginRanking, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (mut grad, mut grad_other) = ([0.0; 2], [0.0; 2]);
/// let ranking = MarginRanking::new(0.5)?;
/// let labels = [1.0, -1.0];
/// let loss = ranking.forward_backward(&[2.0, 2.0], &[1.0, 1.0], &labels, Reduction::Sum, &mut grad, &mut grad_other)?;
/// assert_eq!((loss, grad, grad_other), (1.5, [0.0, 1.0], [0.0, -1.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginRanking(MarginRankingParams);

impl MarginRanking {
    /// The margin must be finite.
    pub fn new(margin: f32) -> Result<Self> {
        let margin = check_option("margin", "a finite number", margin, margin.is_finite())?;
        Ok(MarginRanking(MarginRankingParams { margin }))
    }
}

impl Default for MarginRanking {
    fn default() -> Self {
        MarginRanking(MarginRankingParams { margin: 0.0 })
    }
}

impl Pointwise for MarginRanking {
    const NAME: &'static str = "margin ranking";
    const GRAD_TARGET: bool = true;
    const THIRD: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, y: F32s<S>) -> Point<S> {
        let short = self.0.margin - y * (x - t);
        // Written so that NaN takes neither of the two numbers.
        let inside = short.le(0.0).pick(0.0, short);
        Point { value: inside, grad: short.gt(0.0).pick(-y, inside) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, y: F32s<S>) -> F32s<S> {
        -self.eval(x, t, y).grad
    }
}

elementwise_loss!(MarginRanking);
elementwise_methods_of_three!(MarginRanking, labels, grad_target(grad_target));

crate::cuda::kernel::kernel!(MarginRanking, |l| Kernel::elements::<MarginRanking>("ranking", "margin_ranking", l.0));
