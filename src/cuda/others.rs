//! GAN losses on a GPU, which are of no kind.

use super::buffers::{DeviceMut, DeviceRef, DeviceScalar, Lender};
use super::call::{CudaCall, OnCuda};
use super::marshal;
use super::request::{Average, Dtype};
use crate::element::Element;
use crate::error::{Result, check_len};
use crate::loss::{GanLoss, GanTerm, GradientPenalty, RelativisticAverage};
use crate::reduction::Reduction;

super::methods::methods!(GanTerm, () => (crate::cuda::DeviceTarget::Nothing, None));
super::methods::methods!(GradientPenalty, (shape: impl Into<crate::Shape>) =>
    (crate::cuda::DeviceTarget::Nothing, Some(shape.into())));

impl<'d> OnCuda<'d, GanLoss> {
    fn term<'a, T: Element>(&self, term: GanTerm, input: DeviceRef<'a, T>) -> CudaCall<'a, GanTerm, T>
    where
        'd: 'a,
    {
        let call = OnCuda { loss: term, cuda: self.cuda }.call(input).grad_output(self.loss.upstream());
        if self.loss.accumulates() { call.accumulate() } else { call }
    }

    /// The discriminator's two terms, whose sum is its value, into `on_real` and `on_fake`, and its gradients for what it said of both
    /// batches.
    #[allow(clippy::too_many_arguments)]
    pub fn discriminator<'a, T: Element>(
        &self,
        real: impl Into<DeviceRef<'a, T>>,
        fake: impl Into<DeviceRef<'a, T>>,
        reduction: Reduction,
        on_real: impl Into<DeviceMut<'a, f32>>,
        on_fake: impl Into<DeviceMut<'a, f32>>,
        grad_real: impl Into<DeviceMut<'a, T>>,
        grad_fake: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()>
    where
        'd: 'a,
    {
        let (real, fake, on_real, on_fake) = (real.into(), fake.into(), on_real.into(), on_fake.into());
        let (grad_real, grad_fake) = (grad_real.into(), grad_fake.into());
        // The second batch must not be refused after the gradient of the first is written.
        check_len("grad_real", real.len(), grad_real.len())?;
        check_len("grad_fake", fake.len(), grad_fake.len())?;
        check_len("value", 1, on_real.len())?;
        check_len("value", 1, on_fake.len())?;
        reduction.check(real.len())?;
        reduction.check(fake.len())?;
        self.term(self.loss.real_term(), real).forward_backward(reduction, on_real, grad_real)?;
        self.term(self.loss.fake_term(), fake).forward_backward(reduction, on_fake, grad_fake)
    }

    /// The generator's value into `value`, and its gradient for what the discriminator said of its samples.
    pub fn generator<'a, T: Element>(
        &self,
        fake: impl Into<DeviceRef<'a, T>>,
        reduction: Reduction,
        value: impl Into<DeviceMut<'a, f32>>,
        grad_fake: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()>
    where
        'd: 'a,
    {
        self.term(self.loss.generator_term(), fake.into()).forward_backward(reduction, value, grad_fake)
    }
}

impl OnCuda<'_, RelativisticAverage> {
    /// The discriminator's value into `value`, and its gradients for both batches.
    pub fn discriminator<'a, T: Element>(
        &self,
        real: impl Into<DeviceRef<'a, T>>,
        fake: impl Into<DeviceRef<'a, T>>,
        value: impl Into<DeviceMut<'a, f32>>,
        grad_real: impl Into<DeviceMut<'a, T>>,
        grad_fake: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        let grads = Some([grad_real.into(), grad_fake.into()]);
        self.enqueue(["grad_real", "grad_fake"], [real.into(), fake.into()], Some(value.into()), grads, self.upstream())
    }

    /// The discriminator's value alone.
    pub fn discriminator_forward<'a, T: Element>(
        &self,
        real: impl Into<DeviceRef<'a, T>>,
        fake: impl Into<DeviceRef<'a, T>>,
        value: impl Into<DeviceMut<'a, f32>>,
    ) -> Result<()> {
        self.enqueue(["grad_real", "grad_fake"], [real.into(), fake.into()], Some(value.into()), None, self.upstream())
    }

    /// The generator's value into `value`, and its gradients for both batches.
    pub fn generator<'a, T: Element>(
        &self,
        real: impl Into<DeviceRef<'a, T>>,
        fake: impl Into<DeviceRef<'a, T>>,
        value: impl Into<DeviceMut<'a, f32>>,
        grad_real: impl Into<DeviceMut<'a, T>>,
        grad_fake: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        let grads = Some([grad_fake.into(), grad_real.into()]);
        self.enqueue(["grad_fake", "grad_real"], [fake.into(), real.into()], Some(value.into()), grads, self.upstream())
    }

    /// The generator's value alone.
    pub fn generator_forward<'a, T: Element>(
        &self,
        real: impl Into<DeviceRef<'a, T>>,
        fake: impl Into<DeviceRef<'a, T>>,
        value: impl Into<DeviceMut<'a, f32>>,
    ) -> Result<()> {
        self.enqueue(["grad_fake", "grad_real"], [fake.into(), real.into()], Some(value.into()), None, self.upstream())
    }

    fn upstream<'a>(&self) -> DeviceScalar<'a> {
        DeviceScalar::Host(self.loss.upstream())
    }

    /// The first side should be above the mean of the second.
    pub(crate) fn enqueue<T: Element>(
        &self,
        names: [&'static str; 2],
        sides: [DeviceRef<'_, T>; 2],
        mut value: Option<DeviceMut<'_, f32>>,
        mut grads: Option<[DeviceMut<'_, T>; 2]>,
        grad_output: DeviceScalar<'_>,
    ) -> Result<()> {
        let mut lender = Lender::new(self.cuda)?;
        let call = Average {
            dtype: Dtype::of::<T>(),
            high: lender.read(&sides[0])?,
            low: lender.read(&sides[1])?,
            grads: match &mut grads {
                Some([high, low]) => Some([lender.write(high)?, lender.write(low)?]),
                None => None,
            },
            value: value.as_mut().map(|v| lender.write(v)).transpose()?,
            grad_output: lender.scalar(&grad_output)?,
            accumulate: self.loss.accumulates(),
        };
        // SAFETY: as in `CudaCall::enqueue`.
        unsafe { marshal::run_average(&call, names, &mut self.cuda.launcher()) }
    }
}
