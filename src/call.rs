//! One call of a loss with everything that is not an option of the loss itself.

use crate::cpu::mem::{Dst, Src};
use crate::cuda::kernel::HasKernel;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::Combination;
use crate::reduction::Reduction;
use crate::report::HostReport;
use crate::shape::Shape;
use crate::target::Target;
use crate::third::Third;

/// A loss. Every loss of this crate has the methods it needs as its own, so this trait need not be
/// imported; it is here to be named in bounds, and cannot be implemented outside.
#[allow(private_bounds)]
pub trait Loss: Run + HasKernel + Copy + std::fmt::Debug + Send + Sync + 'static {
    /// The name of the loss in error messages.
    const NAME: &'static str;
}

/// What makes a [`Loss`] run on the CPU. Not generic over the element, so that the kernels are compiled once,
/// with this crate, and not again with every crate that calls them.
pub(crate) trait Run {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32>;
}

/// A request of any element type.
pub enum AnyRequest<'a> {
    F32(Request<'a, f32>),
    F16(Request<'a, half::f16>),
    Bf16(Request<'a, half::bf16>),
}

/// Runs an expression for the request behind an [`AnyRequest`].
macro_rules! for_request {
    ($any:expr, |$request:ident| $body:expr) => {
        match $any {
            $crate::call::AnyRequest::F32($request) => $body,
            $crate::call::AnyRequest::F16($request) => $body,
            $crate::call::AnyRequest::Bf16($request) => $body,
        }
    };
}
pub(crate) use for_request;

/// A call with its input and targets, to which weights, an upstream gradient and so on are added
/// before one of the verbs runs it. [`Mse::call`](crate::Mse::call) and its like make one.
///
/// | verb | value | gradient |
/// |---|---|---|
/// | `forward` | one number | - |
/// | `forward_backward` | one number | `grad_output * d(value)/d(input)` |
/// | `backward` | - | the same |
/// | `forward_unreduced` | one per element or row | - |
/// | `forward_backward_unreduced` | one per element or row | each times its own `grad_output` |
///
/// A call made by `call_in_place` has the verbs that write the gradient over the input instead.
///
/// ```
/// # use fused_loss::{Huber, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (input, target, weight) = ([0.5, 2.0], [0.0, 0.0], [1.0, 3.0]);
/// let mut grad = [0.0f32; 2];
/// let loss = Huber::new(1.0)?
///     .call(&input, &target)
///     .weight(&weight)
///     .grad_output(65536.0)
///     .forward_backward(Reduction::Sum, &mut grad)?;
/// assert_eq!(loss, 0.125 + 3.0 * 1.5);
/// assert_eq!(grad, [0.5 * 65536.0, 3.0 * 65536.0]);
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct Call<'a, L, T, I = &'a [T]> {
    pub(crate) loss: L,
    pub(crate) input: I,
    pub(crate) extras: Extras<'a, T>,
}

/// What a call may carry besides its input.
pub(crate) struct Extras<'a, T> {
    pub(crate) target: Target<'a, T>,
    pub(crate) shape: Option<Shape>,
    pub(crate) weight: Option<Weight<'a>>,
    pub(crate) class_weight: Option<&'a [f32]>,
    pub(crate) grad_output: f32,
    pub(crate) accumulate: bool,
    pub(crate) grad_target: Option<Dst<'a, T>>,
    /// The values of the terms of a combined loss.
    pub(crate) terms: Option<Dst<'a, f32>>,
    pub(crate) third: Third<'a, T>,
    pub(crate) report: HostReport<'a>,
}

/// Weights of elements, or of samples of several elements each.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    PerElement(&'a [f32]),
    PerSample(&'a [f32]),
}

/// A call with its outputs, as the backend gets it.
pub struct Request<'a, T> {
    pub(crate) input: Src<'a, T>,
    pub(crate) extras: Extras<'a, T>,
    pub(crate) grad_input: Option<Dst<'a, T>>,
    /// `grad_input` is the input.
    pub(crate) in_place: bool,
    pub(crate) output: Output<'a>,
}

impl<T: Element> Request<'_, T> {
    pub(crate) fn run<L: Loss>(self, loss: &L) -> Result<f32> {
        #[cfg(debug_assertions)]
        if let Some(outcome) = crate::elsewhere::run(loss, &self) {
            return outcome;
        }
        loss.run(T::erase(self))
    }
}

