//! A call as C makes it, its checks, and what it becomes.

use std::ffi::c_void;

use fl::raw::{self, Dtype, Memory, Output, Request, Scalar, Targets, Weight};
use fl::{Loss, Reduction, Report, Shape};
use half::{bf16, f16};

use crate::handle::{Place, behind, fl_handle};
use crate::losses::decode;
use crate::status::{Failure, Outcome, fl_status};
use crate::structs::{self, Versioned};

/// The storage type of input, dense targets and gradients. Weights and values are always f32, and so is all arithmetic.
#[repr(C)]
pub enum fl_dtype {
    /// `float`
    FL_F32 = 0,
    /// IEEE half precision.
    FL_F16 = 1,
    /// bfloat16
    FL_BF16 = 2,
}

/// What the targets are.
#[repr(C)]
pub enum fl_target {
    /// The loss needs none, as a GAN term.
    FL_TARGET_NONE = 0,
    /// One value of the input's type for each input element.
    FL_TARGET_DENSE = 1,
    /// One class index a row, as `int64_t`.
    FL_TARGET_I64 = 2,
    /// One class index a row, as `int32_t`.
    FL_TARGET_I32 = 3,
    /// One class index a row, as `uint32_t`.
    FL_TARGET_U32 = 4,
    /// One class index a row, as `uint8_t`.
    FL_TARGET_U8 = 5,
}

/// How the losses of elements, rows or regions become one number, and with it the factor that every gradient carries.
#[repr(C)]
pub enum fl_reduction {
    /// They do not: `value` has one for each.
    FL_NONE = 0,
    /// Divided by the number of losses (class indices: of rows that are not ignored, or the sum of their class weights).
    FL_MEAN = 1,
    /// Not divided.
    FL_SUM = 2,
    /// Divided by `batch`.
    FL_BATCH_MEAN = 3,
    /// Divided by the sum of all weights.
    FL_WEIGHTED_MEAN = 4,
    /// Divided by `denominator`, or by what is at `denominator_at`.
    FL_SUM_OVER = 5,
}

/// A buffer that is read: its address, and its length in elements. Null is none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_in {
    /// On the handle's device.
    pub data: *const c_void,
    /// Elements, not bytes.
    pub len: usize,
}

/// A buffer that is written. Null is none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_out {
    /// On the handle's device.
    pub data: *mut c_void,
    /// Elements, not bytes.
    pub len: usize,
}

