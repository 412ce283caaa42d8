//! Calls on the CPU: candle's storage is slices, which the first door takes as they are.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::op::{Ask, Made, Plan};
use crate::call::{Call, Loss};
use crate::cpu::threads::shared;
use crate::element::Element;
use crate::fresh::Form;
use crate::target::Target;

/// A storage and where in it a tensor is.
pub(super) type View<'a> = (&'a CpuStorage, &'a Layout);

pub(super) fn run<L: Loss>(plan: &Plan<L>, input: View, target: Option<View>, ask: Ask) -> Result<Made<CpuStorage>> {
    match input.0 {
        CpuStorage::F32(_) => typed::<f32, L>(plan, input, target, ask),
        CpuStorage::F16(_) => typed::<f16, L>(plan, input, target, ask),
        CpuStorage::BF16(_) => typed::<bf16, L>(plan, input, target, ask),
        other => Err(super::check::input_dtype(L::NAME, candle_core::backend::BackendStorage::dtype(other))),
    }
}

fn typed<T: Element + WithDType, L: Loss>(
    plan: &Plan<L>,
    input: View,
    target: Option<View>,
    ask: Ask,
) -> Result<Made<CpuStorage>> {
    let weight = plan.weight.as_ref().map(|(w, _)| w.storage_and_layout());
    let class_weight = plan.class_weight.as_ref().map(Tensor::storage_and_layout);
    let third = plan.third.as_ref().map(Tensor::storage_and_layout);
    let each = ask.upstream.filter(|_| plan.reduction.is_none()).map(Tensor::storage_and_layout);
    let mut call = Call::new(plan.loss, slice::<T>(input)?, targets(target)?, plan.shape);
    if let (Some(w), Some((_, per_sample))) = (&weight, &plan.weight) {
        let w = slice_of(w)?;
        call = if *per_sample { call.sample_weight(w) } else { call.weight(w) };
    }
    if let Some(w) = &class_weight {
        call = call.class_weight(slice_of(w)?);
    }
    if let Some((storage, layout)) = &third {
        call = call.third(slice((host(storage)?, layout))?);
    }
    let form = match plan.reduction {
        Some(reduction) => {
            let upstream = ask.upstream.map(Tensor::to_scalar::<f32>).transpose()?;
            call = call.grad_output(plan.grad_output * upstream.unwrap_or(1.0));
            Form::Reduced(reduction)
        }
        None => Form::Unreduced {
            losses: ask.values.then(|| plan.losses.elem_count()),
            grad_output: each.as_ref().map(slice_of).transpose()?,
        },
    };
    let made = call.make(form, ask.grads).map_err(Error::wrap)?;
    let values = made.losses.or_else(|| ask.values.then(|| vec![made.value]));
    Ok(Made { values: values.map(CpuStorage::F32), grads: made.grads.map(|g| g.map(T::to_cpu_storage_owned)) })
}

/// The elements of a contiguous tensor, whose offset need not be zero.
pub(super) fn slice<'a, T: WithDType>((storage, layout): View<'a>) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "fused-loss" }.bt());
    };
    Ok(&storage.as_slice()?[start..end])
}

fn slice_of<'a>((storage, layout): &'a (candle_core::StorageRef<'_>, &'a Layout)) -> Result<&'a [f32]> {
    slice((host(storage)?, layout))
}

pub(super) fn host(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => Err(Error::msg("expected a tensor on the CPU")),
    }
}

fn targets<T: Element + WithDType>(target: Option<View<'_>>) -> Result<Target<'_, T>> {
    let Some(view) = target else { return Ok(Target::Nothing) };
    Ok(match view.0 {
        CpuStorage::I64(_) => Target::I64(slice(view)?),
        CpuStorage::I32(_) => Target::I32(slice(view)?),
        CpuStorage::U32(_) => Target::U32(slice(view)?),
        CpuStorage::U8(_) => Target::U8(slice(view)?),
        _ => Target::Dense(slice(view)?),
    })
}

/// Multiplies a gradient by what came from above, in place.
pub(super) fn scale(grad: CpuStorage, by: f32) -> CpuStorage {
    /// As many as stay in the first cache, and are worth a task.
    const CHUNK: usize = 1 << 14;
    match grad {
        grad if by == 1.0 => grad,
        CpuStorage::F32(mut x) => {
            shared(|| x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= by)));
            CpuStorage::F32(x)
        }
        CpuStorage::BF16(mut x) => {
            let times = |x: bf16| bf16::from_f32(x.to_f32() * by);
            shared(|| x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x = times(*x))));
            CpuStorage::BF16(x)
        }
        other => other,
    }
}
