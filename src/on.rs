//! A loss bound to a place by its `on` method.

use crate::call::{Call, Loss};
use crate::device::{Buffer, Device, Kind};
use crate::element::Element;
use crate::error::Result;
use crate::loss::CrossEntropy;
use crate::reduction::Reduction;
use crate::report::Report;
use crate::shape::Shape;
use crate::target::Target;

mod gan;
#[cfg(feature = "head")]
pub(crate) mod head;

/// Where a loss can be bound by its `on` method: a [`Device`], or, with the feature `cuda`, a `Cuda` handle. It need not be imported,
/// and cannot be implemented outside.
#[allow(private_bounds)]
pub trait Place: Sealed {
    /// The loss bound to it.
    type On<'d, L>
    where
        Self: 'd;

    #[doc(hidden)]
    fn bind<L>(&self, loss: L) -> Self::On<'_, L>;
}

pub(crate) trait Sealed {}

impl Sealed for Device {}
impl Place for Device {
    type On<'d, L> = On<'d, L>;

    fn bind<L>(&self, loss: L) -> On<'_, L> {
        On { loss, device: self, grad_output: 1.0, accumulate: false, weight: None, class_weight: None }
    }
}

#[cfg(feature = "cuda")]
impl Sealed for crate::Cuda {}
#[cfg(feature = "cuda")]
impl Place for crate::Cuda {
    type On<'d, L> = crate::OnCuda<'d, L>;

    fn bind<L>(&self, loss: L) -> crate::OnCuda<'_, L> {
        crate::OnCuda { loss, cuda: self }
    }
}

/// A loss bound to a [`Device`] by its `on` method.
#[derive(Clone, Copy, Debug)]
pub struct On<'d, L> {
    pub(crate) loss: L,
    device: &'d Device,
    grad_output: f32,
    accumulate: bool,
    weight: Option<Weight<'d>>,
    class_weight: Option<&'d Buffer<f32>>,
}

