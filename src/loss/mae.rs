use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;

/// Mean absolute error: `|x - t|`.
///
/// | | |
/// |---|---|
/// | value | `l = abs(x - t)` |
/// | gradient | `dl/dx = sign(x - t)`, 0 where they are equal; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | PyTorch | `F.l1_loss` |
/// | Keras | `MeanAbsoluteError` |
///
/// Edge cases: the gradient at zero is the subgradient 0, as in PyTorch (JAX says 1). A NaN gives a
/// NaN gradient; PyTorch's is 0, which hides it.
///
/// ```
/// use fused_loss::{Mae, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = Mae::new().forward_backward(&[0.5, -1.0, 2.0], &[0.0, -1.0, 2.5], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (1.0, [1.0, 0.0, -1.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mae;

impl Mae {
    /// The loss; it has no options.
    pub fn new() -> Self {
        Mae
    }
}

impl Pointwise for Mae {
    const NAME: &'static str = "MAE";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let e = x - t;
        Point { value: e.abs(), grad: e.sign() }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(Mae);
elementwise_methods!(Mae);

crate::cuda::kernel::kernel!(Mae, |_l| Kernel::elements::<Mae>("mae", "mae", NO_PARAMS));
term!(Mae, |l| Mae(l));
