use core::f32::consts::PI;

use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::elementwise_loss;
use crate::params::GaussianNllParams;
use crate::third::elementwise_methods_of_three;

/// Negative log-likelihood of the targets under Gaussian distributions whose means and **variances** a network predicts.
///
/// With `e = x - t`, `v = max(var, eps)`:
///
/// | | |
/// |---|---|
/// | value | `l = (ln v + e^2 / v) / 2` |
/// | gradient | `dl/dx = e / v = -dl/dt`; `dl/dvar = (1 - e^2 / v) / (2 v)` |
/// | [`full`](Self::full) | adds `ln(2 pi) / 2` |
/// | shapes | input, target and variance of equal length |
/// | defaults | `full = false`, `eps = 1e-6` |
/// | PyTorch | `F.gaussian_nll_loss`, with a variance of the input's shape |
///
/// The gradient for the variance is that of `v`, also where `eps` took the variance's place, as in PyTorch: else a variance that has
/// shrunk to nothing could not grow again.
///
/// Edge cases: a negative variance, which PyTorch refuses, makes value and gradients NaN. Values may be negative.
///
/// ```
/// use fused_loss::{GaussianNll, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (mean, target, variance) = ([1.0, 2.0], [1.0, 4.0], [1.0, 2.0]);
/// let (mut grad, mut grad_variance) = ([0.0; 2], [0.0; 2]);
/// let nll = GaussianNll::new();
/// let loss = nll.forward_backward(&mean, &target, &variance, Reduction::Sum, &mut grad, &mut grad_variance)?;
/// assert!((loss - (1.0 + 0.5 * 2.0f32.ln())).abs() < 1e-6);
/// assert_eq!((grad, grad_variance), ([0.0, -1.0], [0.5, -0.25]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianNll(GaussianNllParams);

impl GaussianNll {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        GaussianNll(GaussianNllParams { eps: 1e-6, constant: 0.0 })
    }

    /// Whether the value has its constant term. Defaults to false.
    pub fn full(mut self, full: bool) -> Self {
        self.0.constant = if full { 0.5 * (2.0 * PI).ln() } else { 0.0 };
        self
    }

    /// The least variance. A normal number above zero; defaults to 1e-6.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        self.0.eps = check_option("eps", "a finite normal number above zero", eps, eps.is_normal() && eps > 0.0)?;
        Ok(self)
    }
}

impl Default for GaussianNll {
    fn default() -> Self {
        GaussianNll::new()
    }
}

impl Pointwise for GaussianNll {
    const NAME: &'static str = "Gaussian NLL";
    const GRAD_TARGET: bool = true;
    const THIRD: bool = true;
    const GRAD_THIRD: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, var: F32s<S>) -> Point<S> {
        let v = self.variance(var);
        let (e, pull) = (x - t, (x - t) / v);
        Point { value: 0.5 * (v.ln() + e * pull) + self.0.constant, grad: pull }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, var: F32s<S>) -> F32s<S> {
        -self.eval(x, t, var).grad
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_third<S: Simd>(&self, x: F32s<S>, t: F32s<S>, var: F32s<S>) -> F32s<S> {
        let v = self.variance(var);
        let e = x - t;
        0.5 * (1.0 - e * (e / v)) / v
    }
}

impl GaussianNll {
    #[cfg_attr(optimized, inline(always))]
    fn variance<S: Simd>(&self, var: F32s<S>) -> F32s<S> {
        var.lt(0.0).pick(f32::NAN, var.at_least(self.0.eps))
    }
}

elementwise_loss!(GaussianNll);
elementwise_methods_of_three!(GaussianNll, variance, grad_third(grad_variance));

crate::cuda::kernel::kernel!(GaussianNll, |l| Kernel::elements::<GaussianNll>("gaussian_nll", "gaussian_nll", l.0));
