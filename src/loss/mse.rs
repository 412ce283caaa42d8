use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;
use crate::params::MseParams;

/// Mean squared error: `(x - t)^2`.
///
/// | | |
/// |---|---|
/// | value | `l = (x - t)^2`, or `(x - t)^2 / 2` for [`Mse::half`] |
/// | gradient | `dl/dx = 2 (x - t)`, halved likewise; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | PyTorch | `F.mse_loss`; the half form is optax's `l2_loss` |
/// | Keras | `MeanSquaredError` |
///
/// Edge cases: two infinities of one sign give NaN. The value is f32 whatever the storage: an f16
/// difference of 300 gives 9e4, not infinity. Shapes never broadcast (PyTorch does, with a warning).
///
/// ```
/// use fused_loss::{Mse, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 4];
/// let loss = Mse::new().forward_backward(&[0.5, -1.25, 2.0, 0.0], &[0.0, -1.0, 2.5, 1.0], Reduction::Mean, &mut grad)?;
/// assert_eq!(loss, 0.390625);
/// assert_eq!(grad, [0.25, -0.125, -0.25, -0.5]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mse(MseParams);

impl Mse {
    /// `(x - t)^2`.
    pub fn new() -> Self {
        Mse(MseParams { factor: 1.0 })
    }

    /// `(x - t)^2 / 2`, whose gradient is the plain difference.
    pub fn half() -> Self {
        Mse(MseParams { factor: 0.5 })
    }
}

impl Default for Mse {
    fn default() -> Self {
        Mse::new()
    }
}

impl Pointwise for Mse {
    const NAME: &'static str = "MSE";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let e = x - t;
        Point { value: e * e * self.0.factor, grad: e * (2.0 * self.0.factor) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(Mse);
elementwise_methods!(Mse);

crate::cuda::kernel::kernel!(Mse, |l| Kernel::elements::<Mse>("mse", "mse", l.0));
term!(Mse, |l| Mse(l));
