//! Losses of elements. Their target is as long as the input; they have no class axis.

use fl::{
    Bce, BceWithLogits, Hinge, HingeLabels, Huber, KlDiv, KlDivProbs, LogCosh, Mae, Mse, Quantile, SigmoidFocal,
    SmoothL1, SoftMargin, SquaredHinge,
};

use crate::call::{fl_call, flag, run};
use crate::handle::fl_handle;
use crate::losses::{decode, options};
use crate::status::Outcome;
use crate::status::{fl_status, guarded};
use crate::structs::{init, read_or_default};

/// The labels of hinge losses.
#[repr(C)]
pub enum fl_hinge_labels {
    /// -1 and 1.
    FL_LABELS_SIGNED = 0,
    /// 0 and 1.
    FL_LABELS_ZERO_ONE = 1,
    /// Keras's: 0 and 1 if there are no others, else as they are.
    FL_LABELS_KERAS = 2,
}

fn labels(code: i32) -> Outcome<HingeLabels> {
    decode!("labels", code, fl_hinge_labels {
        FL_LABELS_SIGNED => HingeLabels::Signed,
        FL_LABELS_ZERO_ONE => HingeLabels::ZeroOne,
        FL_LABELS_KERAS => HingeLabels::Keras,
    })
}

/// Options of `fl_mse`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_mse_options {
    /// Set by `fl_mse_options_init`.
    pub size: usize,
    /// 1: half the squared error, `(x - t)^2 / 2`; 0.
    pub half: i32,
}
options!(fl_mse_options { half: 0 });

impl fl_mse_options {
    pub(crate) fn loss(&self) -> Outcome<Mse> {
        Ok(if flag("half", self.half)? { Mse::half() } else { Mse::new() })
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_mse_options_init(options: *mut fl_mse_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Squared error, `(x - t)^2`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_mse(
    handle: *const fl_handle,
    options: *const fl_mse_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Absolute error, `|x - t|`, with subgradient 0 at 0. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_mae(handle: *const fl_handle, call: *const fl_call) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &Mae::new(), call) })
}

/// Options of `fl_huber`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_huber_options {
    /// Set by `fl_huber_options_init`.
    pub size: usize,
    /// Where the parabola ends; above zero. 1.
    pub delta: f32,
}
options!(fl_huber_options { delta: 1.0 });

