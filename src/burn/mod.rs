//! Losses on [burn](https://docs.rs/burn)'s tensors, with `backward`.
//!
//! ```
//! use burn_tensor::{Device, Distribution, Int, Tensor};
//! use fused_loss::burn::OnTensors;
//! use fused_loss::{CrossEntropy, Reduction};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let device = Device::flex().autodiff();
//!     let pixels = Tensor::<2>::random([32, 64], Distribution::Default, &device);
//!     let digits = Tensor::<1, Int>::zeros([32], &device);
//!     let weights = Tensor::<2>::random([64, 10], Distribution::Default, &device).require_grad();
//!
//!     let loss = CrossEntropy::new()
//!         .label_smoothing(0.1)?
//!         .tensors(&pixels.matmul(weights.clone()), &digits)
//!         .forward(Reduction::Mean)?; // of one element; its gradient has been computed in the same pass
//!     let grads = loss.backward();
//!     println!("{loss} {:?}", weights.grad(&grads));
//!     Ok(())
//! }
//! ```
//!
//! Every [`Loss`] has [`tensors`](OnTensors::tensors) (those of three tensors with [`third`](TensorCall::third)), GAN terms and gradient penalties have [`tensor`](OnTensors::tensor), and
//! [`GanLoss`](crate::GanLoss) and [`RelativisticAverage`](crate::RelativisticAverage) have [`pair`](OnPairs::pair) for a real and a
//! fake batch. Formulas, options and edge cases are on the page of each loss. [`TensorCall`] has weights, and the verbs.
//!
//! # Tensors
//!
//! | | type | shape |
//! |---|---|---|
//! | input | f32, f16 or bf16 | any of an element-wise loss; with classes `[rows, classes]`, `[n, classes, d1, ...]`, one row as `[classes]`, or [`classes_last`](TensorCall::classes_last) |
//! | dense target | the input's | the input's |
//! | class indices | `Int`, stored as u8, u32, i32 or i64 | the input's without its class axis; `[1]` for one row |
//! | a gradient penalty's input | as above | `[samples, ...]`: a sample is all that follows the first axis |
//! | value | f32 | `[1]`, burn's scalar, or one number a loss |
//! | gradient | the input's | the input's |
//!
//! Contiguous tensors are taken as they are, at any offset in their storage, and what is made is handed to burn as it is: nothing is
//! copied. Tensors that are not contiguous are made so first, which is a copy.
//!
//! # Backends
//!
//! **Flex**, burn's CPU backend, with autodiff (of either checkpointing strategy) or without. Tensors of other backends are refused
//! with an error that says so; `to_device(&Device::flex())` brings them, on the graph, by way of the host.
//!
//! **burn's CUDA backend is not served**: it runs kernels that it compiles itself from CUDA text, takes no PTX, and keeps its stream to
//! itself, so that a kernel of ours could be launched beside it only after waiting for the whole GPU on every call. Use cudarc's
//! buffers, candle or the C ABI on GPUs.
//!
//! # Gradients
//!
//! Where input or target is on burn's graph, `forward` computes value and gradient in one pass and keeps the gradient, as large as the
//! input, until `backward` takes it, multiplied by what comes from above if that is not 1. **f16** gradients are computed in `backward`
//! instead, so that what comes from above, an AMP loss scale, is multiplied in before they are rounded; so are those of
//! [`forward_unreduced`](TensorCall::forward_unreduced).
//!
//! Targets that are on the graph get their gradient too, where the loss has one (see [`Call::grad_target`](crate::Call::grad_target)).
//! Other losses refuse them, as all refuse weights on the graph, rather than lose a gradient in silence: pass `target.inner()` (burn's
//! `detach` makes a new leaf of a leaf). There are no second derivatives.

mod cpu;
mod op;
mod pair;
mod side;

use std::fmt;

use burn_flex::FlexTensor;
use burn_tensor::Tensor;

pub use pair::{OnPairs, TensorPair};
pub use side::Kind;
use side::{Side, scalar};

use crate::call::Loss;
use crate::reduction::Reduction;
use crate::tensors::{Described, Tensors};
use op::{Ask, Plan, Run, apply, in_order};

