//! What a call on tensors must be, checked before anything is computed, in the words of tensors.

use candle_core::{DType, Device, Error, Result, Shape as Dims, Tensor};

use super::TensorCall;
use super::op::Plan;
use crate::call::Loss;
use crate::cuda::kernel::Losses;
use crate::reduction::Reduction;
use crate::shape::Shape;

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

pub(super) fn input_dtype(loss: &str, got: DType) -> Error {
    Error::Msg(format!("{loss}: input: expected f32, f16 or bf16, got {}", got.as_str())).bt()
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

fn expect_dims(loss: &str, what: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected != got {
        refuse!("{loss}: {what}: expected shape {expected:?}, got {got:?}");
    }
    Ok(())
}

/// What the dimensions of an input mean: its shape, where it has a class axis, and the shape of its losses.
fn anatomy<L: Loss>(call: &TensorCall<L>, losses: Losses, penalty: bool) -> Result<(Option<Shape>, Vec<usize>)> {
    let (dims, name) = (call.input.dims(), L::NAME);
    if losses == Losses::Elements || penalty {
        if call.classes_last {
            refuse!("{name}: classes_last: this loss has no class axis");
        }
        if losses == Losses::Elements {
            return Ok((None, dims.to_vec()));
        }
    }
    let shape = match dims {
        [] => refuse!("{name}: input: expected at least one axis, got a scalar"),
        [classes] => Ok((1, *classes).into()),
        // A sample is all that follows the first axis.
        [samples, rest @ ..] if penalty => Ok((*samples, rest.iter().product::<usize>()).into()),
        dims if call.classes_last => Shape::last_axis(dims),
        dims => Shape::channels_first(dims),
    };
    let shape = shape.map_err(Error::wrap)?;
    let losses = match (losses, dims) {
        (_, []) => vec![],
        (Losses::Regions { .. }, dims) if call.classes_last && dims.len() > 2 => {
            refuse!(
                "{name}: classes_last: regions of more than two axes have their classes on axis 1: permute the input"
            )
        }
        (Losses::Regions { batch, left_out }, dims) => {
            let counted = shape.classes().saturating_sub(left_out);
            if batch || dims.len() == 1 { vec![counted] } else { vec![dims[0], counted] }
        }
        (_, [_]) => vec![],
        (_, [samples, ..]) if penalty => vec![*samples],
        (_, [rest @ .., _]) if call.classes_last => rest.to_vec(),
        (_, [samples, _, rest @ ..]) => [&[*samples], rest].concat(),
    };
    Ok((Some(shape), losses))
}

impl<L: Loss> TensorCall<L> {
    pub(super) fn check(self, reduction: Option<Reduction>) -> Result<Checked<L>> {
        let (kernel, name) = (self.loss.kernel(), L::NAME);
        let (takes, losses) = (kernel.takes(), kernel.losses());
        let dtype = self.input.dtype();
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(input_dtype(name, dtype));
        }
        if !(self.input.device().is_cpu() || cfg!(feature = "candle-cuda") && self.input.device().is_cuda()) {
            return Err(device(name, &self.input));
        }
        let penalty = losses == Losses::Rows && !takes.index && !takes.dense;
        let (shape, mut dims) = anatomy(&self, losses, penalty)?;
        let mut tracked = [self.input.track_op(), false];
        match &self.target {
            None if takes.dense || takes.index => refuse!("{name}: target: expected one, got none: call `tensors`"),
            Some(_) if !(takes.dense || takes.index) => {
                refuse!("{name}: target: expected none, got one: call `tensor`")
            }
            None => {}
            Some(target) => {
                same_device(name, &self.input, "target", target)?;
                if target.dtype() == dtype && takes.dense {
                    expect_dims(name, "target", self.input.dims(), target.dims())?;
                    if target.track_op() && !takes.grad_target {
                        refuse!("{name}: target: this loss has no gradient for its target: pass `target.detach()`");
                    }
                    tracked[1] = target.track_op();
                } else if matches!(target.dtype(), DType::U8 | DType::U32 | DType::I32 | DType::I64) && takes.index {
                    // The one row of a vector may have its index in a vector of one.
                    if !(dims.is_empty() && target.dims() == [1]) {
                        let got = target.dims();
                        let per_row = if let Losses::Regions { .. } = losses { self.rows() } else { dims.clone() };
                        expect_dims(name, "target", &per_row, got)?;
                    } else {
                        dims = vec![1];
                    }
                } else {
                    let float = if takes.dense { Some(dtype.as_str()) } else { None };
                    let index = takes.index.then_some("class indices (u8, u32, i32 or i64)");
                    let expected: Vec<_> = float.into_iter().chain(index).collect();
                    refuse!("{name}: target: expected {}, got {}", expected.join(" or "), target.dtype().as_str());
                }
            }
        }
        let weight = match &self.weight {
            None => None,
            Some((weight, per_sample)) => {
                let what = if *per_sample { "sample_weight" } else { "weight" };
                let weight = self.weights(what, weight)?;
                if !per_sample {
                    expect_dims(name, what, &dims, weight.dims())?;
                } else if weight.rank() != 1 {
                    refuse!("{name}: {what}: expected one axis, got shape {:?}", weight.dims());
                }
                Some((weight, *per_sample))
            }
        };
        let class_weight = match &self.class_weight {
            None => None,
            Some(weight) => {
                let weight = self.weights("class_weight", weight)?;
                if losses == Losses::Elements && !self.input.dims().ends_with(weight.dims()) {
                    let (last, got) = (self.input.dims(), weight.dims());
                    refuse!("{name}: class_weight: expected the last axes of {last:?}, got shape {got:?}");
                }
                if losses != Losses::Elements && weight.rank() != 1 {
                    refuse!("{name}: class_weight: expected one axis, got shape {:?}", weight.dims());
                }
                Some(weight)
            }
        };
        let target = self.target.as_ref().map(Tensor::contiguous).transpose()?;
        let input = self.input.contiguous()?;
        let (loss, losses, grad_output) = (self.loss, Dims::from(dims), self.grad_output.unwrap_or(1.0));
        let plan = Plan { loss, shape, losses, weight, class_weight, reduction, grad_output };
        Ok(Checked { plan, input, target, tracked })
    }

    /// The dimensions of class-index targets: those of the input but the classes'.
    fn rows(&self) -> Vec<usize> {
        let mut dims = self.input.dims().to_vec();
        let axis = if self.classes_last { dims.len() - 1 } else { 1.min(dims.len() - 1) };
        dims.remove(axis);
        dims
    }

    /// Checks weights of any kind.
    fn weights(&self, what: &str, weight: &Tensor) -> Result<Tensor> {
        let name = L::NAME;
        same_device(name, &self.input, what, weight)?;
        if weight.dtype() != DType::F32 {
            refuse!("{name}: {what}: expected f32, got {}", weight.dtype().as_str());
        }
        if weight.track_op() {
            refuse!("{name}: {what}: weights get no gradient: pass `{what}.detach()`");
        }
        weight.contiguous()
    }
}
