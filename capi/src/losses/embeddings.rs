//! Losses of rows that are vectors: embeddings and boxes. The call's `classes` is their length, `outer * inner` their number.

use fl::{BoxIou, CosineEmbedding, TripletMargin};

use crate::call::{fl_call, flag, run};
use crate::handle::fl_handle;
use crate::losses::{decode, options};
use crate::status::Outcome;
use crate::status::{fl_status, guarded};
use crate::structs::{init, read_or_default};

/// What is taken from an overlap.
#[repr(C)]
pub enum fl_box_iou_kind {
    /// Nothing: the intersection over the union.
    FL_BOX_IOU = 0,
    /// The empty part of the box around both.
    FL_BOX_GIOU = 1,
    /// The distance of the centres.
    FL_BOX_DIOU = 2,
    /// That, and how far proportions differ.
    FL_BOX_CIOU = 3,
}

fn kind(code: i32) -> Outcome<BoxIou> {
    decode!("kind", code, fl_box_iou_kind {
        FL_BOX_IOU => BoxIou::iou(),
        FL_BOX_GIOU => BoxIou::giou(),
        FL_BOX_DIOU => BoxIou::diou(),
        FL_BOX_CIOU => BoxIou::ciou(),
    })
}

/// Options of `fl_cosine_embedding`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_cosine_embedding_options {
    /// Set by `fl_cosine_embedding_options_init`.
    pub size: usize,
    /// The cosine up to which pairs that do not belong together cost nothing; in [-1, 1]. 0.
    pub margin: f32,
}
options!(fl_cosine_embedding_options { margin: 0.0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cosine_embedding_options_init(options: *mut fl_cosine_embedding_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Cosine embedding of rows (`classes` are the features): `third` of the call has 1 for each pair that belongs together and -1 for
/// each that does not. PyTorch's `cosine_embedding_loss`. Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cosine_embedding(
    handle: *const fl_handle,
    options: *const fl_cosine_embedding_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &CosineEmbedding::new(o.margin)?, call)
    })
}

/// Options of `fl_triplet_margin`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_triplet_margin_options {
    /// Set by `fl_triplet_margin_options_init`.
    pub size: usize,
    /// By how much further away the negative has to be; above zero. 1.
    pub margin: f32,
    /// Added to differences; zero or above. 1e-6.
    pub eps: f32,
    /// 1: the negative is as far as it is from the anchor or the positive, whichever is nearer; 0.
    pub swap: i32,
}
options!(fl_triplet_margin_options { margin: 1.0, eps: 1e-6, swap: 0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_triplet_margin_options_init(options: *mut fl_triplet_margin_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Triplet margin of rows: anchors are the input, positives the target, negatives `third` of the call, each with a gradient.
/// PyTorch's `triplet_margin_loss` of p = 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_triplet_margin(
    handle: *const fl_handle,
    options: *const fl_triplet_margin_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &TripletMargin::new().margin(o.margin)?.eps(o.eps)?.swap(flag("swap", o.swap)?), call)
    })
}

/// Options of `fl_box_iou`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_box_iou_options {
    /// Set by `fl_box_iou_options_init`.
    pub size: usize,
    /// An `fl_box_iou_kind`. `FL_BOX_IOU`.
    pub kind: i32,
    /// Added to areas that are divided by; above zero. 1e-7.
    pub eps: f32,
}
options!(fl_box_iou_options { kind: fl_box_iou_kind::FL_BOX_IOU as i32, eps: 1e-7 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_box_iou_options_init(options: *mut fl_box_iou_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// One minus the overlap of boxes, rows of x1, y1, x2, y2 (`classes` is 4): torchvision's `generalized_box_iou_loss` and its kin.
/// Gradients for input and target.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_box_iou(
    handle: *const fl_handle,
    options: *const fl_box_iou_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run(handle, &kind(o.kind)?.eps(o.eps)?, call)
    })
}
