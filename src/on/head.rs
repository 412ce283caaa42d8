//! The language-model head and InfoNCE on a device.

use super::{BufferTarget, Kind, On, Weight};
use crate::device::Buffer;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::head::{InfoNce, InfoNceShape, LinearCrossEntropy, LinearGrads, LinearShape};
use crate::reduction::Reduction;
#[cfg(feature = "cuda")]
use crate::shape::Shape;

/// Where the gradients of a [`BufferLinearCall`] go. What is `None` is not computed: a frozen weight costs one product less.
#[derive(Debug)]
pub struct BufferLinearGrads<'a, T> {
    /// `(tokens, hidden)`
    pub input: Option<&'a mut Buffer<T>>,
    /// `(classes, hidden)`
    pub weight: Option<&'a mut Buffer<f32>>,
    /// `(classes)`
    pub bias: Option<&'a mut Buffer<f32>>,
}

impl<T> Default for BufferLinearGrads<'_, T> {
    fn default() -> Self {
        BufferLinearGrads { input: None, weight: None, bias: None }
    }
}

/// A call of [`LinearCrossEntropy`] on a [`Device`](crate::Device). Class weights, weights of tokens, the gradient from above and whether
/// gradients are added to are set on what `on` returns; `weight` and `sample_weight` there are both one number a token.
///
/// ```
/// use fused_loss::head::{BufferLinearGrads, LinearCrossEntropy};
/// use fused_loss::{CrossEntropy, Device, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let device = Device::auto();
/// let (tokens, hidden, classes) = (2, 2, 3);
/// let input = device.buffer(&[1.0f32, 0.0, 0.0, 1.0])?;
/// let weight = device.buffer(&[0.5f32, 0.0, 0.0, 0.5, 0.0, 0.0])?;
/// let target = device.buffer(&[0i64, 1])?;
/// let (mut grad_input, mut grad_weight) = (device.zeros(4)?, device.zeros(6)?);
/// let grads = BufferLinearGrads {
///     input: Some(&mut grad_input),
///     weight: Some(&mut grad_weight),
///     ..BufferLinearGrads::default()
/// };
/// let head = LinearCrossEntropy::new(CrossEntropy::new());
/// let loss = head.on(&device).call(&input, &weight, &target, (tokens, hidden, classes)).forward_backward(Reduction::Mean, grads)?;
/// assert!((loss - 0.794_373_8).abs() < 1e-5, "{loss}"); // ln(1 + 2 e^-0.5)
/// # Ok(()) }
/// ```
///
/// On a GPU it waits for the value. A `Cuda` handle has what only a GPU has: `counted`, `denominator`, `allow_tf32`, and ranks that share
/// the classes.
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct BufferLinearCall<'a, T> {
    on: On<'a, LinearCrossEntropy>,
    input: &'a Buffer<T>,
    weight: &'a Buffer<T>,
    target: BufferTarget<'a, T>,
    shape: LinearShape,
    bias: Option<&'a Buffer<T>>,
}

impl<'d> On<'d, LinearCrossEntropy> {
    /// A call: `input` of `tokens` rows, `weight` of `classes` rows, both `hidden` wide, and a class index for each token.
    pub fn call<'a, T: Element>(
        &self,
        input: &'a Buffer<T>,
        weight: &'a Buffer<T>,
        target: impl Into<BufferTarget<'a, T>>,
        shape: impl Into<LinearShape>,
    ) -> BufferLinearCall<'a, T>
    where
        'd: 'a,
    {
        BufferLinearCall { on: *self, input, weight, target: target.into(), shape: shape.into(), bias: None }
    }
}

/// The call on either kind of device, whose buffers are had by `$get`.
macro_rules! call {
    ($self:expr, $place:expr, $get:ident) => {{
        let BufferLinearCall { on, input, weight, target, shape, bias } = $self;
        let mut call = $place.call(input.$get()?, weight.$get()?, target.$get()?, shape).grad_output(on.grad_output);
        if let Some(bias) = bias {
            call = call.bias(bias.$get()?);
        }
        if let Some(Weight::PerElement(w) | Weight::PerSample(w)) = on.weight {
            call = call.token_weight(w.$get()?);
        }
        if let Some(w) = on.class_weight {
            call = call.class_weight(w.$get()?);
        }
        if on.accumulate { call.accumulate() } else { call }
    }};
}

impl<'a, T: Element> BufferLinearCall<'a, T> {
    /// Adds one number to each class's logits.
    pub fn bias(mut self, bias: &'a Buffer<T>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// What the targets are classes of.
    #[cfg(feature = "cuda")]
    fn rows(&self) -> Option<Shape> {
        Some((self.shape.tokens, self.shape.classes).into())
    }

    /// The value.
    pub fn forward(self, reduction: Reduction) -> Result<f32> {
        self.forward_backward(reduction, BufferLinearGrads::default())
    }

    /// The value of each token into `losses`: of plain cross-entropy, minus the log-probability of its target.
    pub fn forward_unreduced(self, losses: &mut Buffer<f32>) -> Result<()> {
        match self.on.device.kind() {
            Kind::Cpu => call!(self, self.on.loss, host).forward_unreduced(losses.host_mut()?),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                call!(self, self.on.loss.on(&gpu.cuda), device).forward_unreduced(losses.device_mut()?)?;
                self.target.checked(&gpu.cuda, self.rows())
            }
        }
    }

