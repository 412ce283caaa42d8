//! Losses of two batches, whose lengths may differ.

use burn_backend::DType;
use burn_flex::FlexTensor;
use burn_tensor::Tensor;
use half::{bf16, f16};

use super::cpu::{Stored, slice};
use super::op::{Ask, Made, Run, apply};
use super::side::{Side, scalar};
use super::{Error, OnTensors, Result, flex};
use crate::loss::{GanLoss, RelativisticAverage};
use crate::reduction::Reduction;
use crate::tensors::check_input_dtype;

/// Adversarial losses on tensors: [`GanLoss`] and [`RelativisticAverage`].
pub trait OnPairs: Copy {
    /// The loss of what the discriminator said of a real and of a fake batch.
    fn pair<const D: usize>(&self, real: &Tensor<D>, fake: &Tensor<D>) -> TensorPair<Self, D> {
        TensorPair { loss: *self, real: real.clone(), fake: fake.clone() }
    }
}

impl OnPairs for GanLoss {}
impl OnPairs for RelativisticAverage {}

/// An adversarial loss with what the discriminator said of a real and of a fake batch: made by [`OnPairs::pair`].
#[derive(Clone, Debug)]
#[must_use = "nothing is computed until one of its verbs is called"]
pub struct TensorPair<L, const D: usize> {
    loss: L,
    real: Tensor<D>,
    fake: Tensor<D>,
}

/// What the value of a graph is multiplied by is said on the graph.
fn plain(name: &str, upstream: f32, accumulates: bool) -> Result<()> {
    if upstream != 1.0 || accumulates {
        let why = "grad_output and accumulate are not for tensors: multiply the loss; burn adds gradients";
        return Err(Error(format!("{name}: {why}")));
    }
    Ok(())
}

impl<const D: usize> TensorPair<GanLoss, D> {
    /// The discriminator's value, on burn's graph: the sum of both terms, each reduced over its own batch.
    pub fn discriminator(&self, reduction: Reduction) -> Result<Tensor<1>> {
        plain("GAN loss", self.loss.upstream(), self.loss.accumulates())?;
        let on_real = self.loss.real_term().tensor(&self.real).forward(reduction)?;
        Ok(on_real + self.loss.fake_term().tensor(&self.fake).forward(reduction)?)
    }

    /// The generator's value, on burn's graph. It looks at the fake batch alone.
    pub fn generator(&self, reduction: Reduction) -> Result<Tensor<1>> {
        plain("GAN loss", self.loss.upstream(), self.loss.accumulates())?;
        self.loss.generator_term().tensor(&self.fake).forward(reduction)
    }
}

const NAME: &str = "relativistic average";

impl<const D: usize> TensorPair<RelativisticAverage, D> {
    /// The discriminator's value, on burn's graph, with gradients for both batches.
    pub fn discriminator(&self) -> Result<Tensor<1>> {
        self.value(&self.real, &self.fake)
    }

    /// The generator's value, on burn's graph, with gradients for both batches.
    pub fn generator(&self) -> Result<Tensor<1>> {
        self.value(&self.fake, &self.real)
    }

    /// `high` should be above the mean of `low`.
    fn value(&self, high: &Tensor<D>, low: &Tensor<D>) -> Result<Tensor<1>> {
        plain(NAME, self.loss.upstream(), self.loss.accumulates())?;
        let named = |error: Error| Error(format!("{NAME}: {error}"));
        let (real, fake) = (self.real.dtype().name(), self.fake.dtype().name());
        check_input_dtype(NAME, real).map_err(Error)?;
        if real != fake {
            return Err(Error(format!("{NAME}: fake: expected {real}, as the real batch is, got {fake}")));
        }
        let sides = (Side::of("input", high).map_err(named)?, Side::of("input", low).map_err(named)?);
        Ok(apply(Average, sides.0, Some(sides.1))?.tensor())
    }
}

#[derive(Clone, Copy, Debug)]
struct Average;

impl Run for Average {
    fn is_reduced(&self) -> bool {
        true
    }

    fn run(&self, high: &FlexTensor, low: Option<&FlexTensor>, ask: Ask) -> Result<Made> {
        let Some(low) = low else { return Err(Error("a pair of one".into())) };
        match high.dtype() {
            DType::F16 => typed::<f16>(high, low, ask),
            DType::BF16 => typed::<bf16>(high, low, ask),
            _ => typed::<f32>(high, low, ask),
        }
    }
}

fn typed<T: Stored>(of_high: &FlexTensor, of_low: &FlexTensor, ask: Ask) -> Result<Made> {
    let (high, low) = (slice::<T>(of_high)?, slice::<T>(of_low)?);
    let loss = RelativisticAverage::new().grad_output(ask.upstream.map_or(1.0, scalar));
    if ask.grads == [false; 2] {
        return Ok(Made { values: Some(flex(vec![loss.discriminator_forward(high, low)], &[1])), grads: [None, None] });
    }
    let [mut on_high, mut on_low] = [high, low].map(|x| vec![<T as Default>::default(); x.len()]);
    let value = loss.discriminator(high, low, &mut on_high, &mut on_low)?;
    let [of_high, of_low] = [of_high, of_low].map(|x| x.layout().shape());
    let grads = [ask.grads[0].then(|| flex(on_high, of_high)), ask.grads[1].then(|| flex(on_low, of_low))];
    Ok(Made { values: Some(flex(vec![value], &[1])), grads })
}