impl fl_huber_options {
    pub(crate) fn loss(&self) -> Outcome<Huber> {
        Ok(Huber::new(self.delta)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_huber_options_init(options: *mut fl_huber_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Huber: a parabola up to `delta`, a line beyond. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_huber(
    handle: *const fl_handle,
    options: *const fl_huber_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_smooth_l1`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_smooth_l1_options {
    /// Set by `fl_smooth_l1_options_init`.
    pub size: usize,
    /// Where the parabola ends; zero or above. 1.
    pub beta: f32,
}
options!(fl_smooth_l1_options { beta: 1.0 });

impl fl_smooth_l1_options {
    pub(crate) fn loss(&self) -> Outcome<SmoothL1> {
        Ok(SmoothL1::new(self.beta)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_smooth_l1_options_init(options: *mut fl_smooth_l1_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Smooth L1: Huber divided by `beta`; absolute error if `beta` is 0. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_smooth_l1(
    handle: *const fl_handle,
    options: *const fl_smooth_l1_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_bce`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_bce_options {
    /// Set by `fl_bce_options_init`.
    pub size: usize,
    /// Keras's clip to `[epsilon, 1 - epsilon]`; 0 for PyTorch's form, which clamps logarithms at -100. 0.
    pub epsilon: f32,
    /// Keras's rule: `t (1 - s) + s / 2`. 0.
    pub label_smoothing: f32,
}
options!(fl_bce_options { epsilon: 0.0, label_smoothing: 0.0 });

impl fl_bce_options {
    pub(crate) fn loss(&self) -> Outcome<Bce> {
        Ok(Bce::new().epsilon(self.epsilon)?.label_smoothing(self.label_smoothing)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_bce_options_init(options: *mut fl_bce_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Binary cross-entropy of probabilities. With logits, take `fl_bce_with_logits`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_bce(
    handle: *const fl_handle,
    options: *const fl_bce_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_bce_with_logits`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_bce_with_logits_options {
    /// Set by `fl_bce_with_logits_options_init`.
    pub size: usize,
    /// Multiplies the cost of positives; finite, zero or above. 1.
    pub pos_weight: f32,
    /// Keras's rule: `t (1 - s) + s / 2`. 0.
    pub label_smoothing: f32,
}
options!(fl_bce_with_logits_options { pos_weight: 1.0, label_smoothing: 0.0 });

impl fl_bce_with_logits_options {
    pub(crate) fn loss(&self) -> Outcome<BceWithLogits> {
        Ok(BceWithLogits::new().pos_weight(self.pos_weight)?.label_smoothing(self.label_smoothing)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_bce_with_logits_options_init(options: *mut fl_bce_with_logits_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Binary cross-entropy of logits; `class_weight` of the call is PyTorch's `pos_weight` of each class, the last axis.
/// Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_bce_with_logits(
    handle: *const fl_handle,
    options: *const fl_bce_with_logits_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_hinge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_hinge_options {
    /// Set by `fl_hinge_options_init`.
    pub size: usize,
    /// An `fl_hinge_labels`. `FL_LABELS_SIGNED`.
    pub labels: i32,
}
options!(fl_hinge_options { labels: fl_hinge_labels::FL_LABELS_SIGNED as i32 });

impl fl_hinge_options {
    pub(crate) fn loss(&self) -> Outcome<Hinge> {
        Ok(Hinge::new().labels(labels(self.labels)?))
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_hinge_options_init(options: *mut fl_hinge_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Hinge, `max(0, 1 - y x)`, of labels y = -1 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_hinge(
    handle: *const fl_handle,
    options: *const fl_hinge_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_squared_hinge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_squared_hinge_options {
    /// Set by `fl_squared_hinge_options_init`.
    pub size: usize,
    /// An `fl_hinge_labels`. `FL_LABELS_SIGNED`.
    pub labels: i32,
}
options!(fl_squared_hinge_options { labels: fl_hinge_labels::FL_LABELS_SIGNED as i32 });

impl fl_squared_hinge_options {
    pub(crate) fn loss(&self) -> Outcome<SquaredHinge> {
        Ok(SquaredHinge::new().labels(labels(self.labels)?))
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_squared_hinge_options_init(options: *mut fl_squared_hinge_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Squared hinge, `max(0, 1 - y x)` squared, of labels y = -1 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_squared_hinge(
    handle: *const fl_handle,
    options: *const fl_squared_hinge_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_kl_div`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_kl_div_options {
    /// Set by `fl_kl_div_options_init`.
    pub size: usize,
    /// 1: targets are log-probabilities too; 0.
    pub log_target: i32,
}
options!(fl_kl_div_options { log_target: 0 });

impl fl_kl_div_options {
    pub(crate) fn loss(&self) -> Outcome<KlDiv> {
        Ok(KlDiv::new().log_target(flag("log_target", self.log_target)?))
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_kl_div_options_init(options: *mut fl_kl_div_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// KL divergence of log-probabilities (the input) from the target: PyTorch's `kl_div`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_kl_div(
    handle: *const fl_handle,
    options: *const fl_kl_div_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_kl_div_probs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_kl_div_probs_options {
    /// Set by `fl_kl_div_probs_options_init`.
    pub size: usize,
    /// Both sides are clipped to `[epsilon, 1]`. 1e-7.
    pub epsilon: f32,
}
options!(fl_kl_div_probs_options { epsilon: 1e-7 });

impl fl_kl_div_probs_options {
    pub(crate) fn loss(&self) -> Outcome<KlDivProbs> {
        Ok(KlDivProbs::new().epsilon(self.epsilon)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_kl_div_probs_options_init(options: *mut fl_kl_div_probs_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// KL divergence `t ln(t / p)` of probabilities, clipped: Keras's form.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_kl_div_probs(
    handle: *const fl_handle,
    options: *const fl_kl_div_probs_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_sigmoid_focal`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_sigmoid_focal_options {
    /// Set by `fl_sigmoid_focal_options_init`.
    pub size: usize,
    /// Weight of positives, that of negatives being `1 - alpha`; -1 weighs neither. 0.25.
    pub alpha: f32,
    /// The exponent; zero or above. 2.
    pub gamma: f32,
}
options!(fl_sigmoid_focal_options { alpha: 0.25, gamma: 2.0 });

impl fl_sigmoid_focal_options {
    pub(crate) fn loss(&self) -> Outcome<SigmoidFocal> {
        let alpha = (self.alpha != -1.0).then_some(self.alpha);
        Ok(SigmoidFocal::new().alpha(alpha)?.gamma(self.gamma)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_sigmoid_focal_options_init(options: *mut fl_sigmoid_focal_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Focal loss of logits with a sigmoid each: torchvision's `sigmoid_focal_loss`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_sigmoid_focal(
    handle: *const fl_handle,
    options: *const fl_sigmoid_focal_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Log-cosh, `ln(cosh(x - t))`: Keras's `LogCosh`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_log_cosh(handle: *const fl_handle, call: *const fl_call) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &LogCosh::new(), call) })
}

/// Options of `fl_quantile`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_quantile_options {
    /// Set by `fl_quantile_options_init`.
    pub size: usize,
    /// The quantile that is predicted; in (0, 1). 0.5.
    pub quantile: f32,
}
options!(fl_quantile_options { quantile: 0.5 });

impl fl_quantile_options {
    pub(crate) fn loss(&self) -> Outcome<Quantile> {
        Ok(Quantile::new(self.quantile)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_quantile_options_init(options: *mut fl_quantile_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Quantile (pinball): the error times `quantile` where the input is too low, times the rest of 1 where it is too high. Gradients for
/// input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_quantile(
    handle: *const fl_handle,
    options: *const fl_quantile_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Soft margin, `ln(1 + exp(-y x))` of labels y = -1 or 1: PyTorch's `soft_margin_loss`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_soft_margin(handle: *const fl_handle, call: *const fl_call) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &SoftMargin::new(), call) })
}
