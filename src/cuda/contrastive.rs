//! InfoNCE on a GPU: each way is a head of its own.

use super::buffers::{DeviceMut, DeviceRef, DeviceScalar, Lender};
use super::call::OnCuda;
use super::handle::Cuda;
use super::head::{self, HeadRequest};
use super::kernel::HasKernel;
use super::request::{Dtype, Output, Targets};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::head::{InfoNce, InfoNceLens, InfoNceShape, LinearShape};
use crate::reduction::Reduction;

/// Where the gradients go on a GPU: f32 for every storage type, as what both ways give is added up there. What is `None` is not computed.
#[derive(Debug, Default)]
pub struct CudaInfoNceGrads<'a> {
    /// `(pairs, hidden)`
    pub first: Option<DeviceMut<'a, f32>>,
    /// `(candidates, hidden)`
    pub second: Option<DeviceMut<'a, f32>>,
    /// One f32: of the scale.
    pub scale: Option<DeviceMut<'a, f32>>,
}

/// A call of [`InfoNce`] with its batches on a GPU. Every buffer is device memory of the handle's GPU, and the verbs write the value to
/// one f32 there, without waiting.
///
/// ```no_run
/// # use fused_loss::head::{CudaInfoNceGrads, InfoNce};
/// # use fused_loss::{Cuda, cudarc::driver::CudaContext};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let stream = CudaContext::new(0)?.default_stream();
/// # let cuda = Cuda::new(&stream)?;
/// # let (pairs, hidden) = (2, 3);
/// # let (images, texts) = (stream.alloc_zeros::<half::bf16>(6)?, stream.alloc_zeros::<half::bf16>(6)?);
/// # let (mut of_images, mut of_texts) = (stream.alloc_zeros::<f32>(6)?, stream.alloc_zeros::<f32>(6)?);
/// # let (scale, mut of_scale) = (stream.alloc_zeros::<f32>(1)?, stream.alloc_zeros::<f32>(1)?);
/// # let mut loss = stream.alloc_zeros::<f32>(1)?;
/// let grads = CudaInfoNceGrads {
///     first: Some((&mut of_images).into()),
///     second: Some((&mut of_texts).into()),
///     scale: Some((&mut of_scale).into()),
/// };
/// InfoNce::new()
///     .budget(1 << 30)
///     .on(&cuda)
///     .call(&images, &texts, (pairs, hidden))
///     .scale(&scale) // a learned one stays on the device
///     .forward_backward(&mut loss, grads)?;
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct CudaInfoNceCall<'a, T> {
    loss: InfoNce,
    cuda: &'a Cuda,
    first: DeviceRef<'a, T>,
    second: DeviceRef<'a, T>,
    shape: InfoNceShape,
    scale: DeviceScalar<'a>,
    grad_output: DeviceScalar<'a>,
    accumulate: bool,
    tf32: bool,
}

impl<'d> OnCuda<'d, InfoNce> {
    /// A call. The shape is made from `(pairs, hidden)` or `(pairs, candidates, hidden)`.
    pub fn call<'a, T: Element>(
        &self,
        first: impl Into<DeviceRef<'a, T>>,
        second: impl Into<DeviceRef<'a, T>>,
        shape: impl Into<InfoNceShape>,
    ) -> CudaInfoNceCall<'a, T>
    where
        'd: 'a,
    {
        CudaInfoNceCall {
            loss: self.loss,
            cuda: self.cuda,
            first: first.into(),
            second: second.into(),
            shape: shape.into(),
            scale: DeviceScalar::Host(1.0),
            grad_output: DeviceScalar::Host(1.0),
            accumulate: false,
            tf32: false,
        }
    }
}

impl<'a, T: Element> CudaInfoNceCall<'a, T> {
    /// What similarities are multiplied by, one over the temperature: a number, or one f32 on the device. Defaults to 1.
    pub fn scale(mut self, scale: impl Into<DeviceScalar<'a>>) -> Self {
        self.scale = scale.into();
        self
    }

    /// The gradient that comes from above: a number, or one f32 on the device. Defaults to 1.
    pub fn grad_output(mut self, grad_output: impl Into<DeviceScalar<'a>>) -> Self {
        self.grad_output = grad_output.into();
        self
    }

    /// Adds to the gradients, that of the scale too, instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// Lets products round factors of f32 to TF32: PyTorch's `allow_tf32`. Changes nothing for f16 and bf16.
    pub fn allow_tf32(mut self) -> Self {
        self.tf32 = true;
        self
    }

    /// The value into `value`.
    pub fn forward(self, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.forward_backward(value, CudaInfoNceGrads::default())
    }

    /// The value into `value`, and its gradients into `grads`.
    pub fn forward_backward(self, value: impl Into<DeviceMut<'a, f32>>, mut grads: CudaInfoNceGrads<'a>) -> Result<()> {
        let mut value = value.into();
        if let DeviceScalar::Host(scale) = self.scale {
            InfoNce::check_scale(scale)?;
        }
        let lens = InfoNceLens {
            first: self.first.len(),
            second: self.second.len(),
            grad_first: grads.first.as_ref().map(DeviceMut::len),
            grad_second: grads.second.as_ref().map(DeviceMut::len),
        };
        self.loss.check(self.shape, &lens)?;
        check_len("value", 1, value.len())?;
        grads.scale.as_ref().map_or(Ok(()), |g| check_len("grad_scale", 1, g.len()))?;
        let InfoNceShape { pairs, candidates, hidden } = self.shape;
        if pairs == 0 {
            return Err(Error::Unsupported { loss: InfoNce::NAME, what: "a batch of no pairs on a GPU" });
        }
        let mut lender = Lender::new(self.cuda)?;
        let (first, second) = (lender.read(&self.first)?, lender.read(&self.second)?);
        let of_first = grads.first.as_mut().map(|g| lender.write(g)).transpose()?;
        let of_second = grads.second.as_mut().map(|g| lender.write(g)).transpose()?;
        let (head, both) = self.loss.parts();
        let call = HeadRequest {
            dtype: Dtype::of::<T>(),
            shape: LinearShape { tokens: pairs, hidden, classes: candidates },
            input: first,
            weight: second,
            bias: None,
            targets: Targets::Nothing,
            class_weight: None,
            token_weight: None,
            grad_output: lender.scalar(&self.grad_output)?,
            accumulate: self.accumulate,
            output: Output::Reduced(Reduction::Mean, Some(lender.write(&mut value)?)),
            grad_input: of_first,
            grad_weight: of_second,
            grad_bias: None,
            counted: pairs,
            budget: head.budget_on_gpus(),
            tf32: self.tf32,
            z_loss: 0.0,
            logit_scale: lender.scalar(&self.scale)?,
            grad_scale: grads.scale.as_mut().map(|g| lender.write(g)).transpose()?,
            wide: true,
            part: if both { 0.5 } else { 1.0 },
            adds: false,
            looks: None,
        };
        let kernel = head.loss.kernel();
        // SAFETY, of both: as in `CudaCall::enqueue`; lengths have been checked.
        unsafe { head::run(&kernel, &call, self.cuda)? };
        if !both {
            return Ok(());
        }
        let back = HeadRequest {
            input: second,
            weight: first,
            grad_input: of_second,
            grad_weight: of_first,
            accumulate: true,
            adds: true,
            ..call
        };
        unsafe { head::run(&kernel, &back, self.cuda) }
    }
}