#[derive(Clone, Copy, Debug)]
enum Weight<'d> {
    PerElement(&'d Buffer<f32>),
    PerSample(&'d Buffer<f32>),
}

/// The targets of a call on a [`Device`]: made by `into()` from a buffer of the input's type (dense targets), or of `i64`, `i32`, `u32`
/// or `u8` (class indices, one a row).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BufferTarget<'a, T> {
    /// The loss needs none, as a GAN term.
    Nothing,
    /// One value for each input element.
    Dense(&'a Buffer<T>),
    /// One class a row.
    I64(&'a Buffer<i64>),
    /// One class a row.
    I32(&'a Buffer<i32>),
    /// One class a row.
    U32(&'a Buffer<u32>),
    /// One class a row.
    U8(&'a Buffer<u8>),
}

macro_rules! targets {
    ($($variant:ident: $t:ty,)*) => {
        $(
            impl<'a, T: Element> From<&'a Buffer<$t>> for BufferTarget<'a, T> {
                fn from(x: &'a Buffer<$t>) -> Self { BufferTarget::$variant(x) }
            }
        )*

        impl<'a, T: Element> BufferTarget<'a, T> {
            fn host(self) -> Result<Target<'a, T>> {
                Ok(match self {
                    BufferTarget::Nothing => Target::Nothing,
                    $(BufferTarget::$variant(x) => Target::$variant(x.host()?),)*
                })
            }

            #[cfg(feature = "cuda")]
            fn device(self) -> Result<crate::DeviceTarget<'a, T>> {
                Ok(match self {
                    BufferTarget::Nothing => crate::DeviceTarget::Nothing,
                    $(BufferTarget::$variant(x) => crate::DeviceTarget::$variant(x.device()?),)*
                })
            }
        }
    };
}
targets! {
    Dense: T,
    I64: i64,
    I32: i32,
    U32: u32,
    U8: u8,
}

impl<'d, L> On<'d, L> {
    /// The device.
    pub fn device(&self) -> &'d Device {
        self.device
    }

    /// See [`Call::weight`].
    pub fn weight(mut self, weight: &'d Buffer<f32>) -> Self {
        self.weight = Some(Weight::PerElement(weight));
        self
    }

    /// See [`Call::sample_weight`].
    pub fn sample_weight(mut self, weight: &'d Buffer<f32>) -> Self {
        self.weight = Some(Weight::PerSample(weight));
        self
    }

    /// See [`Call::class_weight`].
    pub fn class_weight(mut self, weight: &'d Buffer<f32>) -> Self {
        self.class_weight = Some(weight);
        self
    }

    /// The upstream gradient; see [`Call::grad_output`].
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }
}

/// Sets what a bound loss has on a call, whose buffers are had by `$get`.
macro_rules! extended {
    ($on:expr, $call:expr, $get:ident) => {{
        let mut call = $call.grad_output($on.grad_output);
        match $on.weight {
            None => {}
            Some(Weight::PerElement(w)) => call = call.weight(w.$get()?),
            Some(Weight::PerSample(w)) => call = call.sample_weight(w.$get()?),
        }
        if let Some(w) = $on.class_weight {
            call = call.class_weight(w.$get()?);
        }
        if $on.accumulate { call.accumulate() } else { call }
    }};
}

/// What a call writes besides.
pub(crate) enum Also<'a> {
    Nothing,
    Terms(&'a mut Buffer<f32>),
    Report(Report<&'a mut Buffer<f32>, &'a mut Buffer<i64>>),
}

impl<L: Loss> On<'_, L> {
    pub(crate) fn run<T: Element>(
        &self,
        input: &Buffer<T>,
        (target, third): (BufferTarget<'_, T>, Option<&Buffer<T>>),
        shape: Option<Shape>,
        reduction: Reduction,
        [grad_input, grad_target, grad_third]: [Option<&mut Buffer<T>>; 3],
        also: Also<'_>,
    ) -> Result<f32> {
        match self.device.kind() {
            Kind::Cpu => {
                let mut call = extended!(self, Call::new(self.loss, input.host()?, target.host()?, shape), host);
                if let Some(grad) = grad_target {
                    call = call.grad_target(grad.host_mut()?);
                }
                call = match also {
                    Also::Nothing => call,
                    Also::Terms(terms) => call.with_terms(terms.host_mut()?),
                    Also::Report(report) => {
                        call.with_report(report.of(|x| Ok(x.host_mut()?.into()), |x| Ok(x.host_mut()?.into()))?)
                    }
                };
                if let Some(third) = third {
                    call = call.third(third.host()?);
                }
                if let Some(grad) = grad_third {
                    call = call.grad_third(grad.host_mut()?);
                }
                match grad_input {
                    Some(grad) => call.forward_backward(reduction, grad.host_mut()?),
                    None => call.forward(reduction),
                }
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let on = crate::OnCuda { loss: self.loss, cuda: &gpu.cuda };
                let call = crate::CudaCall::new(on, input.device()?, target.device()?, shape);
                let mut call = extended!(self, call, device);
                if let Some(grad) = grad_target {
                    call = call.grad_target(grad.device_mut()?);
                }
                call = match also {
                    Also::Nothing => call,
                    Also::Terms(terms) => call.with_terms(terms.device_mut()?),
                    Also::Report(report) => call.with_report(report.of(Buffer::device_mut, Buffer::device_mut)?),
                };
                if let Some(third) = third {
                    call = call.third(third.device()?);
                }
                if let Some(grad) = grad_third {
                    call = call.grad_third(grad.device_mut()?);
                }
                let checked = target.is_index();
                let values = gpu.values(checked, |value, _| match grad_input {
                    Some(grad) => call.forward_backward(reduction, value, grad.device_mut()?),
                    None => call.forward(reduction, value),
                });
                Ok(target.explain(values, shape)?[0])
            }
        }
    }

    /// Without a reduction; with an upstream gradient for each loss, the gradients too.
    pub(crate) fn run_unreduced<T: Element>(
        &self,
        input: &Buffer<T>,
        target: BufferTarget<'_, T>,
        shape: Option<Shape>,
        losses: &mut Buffer<f32>,
        grads: Option<(&Buffer<f32>, &mut Buffer<T>)>,
    ) -> Result<()> {
        match self.device.kind() {
            Kind::Cpu => {
                let call = extended!(self, Call::new(self.loss, input.host()?, target.host()?, shape), host);
                match grads {
                    Some((grad_output, grad)) => {
                        call.forward_backward_unreduced(grad_output.host()?, losses.host_mut()?, grad.host_mut()?)
                    }
                    None => call.forward_unreduced(losses.host_mut()?),
                }
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let on = crate::OnCuda { loss: self.loss, cuda: &gpu.cuda };
                let call = crate::CudaCall::new(on, input.device()?, target.device()?, shape);
                let call = extended!(self, call, device);
                match grads {
                    Some((grad_output, grad)) => {
                        call.forward_backward_unreduced(grad_output.device()?, losses.device_mut()?, grad.device_mut()?)
                    }
                    None => call.forward_unreduced(losses.device_mut()?),
                }?;
                target.checked(&gpu.cuda, shape)
            }
        }
    }

    pub(crate) fn run_in_place<T: Element>(
        &self,
        input: &mut Buffer<T>,
        target: BufferTarget<'_, T>,
        shape: Option<Shape>,
        reduction: Reduction,
    ) -> Result<f32> {
        match self.device.kind() {
            Kind::Cpu => {
                let call = Call::new(self.loss, input.host_mut()?, target.host()?, shape);
                extended!(self, call, host).forward_backward(reduction)
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let on = crate::OnCuda { loss: self.loss, cuda: &gpu.cuda };
                let call = crate::CudaCall::new(on, input.device_mut()?, target.device()?, shape);
                let call = extended!(self, call, device);
                let values = gpu.values(target.is_index(), |value, _| call.forward_backward(reduction, value));
                Ok(target.explain(values, shape)?[0])
            }
        }
    }
}

impl On<'_, CrossEntropy> {
    /// The log-probability of each row's target into `log_prob`, and nothing else. See [`CrossEntropy::log_probs`].
    pub fn log_probs<'a, T: Element>(
        &self,
        input: &'a Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        shape: impl Into<Shape>,
        log_prob: &mut Buffer<f32>,
    ) -> Result<()> {
        let (target, shape) = (target.into(), shape.into());
        match self.device.kind() {
            Kind::Cpu => self.loss.log_probs(input.host()?, target.host()?, shape, log_prob.host_mut()?),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let on = self.loss.on(&gpu.cuda);
                on.log_probs(input.device()?, target.device()?, shape, log_prob.device_mut()?)?;
                target.checked(&gpu.cuda, Some(shape))
            }
        }
    }

    /// The value, and what is asked for about each row, from the same pass: what
    /// [`Call::log_prob`], [`Call::entropy`], [`Call::lse`], [`Call::hit`] and [`Call::argmax`] say.
    ///
    /// ```
    /// use fused_loss::{CrossEntropy, Device, Reduction, Report};
    /// # fn main() -> fused_loss::Result<()> {
    /// let device = Device::auto();
    /// let (logits, target) = (device.buffer(&[2.0f32, 0.0, 0.0, 0.0, 1.0, 0.0])?, device.buffer(&[0i64, 2])?);
    /// let (mut hit, mut argmax) = (device.zeros(2)?, device.zeros(2)?);
    /// let report = Report { hit: Some(&mut hit), argmax: Some(&mut argmax), ..Report::default() };
    /// CrossEntropy::new().on(&device).forward_report(&logits, &target, (2, 3), Reduction::Mean, report)?;
    /// assert_eq!((hit.to_vec()?, argmax.to_vec()?), (vec![1.0, 0.0], vec![0, 1]));
    /// # Ok(()) }
    /// ```
    pub fn forward_report<'a, T: Element>(
        &self,
        input: &'a Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        shape: impl Into<Shape>,
        reduction: Reduction,
        report: Report<&'a mut Buffer<f32>, &'a mut Buffer<i64>>,
    ) -> Result<f32> {
        let also = Also::Report(report);
        self.run(input, (target.into(), None), Some(shape.into()), reduction, [None, None, None], also)
    }

    /// The same, and the gradient for the input into `grad_input`.
    pub fn forward_backward_report<'a, T: Element>(
        &self,
        input: &'a Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        shape: impl Into<Shape>,
        reduction: Reduction,
        grad_input: &'a mut Buffer<T>,
        report: Report<&'a mut Buffer<f32>, &'a mut Buffer<i64>>,
    ) -> Result<f32> {
        let also = Also::Report(report);
        self.run(input, (target.into(), None), Some(shape.into()), reduction, [Some(grad_input), None, None], also)
    }
}

