//! Likelihoods of distributions whose parameters are predicted, element by element.

use fl::{GaussianNll, PoissonNll};

use crate::call::{fl_call, flag, run};
use crate::handle::fl_handle;
use crate::losses::options;
use crate::status::{Outcome, fl_status, guarded};
use crate::structs::{init, read_or_default};

/// Options of `fl_poisson_nll`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_poisson_nll_options {
    /// Set by `fl_poisson_nll_options_init`.
    pub size: usize,
    /// 1: the input is the logarithm of the rate; 0: the rate. 1.
    pub log_input: i32,
    /// 1: with Stirling's approximation of the term of the target alone; 0.
    pub full: i32,
    /// Added to a rate before its logarithm; zero or above. 1e-8.
    pub eps: f32,
}
options!(fl_poisson_nll_options { log_input: 1, full: 0, eps: 1e-8 });

impl fl_poisson_nll_options {
    pub(crate) fn loss(&self) -> Outcome<PoissonNll> {
        let loss = PoissonNll::new().log_input(flag("log_input", self.log_input)?).full(flag("full", self.full)?);
        Ok(loss.eps(self.eps)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_poisson_nll_options_init(options: *mut fl_poisson_nll_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Negative log-likelihood of a Poisson distribution whose (logarithm of the) rate is the input: PyTorch's `poisson_nll_loss`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_poisson_nll(
    handle: *const fl_handle,
    options: *const fl_poisson_nll_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_gaussian_nll`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_gaussian_nll_options {
    /// Set by `fl_gaussian_nll_options_init`.
    pub size: usize,
    /// 1: with the constant `ln(2 pi) / 2`; 0.
    pub full: i32,
    /// The least variance; above zero. 1e-6.
    pub eps: f32,
}
options!(fl_gaussian_nll_options { full: 0, eps: 1e-6 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gaussian_nll_options_init(options: *mut fl_gaussian_nll_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Negative log-likelihood of a normal distribution: PyTorch's `gaussian_nll_loss`. The input is the mean, `third` of the call the
/// variance, for which there is a gradient too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gaussian_nll(
    handle: *const fl_handle,
    options: *const fl_gaussian_nll_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &GaussianNll::new().full(flag("full", o.full)?).eps(o.eps)?, call)
    })
}