    /// The value, and its gradients into `grads`.
    pub fn forward_backward(self, reduction: Reduction, grads: BufferLinearGrads<'_, T>) -> Result<f32> {
        let BufferLinearGrads { input, weight, bias } = grads;
        match self.on.device.kind() {
            Kind::Cpu => {
                let grads = LinearGrads {
                    input: input.map(Buffer::host_mut).transpose()?,
                    weight: weight.map(Buffer::host_mut).transpose()?,
                    bias: bias.map(Buffer::host_mut).transpose()?,
                };
                call!(self, self.on.loss, host).forward_backward(reduction, grads)
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let call = call!(self, self.on.loss.on(&gpu.cuda), device);
                let grads = crate::head::CudaLinearGrads {
                    input: input.map(Buffer::device_mut).transpose()?,
                    weight: weight.map(Buffer::device_mut).transpose()?,
                    bias: bias.map(Buffer::device_mut).transpose()?,
                };
                let values = gpu.values(true, |value, _| call.forward_backward(reduction, value, grads));
                Ok(self.target.explain(values, self.rows())?[0])
            }
        }
    }
}

/// Where the gradients of a [`BufferInfoNceCall`] go: f32 for every storage type, as what both ways give is added up there. What is
/// `None` is not computed.
#[derive(Debug, Default)]
pub struct BufferInfoNceGrads<'a> {
    /// `(pairs, hidden)`
    pub first: Option<&'a mut Buffer<f32>>,
    /// `(candidates, hidden)`
    pub second: Option<&'a mut Buffer<f32>>,
    /// Of the scale.
    pub scale: Option<&'a mut f32>,
}

/// A call of [`InfoNce`] on a [`Device`](crate::Device); the gradient from above and whether gradients are added to are set on what `on`
/// returns. Weights are refused.
///
/// ```
/// use fused_loss::head::{BufferInfoNceGrads, InfoNce};
/// use fused_loss::Device;
/// # fn main() -> fused_loss::Result<()> {
/// let device = Device::auto();
/// let (images, texts) = (device.buffer(&[1.0f32, 0.0, 0.0, 1.0])?, device.buffer(&[0.8f32, 0.6, -0.6, 0.8])?);
/// let (mut of_images, mut of_scale) = (device.zeros(4)?, 0.0);
/// let grads = BufferInfoNceGrads { first: Some(&mut of_images), scale: Some(&mut of_scale), ..BufferInfoNceGrads::default() };
/// let loss = InfoNce::new().on(&device).call(&images, &texts, (2, 2)).scale(10.0).forward_backward(grads)?;
/// assert!((loss - 0.063_464_4).abs() < 1e-6 && of_scale < 0.0, "{loss} {of_scale}");
/// # Ok(()) }
/// ```
///
/// On a GPU it waits for the value. A `Cuda` handle takes a scale that is learned there, and has `allow_tf32`.
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct BufferInfoNceCall<'a, T> {
    on: On<'a, InfoNce>,
    first: &'a Buffer<T>,
    second: &'a Buffer<T>,
    shape: InfoNceShape,
    scale: f32,
}

impl<'d> On<'d, InfoNce> {
    /// A call. The shape is made from `(pairs, hidden)` or `(pairs, candidates, hidden)`.
    pub fn call<'a, T: Element>(
        &self,
        first: &'a Buffer<T>,
        second: &'a Buffer<T>,
        shape: impl Into<InfoNceShape>,
    ) -> BufferInfoNceCall<'a, T>
    where
        'd: 'a,
    {
        BufferInfoNceCall { on: *self, first, second, shape: shape.into(), scale: 1.0 }
    }
}

impl<T: Element> BufferInfoNceCall<'_, T> {
    /// What similarities are multiplied by: one over the temperature. Defaults to 1.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The value.
    pub fn forward(self) -> Result<f32> {
        self.forward_backward(BufferInfoNceGrads::default())
    }

    /// The value, and its gradients into `grads`.
    pub fn forward_backward(self, grads: BufferInfoNceGrads<'_>) -> Result<f32> {
        let BufferInfoNceCall { on, first, second, shape, scale } = self;
        let BufferInfoNceGrads { first: of_first, second: of_second, scale: of_scale } = grads;
        if on.weight.is_some() || on.class_weight.is_some() {
            return Err(Error::Unsupported { loss: InfoNce::NAME, what: "a weight" });
        }
        match on.device.kind() {
            Kind::Cpu => {
                let call = on.loss.call(first.host()?, second.host()?, shape).scale(scale).grad_output(on.grad_output);
                let call = if on.accumulate { call.accumulate() } else { call };
                let [of_first, of_second] = [of_first, of_second].map(|g| g.map(Buffer::host_mut).transpose());
                call.wide(of_first?, of_second?, of_scale)
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let call = on.loss.on(&gpu.cuda).call(first.device()?, second.device()?, shape).scale(scale);
                let call = call.grad_output(on.grad_output);
                let call = if on.accumulate { call.accumulate() } else { call };
                let [of_first, of_second] = [of_first, of_second].map(|g| g.map(Buffer::device_mut).transpose());
                // What is there may be added to.
                let mut slot = of_scale.as_deref().map(|old| on.device.buffer(&[*old])).transpose()?;
                let grads = crate::head::CudaInfoNceGrads {
                    first: of_first?,
                    second: of_second?,
                    scale: slot.as_mut().map(Buffer::device_mut).transpose()?,
                };
                let [value, _] = gpu.values(false, |value, _| call.forward_backward(value, grads))?;
                if let (Some(to), Some(slot)) = (of_scale, slot) {
                    slot.read(std::slice::from_mut(to))?;
                }
                Ok(value)
            }
        }
    }
}
