//! Calls: burn's storage is slices, which the first door takes as they are.

use burn_backend::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16};

use super::op::{Ask, Made, Plan};
use super::side::scalar;
use super::{Error, Result, flex};
use crate::call::{Call, Loss};
use crate::element::Element;
use crate::fresh::Form;
use crate::target::Target;

/// A storage type that burn has too.
pub(super) trait Stored: Element + burn_backend::Element + bytemuck::Pod {}
impl Stored for f32 {}
impl Stored for f16 {}
impl Stored for bf16 {}

pub(super) fn run<L: Loss>(plan: &Plan<L>, input: &FlexTensor, target: Option<&FlexTensor>, ask: Ask) -> Result<Made> {
    match input.dtype() {
        DType::F16 => typed::<f16, L>(plan, input, target, ask),
        DType::BF16 => typed::<bf16, L>(plan, input, target, ask),
        _ => typed::<f32, L>(plan, input, target, ask),
    }
}

fn typed<T: Stored, L: Loss>(
    plan: &Plan<L>,
    input: &FlexTensor,
    target: Option<&FlexTensor>,
    ask: Ask,
) -> Result<Made> {
    let mut call = Call::new(plan.loss, slice::<T>(input)?, targets(target)?, plan.shape);
    if let Some((weight, per_sample)) = &plan.weight {
        let weight = slice(weight)?;
        call = if *per_sample { call.sample_weight(weight) } else { call.weight(weight) };
    }
    if let Some(weight) = &plan.class_weight {
        call = call.class_weight(slice(weight)?);
    }
    if let Some(third) = &plan.third {
        call = call.third(slice(third)?);
    }
    let form = match plan.reduction {
        Some(reduction) => {
            call = call.grad_output(plan.grad_output * ask.upstream.map_or(1.0, scalar));
            Form::Reduced(reduction)
        }
        None => Form::Unreduced {
            losses: ask.values.then(|| plan.losses.iter().product()),
            grad_output: ask.upstream.map(slice).transpose()?,
        },
    };
    let made = call.make(form, ask.grads)?;
    let values = made.losses.or_else(|| ask.values.then(|| vec![made.value]));
    let dims = input.layout().shape();
    Ok(Made {
        values: values.map(|values| flex(values, &plan.result())),
        grads: made.grads.map(|grad| grad.map(|grad| flex(grad, dims))),
    })
}

/// The elements of a contiguous tensor.
pub(super) fn slice<X: burn_backend::Element + bytemuck::Pod>(x: &FlexTensor) -> Result<&[X]> {
    x.as_slice().ok_or_else(|| Error(format!("expected contiguous {}, got {}", X::dtype().name(), x.dtype().name())))
}

fn targets<T: Stored>(target: Option<&FlexTensor>) -> Result<Target<'_, T>> {
    let Some(target) = target else { return Ok(Target::Nothing) };
    Ok(match target.dtype() {
        DType::I64 => Target::I64(slice(target)?),
        DType::I32 => Target::I32(slice(target)?),
        DType::U32 => Target::U32(slice(target)?),
        DType::U8 => Target::U8(slice(target)?),
        _ => Target::Dense(slice(target)?),
    })
}