#[cfg(feature = "cuda")]
impl<T: Element> BufferTarget<'_, T> {
    fn is_index(self) -> bool {
        !matches!(self, BufferTarget::Nothing | BufferTarget::Dense(_))
    }

    /// Waits, where there are indices, and says whether all of them are classes.
    fn checked(self, cuda: &crate::Cuda, shape: Option<Shape>) -> Result<()> {
        if self.is_index() { self.explain(cuda.check(), shape) } else { Ok(()) }
    }

    /// The GPU knows the row of a bad index; the index is there to be read.
    fn explain<V>(self, values: Result<V>, shape: Option<Shape>) -> Result<V> {
        use crate::error::Error;
        let Err(Error::ClassIndexOnDevice { row }) = values else { return values };
        let mut index = 0;
        match self {
            BufferTarget::I64(x) => index = x.at(row)?,
            BufferTarget::I32(x) => index = x.at(row)?.into(),
            BufferTarget::U32(x) => index = x.at(row)?.into(),
            BufferTarget::U8(x) => index = x.at(row)?.into(),
            BufferTarget::Nothing | BufferTarget::Dense(_) => {}
        }
        Err(Error::ClassIndex { row, index, classes: shape.map_or(0, Shape::classes) })
    }
}

/// The methods of a kind of loss on a device: what a call takes besides its input, and how it is put together.
macro_rules! methods {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $shape:expr)) => {
        #[allow(clippy::needless_lifetimes)] // not all kinds need them
        impl $crate::On<'_, $loss> {
            /// The value. Arguments are those of the loss's own `forward`, as buffers.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: &'a $crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.run(input, ($target, None), $shape, reduction, [None, None, None], $crate::on::Also::Nothing)
            }

            /// The value, and its gradient for the input into `grad_input`, in one pass.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: &'a $crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                grad_input: &'a mut $crate::Buffer<T>,
            ) -> $crate::Result<f32> {
                self.run(input, ($target, None), $shape, reduction, [Some(grad_input), None, None], $crate::on::Also::Nothing)
            }

            /// The value, and its gradient over the input, in one pass.
            pub fn forward_backward_in_place<'a, T: $crate::Element>(
                &self,
                input: &'a mut $crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.run_in_place(input, $target, $shape, reduction)
            }

            /// The value of each element or row into `losses`. On a GPU it waits only for class indices, which it checks.
            pub fn forward_unreduced<'a, T: $crate::Element>(
                &self,
                input: &'a $crate::Buffer<T>,
                $($arg: $t,)*
                losses: &mut $crate::Buffer<f32>,
            ) -> $crate::Result<()> {
                self.run_unreduced(input, $target, $shape, losses, None)
            }

            /// The value of each element or row into `losses`, and into `grad_input` their gradients, each times its own `grad_output` (and
            /// the scalar one, if that is set too).
            pub fn forward_backward_unreduced<'a, T: $crate::Element>(
                &self,
                input: &'a $crate::Buffer<T>,
                $($arg: $t,)*
                grad_output: &$crate::Buffer<f32>,
                losses: &mut $crate::Buffer<f32>,
                grad_input: &mut $crate::Buffer<T>,
            ) -> $crate::Result<()> {
                self.run_unreduced(input, $target, $shape, losses, Some((grad_output, grad_input)))
            }
        }
    };
}
pub(crate) use methods;

