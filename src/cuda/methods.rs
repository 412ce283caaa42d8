//! The methods that losses have on a GPU, said once for all kinds.

/// The methods of a kind of loss: what a call takes besides its input, and how it is put together.
macro_rules! methods {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $shape:expr)) => {
        #[cfg(feature = "cuda")]
        impl<'d> $crate::cuda::OnCuda<'d, $loss> {
            /// The value into `value`.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                value: impl Into<$crate::cuda::DeviceMut<'a, f32>>,
            ) -> $crate::Result<()>
            where
                'd: 'a,
            {
                self.call(input, $($arg),*).forward(reduction, value)
            }

            /// The value into `value`, and its gradient for the input into `grad_input`, in one pass.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                value: impl Into<$crate::cuda::DeviceMut<'a, f32>>,
                grad_input: impl Into<$crate::cuda::DeviceMut<'a, T>>,
            ) -> $crate::Result<()>
            where
                'd: 'a,
            {
                self.call(input, $($arg),*).forward_backward(reduction, value, grad_input)
            }

            /// The value into `value`, and its gradient over the input, in one pass.
            pub fn forward_backward_in_place<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceMut<'a, T>>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                value: impl Into<$crate::cuda::DeviceMut<'a, f32>>,
            ) -> $crate::Result<()>
            where
                'd: 'a,
            {
                self.call_in_place(input, $($arg),*).forward_backward(reduction, value)
            }

            /// The long form: weights, upstream gradient, accumulation, gradient for the targets, unreduced values.
            pub fn call<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t),*
            ) -> $crate::cuda::CudaCall<'a, $loss, T>
            where
                'd: 'a,
            {
                $crate::cuda::CudaCall::new(*self, input.into(), $target, $shape)
            }

            /// The long form with the gradient written over the input.
            pub fn call_in_place<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceMut<'a, T>>,
                $($arg: $t),*
            ) -> $crate::cuda::CudaCall<'a, $loss, T, $crate::cuda::DeviceMut<'a, T>>
            where
                'd: 'a,
            {
                $crate::cuda::CudaCall::new(*self, input.into(), $target, $shape)
            }
        }
    };
}
pub(crate) use methods;

/// Of a loss with targets of the input's shape.
macro_rules! elementwise_methods {
    ($loss:ty) => {
        $crate::cuda::methods::methods!($loss, (target: impl Into<$crate::cuda::DeviceRef<'a, T>>) =>
            ($crate::cuda::DeviceTarget::Dense(target.into()), None));
    };
}
pub(crate) use elementwise_methods;

/// The same of a loss of three tensors; each `$grad`, by the method `$verb` of a call, is what usually gets a gradient besides the input.
macro_rules! methods_of_three {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $third:expr, $shape:expr), $($verb:ident($grad:ident)),*) => {
        #[cfg(feature = "cuda")]
        #[allow(clippy::too_many_arguments)]
        impl<'d> $crate::cuda::OnCuda<'d, $loss> {
            /// The value into `value`.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                value: impl Into<$crate::cuda::DeviceMut<'a, f32>>,
            ) -> $crate::Result<()>
            where
                'd: 'a,
            {
                self.call(input, $($arg),*).forward(reduction, value)
            }

            /// The value into `value`, and its gradients, in one pass.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                value: impl Into<$crate::cuda::DeviceMut<'a, f32>>,
                grad_input: impl Into<$crate::cuda::DeviceMut<'a, T>>,
                $($grad: impl Into<$crate::cuda::DeviceMut<'a, T>>,)*
            ) -> $crate::Result<()>
            where
                'd: 'a,
            {
                self.call(input, $($arg),*)$(.$verb($grad))*.forward_backward(reduction, value, grad_input)
            }

            /// The long form: weights, upstream gradient, accumulation, gradients for the other tensors, unreduced values.
            pub fn call<'a, T: $crate::Element>(
                &self,
                input: impl Into<$crate::cuda::DeviceRef<'a, T>>,
                $($arg: $t),*
            ) -> $crate::cuda::CudaCall<'a, $loss, T>
            where
                'd: 'a,
            {
                $crate::cuda::CudaCall::new(*self, input.into(), $target, $shape).third($third)
            }
        }
    };
}
pub(crate) use methods_of_three;

/// Of an element-wise loss of three tensors.
macro_rules! elementwise_methods_of_three {
    ($loss:ty, $third:ident, $verb:ident($grad:ident)) => {
        $crate::cuda::methods::methods_of_three!($loss, (
            target: impl Into<$crate::cuda::DeviceRef<'a, T>>,
            $third: impl Into<$crate::cuda::DeviceRef<'a, T>>
        ) => ($crate::cuda::DeviceTarget::Dense(target.into()), $third, None), $verb($grad));
    };
}
pub(crate) use elementwise_methods_of_three;

/// Of a row-wise loss of three tensors.
macro_rules! row_methods_of_three {
    ($loss:ty, $target:ident, $third:ident, $($verb:ident($grad:ident)),+) => {
        $crate::cuda::methods::methods_of_three!($loss, (
            $target: impl Into<$crate::cuda::DeviceRef<'a, T>>,
            $third: impl Into<$crate::cuda::DeviceRef<'a, T>>,
            shape: impl Into<$crate::Shape>
        ) => ($crate::cuda::DeviceTarget::Dense($target.into()), $third, Some(shape.into())), $($verb($grad)),+);
    };
}
pub(crate) use row_methods_of_three;

/// Of a loss with a class axis.
macro_rules! class_methods {
    ($loss:ty) => {
        $crate::cuda::methods::methods!($loss, (
            target: impl Into<$crate::cuda::DeviceTarget<'a, T>>,
            shape: impl Into<$crate::Shape>
        ) => (target.into(), Some(shape.into())));
    };
}
pub(crate) use class_methods;