/// Why a call was refused: which tensor, what was expected and what came. Nothing has been computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        Error(error.to_string())
    }
}

/// What the verbs return.
pub type Result<T> = std::result::Result<T, Error>;

/// Losses on tensors: what `call` is on slices. Every [`Loss`] has it.
pub trait OnTensors: Loss {
    /// A call with these tensors: an input of f32, f16 or bf16, and a target, which is dense, of the input's type and shape, or of class
    /// indices, of the input's shape without the class axis.
    fn tensors<const D: usize, const T: usize, K: Kind>(
        &self,
        input: &Tensor<D>,
        target: &Tensor<T, K>,
    ) -> TensorCall<Self> {
        TensorCall::new(*self, Side::of("input", input), Some(Side::of("target", target)))
    }

    /// The same for a loss without targets: a GAN term, or a gradient penalty.
    fn tensor<const D: usize>(&self, input: &Tensor<D>) -> TensorCall<Self> {
        TensorCall::new(*self, Side::of("input", input), None)
    }
}

impl<L: Loss> OnTensors for L {}

/// A call with its tensors, to which weights are added before one of the verbs runs it. [`OnTensors`] makes one. The words are those of
/// [`Call`](crate::Call).
///
/// | verb | value | gradient |
/// |---|---|---|
/// | [`forward`](Self::forward) | f32, of one element | by burn's `backward` |
/// | [`forward_unreduced`](Self::forward_unreduced) | f32, one per element or row | by burn's `backward` |
/// | [`forward_backward`](Self::forward_backward) | an f32 | beside it, of the input's type and shape |
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct TensorCall<L> {
    loss: L,
    input: Result<Side>,
    target: Option<Result<Side>>,
    /// And whether it is of samples.
    weight: Option<(Result<Side>, bool)>,
    class_weight: Option<Result<Side>>,
    third: Option<Result<Side>>,
    classes_last: bool,
    grad_output: Option<f32>,
}

/// A checked call.
struct Checked<L> {
    plan: Plan<L>,
    input: Side,
    target: Option<Side>,
}

impl<L: Loss> TensorCall<L> {
    fn new(loss: L, input: Result<Side>, target: Option<Result<Side>>) -> Self {
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
    pub fn weight<const D: usize>(mut self, weight: &Tensor<D>) -> Self {
        self.weight = Some((Side::of("weight", weight), false));
        self
    }

    /// One f32 weight for each sample. See [`Call::sample_weight`](crate::Call::sample_weight).
    pub fn sample_weight(mut self, weight: &Tensor<1>) -> Self {
        self.weight = Some((Side::of("sample_weight", weight), true));
        self
    }

    /// One f32 weight for each class, in one axis; `pos_weight` of binary cross-entropy may have the input's last axes. See
    /// [`Call::class_weight`](crate::Call::class_weight).
    pub fn class_weight<const D: usize>(mut self, weight: &Tensor<D>) -> Self {
        self.class_weight = Some(Side::of("class_weight", weight));
        self
    }

    /// The third tensor of a loss of three, of the input's type, and of its shape, or of the shape of
    /// [`forward_unreduced`](Self::forward_unreduced) where it has one number a row. See [`Call::third`](crate::Call::third). It gets no
    /// gradient: a tensor that is on the graph is refused.
    pub fn third<const D: usize>(mut self, third: &Tensor<D>) -> Self {
        self.third = Some(Side::of("third", third));
        self
    }

    /// The classes are on the last axis, and not on axis 1: `[batch, tokens, vocabulary]`. For losses of rows.
    pub fn classes_last(mut self) -> Self {
        self.classes_last = true;
        self
    }

    /// What [`forward_backward`](Self::forward_backward) multiplies its gradient by before it is rounded, such as an AMP loss scale.
    /// The other verbs refuse it: there it is burn's to say, as in `(loss * 1024.0).backward()`.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = Some(grad_output);
        self
    }

    /// The value, of one element, on burn's graph.
    pub fn forward(self, reduction: Reduction) -> Result<Tensor<1>> {
        let (value, _) = self.on_graph(Some(reduction))?;
        Ok(value.tensor())
    }

