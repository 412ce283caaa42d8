//! Calls on candle's GPUs: on candle's stream, with candle's buffers.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{CudaDevice, CudaStorage, Error, Layout, Result, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaStream, CudaView};
use half::{bf16, f16};

use super::op::{Ask, Made, Plan};
use crate::call::Loss;
use crate::cuda::{Cuda, CudaCall, DeviceRef, DeviceScalar, DeviceTarget, OnCuda};
use crate::element::Element;
use crate::loss::RelativisticAverage;

/// A storage and where in it a tensor is.
pub(super) type View<'a> = (&'a CudaStorage, &'a Layout);

pub(super) fn run<L: Loss>(plan: &Plan<L>, input: View, target: Option<View>, ask: Ask) -> Result<Made<CudaStorage>> {
    match &input.0.slice {
        CudaStorageSlice::F32(_) => typed::<f32, L>(plan, input, target, ask),
        CudaStorageSlice::F16(_) => typed::<f16, L>(plan, input, target, ask),
        CudaStorageSlice::BF16(_) => typed::<bf16, L>(plan, input, target, ask),
        _ => Err(super::check::input_dtype(L::NAME, candle_core::backend::BackendStorage::dtype(input.0))),
    }
}

fn typed<T: Element + CudaDType, L: Loss>(
    plan: &Plan<L>,
    input: View,
    target: Option<View>,
    ask: Ask,
) -> Result<Made<CudaStorage>> {
    let device = &input.0.device;
    let cuda = handle(&device.cuda_stream())?;
    let weight = plan.weight.as_ref().map(|(w, _)| w);
    let [weight, class_weight, third, upstream] =
        [weight, plan.class_weight.as_ref(), plan.third.as_ref(), ask.upstream]
            .map(|t| t.map(Tensor::storage_and_layout));
    let x = slice::<T>(input)?;
    let n = x.len();
    let on = OnCuda { loss: plan.loss, cuda: &cuda };
    let mut call: CudaCall<'_, L, T> = CudaCall::new(on, x.into(), targets(target)?, plan.shape);
    if let (Some(w), Some((_, per_sample))) = (&weight, &plan.weight) {
        let w = slice_of(w)?;
        call = if *per_sample { call.sample_weight(w) } else { call.weight(w) };
    }
    if let Some(w) = &class_weight {
        call = call.class_weight(slice_of(w)?);
    }
    if let Some((storage, layout)) = &third {
        call = call.third(slice::<T>((self::device(storage)?, layout))?);
    }
    // A target's gradient comes with that of the input.
    let wanted = ask.grads[0] || ask.grads[1];
    let mut grad_input = wanted.then(|| fresh::<T>(device, n)).transpose()?;
    let mut grad_target = ask.grads[1].then(|| fresh::<T>(device, n)).transpose()?;
    if let Some(grad) = &mut grad_target {
        call = call.grad_target(grad);
    }
    let count = if plan.reduction.is_some() { 1 } else { plan.losses.elem_count() };
    let mut values = ask.values.then(|| fresh::<f32>(device, count)).transpose()?;
    let upstream = upstream.as_ref().map(slice_of).transpose()?;
    let done = match (plan.reduction, &mut values, &mut grad_input) {
        (Some(reduction), values, grad) => {
            // A number on the GPU is read there, when the call runs.
            let call = match upstream {
                Some(upstream) => call.grad_output(upstream),
                None => call.grad_output(plan.grad_output),
            };
            match (values, grad) {
                (Some(value), Some(grad)) => call.forward_backward(reduction, value, grad),
                (Some(value), None) => call.forward(reduction, value),
                (None, Some(grad)) => call.backward(reduction, grad),
                (None, None) => Ok(()),
            }
        }
        (None, _, Some(grad)) => match upstream {
            Some(upstream) => call.backward_unreduced(upstream, grad),
            None => return Err(Error::msg("unreduced gradients without upstream ones")),
        },
        (None, Some(losses), None) => call.forward_unreduced(losses),
        (None, None, None) => Ok(()),
    };
    done.map_err(Error::wrap)?;
    let wrap = |grad: CudaSlice<T>| CudaStorage::wrap_cuda_slice(grad, device.clone());
    let grads = [grad_input.filter(|_| ask.grads[0]), grad_target].map(|g| g.map(wrap));
    Ok(Made { values: values.map(|v| CudaStorage::wrap_cuda_slice(v, device.clone())), grads })
}

