//! Weighted sums of losses of the same input, in one pass.

use std::ffi::c_void;

use fl::{Combined, CrossEntropy, DiceLoss, Distillation, LogCosh, Mae, SoftMargin, SoftmaxFocal, TverskyLoss};

use super::classes::{fl_cross_entropy_options, fl_distillation_options, fl_softmax_focal_options};
use super::elementwise::*;
use super::likelihoods::fl_poisson_nll_options;
use super::regions::{fl_dice_options, fl_tversky_options};
use crate::call::{fl_call, option, run};
use crate::handle::{behind, fl_handle};
use crate::losses::decode;
use crate::status::{Failure, Outcome, fl_status, guarded};
use crate::structs::read_or_default;

/// The losses that can be terms of a sum, each with the options of the function of its name.
#[repr(C)]
pub enum fl_term_loss {
    FL_TERM_MSE = 0,
    /// Has no options.
    FL_TERM_MAE = 1,
    FL_TERM_HUBER = 2,
    FL_TERM_SMOOTH_L1 = 3,
    FL_TERM_BCE = 4,
    FL_TERM_BCE_WITH_LOGITS = 5,
    FL_TERM_HINGE = 6,
    FL_TERM_SQUARED_HINGE = 7,
    FL_TERM_KL_DIV = 8,
    FL_TERM_KL_DIV_PROBS = 9,
    FL_TERM_SIGMOID_FOCAL = 10,
    FL_TERM_DICE = 11,
    FL_TERM_TVERSKY = 12,
    FL_TERM_CROSS_ENTROPY = 13,
    FL_TERM_DISTILLATION = 14,
    FL_TERM_SOFTMAX_FOCAL = 15,
    /// Has no options.
    FL_TERM_LOG_COSH = 16,
    FL_TERM_QUANTILE = 17,
    FL_TERM_POISSON_NLL = 18,
    /// Has no options.
    FL_TERM_SOFT_MARGIN = 19,
}

/// A term of `fl_sum`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_term {
    /// An `fl_term_loss`.
    pub loss: i32,
    /// What it is multiplied by; finite.
    pub weight: f32,
    /// Of that loss, such as an `fl_huber_options`; null for the defaults.
    pub options: *const c_void,
}

/// Most terms of any sum.
const MOST: usize = 4;

/// What has been read of the terms: sums of elements are one already, others wait for each other.
#[derive(Default)]
struct Terms {
    elements: Option<Combined>,
    dice: Option<(f32, DiceLoss)>,
    tversky: Option<(f32, TverskyLoss)>,
    cross_entropy: Option<(f32, CrossEntropy)>,
    distillation: Option<(f32, Distillation)>,
    softmax_focal: Option<(f32, SoftmaxFocal)>,
}

