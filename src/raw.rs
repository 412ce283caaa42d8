//! Calls by address: what the C ABI stands on. No part of the public interface.
#![allow(missing_docs, unsafe_code)]

use half::{bf16, f16};

use crate::call::{self, Extras, Loss};
use crate::cpu::mem::{Dst, Src};
pub use crate::cuda::request::{Average, Dtype, Memory, Output, Request, Scalar, Targets, Weight};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::RelativisticAverage;
use crate::reduction::Reduction;
use crate::target::Target;

/// Runs an expression with the type behind a [`Dtype`].
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.name {
            "f16" => {
                type $T = f16;
                $body
            }
            "bf16" => {
                type $T = bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// A call on the CPU. A device scalar is a number in host memory.
///
/// # Safety
/// Each [`Memory`] and address of the request is of host memory as long as it says and aligned as its type is. What the call writes,
/// nobody else uses meanwhile, and no other buffer of the call shares; only `grad_input` may be the input, in place.
pub unsafe fn on_cpu<L: Loss>(loss: &L, request: &Request) -> Result<()> {
    // SAFETY: the caller's promise.
    for_dtype!(request.dtype, T => unsafe { typed::<L, T>(loss, request) })
}

/// # Safety
/// As for [`on_cpu`].
unsafe fn typed<L: Loss, T: Element>(loss: &L, request: &Request) -> Result<()> {
    let unsupported = |what| Error::Unsupported { loss: L::NAME, what };
    if request.in_place && request.accumulate {
        return Err(unsupported("accumulate in place, over the input,"));
    }
    if request.grad_target.is_some() && request.grad_input.is_none() {
        return Err(unsupported("grad_target of a call that computes no gradient"));
    }
    if request.grad_third.is_some() && request.grad_input.is_none() {
        return Err(unsupported("grad_third of a call that computes no gradient"));
    }
    request.grad_input.map_or(Ok(()), |grad| check_len("grad_input", request.input.len, grad.len))?;
    let mut value = None;
    // SAFETY: the caller's promise, here and below.
    let outputs = unsafe {
        match request.output {
            Output::Reduced(reduction, to) => {
                value = to;
                call::Output::Reduced(reduction)
            }
            Output::Over(divisor, to) => {
                value = to;
                call::Output::Reduced(Reduction::SumOver(number(divisor).into()))
            }
            Output::Unreduced { losses, grad_output } => call::Output::Unreduced {
                losses: losses.map(|m| Dst::of(m)),
                grad_output: grad_output.map(|m| slice(m)),
            },
        }
    };
    value.map_or(Ok(()), |value| check_len("value", 1, value.len))?;
    // SAFETY: as above.
    let request = unsafe {
        call::Request::<T> {
            input: Src::of(request.input),
            extras: Extras {
                target: match request.targets {
                    Targets::Nothing => Target::Nothing,
                    Targets::Dense(m) => Target::Dense(slice(m)),
                    Targets::I64(m) => Target::I64(slice(m)),
                    Targets::I32(m) => Target::I32(slice(m)),
                    Targets::U32(m) => Target::U32(slice(m)),
                    Targets::U8(m) => Target::U8(slice(m)),
                },
                shape: request.shape,
                weight: request.weight.map(|weight| match weight {
                    Weight::PerElement(m) => call::Weight::PerElement(slice(m)),
                    Weight::PerSample(m) => call::Weight::PerSample(slice(m)),
                }),
                class_weight: request.class_weight.map(|m| slice(m)),
                grad_output: scalar(request.grad_output),
                accumulate: request.accumulate,
                grad_target: request.grad_target.map(|m| Dst::of(m)),
                terms: request.terms.map(|m| Dst::of(m)),
                third: crate::third::Third {
                    input: request.third.map(|m| slice(m)),
                    grad: request.grad_third.map(|m| Dst::of(m)),
                },
                report: request.report.of(|m| Ok(Dst::of(m)), |m| Ok(slice_mut::<i64>(m).into()))?,
            },
            grad_input: request.grad_input.map(|m| Dst::of(m)),
            in_place: request.in_place,
            output: outputs,
        }
    };
    let result = request.run(loss)?;
    if let Some(value) = value {
        // SAFETY: as above; its length has been checked.
        unsafe { (value.address as *mut f32).write(result) };
    }
    Ok(())
}

/// The relativistic average on the CPU.
///
/// # Safety
/// As for [`on_cpu`].
pub unsafe fn average_on_cpu(call: &Average) -> Result<()> {
    // SAFETY: the caller's promise.
    for_dtype!(call.dtype, T => unsafe { typed_average::<T>(call) })
}

/// # Safety
/// As for [`on_cpu`].
unsafe fn typed_average<T: Element>(call: &Average) -> Result<()> {
    call.value.map_or(Ok(()), |value| check_len("value", 1, value.len))?;
    // SAFETY: the caller's promise, here and below.
    let (high, low, grad_output) = unsafe { (slice::<T>(call.high), slice::<T>(call.low), scalar(call.grad_output)) };
    let mut loss = RelativisticAverage::new().grad_output(grad_output);
    if call.accumulate {
        loss = loss.accumulate();
    }
    let value = match call.grads {
        // SAFETY: as above.
        Some([g, h]) => unsafe { loss.discriminator(high, low, slice_mut(g), slice_mut(h)) }?,
        None => loss.discriminator_forward(high, low),
    };
    if let Some(to) = call.value {
        // SAFETY: as above; its length has been checked.
        unsafe { (to.address as *mut f32).write(value) };
    }
    Ok(())
}

unsafe fn slice<'a, X>(m: Memory) -> &'a [X] {
    // SAFETY: the caller's promise. An empty buffer may have no address.
    if m.len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(m.address as *const X, m.len) } }
}