/// One call of a loss: buffers, shape, reduction. `fl_call_init` sets everything to nothing, f32, the mean, and an upstream gradient
/// of 1; what the call needs is then filled in.
///
/// Every buffer is on the handle's device, and aligned as its elements are. Buffers that are written overlap no other, but that
/// `grad_input` may be `input` itself: the gradient is then written over the input.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_call {
    /// Set by `fl_call_init`.
    pub size: usize,
    /// An `fl_dtype`.
    pub dtype: i32,
    /// An `fl_reduction`.
    pub reduction: i32,
    /// The prediction, logits or probabilities: row-major, contiguous.
    pub input: fl_in,
    /// See `target_kind`.
    pub target: fl_in,
    /// An `fl_target`. `FL_TARGET_DENSE` after `fl_call_init`.
    pub target_kind: i32,
    /// 1: adds to the gradients instead of overwriting them; 0.
    pub accumulate: i32,
    /// Rows before the class axis; of losses with a class axis, for which `outer * classes * inner` is the input's length.
    pub outer: usize,
    /// Classes, channels, or elements of a sample; 0 for losses without.
    pub classes: usize,
    /// Positions behind the class axis; 1 after `fl_call_init`, for classes on the last axis.
    pub inner: usize,
    /// f32: one for each loss.
    pub weight: fl_in,
    /// f32: one for each sample of several consecutive losses. Not together with `weight`.
    pub sample_weight: fl_in,
    /// f32: one for each class.
    pub class_weight: fl_in,
    /// The upstream gradient, such as an AMP loss scale: multiplied in before gradients are rounded. 1 after `fl_call_init`.
    pub grad_output: f32,
    /// Null, or where the upstream gradient is, which then is used in place of `grad_output`: one f32 on the handle's device.
    pub grad_output_at: *const f32,
    /// f32: an upstream gradient for each loss, with `FL_NONE` alone.
    pub grad_outputs: fl_in,
    /// Of `FL_BATCH_MEAN`.
    pub batch: usize,
    /// Of `FL_SUM_OVER`; finite and above zero.
    pub denominator: f64,
    /// Null, or where the denominator of `FL_SUM_OVER` is: one f32 on the handle's device.
    pub denominator_at: *const f32,
    /// f32: one, or with `FL_NONE` one for each loss. Null if it is not wanted.
    pub value: fl_out,
    /// Null if it is not wanted; else as long as the input.
    pub grad_input: fl_out,
    /// Null if it is not wanted; else as long as the target, for losses that have a gradient there.
    pub grad_target: fl_out,
    /// The third tensor of losses of three, of the input's type: as long as the input, or one number a row, as the loss says.
    pub third: fl_in,
    /// Null if it is not wanted; else as long as `third`, for losses that have a gradient there.
    pub grad_third: fl_out,
    /// f32: null if it is not wanted; else the value of each term of a sum of losses, without its weight. Not with `FL_NONE`.
    pub terms: fl_out,
    /// Of `fl_cross_entropy`, null if it is not wanted; else one a row, as are those that follow. f32: the log-probability of the target,
    /// that of the softmax without smoothing and weights. For class indices. 0 for a row that is ignored.
    pub log_prob: fl_out,
    /// f32: the entropy of the softmax, in nats. 0 for a row that is ignored.
    pub entropy: fl_out,
    /// f32: the log-sum-exp. 0 for a row that is ignored.
    pub lse: fl_out,
    /// f32: 1 where the target is `argmax`, else 0. For class indices.
    pub hit: fl_out,
    /// `int64_t`: the class of the largest logit, the first of several. -1 for a row that is ignored, or whose softmax is NaN.
    pub argmax: fl_out,
}

const NO_IN: fl_in = fl_in { data: std::ptr::null(), len: 0 };
const NO_OUT: fl_out = fl_out { data: std::ptr::null_mut(), len: 0 };

// SAFETY: integers, floats and pointers, of which any bytes are some; the size comes first.
unsafe impl Versioned for fl_call {
    const NAME: &'static str = "fl_call";

    fn defaults() -> Self {
        fl_call {
            size: size_of::<fl_call>(),
            dtype: fl_dtype::FL_F32 as i32,
            reduction: fl_reduction::FL_MEAN as i32,
            input: NO_IN,
            target: NO_IN,
            target_kind: fl_target::FL_TARGET_DENSE as i32,
            accumulate: 0,
            outer: 0,
            classes: 0,
            inner: 1,
            weight: NO_IN,
            sample_weight: NO_IN,
            class_weight: NO_IN,
            grad_output: 1.0,
            grad_output_at: std::ptr::null(),
            grad_outputs: NO_IN,
            batch: 0,
            denominator: 0.0,
            denominator_at: std::ptr::null(),
            value: NO_OUT,
            grad_input: NO_OUT,
            grad_target: NO_OUT,
            third: NO_IN,
            grad_third: NO_OUT,
            terms: NO_OUT,
            log_prob: NO_OUT,
            entropy: NO_OUT,
            lse: NO_OUT,
            hit: NO_OUT,
            argmax: NO_OUT,
        }
    }
}

/// Fills in a call with its defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_call_init(call: *mut fl_call) {
    // SAFETY: the caller's promise. Null is left alone; the call that follows will say so.
    crate::status::guarded(|| unsafe { structs::init(call) });
}

/// Runs a loss.
///
/// # Safety
/// The pointers are null or to what lives; the buffers of the call are as long as it says, on the handle's device, and nobody else
/// writes what it reads or uses what it writes until it has been done.
pub(crate) unsafe fn run<L: Loss>(handle: *const fl_handle, loss: &L, call: *const fl_call) -> Outcome {
    // SAFETY: the caller's promise, here and below.
    let (place, call) = unsafe { (&behind(handle, "handle")?.place, structs::read(call)?) };
    let request = request(&call)?;
    match place {
        Place::Cpu => Ok(unsafe { raw::on_cpu(loss, &request) }?),
        #[cfg(feature = "cuda")]
        Place::Cuda(cuda) => Ok(unsafe { raw::on_cuda(cuda, loss, &request) }?),
    }
}

