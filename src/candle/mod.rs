//! Losses on [candle](https://docs.rs/candle-core)'s tensors, on the CPU and on GPUs, with `backward`.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use fused_loss::candle::OnTensors;
//! use fused_loss::{CrossEntropy, Reduction};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pixels = Tensor::randn(0f32, 1.0, (32, 64), &Device::Cpu)?;
//!     let digits = Tensor::zeros(32, DType::U32, &Device::Cpu)?;
//!     let weights = Var::randn(0f32, 0.1, (64, 10), &Device::Cpu)?;
//!
//!     let loss = CrossEntropy::new()
//!         .label_smoothing(0.1)?
//!         .tensors(&pixels.matmul(&weights)?, &digits)
//!         .forward(Reduction::Mean)?; // a scalar; its gradient has been computed in the same pass
//!     let grads = loss.backward()?;
//!     println!("{loss} {:?}", grads.get(&weights));
//!     Ok(())
//! }
//! ```
//!
//! Every [`Loss`] has [`tensors`](OnTensors::tensors) (those of three tensors with [`third`](TensorCall::third)), GAN terms and gradient penalties have [`tensor`](OnTensors::tensor), and
//! [`GanLoss`](crate::GanLoss) and [`RelativisticAverage`](crate::RelativisticAverage) have `tensors` of a real and a fake batch.
//! Formulas, options and edge cases are on the page of each loss. [`TensorCall`] has weights, and the verbs.
//!
//! # Tensors
//!
//! | | type | shape |
//! |---|---|---|
//! | input | f32, f16 or bf16 | any of an element-wise loss; with classes `(rows, classes)`, `(n, classes, d1, ...)`, one row as `(classes)`, or [`classes_last`](TensorCall::classes_last) |
//! | dense target | the input's | the input's |
//! | class indices | u8, u32, i32 or i64 | the input's without its class axis |
//! | a gradient penalty's input | as above | `(samples, ...)`: a sample is all that follows the first axis |
//! | value | f32 | a scalar, or one number a loss |
//! | gradient | the input's | the input's |
//!
//! All of them are on one device. Contiguous tensors are taken as they are, at any offset in their storage, others are made contiguous
//! first, which is a copy. On a GPU everything runs on candle's own stream: nothing waits, and nothing is copied to the host.
//!
//! # Gradients
//!
//! Where input or target is on candle's graph, `forward` computes value and gradient in one pass and keeps the gradient, as large as
//! the input, until `backward` takes it, multiplied by what comes from above (on the CPU not even that, if it is 1). A second
//! `backward` of the same value computes it anew, from what the tensors hold by then. Where neither is on a graph only the value is
//! computed.
//!
//! **f16** gradients are not kept but computed in `backward`, so that what comes from above, an AMP loss scale, is multiplied in before
//! they are rounded: the gradient of a mean may be too small for f16 before it. The same is true of bf16 on GPUs, where candle
//! would round the scale itself, and of [`forward_unreduced`](TensorCall::forward_unreduced).
//!
//! Targets that are on the graph get their gradient too, where the loss has one (see [`Call::grad_target`](crate::Call::grad_target)).
//! Other losses refuse them, as all refuse weights on the graph, rather than lose a gradient in silence: pass `target.detach()`. There are
//! no second derivatives.
//!
//! candle's `backward` adds every gradient that it is given to zeros of its own, which takes several times as long as the loss (and, in bf16 on
//! CPUs with AVX512-BF16, makes zeros of subnormal numbers). A
//! training loop that does not need the graph uses [`forward_backward`](TensorCall::forward_backward).
//!
//! # Errors
//!
//! They are candle's, and say which tensor, what was expected and what came: a wrong type, shape or device, a class out of range.
//! On a GPU the classes are seen only when the call runs: see [`check()`].
//!
//! # Features
//!
//! `candle` is for the CPU and needs nothing else. GPUs need `candle-cuda`, which turns on candle's own CUDA: that wants nvcc to
//! build, and links libcuda, so that such a program does not start where there is no driver.

use candle_core::{Error, Result, Tensor};

mod check;
mod cpu;
#[cfg(feature = "candle-cuda")]
mod cuda;
mod gan;
mod op;

use check::Checked;
pub use gan::TensorPair;
use op::{Ask, tensor};

use crate::call::Loss;
use crate::reduction::Reduction;

/// Losses on tensors: what `call` is on slices. Every [`Loss`] has it.
pub trait OnTensors: Loss {
    /// A call with these tensors: an input of f32, f16 or bf16, and a target, which is dense, of the input's type and shape, or of class
    /// indices (u8, u32, i32 or i64), of the input's shape without the class axis.
    fn tensors(&self, input: &Tensor, target: &Tensor) -> TensorCall<Self> {
        TensorCall::new(*self, input, Some(target))
    }

    /// The same for a loss without targets: a GAN term, or a gradient penalty.
    fn tensor(&self, input: &Tensor) -> TensorCall<Self> {
        TensorCall::new(*self, input, None)
    }
}

