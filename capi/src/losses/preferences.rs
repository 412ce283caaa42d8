//! Losses of pairs, element by element, of which one should be above the other.

use fl::{Dpo, DpoVariant, MarginRanking};

use crate::call::{fl_call, run};
use crate::handle::fl_handle;
use crate::losses::{decode, options};
use crate::status::Outcome;
use crate::status::{fl_status, guarded};
use crate::structs::{init, read_or_default};

/// What DPO makes of a preference.
#[repr(C)]
pub enum fl_dpo_variant {
    /// The logistic loss of the paper.
    FL_DPO_SIGMOID = 0,
    /// A margin, as in SLiC.
    FL_DPO_HINGE = 1,
    /// A square, as in IPO.
    FL_DPO_IPO = 2,
}

fn variant(code: i32) -> Outcome<DpoVariant> {
    decode!("variant", code, fl_dpo_variant {
        FL_DPO_SIGMOID => DpoVariant::Sigmoid,
        FL_DPO_HINGE => DpoVariant::Hinge,
        FL_DPO_IPO => DpoVariant::Ipo,
    })
}

/// Options of `fl_margin_ranking`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_margin_ranking_options {
    /// Set by `fl_margin_ranking_options_init`.
    pub size: usize,
    /// By how much the one must be above the other; finite. 0.
    pub margin: f32,
}
options!(fl_margin_ranking_options { margin: 0.0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_margin_ranking_options_init(options: *mut fl_margin_ranking_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Margin ranking, `max(0, margin - y (x - t))` of input and target; `third` of the call is y, 1 or -1: PyTorch's
/// `margin_ranking_loss`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_margin_ranking(
    handle: *const fl_handle,
    options: *const fl_margin_ranking_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &MarginRanking::new(o.margin)?, call)
    })
}

/// Options of `fl_dpo`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_dpo_options {
    /// Set by `fl_dpo_options_init`.
    pub size: usize,
    /// How strongly the policy is held to the reference; above zero. 0.1.
    pub beta: f32,
    /// The share of preferences that are the wrong way round; in [0, 0.5). 0.
    pub label_smoothing: f32,
    /// An `fl_dpo_variant`. `FL_DPO_SIGMOID`.
    pub variant: i32,
}
options!(fl_dpo_options { beta: 0.1, label_smoothing: 0.0, variant: fl_dpo_variant::FL_DPO_SIGMOID as i32 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_dpo_options_init(options: *mut fl_dpo_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Direct preference optimisation: input and target are the policy's log-probabilities of the chosen and the rejected answer,
/// `third` of the call the reference's log-ratio of the two. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_dpo(
    handle: *const fl_handle,
    options: *const fl_dpo_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &Dpo::new(o.beta)?.label_smoothing(o.label_smoothing)?.variant(variant(o.variant)?), call)
    })
}
