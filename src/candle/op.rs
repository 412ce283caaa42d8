//! The operation on candle's graph, and what it is made of: a checked call, run where its tensors live.

use std::sync::{Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Error, Layout, Result, Shape as Dims, Storage, Tensor,
};

use super::cpu;
use crate::call::Loss;
use crate::reduction::Reduction;
use crate::shape::Shape;

/// A checked call without its input and target.
#[derive(Clone)]
pub(super) struct Plan<L> {
    pub(super) loss: L,
    /// `None` of an element-wise loss.
    pub(super) shape: Option<Shape>,
    /// The shape of the unreduced losses.
    pub(super) losses: Dims,
    /// And whether it is of samples.
    pub(super) weight: Option<(Tensor, bool)>,
    pub(super) class_weight: Option<Tensor>,
    pub(super) third: Option<Tensor>,
    /// `None` for unreduced losses.
    pub(super) reduction: Option<Reduction>,
    /// What a direct call multiplies its gradient by.
    pub(super) grad_output: f32,
}

/// What is asked of a plan.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) values: bool,
    /// For input and target.
    pub(super) grads: [bool; 2],
    /// The gradient from above, a scalar or one for each loss; 1 without.
    pub(super) upstream: Option<&'a Tensor>,
}

/// What a plan has made, in the order of [`Ask`].
pub(super) struct Made<S> {
    pub(super) values: Option<S>,
    pub(super) grads: [Option<S>; 2],
}

impl<S> Made<S> {
    fn map<R>(self, f: impl Fn(S) -> R) -> Made<R> {
        Made { values: self.values.map(&f), grads: self.grads.map(|g| g.map(&f)) }
    }
}

impl<L: Loss> Plan<L> {
    /// The shape of what a call returns.
    pub(super) fn result(&self) -> Dims {
        if self.reduction.is_some() { Dims::from(()) } else { self.losses.clone() }
    }

    /// Runs the plan where its tensors live.
    pub(super) fn run(&self, input: &Tensor, target: Option<&Tensor>, ask: Ask) -> Result<Made<Storage>> {
        let ((storage, layout), target) = (input.storage_and_layout(), target.map(Tensor::storage_and_layout));
        match &*storage {
            Storage::Cpu(input) => {
                let target = target.as_ref().map(|(t, l)| Ok::<_, Error>((cpu::host(t)?, *l))).transpose()?;
                Ok(cpu::run(self, (input, layout), target, ask)?.map(Storage::Cpu))
            }
            #[cfg(feature = "candle-cuda")]
            Storage::Cuda(input) => {
                use super::cuda;
                let target = target.as_ref().map(|(t, l)| Ok::<_, Error>((cuda::device(t)?, *l))).transpose()?;
                Ok(cuda::run(self, (input, layout), target, ask)?.map(Storage::Cuda))
            }
            _ => Err(super::check::device(L::NAME, input)),
        }
    }

    /// Runs the plan as an operation, on which `backward` can be called.
    pub(super) fn apply(self, input: &Tensor, target: Option<&Tensor>, grads: [bool; 2]) -> Result<Tensor> {
        let (dims, name) = (self.result(), L::NAME);
        if grads == [false; 2] {
            let made = self.run(input, target, Ask { values: true, grads, upstream: None })?;
            return tensor(made.values, dims).ok_or_else(|| Error::msg(format!("{name}: there is no value")));
        }
        // What upstream is turns up too late for f16: see the documentation of the module.
        let kept = match input.dtype() {
            DType::F32 => true,
            DType::BF16 => input.device().is_cpu(),
            _ => false,
        };
        let keeps = kept && self.reduction.is_some();
        let op = |target| Fused { plan: self, target, grads, keeps, kept: Mutex::new(None) };
        match target {
            Some(target) if grads[1] => input.apply_op2(target, op(None)),
            target => input.apply_op1(op(target.cloned())),
        }
    }
}

/// A tensor of what a plan has made, without a history.
pub(super) fn tensor(storage: Option<Storage>, dims: impl Into<Dims>) -> Option<Tensor> {
    storage.map(|storage| Tensor::from_storage(storage, dims, BackpropOp::none(), false))
}