/// The checked request of a call.
fn request(call: &fl_call) -> Outcome<Request> {
    let dtype = dtype(call.dtype)?;
    let targets = targets(call, dtype)?;
    let shape =
        (call.classes != 0).then(|| Shape::channels_first(&[call.outer, call.classes, call.inner])).transpose()?;
    let mut request = Request::of(dtype, input("input", call.input, dtype.bytes)?, targets, shape);
    request.class_weight = some_input("class_weight", call.class_weight, 4)?;
    request.weight = match (some_input("weight", call.weight, 4)?, some_input("sample_weight", call.sample_weight, 4)?)
    {
        (None, None) => None,
        (Some(weight), None) => Some(Weight::PerElement(weight)),
        (None, Some(weight)) => Some(Weight::PerSample(weight)),
        (Some(_), Some(_)) => return Err(option("sample_weight: not together with weight")),
    };
    request.accumulate = flag("accumulate", call.accumulate)?;
    request.grad_output = upstream(call)?;
    request.grad_input = some_output("grad_input", call.grad_input, dtype.bytes)?;
    request.grad_target = some_output("grad_target", call.grad_target, dtype.bytes)?;
    request.third = some_input("third", call.third, dtype.bytes)?;
    request.grad_third = some_output("grad_third", call.grad_third, dtype.bytes)?;
    request.terms = some_output("terms", call.terms, 4)?;
    request.report = Report {
        log_prob: some_output("log_prob", call.log_prob, 4)?,
        entropy: some_output("entropy", call.entropy, 4)?,
        lse: some_output("lse", call.lse, 4)?,
        hit: some_output("hit", call.hit, 4)?,
        argmax: some_output("argmax", call.argmax, 8)?,
    };
    request.in_place = request.grad_input.is_some_and(|grad| grad.len != 0 && grad == request.input);
    let value = some_output("value", call.value, 4)?;
    let grad_outputs = some_input("grad_outputs", call.grad_outputs, 4)?;
    request.output = match reduction(call)? {
        None => Output::Unreduced { losses: value, grad_output: grad_outputs },
        Some(_) if grad_outputs.is_some() => return Err(option("grad_outputs: only with FL_NONE")),
        Some(Denominator::At(address)) => Output::Over(address, value),
        Some(Denominator::By(reduction)) => Output::Reduced(reduction, value),
    };
    no_overlap(call, &request)?;
    Ok(request)
}

/// What the reduction divides by.
enum Denominator {
    By(Reduction),
    At(u64),
}

/// `None` for the unreduced form.
fn reduction(call: &fl_call) -> Outcome<Option<Denominator>> {
    let at = scalar_at("denominator_at", call.denominator_at)?;
    let reduction = match call.reduction {
        x if x == fl_reduction::FL_SUM_OVER as i32 => {
            return Ok(Some(at.map_or(Denominator::By(Reduction::SumOver(call.denominator)), Denominator::At)));
        }
        _ if at.is_some() => return Err(option("denominator_at: only with FL_SUM_OVER")),
        x if x == fl_reduction::FL_NONE as i32 => return Ok(None),
        x if x == fl_reduction::FL_MEAN as i32 => Reduction::Mean,
        x if x == fl_reduction::FL_SUM as i32 => Reduction::Sum,
        x if x == fl_reduction::FL_BATCH_MEAN as i32 => Reduction::BatchMean(call.batch),
        x if x == fl_reduction::FL_WEIGHTED_MEAN as i32 => Reduction::WeightedMean,
        x => return Err(option(format!("reduction: {x} is no fl_reduction"))),
    };
    Ok(Some(Denominator::By(reduction)))
}

fn dtype(code: i32) -> Outcome<Dtype> {
    decode!("dtype", code, fl_dtype {
        FL_F32 => Dtype::of::<f32>(),
        FL_F16 => Dtype::of::<f16>(),
        FL_BF16 => Dtype::of::<bf16>(),
    })
}

