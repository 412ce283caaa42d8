use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;
use crate::params::QuantileParams;

/// Quantile (pinball) loss: its minimum is not at the mean or the median but at the quantile `q` of the targets.
///
/// | | |
/// |---|---|
/// | value | `l = q (t - x)` where `x < t`, else `(1 - q) (x - t)` |
/// | gradient | `dl/dx = -q` where `x < t`, `1 - q` where `x > t`, 0 where they are equal; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | default | `q = 0.5`, which is half of [`Mae`](crate::Mae) |
/// | PyTorch | none; scikit-learn's `mean_pinball_loss(alpha=q)` |
///
/// Source: Koenker and Bassett 1978. A network that predicts several quantiles has an output and a call of its own for each.
/// Edge cases: the gradient where input and target are equal is the subgradient 0. NaN stays NaN in value and gradient.
///
/// ```
/// use fused_loss::{Quantile, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = Quantile::new(0.75)?.forward_backward(&[1.0, 4.0, 0.0], &[2.0, 2.0, 0.0], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (0.75 + 0.5, [-0.75, 0.25, 0.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile(QuantileParams);

impl Quantile {
    /// `q` must be above zero and below one.
    pub fn new(quantile: f32) -> Result<Self> {
        let ok = quantile > 0.0 && quantile < 1.0;
        let quantile = check_option("quantile", "a number in (0, 1)", quantile, ok)?;
        Ok(Quantile(QuantileParams { quantile }))
    }
}

impl Default for Quantile {
    fn default() -> Self {
        Quantile(QuantileParams { quantile: 0.5 })
    }
}

impl Pointwise for Quantile {
    const NAME: &'static str = "quantile";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let (low, high) = (-self.0.quantile, 1.0 - self.0.quantile);
        let e = x - t;
        // Where they are equal, or NaN, the gradient is the error.
        let slope = e.gt(0.0).pick(high, e.lt(0.0).pick(low, e));
        Point { value: e.gt(0.0).pick(high * e, low * e), grad: slope }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(Quantile);
elementwise_methods!(Quantile);

crate::cuda::kernel::kernel!(Quantile, |l| Kernel::elements::<Quantile>("quantile", "quantile", l.0));
term!(Quantile, |l| Quantile(l));
