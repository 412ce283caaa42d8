use core::f32::consts::PI;

use crate::call::{AnyRequest, Loss, Run, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::combine::term;
use crate::params::PoissonNllParams;

/// Negative log-likelihood of counts under a Poisson distribution, whose rate, or its logarithm, is the input.
///
/// | | [`log_input(true)`](Self::log_input) | [`log_input(false)`](Self::log_input) |
/// |---|---|---|
/// | value | `l = exp(x) - t x` | `l = x - t ln(x + eps)` |
/// | gradient | `dl/dx = exp(x) - t` | `dl/dx = 1 - t / (x + eps)` |
///
/// | | |
/// |---|---|
/// | [`full`](Self::full) | adds `t ln t - t + ln(2 pi t) / 2` where `t > 1`: Stirling's approximation of `ln t!` |
/// | shapes | input and target of equal length |
/// | defaults | `log_input = true`, `full = false`, `eps = 1e-8` |
/// | PyTorch | `F.poisson_nll_loss` |
/// | Keras | `Poisson`: `log_input(false)` with `eps(1e-7)` |
///
/// Edge cases: a count of 0 costs `exp(x)` or `x` alone, whatever the other term is (PyTorch: NaN at a log-rate of minus infinity).
/// `full` changes no gradient. Single values may be negative. The value of a rate below `-eps` is NaN.
///
/// ```
/// use fused_loss::{PoissonNll, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 2];
/// let loss = PoissonNll::new().forward_backward(&[0.0, 0.0], &[3.0, 1.0], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (2.0, [-2.0, 0.0]));
/// let rates = PoissonNll::new().log_input(false).forward(&[1.0f32, 1.0], &[3.0, 1.0], Reduction::Sum)?;
/// assert_eq!(rates, 2.0);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoissonNll {
    log_input: bool,
    params: PoissonNllParams,
}

impl PoissonNll {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        PoissonNll { log_input: true, params: PoissonNllParams { eps: 1e-8, full: 0 } }
    }

    /// Whether the input is the logarithm of the rate. Defaults to true.
    pub fn log_input(mut self, log_input: bool) -> Self {
        self.log_input = log_input;
        self
    }

    /// Whether the value has the term of the target alone. Defaults to false.
    pub fn full(mut self, full: bool) -> Self {
        self.params.full = full.into();
        self
    }

    /// Added to a rate before its logarithm. Zero or above; defaults to 1e-8.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        self.params.eps = check_option("eps", "a finite number, zero or above", eps, eps.is_finite() && eps >= 0.0)?;
        Ok(self)
    }
}

impl Default for PoissonNll {
    fn default() -> Self {
        PoissonNll::new()
    }
}

impl Loss for PoissonNll {
    const NAME: &'static str = "Poisson NLL";
}
impl Run for PoissonNll {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if self.log_input {
            for_request!(request, |r| elementwise::run(LogRate(self.params), r))
        } else {
            for_request!(request, |r| elementwise::run(Rate(self.params), r))
        }
    }
}
elementwise_methods!(PoissonNll);

/// The term of the target alone.
#[cfg_attr(optimized, inline(always))]
fn of_target<S: Simd>(p: PoissonNllParams, t: F32s<S>) -> F32s<S> {
    if p.full == 0 {
        return t.simd().zero();
    }
    let ln = t.ln();
    t.gt(1.0).pick((t * ln - t) + 0.5 * (ln + (2.0 * PI).ln()), 0.0)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LogRate(PoissonNllParams);

impl Pointwise for LogRate {
    const NAME: &'static str = PoissonNll::NAME;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let rate = x.exp();
        // Zero times minus infinity is a count that nobody expected and nobody saw.
        let seen = t.eq(0.0).pick(0.0, t * x);
        Point { value: (rate - seen) + of_target(self.0, t), grad: rate - t }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate(PoissonNllParams);

impl Pointwise for Rate {
    const NAME: &'static str = PoissonNll::NAME;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let rate = x + self.0.eps;
        let none = t.eq(0.0) & rate.ge(0.0);
        let (seen, share) = (none.pick(0.0, t * rate.ln()), none.pick(0.0, t / rate));
        Point { value: (x - seen) + of_target(self.0, t), grad: 1.0 - share }
    }
}

crate::cuda::kernel::kernel!(PoissonNll, |l| if l.log_input {
    Kernel::elements::<LogRate>("poisson_nll", "poisson_nll", l.params)
} else {
    Kernel::elements::<Rate>("poisson_nll", "poisson_nll_rate", l.params)
});
term!(PoissonNll, |l| if l.log_input { PoissonNll(LogRate(l.params)) } else { PoissonNllRate(Rate(l.params)) });
