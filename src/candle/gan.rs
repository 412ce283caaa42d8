//! Losses of two batches, whose lengths may differ.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Error, Layout, Result, Shape as Dims, Tensor, WithDType};
use half::{bf16, f16};

use super::check::refuse;
use super::{OnTensors, check, cpu};
use crate::element::Element;
use crate::loss::{GanLoss, RelativisticAverage};
use crate::reduction::Reduction;

/// An adversarial loss with what the discriminator said of a real and of a fake batch: made by `tensors` of [`GanLoss`] and
/// [`RelativisticAverage`].
#[derive(Clone, Debug)]
#[must_use = "nothing is computed until one of its verbs is called"]
pub struct TensorPair<L> {
    loss: L,
    real: Tensor,
    fake: Tensor,
}

macro_rules! pairs {
    ($($loss:ident)*) => {$(
        impl $loss {
            /// The loss of what the discriminator said of a real and of a fake batch, on candle's tensors.
            pub fn tensors(&self, real: &Tensor, fake: &Tensor) -> TensorPair<Self> {
                TensorPair { loss: *self, real: real.clone(), fake: fake.clone() }
            }
        }
    )*};
}
pairs!(GanLoss RelativisticAverage);

/// What the value of a graph is multiplied by is said on the graph.
fn plain(name: &str, upstream: f32, accumulates: bool) -> Result<()> {
    if upstream != 1.0 || accumulates {
        refuse!("{name}: grad_output and accumulate are not for tensors: multiply the loss; candle adds gradients");
    }
    Ok(())
}

impl TensorPair<GanLoss> {
    /// The discriminator's value, on candle's graph: the sum of both terms, each reduced over its own batch.
    pub fn discriminator(&self, reduction: Reduction) -> Result<Tensor> {
        plain("GAN loss", self.loss.upstream(), self.loss.accumulates())?;
        let on_real = self.loss.real_term().tensor(&self.real).forward(reduction)?;
        on_real + self.loss.fake_term().tensor(&self.fake).forward(reduction)?
    }

    /// The generator's value, on candle's graph. It looks at the fake batch alone.
    pub fn generator(&self, reduction: Reduction) -> Result<Tensor> {
        plain("GAN loss", self.loss.upstream(), self.loss.accumulates())?;
        self.loss.generator_term().tensor(&self.fake).forward(reduction)
    }
}

const NAME: &str = "relativistic average";

impl TensorPair<RelativisticAverage> {
    /// The discriminator's value, on candle's graph, with gradients for both batches.
    pub fn discriminator(&self) -> Result<Tensor> {
        self.value(&self.real, &self.fake)
    }

    /// The generator's value, on candle's graph, with gradients for both batches.
    pub fn generator(&self) -> Result<Tensor> {
        self.value(&self.fake, &self.real)
    }

    /// `high` should be above the mean of `low`.
    fn value(&self, high: &Tensor, low: &Tensor) -> Result<Tensor> {
        plain(NAME, self.loss.upstream(), self.loss.accumulates())?;
        let dtype = high.dtype();
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(check::input_dtype(NAME, dtype));
        }
        if !(high.device().is_cpu() || cfg!(feature = "candle-cuda") && high.device().is_cuda()) {
            return Err(check::device(NAME, high));
        }
        check::same_device(NAME, &self.real, "fake", &self.fake)?;
        if low.dtype() != dtype {
            let (real, fake) = (self.real.dtype().as_str(), self.fake.dtype().as_str());
            refuse!("{NAME}: fake: expected {real}, as the real batch is, got {fake}");
        }
        let (high, low) = (high.contiguous()?, low.contiguous()?);
        let tracked = [high.track_op(), low.track_op()];
        let keeps = tracked != [false; 2] && dtype == DType::F32;
        high.apply_op2(&low, Average { tracked, keeps, kept: Mutex::new(None) })
    }
}

/// The operation on candle's graph: see [`super::op`].
struct Average {
    tracked: [bool; 2],
    keeps: bool,
    kept: Mutex<Option<[Tensor; 2]>>,
}