/// The operation. Of one argument, the input; or of two, where the target has a gradient too.
struct Fused<L> {
    plan: Plan<L>,
    /// What is no argument.
    target: Option<Tensor>,
    /// Those that are asked for.
    grads: [bool; 2],
    /// Whether the gradients are computed together with the value.
    keeps: bool,
    /// They, until the first backward takes them.
    kept: Mutex<Option<[Option<Storage>; 2]>>,
}

impl<L: Loss> Fused<L> {
    fn ask(&self) -> Ask<'_> {
        Ask { values: true, grads: if self.keeps { self.grads } else { [false; 2] }, upstream: None }
    }

    fn keep<S>(&self, made: Made<S>, storage: impl Fn(S) -> Storage) -> Result<(S, Dims)> {
        if self.keeps {
            let grads = made.grads.map(|g| g.map(&storage));
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(grads);
        }
        let values = made.values.ok_or_else(|| Error::msg("a call that was asked for its value"))?;
        Ok((values, self.plan.result()))
    }

    fn on_cpu(&self, input: cpu::View, target: Option<cpu::View>) -> Result<(CpuStorage, Dims)> {
        self.keep(cpu::run(&self.plan, input, target, self.ask())?, Storage::Cpu)
    }

    #[cfg(feature = "candle-cuda")]
    fn on_cuda(&self, input: super::cuda::View, target: Option<super::cuda::View>) -> Result<(CudaStorage, Dims)> {
        self.keep(super::cuda::run(&self.plan, input, target, self.ask())?, Storage::Cuda)
    }

    #[cfg(not(feature = "candle-cuda"))]
    fn on_cuda(&self, _: (&CudaStorage, &Layout), _: Option<(&CudaStorage, &Layout)>) -> Result<(CudaStorage, Dims)> {
        Err(super::check::without_cuda(L::NAME))
    }

    fn back(&self, input: &Tensor, target: Option<&Tensor>, upstream: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dims = input.shape();
        let Some(kept) = kept else {
            let upstream = upstream.contiguous()?;
            let ask = Ask { values: false, grads: self.grads, upstream: Some(&upstream) };
            let made = self.plan.run(input, target, ask)?;
            return Ok(made.grads.map(|grad| tensor(grad, dims)));
        };
        let [on_input, on_target] = kept.map(|grad| grad.map(|grad| scaled(grad, dims, upstream)).transpose());
        Ok([on_input?, on_target?])
    }
}

/// A gradient times a scalar from above.
fn scaled(grad: Storage, dims: &Dims, upstream: &Tensor) -> Result<Tensor> {
    match grad {
        Storage::Cpu(grad) => {
            let grad = Storage::Cpu(cpu::scale(grad, upstream.to_scalar()?));
            Ok(Tensor::from_storage(grad, dims, BackpropOp::none(), false))
        }
        // Nobody knows the scalar here without waiting for the GPU.
        grad => Tensor::from_storage(grad, dims, BackpropOp::none(), false).broadcast_mul(upstream),
    }
}

impl<L: Loss> CustomOp1 for Fused<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Dims)> {
        let target = self.target.as_ref().map(Tensor::storage_and_layout);
        let target = target.as_ref().map(|(t, l)| Ok::<_, Error>((cpu::host(t)?, *l))).transpose()?;
        self.on_cpu((input, layout), target)
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, input: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Dims)> {
        let target = self.target.as_ref().map(Tensor::storage_and_layout);
        let target = target.as_ref().map(|(t, l)| Ok::<_, Error>((super::cuda::device(t)?, *l))).transpose()?;
        self.on_cuda((input, layout), target)
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let [grad, _] = self.back(input, self.target.as_ref(), upstream)?;
        Ok(grad)
    }
}

impl<L: Loss> CustomOp2 for Fused<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, of_x: &Layout, t: &CpuStorage, of_t: &Layout) -> Result<(CpuStorage, Dims)> {
        self.on_cpu((x, of_x), Some((t, of_t)))
    }

    fn cuda_fwd(&self, x: &CudaStorage, of_x: &Layout, t: &CudaStorage, of_t: &Layout) -> Result<(CudaStorage, Dims)> {
        self.on_cuda((x, of_x), Some((t, of_t)))
    }

    fn bwd(&self, x: &Tensor, t: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [on_input, on_target] = self.back(x, Some(t), upstream)?;
        Ok((on_input, on_target))
    }
}