/// Memory that a call will write.
#[allow(unsafe_code)]
fn fresh<T: Element>(device: &CudaDevice, n: usize) -> Result<CudaSlice<T>> {
    // SAFETY: whatever bits are there are numbers; and every element is written before anyone reads it, for the stream is candle's.
    unsafe { device.alloc::<T>(n) }
}

/// The elements of a contiguous tensor, whose offset need not be zero.
fn slice<'a, T: CudaDType>((storage, layout): View<'a>) -> Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "fused-loss" }.bt());
    };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

fn slice_of<'a>((storage, layout): &'a (candle_core::StorageRef<'_>, &'a Layout)) -> Result<DeviceRef<'a, f32>> {
    Ok(slice::<f32>((self::device(storage)?, layout))?.into())
}

pub(super) fn device(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => Err(Error::msg("expected a tensor on the GPU")),
    }
}

fn targets<T: Element + CudaDType>(target: Option<View<'_>>) -> Result<DeviceTarget<'_, T>> {
    let Some(view) = target else { return Ok(DeviceTarget::Nothing) };
    Ok(match &view.0.slice {
        CudaStorageSlice::I64(_) => DeviceTarget::I64(slice(view)?.into()),
        CudaStorageSlice::I32(_) => DeviceTarget::I32(slice(view)?.into()),
        CudaStorageSlice::U32(_) => DeviceTarget::U32(slice(view)?.into()),
        CudaStorageSlice::U8(_) => DeviceTarget::U8(slice(view)?.into()),
        _ => DeviceTarget::Dense(slice(view)?.into()),
    })
}

/// The handle of a stream of candle's. To make one takes memory and a while, so they are kept, as long as anything else has the stream.
pub(super) fn handle(stream: &Arc<CudaStream>) -> Result<Arc<Cuda>> {
    static HANDLES: Mutex<Vec<Arc<Cuda>>> = Mutex::new(Vec::new());
    let mut handles = HANDLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cuda) = handles.iter().find(|cuda| Arc::ptr_eq(cuda.stream(), stream)) {
        return Ok(cuda.clone());
    }
    handles.retain(|cuda| Arc::strong_count(cuda.stream()) > 1);
    let cuda = Arc::new(Cuda::new(stream).map_err(Error::wrap)?);
    handles.push(cuda.clone());
    Ok(cuda)
}

/// The relativistic average: its value if `value`, and both gradients if there is an upstream one, 1 where that is `None`.
pub(super) fn average(
    high: View,
    low: View,
    value: bool,
    grads: Option<Option<&Tensor>>,
) -> Result<(Option<CudaStorage>, Option<[CudaStorage; 2]>)> {
    match &high.0.slice {
        CudaStorageSlice::F16(_) => average_of::<f16>(high, low, value, grads),
        CudaStorageSlice::BF16(_) => average_of::<bf16>(high, low, value, grads),
        _ => average_of::<f32>(high, low, value, grads),
    }
}

fn average_of<T: Element + CudaDType>(
    high: View,
    low: View,
    value: bool,
    grads: Option<Option<&Tensor>>,
) -> Result<(Option<CudaStorage>, Option<[CudaStorage; 2]>)> {
    let device = &high.0.device;
    let cuda = handle(&device.cuda_stream())?;
    let sides = [slice::<T>(high)?, slice::<T>(low)?];
    let mut value = value.then(|| fresh::<f32>(device, 1)).transpose()?;
    let mut both = match grads {
        Some(_) => Some([fresh::<T>(device, sides[0].len())?, fresh::<T>(device, sides[1].len())?]),
        None => None,
    };
    let upstream = grads.flatten().map(Tensor::storage_and_layout);
    let scalar = match &upstream {
        Some(upstream) => DeviceScalar::Device(slice_of(upstream)?),
        None => DeviceScalar::Host(1.0),
    };
    let on = RelativisticAverage::new().on(&*cuda);
    let outputs = both.as_mut().map(|both| both.each_mut().map(Into::into));
    let done =
        on.enqueue(["grad_real", "grad_fake"], sides.map(Into::into), value.as_mut().map(Into::into), outputs, scalar);
    done.map_err(Error::wrap)?;
    let wrap = |grad: CudaSlice<T>| CudaStorage::wrap_cuda_slice(grad, device.clone());
    Ok((value.map(|v| CudaStorage::wrap_cuda_slice(v, device.clone())), both.map(|both| both.map(wrap))))
}