fn targets(call: &fl_call, dtype: Dtype) -> Outcome<Targets> {
    let of = |bytes| input("target", call.target, bytes);
    decode!("target_kind", call.target_kind, fl_target {
        FL_TARGET_NONE => Targets::Nothing,
        FL_TARGET_DENSE => Targets::Dense(of(dtype.bytes)?),
        FL_TARGET_I64 => Targets::I64(of(8)?),
        FL_TARGET_I32 => Targets::I32(of(4)?),
        FL_TARGET_U32 => Targets::U32(of(4)?),
        FL_TARGET_U8 => Targets::U8(of(1)?),
    })
}

/// The upstream gradient.
fn upstream(call: &fl_call) -> Outcome<Scalar> {
    Ok(scalar_at("grad_output_at", call.grad_output_at)?.map_or(Scalar::Host(call.grad_output), Scalar::Device))
}

fn scalar_at(what: &str, at: *const f32) -> Outcome<Option<u64>> {
    some_input(what, fl_in { data: at.cast(), len: 1 }, 4).map(|memory| memory.map(|m| m.address))
}

/// 0 or 1.
pub(crate) fn flag(what: &str, flag: i32) -> Outcome<bool> {
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(option(format!("{what}: expected 0 or 1, got {flag}"))),
    }
}

pub(crate) fn option(message: impl Into<String>) -> Failure {
    Failure::new(fl_status::FL_ERROR_OPTION, message)
}

/// A buffer that must be there, of elements of so many bytes; one without elements may be null.
fn input(what: &str, buffer: fl_in, bytes: u64) -> Outcome<Memory> {
    if buffer.data.is_null() && buffer.len != 0 {
        return Err(Failure::new(fl_status::FL_ERROR_NULL, format!("{what}: a null pointer")));
    }
    let address = buffer.data.addr() as u64;
    if !address.is_multiple_of(bytes) {
        let message = format!("{what}: an address that is no multiple of {bytes} bytes");
        return Err(Failure::new(fl_status::FL_ERROR_MEMORY, message));
    }
    if (buffer.len as u64).checked_mul(bytes).is_none_or(|n| n > isize::MAX as u64) {
        return Err(Failure::new(fl_status::FL_ERROR_LENGTH, format!("{what}: {} elements are too many", buffer.len)));
    }
    // Empty weights and gradients are there; they have an address that is never used.
    Ok(Memory { address, len: buffer.len })
}

/// A buffer that may be missing.
fn some_input(what: &str, buffer: fl_in, bytes: u64) -> Outcome<Option<Memory>> {
    if buffer.data.is_null() && (buffer.len == 0 || what.ends_with("_at")) {
        return Ok(None);
    }
    input(what, buffer, bytes).map(Some)
}

fn some_output(what: &str, buffer: fl_out, bytes: u64) -> Outcome<Option<Memory>> {
    if buffer.data.is_null() && buffer.len == 0 {
        return Ok(None);
    }
    input(what, fl_in { data: buffer.data, len: buffer.len }, bytes).map(Some)
}

