//! GAN losses on a device.

use super::{BufferTarget, Kind, On, Place, methods};
use crate::device::Buffer;
use crate::element::Element;
use crate::error::{Result, check_len};
use crate::loss::{GanLoss, GanTerm, GradientPenalty, RelativisticAverage};
use crate::reduction::Reduction;

methods!(GanTerm, () => (BufferTarget::Nothing, None));
methods!(GradientPenalty, (shape: impl Into<crate::Shape>) => (BufferTarget::Nothing, Some(shape.into())));

macro_rules! on {
    ($($loss:ident)*) => {$(
        impl $loss {
            /// The same on a device: a [`Device`](crate::Device), or a `Cuda` handle.
            pub fn on<'d, P: Place>(&self, place: &'d P) -> P::On<'d, Self> {
                place.bind(*self)
            }
        }
    )*};
}
on!(GanLoss GanTerm GradientPenalty RelativisticAverage);

impl On<'_, GanLoss> {
    /// A term with what the bound loss and the loss itself have.
    fn term(&self, term: GanTerm) -> On<'_, GanTerm> {
        let On { device, weight, class_weight, .. } = *self;
        let grad_output = self.grad_output * self.loss.upstream();
        On {
            loss: term,
            device,
            grad_output,
            accumulate: self.accumulate || self.loss.accumulates(),
            weight,
            class_weight,
        }
    }

    /// The discriminator's value, and its gradients for what it said of both batches.
    pub fn discriminator<T: Element>(
        &self,
        real: &Buffer<T>,
        fake: &Buffer<T>,
        reduction: Reduction,
        grad_real: &mut Buffer<T>,
        grad_fake: &mut Buffer<T>,
    ) -> Result<f32> {
        check_len("grad_real", real.len(), grad_real.len())?;
        check_len("grad_fake", fake.len(), grad_fake.len())?;
        // The second batch must not be refused after the gradient of the first is written.
        reduction.check(real.len())?;
        reduction.check(fake.len())?;
        let on_real = self.term(self.loss.real_term()).forward_backward(real, reduction, grad_real)?;
        Ok(on_real + self.term(self.loss.fake_term()).forward_backward(fake, reduction, grad_fake)?)
    }

    /// The generator's value, and its gradient for what the discriminator said of its samples.
    pub fn generator<T: Element>(
        &self,
        fake: &Buffer<T>,
        reduction: Reduction,
        grad_fake: &mut Buffer<T>,
    ) -> Result<f32> {
        self.term(self.loss.generator_term()).forward_backward(fake, reduction, grad_fake)
    }
}

impl On<'_, RelativisticAverage> {
    /// The discriminator's value, and its gradients for both batches.
    pub fn discriminator<T: Element>(
        &self,
        real: &Buffer<T>,
        fake: &Buffer<T>,
        grad_real: &mut Buffer<T>,
        grad_fake: &mut Buffer<T>,
    ) -> Result<f32> {
        let loss = self.extended();
        match self.device.kind() {
            Kind::Cpu => loss.discriminator(real.host()?, fake.host()?, grad_real.host_mut()?, grad_fake.host_mut()?),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let (real, fake, on) = (real.device()?, fake.device()?, loss.on(&gpu.cuda));
                let (grad_real, grad_fake) = (grad_real.device_mut()?, grad_fake.device_mut()?);
                Ok(gpu.values(false, |value, _| on.discriminator(real, fake, value, grad_real, grad_fake))?[0])
            }
        }
    }

    /// The generator's value, and its gradients for both batches.
    pub fn generator<T: Element>(
        &self,
        real: &Buffer<T>,
        fake: &Buffer<T>,
        grad_real: &mut Buffer<T>,
        grad_fake: &mut Buffer<T>,
    ) -> Result<f32> {
        let loss = self.extended();
        match self.device.kind() {
            Kind::Cpu => loss.generator(real.host()?, fake.host()?, grad_real.host_mut()?, grad_fake.host_mut()?),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let (real, fake, on) = (real.device()?, fake.device()?, loss.on(&gpu.cuda));
                let (grad_real, grad_fake) = (grad_real.device_mut()?, grad_fake.device_mut()?);
                Ok(gpu.values(false, |value, _| on.generator(real, fake, value, grad_real, grad_fake))?[0])
            }
        }
    }

    /// The loss with what it was bound with.
    fn extended(&self) -> RelativisticAverage {
        let loss = self.loss.grad_output(self.grad_output * self.loss.upstream());
        if self.accumulate { loss.accumulate() } else { loss }
    }
}