    /// The value of each element or row, on burn's graph: in the shape of the input for element-wise losses, of class-index targets for
    /// those of rows, `[samples, classes]` for overlap losses (`[classes]` if they are of the batch). Another `D` is an error.
    pub fn forward_unreduced<const D: usize>(self) -> Result<Tensor<D>> {
        let (values, dims) = self.on_graph(None)?;
        if dims.len() != D {
            return Err(Error(format!("{}: the losses have the shape {dims:?}, which is not of {D} axes", L::NAME)));
        }
        Ok(values.tensor())
    }

    /// The value, and the gradient for the input, computed in one pass, without a graph.
    pub fn forward_backward<const D: usize>(self, reduction: Reduction) -> Result<(f32, Tensor<D>)> {
        let Checked { plan, input, target } = self.check(Some(reduction))?;
        if input.primitive().layout().num_dims() != D {
            return Err(Error(format!("{}: the gradient has the input's shape, which is not of {D} axes", L::NAME)));
        }
        let ask = Ask { values: true, grads: [true, false], upstream: None };
        let target = target.map(|target| in_order(target.primitive()));
        let made = plan.run(&in_order(input.primitive()), target.as_ref(), ask)?;
        let [grad, _] = made.grads;
        let both = made.values.as_ref().map(scalar).zip(grad);
        let (value, grad) = both.ok_or_else(|| Error(format!("{}: there is no gradient", L::NAME)))?;
        Ok((value, input.alike(grad).tensor()))
    }

    fn on_graph(self, reduction: Option<Reduction>) -> Result<(Side, Vec<usize>)> {
        if self.grad_output.is_some() {
            return Err(Error(format!("{}: grad_output: multiply the loss, or call `forward_backward`", L::NAME)));
        }
        let Checked { plan, input, target } = self.check(reduction)?;
        let dims = plan.result();
        Ok((apply(plan, input, target)?, dims))
    }

    fn check(self, reduction: Option<Reduction>) -> Result<Checked<L>> {
        let named = |error: Error| Error(format!("{}: {error}", L::NAME));
        let some = |side: Option<Result<Side>>| side.transpose().map_err(named);
        let input = self.input.map_err(named)?;
        let (target, class_weight, third) = (some(self.target)?, some(self.class_weight)?, some(self.third)?);
        let (weight, per_sample) = self.weight.map_or((None, false), |(weight, per_sample)| (Some(weight), per_sample));
        let weight = some(weight)?;
        let all = [Some(&input), target.as_ref(), weight.as_ref(), class_weight.as_ref(), third.as_ref()];
        let dims = all.map(|side| side.map_or(vec![], Side::dims));
        let described = |i: usize| {
            all[i].map(|side| Described {
                dims: &dims[i],
                dtype: side.primitive().dtype().name(),
                tracked: side.is_tracked(),
            })
        };
        let tensors = Tensors {
            input: described(0).expect("there is an input"),
            target: described(1),
            weight: described(2).map(|weight| (weight, per_sample)),
            class_weight: described(3),
            third: described(4),
            classes_last: self.classes_last,
            detach: "inner",
        };
        let meaning = tensors.check(&self.loss).map_err(Error)?;
        let contiguous = |side: Option<Side>| side.map(|side| in_order(side.primitive()));
        let plan = Plan {
            loss: self.loss,
            shape: meaning.shape,
            losses: meaning.losses,
            weight: contiguous(weight).map(|weight| (weight, per_sample)),
            class_weight: contiguous(class_weight),
            third: contiguous(third),
            reduction,
            grad_output: self.grad_output.unwrap_or(1.0),
        };
        // A target's history counts only where the loss has a gradient for it.
        let target = target.map(|target| if meaning.target_tracked { target } else { target.detached() });
        Ok(Checked { plan, input, target })
    }
}

/// What was computed, as a tensor of burn's.
fn flex<X: burn_backend::Element + bytemuck::Pod + Send + Sync>(x: Vec<X>, dims: &[usize]) -> FlexTensor {
    let dims = if dims.is_empty() { vec![1] } else { dims.to_vec() };
    FlexTensor::new(
        burn_backend::Bytes::from_elems(x),
        burn_flex::Layout::contiguous(burn_backend::Shape::from(dims)),
        X::dtype(),
    )
}
