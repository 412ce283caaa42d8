use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;
use crate::params::{HuberParams, SmoothL1Params};

/// Huber: a parabola within `delta` of the target, straight lines beyond.
///
/// With `e = x - t`:
///
/// | | |
/// |---|---|
/// | value | `l = e^2 / 2` where `abs(e) <= delta`, else `delta (abs(e) - delta / 2)` |
/// | gradient | `dl/dx = e` clamped to `[-delta, delta]`; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | default | `delta = 1` |
/// | PyTorch | `F.huber_loss`; equals `delta` times [`SmoothL1`] with `beta = delta` |
/// | Keras | `Huber` |
///
/// Edge cases: value and gradient of both pieces agree at `delta`. An infinite `delta` is half the
/// squared error. An infinite difference gives an infinite value and a gradient of `delta`
/// (TensorFlow: NaN).
///
/// ```
/// use fused_loss::{Huber, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = Huber::new(1.0)?.forward_backward(&[0.5, 3.0, -4.0], &[0.0; 3], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (0.125 + 2.5 + 3.5, [0.5, 1.0, -1.0]));
/// assert!(Huber::new(0.0).is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Huber(HuberParams);

impl Huber {
    /// `delta` must be above zero; it may be infinite.
    pub fn new(delta: f32) -> Result<Self> {
        let delta = check_option("delta", "a number above zero", delta, delta > 0.0)?;
        Ok(Huber(HuberParams { delta }))
    }
}

impl Default for Huber {
    fn default() -> Self {
        Huber(HuberParams { delta: 1.0 })
    }
}

impl Pointwise for Huber {
    const NAME: &'static str = "Huber";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let HuberParams { delta } = self.0;
        let e = x - t;
        let a = e.abs();
        let value = a.gt(delta).pick(delta * (a - 0.5 * delta), 0.5 * e * e);
        Point { value, grad: e.at_most(delta).at_least(-delta) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(Huber);
elementwise_methods!(Huber);

/// Smooth L1: the absolute error, rounded off within `beta` of the target.
///
/// With `e = x - t`:
///
/// | | |
/// |---|---|
/// | value | `l = e^2 / (2 beta)` where `abs(e) < beta`, else `abs(e) - beta / 2` |
/// | gradient | `dl/dx = e / beta` there, else `sign(e)`; `dl/dt = -dl/dx` |
/// | shapes | input and target of equal length |
/// | default | `beta = 1` |
/// | PyTorch | `F.smooth_l1_loss`; [`Huber`] is `delta` times this with `beta = delta` |
///
/// Edge cases: `beta = 0` is the absolute error, with gradient 0 where input and target are equal.
///
/// ```
/// use fused_loss::{Reduction, SmoothL1};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 2];
/// let loss = SmoothL1::new(0.5)?.forward_backward(&[0.25, 3.0], &[0.0; 2], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (0.0625 + 2.75, [0.5, 1.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothL1(SmoothL1Params);

impl SmoothL1 {
    /// `beta` must be zero or a finite normal number above it.
    pub fn new(beta: f32) -> Result<Self> {
        let expected = "zero or a finite normal number above it";
        let beta = check_option("beta", expected, beta, beta == 0.0 || beta > 0.0 && beta.is_normal())?;
        let inv_beta = if beta == 0.0 { 0.0 } else { 1.0 / beta };
        Ok(SmoothL1(SmoothL1Params { beta, inv_beta }))
    }
}

impl Default for SmoothL1 {
    fn default() -> Self {
        SmoothL1(SmoothL1Params { beta: 1.0, inv_beta: 1.0 })
    }
}

impl Pointwise for SmoothL1 {
    const NAME: &'static str = "SmoothL1";
    const GRAD_TARGET: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let SmoothL1Params { beta, inv_beta } = self.0;
        let e = x - t;
        let a = e.abs();
        // The product in this order does not underflow where its value does not.
        let slope = e * inv_beta;
        let near = a.lt(beta);
        Point { value: near.pick(0.5 * e * slope, a - 0.5 * beta), grad: near.pick(slope, e.sign()) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(SmoothL1);
elementwise_methods!(SmoothL1);

crate::cuda::kernel::kernel!(Huber, |l| Kernel::elements::<Huber>("huber", "huber", l.0));
crate::cuda::kernel::kernel!(SmoothL1, |l| Kernel::elements::<SmoothL1>("huber", "smooth_l1", l.0));
term!(Huber, |l| Huber(l));
term!(SmoothL1, |l| SmoothL1(l));