impl<L: Loss> OnTensors for L {}

/// A call with its tensors, to which weights are added before one of the verbs runs it. [`OnTensors`] makes one. The words are those of
/// [`Call`](crate::Call).
///
/// | verb | value | gradient |
/// |---|---|---|
/// | [`forward`](Self::forward) | an f32 scalar | by candle's `backward` |
/// | [`forward_unreduced`](Self::forward_unreduced) | f32, one per element or row | by candle's `backward` |
/// | [`forward_backward`](Self::forward_backward) | an f32 scalar | beside it, of the input's type and shape |
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct TensorCall<L> {
    loss: L,
    input: Tensor,
    target: Option<Tensor>,
    /// And whether it is of samples.
    weight: Option<(Tensor, bool)>,
    class_weight: Option<Tensor>,
    third: Option<Tensor>,
    classes_last: bool,
    grad_output: Option<f32>,
}

impl<L: Loss> TensorCall<L> {
    fn new(loss: L, input: &Tensor, target: Option<&Tensor>) -> Self {
        let (input, target) = (input.clone(), target.cloned());
        TensorCall {
            loss,
            input,
            target,
            weight: None,
            class_weight: None,
            third: None,
            classes_last: false,
            grad_output: None,
        }
    }

    /// One f32 weight for each loss, in the shape of [`forward_unreduced`](Self::forward_unreduced). See
    /// [`Call::weight`](crate::Call::weight).
    pub fn weight(mut self, weight: &Tensor) -> Self {
        self.weight = Some((weight.clone(), false));
        self
    }

    /// One f32 weight for each sample, in one axis. See [`Call::sample_weight`](crate::Call::sample_weight).
    pub fn sample_weight(mut self, weight: &Tensor) -> Self {
        self.weight = Some((weight.clone(), true));
        self
    }

    /// One f32 weight for each class, in one axis; `pos_weight` of binary cross-entropy may have the input's last axes. See
    /// [`Call::class_weight`](crate::Call::class_weight).
    pub fn class_weight(mut self, weight: &Tensor) -> Self {
        self.class_weight = Some(weight.clone());
        self
    }

    /// The third tensor of a loss of three, of the input's type, and of its shape, or of the shape of
    /// [`forward_unreduced`](Self::forward_unreduced) where it has one number a row. See [`Call::third`](crate::Call::third). It gets no
    /// gradient: a tensor that is on the graph is refused.
    pub fn third(mut self, third: &Tensor) -> Self {
        self.third = Some(third.clone());
        self
    }

    /// The classes are on the last axis, and not on axis 1: `(batch, tokens, vocabulary)`. For losses of rows.
    pub fn classes_last(mut self) -> Self {
        self.classes_last = true;
        self
    }

    /// What [`forward_backward`](Self::forward_backward) multiplies its gradient by before it is rounded, such as an AMP loss scale.
    /// The other verbs refuse it: there it is candle's to say, as in `(loss * 1024.0)?.backward()`.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = Some(grad_output);
        self
    }

    /// The value, on candle's graph.
    pub fn forward(self, reduction: Reduction) -> Result<Tensor> {
        self.on_graph(Some(reduction))
    }

    /// The value of each element or row, on candle's graph: in the shape of the input for element-wise losses, of class-index targets
    /// for those of rows, `(samples, classes)` for overlap losses (`(classes)` if they are of the batch).
    pub fn forward_unreduced(self) -> Result<Tensor> {
        self.on_graph(None)
    }

    /// The value and its gradient for the input, computed in one pass, without a graph.
    pub fn forward_backward(self, reduction: Reduction) -> Result<(Tensor, Tensor)> {
        let Checked { plan, input, target, .. } = self.check(Some(reduction))?;
        let ask = Ask { values: true, grads: [true, false], upstream: None };
        let op::Made { values, grads: [grad, _] } = plan.run(&input, target.as_ref(), ask)?;
        let both = tensor(values, ()).zip(tensor(grad, input.shape()));
        both.ok_or_else(|| Error::msg(format!("{}: there is no gradient", L::NAME)))
    }

    fn on_graph(self, reduction: Option<Reduction>) -> Result<Tensor> {
        if self.grad_output.is_some() {
            check::refuse!("{}: grad_output: multiply the loss, or call `forward_backward`", L::NAME);
        }
        let Checked { plan, input, target, tracked } = self.check(reduction)?;
        plan.apply(&input, target.as_ref(), tracked)
    }
}

/// Waits for a GPU, and fails if any call on it since the last check met a class index that is neither a class nor the ignored one: the
/// GPU sees the indices only when it runs, and then gives that row a gradient of zero and the call the value NaN. On the CPU, where such
/// a call is refused, this does nothing.
pub fn check(device: &candle_core::Device) -> Result<()> {
    match device {
        #[cfg(feature = "candle-cuda")]
        candle_core::Device::Cuda(device) => cuda::handle(&device.cuda_stream())?.check().map_err(Error::wrap),
        _ => Ok(()),
    }
}