unsafe fn slice_mut<'a, X>(m: Memory) -> &'a mut [X] {
    // SAFETY: as above.
    if m.len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(m.address as *mut X, m.len) } }
}

unsafe fn scalar(x: Scalar) -> f32 {
    match x {
        Scalar::Host(x) => x,
        // SAFETY: the caller's promise.
        Scalar::Device(address) => unsafe { number(address) },
    }
}

unsafe fn number(address: u64) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { (address as *const f32).read() }
}

/// A call on a GPU, which is enqueued.
///
/// # Safety
/// As for [`on_cpu`], of memory that the GPU can reach, until what is enqueued has been done.
#[cfg(feature = "cuda")]
pub unsafe fn on_cuda<L: Loss>(cuda: &crate::Cuda, loss: &L, request: &Request) -> Result<()> {
    cuda.bind()?;
    let weight = request.weight.map(|w| match w {
        Weight::PerElement(m) | Weight::PerSample(m) => m,
    });
    let outputs = match request.output {
        Output::Reduced(_, value) | Output::Over(_, value) => [value, None],
        Output::Unreduced { losses, grad_output } => [losses, grad_output],
    };
    let crate::Report { log_prob, entropy, lse, hit, argmax } = request.report;
    let written = [request.grad_input, request.grad_target, request.grad_third, request.terms]
        .into_iter()
        .chain([log_prob, entropy, lse, hit, argmax])
        .collect::<Vec<_>>();
    let others = [Some(request.targets.memory()), weight, request.class_weight, request.third];
    cuda.check_addresses([Some(request.input)].iter().chain(&others).chain(&written).chain(&outputs).flatten())?;
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run(&loss.kernel(), request, &mut cuda.launcher()) }
}

/// The relativistic average on a GPU, which is enqueued.
///
/// # Safety
/// As for [`on_cuda`].
#[cfg(feature = "cuda")]
pub unsafe fn average_on_cuda(cuda: &crate::Cuda, call: &Average) -> Result<()> {
    cuda.bind()?;
    let grads = call.grads.iter().flatten();
    cuda.check_addresses([call.high, call.low].iter().chain(grads).chain(&call.value))?;
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run_average(call, ["grad_high", "grad_low"], &mut cuda.launcher()) }
}

/// A call of a loss of any type, where the loss's own methods cannot be named.
pub fn call<'a, L: Loss, T: Element>(
    loss: L,
    input: &'a [T],
    target: Target<'a, T>,
    shape: Option<crate::Shape>,
) -> crate::Call<'a, L, T> {
    crate::Call::new(loss, input, target, shape)
}
