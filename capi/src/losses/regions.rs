//! Losses of regions: the call says where the channels are, by `outer` (samples), `classes` (channels) and `inner` (positions).

use fl::{DiceLoss, DiceWeight, GeneralizedDiceLoss, LovaszHinge, LovaszSoftmax, TverskyLoss};

use crate::call::{fl_call, flag, run};
use crate::handle::fl_handle;
use crate::losses::{decode, options};
use crate::status::Outcome;
use crate::status::{fl_status, guarded};
use crate::structs::{init, read_or_default};

/// What comes before a region loss.
#[repr(C)]
pub enum fl_activation {
    /// The input is probabilities.
    FL_ACTIVATION_NONE = 0,
    /// The input is logits; a sigmoid each.
    FL_ACTIVATION_SIGMOID = 1,
    /// The input is logits; a softmax over the channels.
    FL_ACTIVATION_SOFTMAX = 2,
}

/// A region loss after the activation of this number.
macro_rules! activated {
    ($loss:expr, $code:expr) => {
        decode!("activation", $code, fl_activation {
            FL_ACTIVATION_NONE => $loss,
            FL_ACTIVATION_SIGMOID => $loss.sigmoid(),
            FL_ACTIVATION_SOFTMAX => $loss.softmax(),
        })
    };
}

/// Options of `fl_dice`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_dice_options {
    /// Set by `fl_dice_options_init`.
    pub size: usize,
    /// An `fl_activation`. `FL_ACTIVATION_NONE`.
    pub activation: i32,
    /// Added to the numerator; zero or above. 1.
    pub smooth_nr: f32,
    /// Added to the denominator; zero or above. 1.
    pub smooth_dr: f32,
    /// 1: a region is a channel of the whole batch; 0: of one sample.
    pub batch: i32,
    /// 1; 0: channel 0 has no loss.
    pub include_background: i32,
    /// 1: squares in the denominator; 0.
    pub squared_pred: i32,
    /// 1: Jaccard (intersection over union) in place of Dice; 0.
    pub jaccard: i32,
}
options!(fl_dice_options {
    activation: fl_activation::FL_ACTIVATION_NONE as i32,
    smooth_nr: 1.0,
    smooth_dr: 1.0,
    batch: 0,
    include_background: 1,
    squared_pred: 0,
    jaccard: 0,
});

impl fl_dice_options {
    pub(crate) fn loss(&self) -> Outcome<DiceLoss> {
        let loss = DiceLoss::new()
            .squared_pred(flag("squared_pred", self.squared_pred)?)
            .jaccard(flag("jaccard", self.jaccard)?);
        let loss = loss.smooth_nr(self.smooth_nr)?.smooth_dr(self.smooth_dr)?;
        let loss = loss
            .batch(flag("batch", self.batch)?)
            .include_background(flag("include_background", self.include_background)?);
        activated!(loss, self.activation)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_dice_options_init(options: *mut fl_dice_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Dice loss of regions: a channel of a sample each, or of the batch. Targets are masks of the input's shape, or class indices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_dice(
    handle: *const fl_handle,
    options: *const fl_dice_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// Options of `fl_tversky`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_tversky_options {
    /// Set by `fl_tversky_options_init`.
    pub size: usize,
    /// The price of false positives; zero or above. 0.5.
    pub alpha: f32,
    /// The price of false negatives; zero or above. 0.5.
    pub beta: f32,
    /// An `fl_activation`. `FL_ACTIVATION_NONE`.
    pub activation: i32,
    /// Added to the numerator; zero or above. 1.
    pub smooth_nr: f32,
    /// Added to the denominator; zero or above. 1.
    pub smooth_dr: f32,
    /// 1: a region is a channel of the whole batch; 0: of one sample.
    pub batch: i32,
    /// 1; 0: channel 0 has no loss.
    pub include_background: i32,
    /// The exponent of focal Tversky; above zero. 1.
    pub focal: f32,
}
options!(fl_tversky_options {
    alpha: 0.5,
    beta: 0.5,
    activation: fl_activation::FL_ACTIVATION_NONE as i32,
    smooth_nr: 1.0,
    smooth_dr: 1.0,
    batch: 0,
    include_background: 1,
    focal: 1.0,
});

impl fl_tversky_options {
    pub(crate) fn loss(&self) -> Outcome<TverskyLoss> {
        let loss = TverskyLoss::new(self.alpha, self.beta)?
            .focal(self.focal)?
            .smooth_nr(self.smooth_nr)?
            .smooth_dr(self.smooth_dr)?;
        let loss = loss
            .batch(flag("batch", self.batch)?)
            .include_background(flag("include_background", self.include_background)?);
        activated!(loss, self.activation)
    }
}

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_tversky_options_init(options: *mut fl_tversky_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Tversky loss: Dice with a price each for false positives and false negatives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_tversky(
    handle: *const fl_handle,
    options: *const fl_tversky_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &read_or_default(options)?.loss()?, call) })
}