/// Whether what is written overlaps anything else.
fn no_overlap(call: &fl_call, request: &Request) -> Outcome {
    let (wide, target_bytes) = (request.dtype.bytes, target_bytes(request));
    let written = [
        ("value", call.value.data, call.value.len, 4),
        ("grad_input", call.grad_input.data, call.grad_input.len, wide),
        ("grad_target", call.grad_target.data, call.grad_target.len, wide),
        ("grad_third", call.grad_third.data, call.grad_third.len, wide),
        ("terms", call.terms.data, call.terms.len, 4),
        ("log_prob", call.log_prob.data, call.log_prob.len, 4),
        ("entropy", call.entropy.data, call.entropy.len, 4),
        ("lse", call.lse.data, call.lse.len, 4),
        ("hit", call.hit.data, call.hit.len, 4),
        ("argmax", call.argmax.data, call.argmax.len, 8),
    ];
    let read = [
        ("input", call.input.data, call.input.len, wide),
        ("target", call.target.data, call.target.len, target_bytes),
        ("third", call.third.data, call.third.len, wide),
        ("weight", call.weight.data, call.weight.len, 4),
        ("sample_weight", call.sample_weight.data, call.sample_weight.len, 4),
        ("class_weight", call.class_weight.data, call.class_weight.len, 4),
        ("grad_outputs", call.grad_outputs.data, call.grad_outputs.len, 4),
        ("grad_output_at", call.grad_output_at.cast(), 1, 4),
        ("denominator_at", call.denominator_at.cast(), 1, 4),
    ];
    let range = |data: *const c_void, len: usize, bytes: u64| {
        let start = data.addr() as u64;
        (start, if data.is_null() { start } else { start + len as u64 * bytes })
    };
    for (k, &(out, data, len, bytes)) in written.iter().enumerate() {
        let (start, end) = range(data, len, bytes);
        let others = written[k + 1..].iter().map(|&(name, data, len, bytes)| (name, data.cast_const(), len, bytes));
        for (name, data, len, bytes) in others.chain(read) {
            let (from, to) = range(data, len, bytes);
            let in_place = request.in_place && (out, name) == ("grad_input", "input");
            if start < to && from < end && !in_place {
                return Err(Failure::new(fl_status::FL_ERROR_MEMORY, format!("{out} overlaps {name}")));
            }
        }
    }
    Ok(())
}

fn target_bytes(request: &Request) -> u64 {
    match request.targets {
        Targets::Nothing => 0,
        Targets::Dense(_) => request.dtype.bytes,
        Targets::I64(_) => 8,
        Targets::I32(_) | Targets::U32(_) => 4,
        Targets::U8(_) => 1,
    }
}

/// The relativistic average of real (the input) and fake (the target).
///
/// # Safety
/// As for [`run`].
pub(crate) unsafe fn run_average(handle: *const fl_handle, generator: bool, call: *const fl_call) -> Outcome {
    // SAFETY: the caller's promise, here and below.
    let (place, call) = unsafe { (&behind(handle, "handle")?.place, structs::read(call)?) };
    let request = request(&call)?;
    let unsupported = |what: &str| {
        let message = format!("relativistic average: {what} is not supported");
        Err(Failure::new(fl_status::FL_ERROR_UNSUPPORTED, message))
    };
    let Output::Reduced(Reduction::Mean, value) = request.output else {
        return unsupported("a reduction that is not FL_MEAN");
    };
    let Targets::Dense(fake) = request.targets else { return unsupported("a target of this kind") };
    if request.weight.is_some() || request.class_weight.is_some() || request.shape.is_some() {
        return unsupported("a weight, or a class axis,");
    }
    if request.third.is_some() || request.grad_third.is_some() || request.terms.is_some() {
        return unsupported("a third tensor, or terms,");
    }
    let Report { log_prob, entropy, lse, hit, argmax } = request.report;
    if [log_prob, entropy, lse, hit, argmax].iter().any(Option::is_some) {
        return unsupported("a report of its rows");
    }
    if request.in_place {
        return unsupported("a gradient in place");
    }
    let grads = match (request.grad_input, request.grad_target) {
        (Some(real), Some(fake)) => Some([real, fake]),
        (None, None) => None,
        _ => return unsupported("the gradient of one of the batches alone"),
    };
    for (what, of, grad) in [("grad_input", request.input, 0), ("grad_target", fake, 1)] {
        if let Some(grad) = grads.map(|grads| grads[grad]).filter(|grad| grad.len != of.len) {
            let message = format!("{what}: expected {} elements, got {}", of.len, grad.len);
            return Err(Failure::new(fl_status::FL_ERROR_LENGTH, message));
        }
    }
    // The side that should be above the mean of the other.
    let order = |pair: [Memory; 2]| if generator { [pair[1], pair[0]] } else { pair };
    let [high, low] = order([request.input, fake]);
    let average = raw::Average {
        dtype: request.dtype,
        high,
        low,
        grads: grads.map(order),
        value,
        grad_output: request.grad_output,
        accumulate: request.accumulate,
    };
    match place {
        Place::Cpu => Ok(unsafe { raw::average_on_cpu(&average) }?),
        #[cfg(feature = "cuda")]
        Place::Cuda(cuda) => Ok(unsafe { raw::average_on_cuda(cuda, &average) }?),
    }
}