/// The same, of a loss with targets.
macro_rules! methods_with_targets {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $shape:expr)) => {
        $crate::on::methods!($loss, ($($arg: $t),*) => ($target, $shape));

        impl $crate::On<'_, $loss> {
            /// The value, and its gradients for input and targets, where the loss has both.
            pub fn forward_backward_both<'a, T: $crate::Element>(
                &self,
                input: &'a $crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                grad_input: &'a mut $crate::Buffer<T>,
                grad_target: &'a mut $crate::Buffer<T>,
            ) -> $crate::Result<f32> {
                self.run(input, ($target, None), $shape, reduction, [Some(grad_input), Some(grad_target), None], $crate::on::Also::Nothing)
            }
        }
    };
}
pub(crate) use methods_with_targets;

/// Of a loss with targets of the input's shape.
macro_rules! elementwise_methods {
    ($loss:ty) => {
        $crate::on::methods_with_targets!($loss, (target: &'a $crate::Buffer<T>) => ($crate::BufferTarget::Dense(target), None));
    };
}
pub(crate) use elementwise_methods;

/// Which of three.
macro_rules! grads {
    ($input:ident,) => {
        [Some($input), None, None]
    };
    ($input:ident, grad_target($grad:ident)) => {
        [Some($input), Some($grad), None]
    };
    ($input:ident, grad_third($grad:ident)) => {
        [Some($input), None, Some($grad)]
    };
    ($input:ident, grad_target($grad_target:ident), grad_third($grad_third:ident)) => {
        [Some($input), Some($grad_target), Some($grad_third)]
    };
}
pub(crate) use grads;

/// Of a loss of three tensors.
macro_rules! methods_of_three {
    ($loss:ty, ($($arg:ident: $t:ty),*) => ($target:expr, $third:expr, $shape:expr), $($verb:ident($grad:ident)),*) => {
        #[allow(clippy::too_many_arguments, clippy::extra_unused_lifetimes)] // not all kinds need them
        impl $crate::On<'_, $loss> {
            /// The value. Arguments are those of the loss's own `forward`, as buffers.
            pub fn forward<'a, T: $crate::Element>(
                &self,
                input: &$crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
            ) -> $crate::Result<f32> {
                self.run(input, ($target, Some($third)), $shape, reduction, [None, None, None], $crate::on::Also::Nothing)
            }

            /// The value, and its gradients, in one pass.
            pub fn forward_backward<'a, T: $crate::Element>(
                &self,
                input: &$crate::Buffer<T>,
                $($arg: $t,)*
                reduction: $crate::Reduction,
                grad_input: &mut $crate::Buffer<T>,
                $($grad: &mut $crate::Buffer<T>,)*
            ) -> $crate::Result<f32> {
                let grads = $crate::on::grads!(grad_input, $($verb($grad)),*);
                self.run(input, ($target, Some($third)), $shape, reduction, grads, $crate::on::Also::Nothing)
            }
        }
    };
}
pub(crate) use methods_of_three;