/// What becomes of the losses.
pub(crate) enum Output<'a> {
    Reduced(Reduction),
    Unreduced { losses: Option<Dst<'a, f32>>, grad_output: Option<&'a [f32]> },
}

impl<'a, L: Loss, T: Element, I> Call<'a, L, T, I> {
    pub(crate) fn new(loss: L, input: I, target: Target<'a, T>, shape: Option<Shape>) -> Self {
        let extras = Extras {
            target,
            shape,
            weight: None,
            class_weight: None,
            grad_output: 1.0,
            accumulate: false,
            grad_target: None,
            terms: None,
            third: Third::none(),
            report: HostReport::default(),
        };
        Call { loss, input, extras }
    }

    pub(crate) fn with_report(mut self, report: HostReport<'a>) -> Self {
        self.extras.report = report;
        self
    }

    pub(crate) fn with_terms(mut self, values: &'a mut [f32]) -> Self {
        self.extras.terms = Some(Dst::new(values));
        self
    }

    /// The third tensor: [`GaussianNll`](crate::GaussianNll)'s variances, [`MarginRanking`](crate::MarginRanking)'s labels,
    /// [`Dpo`](crate::Dpo)'s reference, [`CosineEmbedding`](crate::CosineEmbedding)'s labels of rows, [`TripletMargin`](crate::TripletMargin)'s negatives. Their own `call` takes it. Losses of two tensors refuse it.
    pub fn third(mut self, third: &'a [T]) -> Self {
        self.extras.third.input = Some(third);
        self
    }

    /// Also writes the gradient for the third tensor here, where the loss has one. Verbs without a gradient refuse it.
    pub fn grad_third(mut self, grad: &'a mut [T]) -> Self {
        self.extras.third.grad = Some(Dst::new(grad));
        self
    }

    /// One weight for each loss: each element of an element-wise loss, each row of a row-wise one. It
    /// multiplies value and gradient; only [`Reduction::WeightedMean`] divides by it. Replaces
    /// [`sample_weight`](Self::sample_weight).
    pub fn weight(mut self, weight: &'a [f32]) -> Self {
        self.extras.weight = Some(Weight::PerElement(weight));
        self
    }

    /// One weight for each sample. The number of samples must divide the number of losses; each
    /// weight is for that many consecutive ones. Replaces [`weight`](Self::weight).
    pub fn sample_weight(mut self, weight: &'a [f32]) -> Self {
        self.extras.weight = Some(Weight::PerSample(weight));
        self
    }

    /// One weight for each class: PyTorch's `weight` of cross-entropy, NLL and multi-margin, MONAI's
    /// of Dice, alpha of softmax focal, and `pos_weight` of binary cross-entropy with logits, for
    /// which the classes are the last axis. Losses without classes refuse it.
    pub fn class_weight(mut self, weight: &'a [f32]) -> Self {
        self.extras.class_weight = Some(weight);
        self
    }

    /// The gradient that comes from above: an AMP loss scale, the weight of this loss among others, or
    /// `1/k` of gradient accumulation. It is multiplied in before the gradient is rounded, so an f16
    /// gradient that would underflow without the scale does not. Defaults to 1.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.extras.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.extras.accumulate = true;
        self
    }

    /// Also writes the gradient for the targets here, where the loss has one: MSE, MAE, Huber, SmoothL1,
    /// log-cosh, quantile, binary cross-entropy, cross-entropy of dense targets (`CrossEntropyProbs` too),
    /// KL divergence, distillation, JSD, boxes, relativistic pairs, losses of three tensors, and sums of
    /// element-wise losses that all have one. Verbs without a gradient refuse it.
    pub fn grad_target(mut self, grad: &'a mut [T]) -> Self {
        self.extras.grad_target = Some(Dst::new(grad));
        self
    }
}

impl<'a, L: Combination, T: Element, I> Call<'a, L, T, I> {
    /// Also writes the value of each term here, in the order of the terms, reduced as the sum is but without its weight. Verbs
    /// without a reduction refuse it.
    pub fn terms(self, values: &'a mut [f32]) -> Self {
        self.with_terms(values)
    }
}

