//! Losses of three tensors: the third, which a call carries beside input and target, and the methods that take it.

use crate::cpu::mem::{Dst, Src};
use crate::element::Element;
use crate::error::{Error, Result, check_len};

/// What the third tensor of a loss has a number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThirdOf {
    Elements,
    Rows,
}

/// The third tensor of a loss of three, and where its gradient goes.
#[derive(Clone, Copy)]
pub(crate) struct Third<'a, T> {
    pub(crate) input: Option<&'a [T]>,
    pub(crate) grad: Option<Dst<'a, T>>,
}

impl<'a, T: Element> Third<'a, T> {
    pub(crate) fn none() -> Self {
        Third { input: None, grad: None }
    }

    /// The tensor, where the loss wants one of this length.
    pub(crate) fn check(&self, loss: &'static str, len: Option<usize>, has_grad: bool) -> Result<Option<Src<'a, T>>> {
        let Some(len) = len else {
            return match (self.input, &self.grad) {
                (None, None) => Ok(None),
                _ => Err(Error::Unsupported { loss, what: "a third tensor" }),
            };
        };
        let third = self.input.ok_or(Error::Unsupported { loss, what: "a call without its third tensor" })?;
        check_len("third", len, third.len())?;
        if let Some(grad) = &self.grad {
            if !has_grad {
                return Err(Error::Unsupported { loss, what: "a gradient for the third tensor" });
            }
            check_len("grad_third", len, grad.len())?;
        }
        Ok(Some(Src::new(third)))
    }
}

/// The methods of a loss of three tensors: what a call takes besides its input, and how it is put together; each `$grad`, by the method
/// `$verb` of a call, is what usually gets a gradient besides the input.
macro_rules! methods_of_three {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $third:expr, $shape:expr), $($verb:ident($grad:ident)),*) => {
        #[allow(clippy::too_many_arguments)]
        impl $loss {
            /// The value.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: &'a [T],
                $($arg: $t,)*
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.call(input, $($arg),*).forward(reduction)
            }

            /// The value, and its gradients, in one pass.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: &'a [T],
                $($arg: $t,)*
                reduction: $crate::Reduction,
                grad_input: &'a mut [T],
                $($grad: &'a mut [T],)*
            ) -> $crate::Result<f32> {
                self.call(input, $($arg),*)$(.$verb($grad))*.forward_backward(reduction, grad_input)
            }

            /// The long form: weights, upstream gradient, accumulation, gradients for the other tensors, unreduced values.
            pub fn call<'a, T: $crate::Element>(&self, input: &'a [T], $($arg: $t),*) -> $crate::Call<'a, Self, T> {
                $crate::Call::new(*self, input, $target, $shape).third($third)
            }

            /// The long form with the gradient written over the input.
            pub fn call_in_place<'a, T: $crate::Element>(
                &self,
                input: &'a mut [T],
                $($arg: $t),*
            ) -> $crate::Call<'a, Self, T, &'a mut [T]> {
                $crate::Call::new(*self, input, $target, $shape).third($third)
            }

            /// The same on a device: a `Device`, or a `Cuda` handle.
            pub fn on<'d, P: $crate::Place>(&self, place: &'d P) -> P::On<'d, Self> {
                place.bind(*self)
            }
        }
    };
}
pub(crate) use methods_of_three;

/// Of an element-wise loss of three tensors.
macro_rules! elementwise_methods_of_three {
    ($loss:ty, $third:ident, $verb:ident($grad:ident)) => {
        $crate::third::methods_of_three!($loss, (target: &'a [T], $third: &'a [T]) =>
            ($crate::Target::Dense(target), $third, None), $verb($grad));
        $crate::on::elementwise_methods_of_three!($loss, $third, $verb($grad));
        $crate::cuda::methods::elementwise_methods_of_three!($loss, $third, $verb($grad));
    };
}
pub(crate) use elementwise_methods_of_three;

/// Of a row-wise loss of three tensors.
macro_rules! row_methods_of_three {
    ($loss:ty, $target:ident, $third:ident, $($verb:ident($grad:ident)),+) => {
        $crate::third::methods_of_three!(
            $loss, ($target: &'a [T], $third: &'a [T], shape: impl Into<$crate::Shape>) =>
            ($crate::Target::Dense($target), $third, Some(shape.into())), $($verb($grad)),+
        );
        $crate::on::row_methods_of_three!($loss, $target, $third, $($verb($grad)),+);
        $crate::cuda::methods::row_methods_of_three!($loss, $target, $third, $($verb($grad)),+);
    };
}
pub(crate) use row_methods_of_three;