/// How generalised Dice weighs a channel, by what its target adds up to.
#[repr(C)]
pub enum fl_dice_weight {
    /// The inverse of its square.
    FL_DICE_WEIGHT_SQUARE = 0,
    /// Its inverse.
    FL_DICE_WEIGHT_SIMPLE = 1,
    /// 1.
    FL_DICE_WEIGHT_UNIFORM = 2,
}

fn weight(code: i32) -> Outcome<DiceWeight> {
    decode!("weight", code, fl_dice_weight {
        FL_DICE_WEIGHT_SQUARE => DiceWeight::Square,
        FL_DICE_WEIGHT_SIMPLE => DiceWeight::Simple,
        FL_DICE_WEIGHT_UNIFORM => DiceWeight::Uniform,
    })
}

/// Options of `fl_generalized_dice`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_generalized_dice_options {
    /// Set by `fl_generalized_dice_options_init`.
    pub size: usize,
    /// An `fl_activation`. `FL_ACTIVATION_NONE`.
    pub activation: i32,
    /// An `fl_dice_weight`. `FL_DICE_WEIGHT_SQUARE`.
    pub weight: i32,
    /// Added to the numerator; zero or above. 1e-5.
    pub smooth_nr: f32,
    /// Added to the denominator; zero or above. 1e-5.
    pub smooth_dr: f32,
    /// 1: one overlap of the whole batch; 0: of each sample.
    pub batch: i32,
    /// 1; 0: channel 0 is left out.
    pub include_background: i32,
}
options!(fl_generalized_dice_options {
    activation: fl_activation::FL_ACTIVATION_NONE as i32,
    weight: fl_dice_weight::FL_DICE_WEIGHT_SQUARE as i32,
    smooth_nr: 1e-5,
    smooth_dr: 1e-5,
    batch: 0,
    include_background: 1
});

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_generalized_dice_options_init(options: *mut fl_generalized_dice_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Generalised Dice loss: one overlap of all channels of a sample, in which rare channels weigh more. MONAI's. No class weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_generalized_dice(
    handle: *const fl_handle,
    options: *const fl_generalized_dice_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let loss = GeneralizedDiceLoss::new().smooth_nr(o.smooth_nr)?.smooth_dr(o.smooth_dr)?.weight(weight(o.weight)?);
        let loss =
            loss.batch(flag("batch", o.batch)?).include_background(flag("include_background", o.include_background)?);
        run(handle, &activated!(loss, o.activation)?, call)
    })
}

/// Options of `fl_lovasz_hinge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_lovasz_hinge_options {
    /// Set by `fl_lovasz_hinge_options_init`.
    pub size: usize,
    /// 1: a region is a channel of the whole batch; 0: of one sample. 0.
    pub batch: i32,
}
options!(fl_lovasz_hinge_options { batch: 0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_lovasz_hinge_options_init(options: *mut fl_lovasz_hinge_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Lovasz hinge of regions, on logits and masks of their shape: the Jaccard index, made convex. No weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_lovasz_hinge(
    handle: *const fl_handle,
    options: *const fl_lovasz_hinge_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &LovaszHinge::new().batch(flag("batch", o.batch)?), call)
    })
}

/// Options of `fl_lovasz_softmax`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_lovasz_softmax_options {
    /// Set by `fl_lovasz_softmax_options_init`.
    pub size: usize,
    /// 1: a region is a class of the whole batch; 0: of one sample. 1.
    pub batch: i32,
    /// 1: classes that do not occur count too; 0.
    pub all_classes: i32,
    /// Positions with this index are left out, if `has_ignore_index`; it may be a class. -100.
    pub ignore_index: i64,
    /// 1 or 0. 0.
    pub has_ignore_index: i32,
}
options!(fl_lovasz_softmax_options { batch: 1, all_classes: 0, ignore_index: -100, has_ignore_index: 0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_lovasz_softmax_options_init(options: *mut fl_lovasz_softmax_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Lovasz-Softmax, on logits and a class index for each position: the mean Jaccard index of classes, made differentiable. No weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_lovasz_softmax(
    handle: *const fl_handle,
    options: *const fl_lovasz_softmax_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let ignored = flag("has_ignore_index", o.has_ignore_index)?.then_some(o.ignore_index);
        let loss = LovaszSoftmax::new().batch(flag("batch", o.batch)?).all_classes(flag("all_classes", o.all_classes)?);
        run(handle, &loss.ignore_index(ignored), call)
    })
}