impl<'a, L: Loss, T: Element> Call<'a, L, T, &'a [T]> {
    /// The value.
    pub fn forward(self, reduction: Reduction) -> Result<f32> {
        self.without_gradient()?.run(None, Output::Reduced(reduction))
    }

    /// The value, and its gradient into `grad_input`.
    pub fn forward_backward(self, reduction: Reduction, grad_input: &'a mut [T]) -> Result<f32> {
        self.run(Some(grad_input), Output::Reduced(reduction))
    }

    /// The gradient alone: the same pass, without its value.
    pub fn backward(self, reduction: Reduction, grad_input: &'a mut [T]) -> Result<()> {
        self.forward_backward(reduction, grad_input).map(drop)
    }

    /// The value of each element or row into `losses`.
    pub fn forward_unreduced(self, losses: &'a mut [f32]) -> Result<()> {
        let output = Output::Unreduced { losses: Some(Dst::new(losses)), grad_output: None };
        self.without_gradient()?.run(None, output).map(drop)
    }

    /// The value of each element or row into `losses`, and into `grad_input` their gradients, each
    /// times its own `grad_output` (and the scalar one, if that is set too).
    pub fn forward_backward_unreduced(
        self,
        grad_output: &'a [f32],
        losses: &'a mut [f32],
        grad_input: &'a mut [T],
    ) -> Result<()> {
        let output = Output::Unreduced { losses: Some(Dst::new(losses)), grad_output: Some(grad_output) };
        self.run(Some(grad_input), output).map(drop)
    }

    /// The gradients of the unreduced form alone, each times its own `grad_output`.
    pub fn backward_unreduced(self, grad_output: &'a [f32], grad_input: &'a mut [T]) -> Result<()> {
        self.run(Some(grad_input), Output::Unreduced { losses: None, grad_output: Some(grad_output) }).map(drop)
    }

    /// For what the call reports besides.
    pub(crate) fn without_a_value(self) -> Result<()> {
        self.without_gradient()?.run(None, Output::Unreduced { losses: None, grad_output: None }).map(drop)
    }

    fn without_gradient(self) -> Result<Self> {
        if self.extras.grad_target.is_some() {
            return Err(Error::Unsupported { loss: L::NAME, what: "grad_target of a call that computes no gradient" });
        }
        if self.extras.third.grad.is_some() {
            return Err(Error::Unsupported { loss: L::NAME, what: "grad_third of a call that computes no gradient" });
        }
        Ok(self)
    }

    fn run(self, grad_input: Option<&'a mut [T]>, output: Output<'a>) -> Result<f32> {
        if let Some(grad) = &grad_input {
            check_len("grad_input", self.input.len(), grad.len())?;
        }
        let request = Request {
            input: Src::new(self.input),
            extras: self.extras,
            grad_input: grad_input.map(Dst::new),
            in_place: false,
            output,
        };
        request.run(&self.loss)
    }
}

impl<'a, L: Loss, T: Element> Call<'a, L, T, &'a mut [T]> {
    /// The value, and its gradient over the input.
    pub fn forward_backward(self, reduction: Reduction) -> Result<f32> {
        self.run(Output::Reduced(reduction))
    }

    /// The value of each element or row into `losses`, and over the input their gradients, each times
    /// its own `grad_output`.
    pub fn forward_backward_unreduced(self, grad_output: &'a [f32], losses: &'a mut [f32]) -> Result<()> {
        let output = Output::Unreduced { losses: Some(Dst::new(losses)), grad_output: Some(grad_output) };
        self.run(output).map(drop)
    }

    fn run(self, output: Output<'a>) -> Result<f32> {
        if self.extras.accumulate {
            return Err(Error::Unsupported { loss: L::NAME, what: "accumulate in place, over the input," });
        }
        let grad = Dst::new(self.input);
        let request =
            Request { input: grad.src(), extras: self.extras, grad_input: Some(grad), in_place: true, output };
        request.run(&self.loss)
    }
}

