//! What a call on tensors must be, checked before anything is computed, in the words of tensors.

use candle_core::{DType, Device, Error, Result, Shape as Dims, Tensor};

use super::TensorCall;
use super::op::Plan;
use crate::call::Loss;
use crate::reduction::Reduction;
use crate::tensors::{Described, Tensors, check_input_dtype};

/// A checked call: its tensors contiguous, and which of input and target have a history.
pub(super) struct Checked<L> {
    pub(super) plan: Plan<L>,
    pub(super) input: Tensor,
    pub(super) target: Option<Tensor>,
    pub(super) tracked: [bool; 2],
}

macro_rules! refuse {
    ($($text:tt)*) => {
        return Err(Error::Msg(format!($($text)*)).bt())
    };
}
pub(super) use refuse;

/// The error for an input of a type that is none of ours.
pub(super) fn input_dtype(loss: &str, got: DType) -> Error {
    refused(check_input_dtype(loss, got.as_str()).err().unwrap_or_default())
}

fn refused(words: String) -> Error {
    Error::Msg(words).bt()
}

/// The error for a tensor on a device that is none of ours.
pub(super) fn device(loss: &str, x: &Tensor) -> Error {
    match x.device() {
        Device::Cuda(_) => without_cuda(loss),
        other => Error::Msg(format!("{loss}: input: expected a tensor on the CPU or a CUDA GPU, got {}", place(other))),
    }
}

pub(super) fn without_cuda(loss: &str) -> Error {
    Error::Msg(format!("{loss}: input: a tensor on a GPU needs fused-loss built with its feature `candle-cuda`")).bt()
}

fn place(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "the CPU".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("CUDA GPU {gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("Metal GPU {gpu_id}"),
    }
}

/// That two tensors of a call are on one device.
pub(super) fn same_device(loss: &str, input: &Tensor, what: &str, x: &Tensor) -> Result<()> {
    if x.device().location() != input.device().location() {
        refuse!(
            "{loss}: {what}: expected a tensor on {}, where the input is, got {}",
            place(input.device()),
            place(x.device())
        );
    }
    Ok(())
}

impl<L: Loss> TensorCall<L> {
    pub(super) fn check(self, reduction: Option<Reduction>) -> Result<Checked<L>> {
        let (input, dtype) = (&self.input, self.input.dtype());
        check_input_dtype(L::NAME, dtype.as_str()).map_err(refused)?;
        if !(input.device().is_cpu() || cfg!(feature = "candle-cuda") && input.device().is_cuda()) {
            return Err(device(L::NAME, input));
        }
        let weights =
            self.weight.as_ref().map(|(w, per_sample)| (if *per_sample { "sample_weight" } else { "weight" }, w));
        let others = [
            self.target.as_ref().map(|t| ("target", t)),
            weights,
            self.class_weight.as_ref().map(|w| ("class_weight", w)),
            self.third.as_ref().map(|third| ("third", third)),
        ];
        for (what, x) in others.into_iter().flatten() {
            same_device(L::NAME, input, what, x)?;
        }
        let tensors = Tensors {
            input: described(input),
            target: self.target.as_ref().map(described),
            weight: self.weight.as_ref().map(|(w, per_sample)| (described(w), *per_sample)),
            class_weight: self.class_weight.as_ref().map(described),
            third: self.third.as_ref().map(described),
            classes_last: self.classes_last,
            detach: "detach",
        };
        let meaning = tensors.check(&self.loss).map_err(refused)?;
        let tracked = [input.track_op(), meaning.target_tracked];
        let contiguous = |x: &Option<Tensor>| x.as_ref().map(Tensor::contiguous).transpose();
        let plan = Plan {
            loss: self.loss,
            shape: meaning.shape,
            losses: Dims::from(meaning.losses),
            weight: self.weight.as_ref().map(|(w, s)| Ok::<_, Error>((w.contiguous()?, *s))).transpose()?,
            class_weight: contiguous(&self.class_weight)?,
            third: contiguous(&self.third)?,
            reduction,
            grad_output: self.grad_output.unwrap_or(1.0),
        };
        Ok(Checked { plan, input: input.contiguous()?, target: contiguous(&self.target)?, tracked })
    }
}

fn described(x: &Tensor) -> Described<'_> {
    Described { dims: x.dims(), dtype: x.dtype().as_str(), tracked: x.track_op() }
}