impl Terms {
    /// # Safety
    /// The options are null or to what the loss has.
    unsafe fn add(&mut self, term: &fl_term) -> Outcome {
        let weight = term.weight;
        macro_rules! element {
            ($loss:expr) => {{
                let more = weight * $loss;
                self.elements = Some(self.elements.map_or(more, |sum| sum + more));
                Ok(())
            }};
        }
        macro_rules! single {
            ($place:ident, $loss:expr) => {{
                match self.$place.replace((weight, $loss)) {
                    None => Ok(()),
                    Some(_) => Err(unsupported(concat!("more than one ", stringify!($place), " in a sum"))),
                }
            }};
        }
        macro_rules! options {
            ($options:ty) => {
                // SAFETY: the caller's promise.
                unsafe { read_or_default(term.options.cast::<$options>()) }?.loss()?
            };
        }
        decode!("loss", term.loss, fl_term_loss {
            FL_TERM_MSE => element!(options!(fl_mse_options)),
            FL_TERM_MAE => element!(Mae::new()),
            FL_TERM_HUBER => element!(options!(fl_huber_options)),
            FL_TERM_SMOOTH_L1 => element!(options!(fl_smooth_l1_options)),
            FL_TERM_BCE => element!(options!(fl_bce_options)),
            FL_TERM_BCE_WITH_LOGITS => element!(options!(fl_bce_with_logits_options)),
            FL_TERM_HINGE => element!(options!(fl_hinge_options)),
            FL_TERM_SQUARED_HINGE => element!(options!(fl_squared_hinge_options)),
            FL_TERM_KL_DIV => element!(options!(fl_kl_div_options)),
            FL_TERM_KL_DIV_PROBS => element!(options!(fl_kl_div_probs_options)),
            FL_TERM_SIGMOID_FOCAL => element!(options!(fl_sigmoid_focal_options)),
            FL_TERM_DICE => single!(dice, options!(fl_dice_options)),
            FL_TERM_TVERSKY => single!(tversky, options!(fl_tversky_options)),
            FL_TERM_CROSS_ENTROPY => single!(cross_entropy, options!(fl_cross_entropy_options)),
            FL_TERM_DISTILLATION => single!(distillation, options!(fl_distillation_options)),
            FL_TERM_SOFTMAX_FOCAL => single!(softmax_focal, options!(fl_softmax_focal_options)),
            FL_TERM_LOG_COSH => element!(LogCosh::new()),
            FL_TERM_QUANTILE => element!(options!(fl_quantile_options)),
            FL_TERM_POISSON_NLL => element!(options!(fl_poisson_nll_options)),
            FL_TERM_SOFT_MARGIN => element!(SoftMargin::new()),
        })?
    }
}

fn unsupported(what: &str) -> Failure {
    Failure::new(fl_status::FL_ERROR_UNSUPPORTED, format!("{what} is not supported"))
}

/// A weighted sum of losses of the same input and target, in one pass and one launch: of element-wise losses, at most four; of Dice or
/// Tversky, and one of `FL_TERM_CROSS_ENTROPY` and `FL_TERM_SOFTMAX_FOCAL` after a softmax, or of `FL_TERM_BCE_WITH_LOGITS` and
/// `FL_TERM_SIGMOID_FOCAL` after a sigmoid; of cross-entropy and distillation, whose teacher is `third` of the call. `terms` of the call
/// is as long as there are terms, and gets their values in their order; but Dice or Tversky comes first, and cross-entropy with
/// distillation has three: its value, its z-loss, the distillation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_sum(
    handle: *const fl_handle,
    terms: *const fl_term,
    count: usize,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        if count == 0 || count > MOST {
            return Err(option(format!("count: expected 1 to {MOST} terms, got {count}")));
        }
        behind(terms, "terms")?;
        let mut all = Terms::default();
        for term in std::slice::from_raw_parts(terms, count) {
            all.add(term)?;
        }
        let Terms { elements, dice, tversky, cross_entropy, distillation, softmax_focal } = all;
        // A region loss has one of three beside it, whichever region loss it is.
        macro_rules! beside {
            ($region:expr) => {
                match (elements, cross_entropy, softmax_focal, distillation) {
                    (Some(sum), None, None, None) => run(handle, &($region + sum), call),
                    (None, Some((w, other)), None, None) => run(handle, &($region + w * other), call),
                    (None, None, Some((w, other)), None) => run(handle, &($region + w * other), call),
                    _ => Err(unsupported("a sum of these losses")),
                }
            };
        }
        match (dice, tversky) {
            (Some((w, dice)), None) => beside!(w * dice),
            (None, Some((w, tversky))) => beside!(w * tversky),
            (None, None) => match (elements, cross_entropy, distillation, softmax_focal) {
                (Some(sum), None, None, None) => run(handle, &sum, call),
                (None, Some((w, hard)), Some((v, soft)), None) => run(handle, &(w * hard + v * soft), call),
                _ => Err(unsupported("a sum of these losses")),
            },
            _ => Err(unsupported("a sum of these losses")),
        }
    })
}
