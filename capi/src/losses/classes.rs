//! Losses of rows: the call says where the classes are, by `outer`, `classes` and `inner`. A row is what has one distribution over
//! the classes; there are `outer * inner`, in the order of class-index targets.

use fl::{CategoricalHinge, CrossEntropy, CrossEntropyProbs, Distillation, Jsd, MultiMargin, Nll, SoftmaxFocal};

use crate::call::{fl_call, flag, run};
use crate::handle::fl_handle;
use crate::losses::options;
use crate::status::{Outcome, fl_status, guarded};
use crate::structs::{init, read_or_default};

/// Options of `fl_cross_entropy`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_cross_entropy_options {
    /// Set by `fl_cross_entropy_options_init`.
    pub size: usize,
    /// Spreads this part of the target over all classes. 0.
    pub label_smoothing: f32,
    /// Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
    pub ignore_index: i64,
    /// 1; 0: no row is left out.
    pub has_ignore_index: i32,
    /// Adds `z_loss * lse^2`. 0.
    pub z_loss: f32,
    /// Bends logits to `softcap * tanh(z / softcap)` first; 0: leaves them. 0.
    pub softcap: f32,
}
options!(fl_cross_entropy_options {
    label_smoothing: 0.0,
    ignore_index: -100,
    has_ignore_index: 1,
    z_loss: 0.0,
    softcap: 0.0,
});

impl fl_cross_entropy_options {
    pub(crate) fn loss(&self) -> Outcome<CrossEntropy> {
        let cap = (self.softcap != 0.0).then_some(self.softcap);
        let ignored = flag("has_ignore_index", self.has_ignore_index)?.then_some(self.ignore_index);
        let loss = CrossEntropy::new().label_smoothing(self.label_smoothing)?.ignore_index(ignored);
        Ok(loss.z_loss(self.z_loss)?.softcap(cap)?)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cross_entropy_options_init(options: *mut fl_cross_entropy_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Cross-entropy of logits: PyTorch's `cross_entropy`. Targets are class indices, or probabilities (which have a gradient).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cross_entropy(
    handle: *const fl_handle,
    options: *const fl_cross_entropy_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_cross_entropy_probs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_cross_entropy_probs_options {
    /// Set by `fl_cross_entropy_probs_options_init`.
    pub size: usize,
    /// Normalised probabilities are clipped to `[epsilon, 1 - epsilon]`. 1e-7.
    pub epsilon: f32,
    /// Spreads this part of the target over all classes. 0.
    pub label_smoothing: f32,
    /// Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
    pub ignore_index: i64,
    /// 1; 0: no row is left out.
    pub has_ignore_index: i32,
}
options!(fl_cross_entropy_probs_options {
    epsilon: 1e-7,
    label_smoothing: 0.0,
    ignore_index: -100,
    has_ignore_index: 1,
});

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cross_entropy_probs_options_init(options: *mut fl_cross_entropy_probs_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Cross-entropy of probabilities, which are normalised and clipped first: Keras's form. With logits, take `fl_cross_entropy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cross_entropy_probs(
    handle: *const fl_handle,
    options: *const fl_cross_entropy_probs_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let ignored = flag("has_ignore_index", o.has_ignore_index)?.then_some(o.ignore_index);
        let loss = CrossEntropyProbs::new().epsilon(o.epsilon)?.label_smoothing(o.label_smoothing)?;
        run(handle, &loss.ignore_index(ignored), call)
    })
}

/// Options of `fl_nll`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_nll_options {
    /// Set by `fl_nll_options_init`.
    pub size: usize,
    /// Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
    pub ignore_index: i64,
    /// 1; 0: no row is left out.
    pub has_ignore_index: i32,
}
options!(fl_nll_options { ignore_index: -100, has_ignore_index: 1 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_nll_options_init(options: *mut fl_nll_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Negative log-likelihood of log-probabilities: PyTorch's `nll_loss`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_nll(
    handle: *const fl_handle,
    options: *const fl_nll_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let ignored = flag("has_ignore_index", o.has_ignore_index)?.then_some(o.ignore_index);
        run(handle, &Nll::new().ignore_index(ignored), call)
    })
}

/// Categorical hinge, `max(0, 1 + best wrong - right)`: Keras's form.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_categorical_hinge(handle: *const fl_handle, call: *const fl_call) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &CategoricalHinge::new(), call) })
}

/// Options of `fl_multi_margin`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_multi_margin_options {
    /// Set by `fl_multi_margin_options_init`.
    pub size: usize,
    /// The exponent, 1 or 2. 1.
    pub p: u32,
    /// The margin; finite. 1.
    pub margin: f32,
}
options!(fl_multi_margin_options { p: 1, margin: 1.0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_multi_margin_options_init(options: *mut fl_multi_margin_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Multi-class margin: PyTorch's `multi_margin_loss`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_multi_margin(
    handle: *const fl_handle,
    options: *const fl_multi_margin_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &MultiMargin::new().p(o.p)?.margin(o.margin)?, call)
    })
}

/// Options of `fl_softmax_focal`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_softmax_focal_options {
    /// Set by `fl_softmax_focal_options_init`.
    pub size: usize,
    /// The exponent; zero or above. 2.
    pub gamma: f32,
    /// Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
    pub ignore_index: i64,
    /// 1; 0: no row is left out.
    pub has_ignore_index: i32,
}
options!(fl_softmax_focal_options { gamma: 2.0, ignore_index: -100, has_ignore_index: 1 });

impl fl_softmax_focal_options {
    pub(crate) fn loss(&self) -> Outcome<SoftmaxFocal> {
        let ignored = flag("has_ignore_index", self.has_ignore_index)?.then_some(self.ignore_index);
        Ok(SoftmaxFocal::new().gamma(self.gamma)?.ignore_index(ignored))
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_softmax_focal_options_init(options: *mut fl_softmax_focal_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Focal loss of logits with a softmax over the classes; `class_weight` of the call is alpha.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_softmax_focal(
    handle: *const fl_handle,
    options: *const fl_softmax_focal_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_distillation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_distillation_options {
    /// Set by `fl_distillation_options_init`.
    pub size: usize,
    /// Divides both logits; above zero. 1.
    pub temperature: f32,
    /// 1: the value is multiplied by `temperature^2`; 0.
    pub scale_by_t2: i32,
}
options!(fl_distillation_options { temperature: 1.0, scale_by_t2: 1 });

impl fl_distillation_options {
    pub(crate) fn loss(&self) -> Outcome<Distillation> {
        Ok(Distillation::new().temperature(self.temperature)?.scale_by_t2(flag("scale_by_t2", self.scale_by_t2)?))
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_distillation_options_init(options: *mut fl_distillation_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// KL divergence of the softmax of logits (the input, a student) from that of the target (a teacher).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_distillation(
    handle: *const fl_handle,
    options: *const fl_distillation_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_jsd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_jsd_options {
    /// Set by `fl_jsd_options_init`.
    pub size: usize,
    /// The mixture has this share of the teacher; in (0, 1]. 0.5.
    pub beta: f32,
    /// Divides both logits; above zero. 1.
    pub temperature: f32,
}
options!(fl_jsd_options { beta: 0.5, temperature: 1.0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_jsd_options_init(options: *mut fl_jsd_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Generalised Jensen-Shannon divergence of the softmaxes of two logits, the input a student's and the target a teacher's: TRL's.
/// Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_jsd(
    handle: *const fl_handle,
    options: *const fl_jsd_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &Jsd::new().beta(o.beta)?.temperature(o.temperature)?, call)
    })
}