/// The methods of a loss with targets of the input's shape.
macro_rules! elementwise_methods {
    ($loss:ty) => {
        impl $loss {
            /// The value for `input` and `target`, of equal length.
            pub fn forward<T: $crate::Element>(
                &self,
                input: &[T],
                target: &[T],
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.call(input, target).forward(reduction)
            }

            /// The value, and its gradient for the input into `grad_input`, in one pass.
            pub fn forward_backward<T: $crate::Element>(
                &self,
                input: &[T],
                target: &[T],
                reduction: $crate::Reduction,
                grad_input: &mut [T],
            ) -> $crate::Result<f32> {
                self.call(input, target).forward_backward(reduction, grad_input)
            }

            /// The value, and its gradient over the input, in one pass.
            pub fn forward_backward_in_place<T: $crate::Element>(
                &self,
                input: &mut [T],
                target: &[T],
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.call_in_place(input, target).forward_backward(reduction)
            }

            /// The same on a device: a `Device`, or a `Cuda` handle.
            pub fn on<'d, P: $crate::Place>(&self, place: &'d P) -> P::On<'d, Self> {
                place.bind(*self)
            }

            /// The long form: weights, upstream gradient, accumulation, gradient for the targets,
            /// unreduced values.
            pub fn call<'a, T: $crate::Element>(&self, input: &'a [T], target: &'a [T]) -> $crate::Call<'a, Self, T> {
                $crate::Call::new(*self, input, $crate::Target::Dense(target), None)
            }

            /// The long form with the gradient written over the input.
            pub fn call_in_place<'a, T: $crate::Element>(
                &self,
                input: &'a mut [T],
                target: &'a [T],
            ) -> $crate::Call<'a, Self, T, &'a mut [T]> {
                $crate::Call::new(*self, input, $crate::Target::Dense(target), None)
            }
        }

        $crate::on::elementwise_methods!($loss);
        $crate::cuda::methods::elementwise_methods!($loss);
    };
}
pub(crate) use elementwise_methods;

/// The methods of a loss with a class axis.
macro_rules! class_methods {
    ($loss:ty) => {
        impl $loss {
            /// The value for `input` of the given shape. Targets are a slice, array or `Vec`: class
            /// indices (`i64`, `i32`, `u32`, `u8`), or dense, of the input's type and shape.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: &'a [T],
                target: impl Into<$crate::Target<'a, T>>,
                shape: impl Into<$crate::Shape>,
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.call(input, target, shape).forward(reduction)
            }

            /// The value, and its gradient for the input into `grad_input`, in one call.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: &'a [T],
                target: impl Into<$crate::Target<'a, T>>,
                shape: impl Into<$crate::Shape>,
                reduction: $crate::Reduction,
                grad_input: &'a mut [T],
            ) -> $crate::Result<f32> {
                self.call(input, target, shape).forward_backward(reduction, grad_input)
            }

            /// The value, and its gradient over the input, in one call.
            pub fn forward_backward_in_place<'a, T: $crate::Element>(
                &self,
                input: &'a mut [T],
                target: impl Into<$crate::Target<'a, T>>,
                shape: impl Into<$crate::Shape>,
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.call_in_place(input, target, shape).forward_backward(reduction)
            }

            /// The same on a device: a `Device`, or a `Cuda` handle.
            pub fn on<'d, P: $crate::Place>(&self, place: &'d P) -> P::On<'d, Self> {
                place.bind(*self)
            }

            /// The long form: weights, upstream gradient, accumulation, gradient for the targets,
            /// unreduced values.
            pub fn call<'a, T: $crate::Element>(
                &self,
                input: &'a [T],
                target: impl Into<$crate::Target<'a, T>>,
                shape: impl Into<$crate::Shape>,
            ) -> $crate::Call<'a, Self, T> {
                $crate::Call::new(*self, input, target.into(), Some(shape.into()))
            }

            /// The long form with the gradient written over the input.
            pub fn call_in_place<'a, T: $crate::Element>(
                &self,
                input: &'a mut [T],
                target: impl Into<$crate::Target<'a, T>>,
                shape: impl Into<$crate::Shape>,
            ) -> $crate::Call<'a, Self, T, &'a mut [T]> {
                $crate::Call::new(*self, input, target.into(), Some(shape.into()))
            }
        }

        $crate::on::class_methods!($loss);
        $crate::cuda::methods::class_methods!($loss);
    };
}
pub(crate) use class_methods;
