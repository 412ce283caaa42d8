use core::f32::consts::LN_2;

use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;

/// The logarithm of the hyperbolic cosine of the error: Huber without a corner in its second derivative.
///
/// With `e = x - t`:
///
/// | | |
/// |---|---|
/// | value | `l = ln(cosh(e))`: about `e^2 / 2` near zero, `abs(e) - ln 2` far out |
/// | gradient | `dl/dx = tanh(e)`; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | Keras | `LogCosh` |
/// | PyTorch | none |
///
/// Computed as `-ln(1 - tanh(e)^2) / 2` up to 1 and as `abs(e) - ln 2 + ln(1 + exp(-2 abs(e)))` beyond: `cosh` itself overflows at 89,
/// and the second form alone loses all digits of a small error. An infinite error has an infinite value and a gradient of 1 or -1.
///
/// ```
/// use fused_loss::{LogCosh, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = LogCosh::new().forward_backward(&[1e-3, 0.0, 500.0], &[0.0; 3], Reduction::Sum, &mut grad)?;
/// assert!((loss - (500.0 - 2.0f32.ln())).abs() < 1e-4);
/// assert_eq!(grad, [1e-3f32.tanh(), 0.0, 1.0]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogCosh;

impl LogCosh {
    /// The loss; it has no options.
    pub fn new() -> Self {
        LogCosh
    }
}

impl Pointwise for LogCosh {
    const NAME: &'static str = "log-cosh";
    const GRAD_TARGET: bool = true;
    const LONG: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let e = x - t;
        let (a, slope) = (e.abs(), e.tanh());
        let near = a.lt(1.0);
        let ln = near.pick(-slope * slope, (-2.0 * a).exp_neg()).ln_1p();
        Point { value: near.pick(-0.5 * ln, (a - LN_2) + ln), grad: slope }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(LogCosh);
elementwise_methods!(LogCosh);

crate::cuda::kernel::kernel!(LogCosh, |_l| Kernel::elements::<LogCosh>("log_cosh", "log_cosh", NO_PARAMS));
term!(LogCosh, |l| LogCosh(l));