fn typed<T: Element + WithDType>(high: cpu::View, low: cpu::View, upstream: Option<f32>) -> Result<(f32, [Vec<T>; 2])> {
    let (high, low) = (cpu::slice::<T>(high)?, cpu::slice::<T>(low)?);
    let loss = RelativisticAverage::new();
    let Some(upstream) = upstream else {
        return Ok((loss.discriminator_forward(high, low), [vec![], vec![]]));
    };
    let [mut on_high, mut on_low] = [high, low].map(|x| vec![T::default(); x.len()]);
    let value = loss.grad_output(upstream).discriminator(high, low, &mut on_high, &mut on_low).map_err(Error::wrap)?;
    Ok((value, [on_high, on_low]))
}

/// The value, and gradients if there is an upstream one.
fn on_cpu(high: cpu::View, low: cpu::View, upstream: Option<f32>) -> Result<(f32, [CpuStorage; 2])> {
    fn erased<T: WithDType>((value, grads): (f32, [Vec<T>; 2])) -> (f32, [CpuStorage; 2]) {
        (value, grads.map(T::to_cpu_storage_owned))
    }
    match high.0 {
        CpuStorage::F16(_) => typed::<f16>(high, low, upstream).map(erased),
        CpuStorage::BF16(_) => typed::<bf16>(high, low, upstream).map(erased),
        _ => typed::<f32>(high, low, upstream).map(erased),
    }
}

impl Average {
    fn keep(&self, grads: [candle_core::Storage; 2], dims: [&Layout; 2]) {
        let [high, low] = grads;
        let tensor = |storage, layout: &Layout| {
            Tensor::from_storage(storage, layout.shape(), candle_core::op::BackpropOp::none(), false)
        };
        let both = [tensor(high, dims[0]), tensor(low, dims[1])];
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(both);
    }
}

impl CustomOp2 for Average {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        high: &CpuStorage,
        of_high: &Layout,
        low: &CpuStorage,
        of_low: &Layout,
    ) -> Result<(CpuStorage, Dims)> {
        let (value, grads) = on_cpu((high, of_high), (low, of_low), self.keeps.then_some(1.0))?;
        if self.keeps {
            self.keep(grads.map(candle_core::Storage::Cpu), [of_high, of_low]);
        }
        Ok((CpuStorage::F32(vec![value]), ().into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        high: &CudaStorage,
        of_high: &Layout,
        low: &CudaStorage,
        of_low: &Layout,
    ) -> Result<(CudaStorage, Dims)> {
        let grads = self.keeps.then_some(None);
        let (value, grads) = super::cuda::average((high, of_high), (low, of_low), true, grads)?;
        if let Some(grads) = grads {
            self.keep(grads.map(candle_core::Storage::Cuda), [of_high, of_low]);
        }
        Ok((value.ok_or_else(|| Error::msg("a call that was asked for its value"))?, ().into()))
    }

    #[cfg(not(feature = "candle-cuda"))]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Dims)> {
        Err(check::without_cuda(NAME))
    }

    fn bwd(
        &self,
        high: &Tensor,
        low: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let [on_high, on_low] = match kept {
            Some(kept) => {
                let [on_high, on_low] = kept.map(|grad| grad.broadcast_mul(upstream));
                [on_high?, on_low?]
            }
            None => again(high, low, upstream)?,
        };
        let [of_high, of_low] = self.tracked;
        Ok((of_high.then_some(on_high), of_low.then_some(on_low)))
    }
}

/// The gradients alone.
fn again(high: &Tensor, low: &Tensor, upstream: &Tensor) -> Result<[Tensor; 2]> {
    use candle_core::Storage;
    let ((h, of_high), (l, of_low)) = (high.storage_and_layout(), low.storage_and_layout());
    let grads = match &*h {
        Storage::Cpu(h) => {
            let upstream = upstream.to_scalar::<f32>()?;
            on_cpu((h, of_high), (cpu::host(&l)?, of_low), Some(upstream))?.1.map(Storage::Cpu)
        }
        #[cfg(feature = "candle-cuda")]
        Storage::Cuda(h) => {
            let low = (super::cuda::device(&l)?, of_low);
            let (_, grads) = super::cuda::average((h, of_high), low, false, Some(Some(upstream)))?;
            grads.ok_or_else(|| Error::msg("a call that was asked for gradients"))?.map(Storage::Cuda)
        }
        _ => return Err(check::device(NAME, high)),
    };
    let [on_high, on_low] = grads;
    let tensor =
        |storage, of: &Layout| Tensor::from_storage(storage, of.shape(), candle_core::op::BackpropOp::none(), false);
    Ok([tensor(on_high, of_high), tensor(on_low, of_low)])
}