/// Of an element-wise loss of three tensors.
macro_rules! elementwise_methods_of_three {
    ($loss:ty, $third:ident, $verb:ident($grad:ident)) => {
        $crate::on::methods_of_three!($loss, (target: &$crate::Buffer<T>, $third: &$crate::Buffer<T>) =>
            ($crate::BufferTarget::Dense(target), $third, None), $verb($grad));
    };
}
pub(crate) use elementwise_methods_of_three;

/// Of a row-wise loss of three tensors.
macro_rules! row_methods_of_three {
    ($loss:ty, $target:ident, $third:ident, $($verb:ident($grad:ident)),+) => {
        $crate::on::methods_of_three!($loss,
            ($target: &$crate::Buffer<T>, $third: &$crate::Buffer<T>, shape: impl Into<$crate::Shape>) =>
            ($crate::BufferTarget::Dense($target), $third, Some(shape.into())), $($verb($grad)),+);
    };
}
pub(crate) use row_methods_of_three;

/// Of a loss with a class axis.
macro_rules! class_methods {
    ($loss:ty) => {
        $crate::on::methods_with_targets!($loss, (
            target: impl Into<$crate::BufferTarget<'a, T>>,
            shape: impl Into<$crate::Shape>
        ) => (target.into(), Some(shape.into())));
    };
}
pub(crate) use class_methods;
