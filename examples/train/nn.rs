//! A multilayer perceptron with backpropagation and Adam, and the loop that trains it.
//!
//! Nothing here knows any loss: [`Mlp::forward`] gives what a loss takes, [`Mlp::backward`] takes the
//! gradient that the loss gives, and [`Trainer::fit`] is where the two meet.

use std::f32::consts::{PI, TAU};

use fastrand::Rng;
use fused_loss::{Buffer, Device, Result, Storable};
use ndarray::{Array2, ArrayView2, Axis, Zip};

use crate::report::Progress;

/// The slope of the activation (leaky ReLU) below zero.
const LEAK: f32 = 0.1;

/// Layers with leaky ReLU between them. The last one's output is left as it is, for the losses take
/// logits.
#[derive(Clone)]
pub struct Mlp {
    layers: Vec<Layer>,
    /// Adam's first decay rate; the second is 0.999.
    pub beta1: f32,
    /// AdamW's weight decay.
    pub decay: f32,
    steps: i32,
}

/// `output = input * weight + bias`
#[derive(Clone)]
struct Layer {
    weight: Param,
    bias: Param,
    /// What the last forward pass put in.
    input: Array2<f32>,
}

/// Parameters, their gradient, and Adam's running means of the gradient and of its square.
#[derive(Clone)]
struct Param {
    value: Array2<f32>,
    grad: Array2<f32>,
    mean: Array2<f32>,
    square: Array2<f32>,
}

impl Param {
    fn new(value: Array2<f32>) -> Self {
        let zeros = Array2::zeros(value.dim());
        Param { value, grad: zeros.clone(), mean: zeros.clone(), square: zeros }
    }
}

impl Mlp {
    /// `sizes` are those of the input, the hidden layers and the output.
    pub fn new(sizes: &[usize], rng: &mut Rng) -> Self {
        let layer = |size: &[usize]| {
            let scale = (2.0 / size[0] as f32).sqrt(); // He et al. 2015
            let weight = Array2::from_shape_simple_fn((size[0], size[1]), || scale * normal(rng));
            let bias = Array2::zeros((1, size[1]));
            Layer { weight: Param::new(weight), bias: Param::new(bias), input: Array2::default((0, 0)) }
        };
        Mlp { layers: sizes.windows(2).map(layer).collect(), beta1: 0.9, decay: 0.0, steps: 0 }
    }

    /// The outputs for the rows of `x`, row after row.
    pub fn forward(&mut self, x: ArrayView2<f32>) -> Vec<f32> {
        let mut x = x.to_owned();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if i > 0 {
                x.mapv_inplace(|x| if x > 0.0 { x } else { LEAK * x });
            }
            let output = x.dot(&layer.weight.value) + &layer.bias.value;
            layer.input = std::mem::replace(&mut x, output);
        }
        x.into_iter().collect()
    }

    /// Takes the gradient for the output of the last `forward`, keeps that for the parameters until
    /// `step`, and returns that for the input.
    pub fn backward(&mut self, grad_output: &[f32]) -> Vec<f32> {
        let rows = self.layers[0].input.nrows();
        let shape = (rows, grad_output.len() / rows);
        let mut grad = Array2::from_shape_vec(shape, grad_output.to_vec()).expect("one gradient for each output");
        for (i, layer) in self.layers.iter_mut().enumerate().rev() {
            layer.weight.grad = layer.input.t().dot(&grad);
            layer.bias.grad = grad.sum_axis(Axis(0)).insert_axis(Axis(0));
            grad = grad.dot(&layer.weight.value.t());
            if i > 0 {
                // The activation keeps the sign, so what it gave tells its slope.
                Zip::from(&mut grad).and(&layer.input).for_each(|g, &x| *g *= if x > 0.0 { 1.0 } else { LEAK });
            }
        }
        grad.into_iter().collect()
    }

    /// A step of Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019).
    pub fn step(&mut self, rate: f32) {
        self.steps += 1;
        let (beta1, beta2) = (self.beta1, 0.999f32);
        let (full1, full2) = (1.0 - beta1.powi(self.steps), 1.0 - beta2.powi(self.steps));
        for layer in &mut self.layers {
            for (param, decay) in [(&mut layer.weight, self.decay), (&mut layer.bias, 0.0)] {
                let Param { value, grad, mean, square } = param;
                Zip::from(value).and(grad).and(mean).and(square).for_each(|value, &mut grad, mean, square| {
                    *mean += (1.0 - beta1) * (grad - *mean);
                    *square += (1.0 - beta2) * (grad * grad - *square);
                    *value -= rate * ((*mean / full1) / ((*square / full2).sqrt() + 1e-8) + decay * *value);
                });
            }
        }
    }
}

/// How to train.
pub struct Trainer<'a> {
    pub epochs: usize,
    /// Rows a step.
    pub batch: usize,
    /// The learning rate at the start.
    pub rate: f32,
    /// Where the loss is computed; the network itself stays on the CPU.
    pub device: &'a Device,
    pub progress: &'a Progress,
}

impl Trainer<'_> {
    /// The learning rate in an epoch: it falls to zero along half a cosine.
    pub fn rate_in(&self, epoch: usize) -> f32 {
        self.rate * 0.5 * (1.0 + (PI * epoch as f32 / self.epochs as f32).cos())
    }

    /// Trains `model` on the rows of `x` and their targets `y`, and returns the mean loss of each epoch.
    ///
    /// `loss` gets the outputs for a batch, the targets, and room for the gradient, and returns the mean
    /// loss of the batch.
    pub fn fit<T: Storable>(
        &self,
        model: &mut Mlp,
        (x, y): (&Array2<f32>, &[T]),
        rng: &mut Rng,
        mut loss: impl FnMut(&Buffer<f32>, &Buffer<T>, &mut Buffer<f32>) -> Result<f32>,
    ) -> Result<Vec<f32>> {
        let targets = y.len() / x.nrows(); // of each row
        let mut order: Vec<usize> = (0..x.nrows()).collect();
        let mut curve = Vec::new();
        for epoch in 0..self.epochs {
            rng.shuffle(&mut order);
            let mut sum = 0.0;
            for rows in order.chunks(self.batch) {
                let target: Vec<T> = rows.iter().flat_map(|row| &y[row * targets..][..targets]).copied().collect();
                let target = self.device.buffer(&target)?;
                let output = self.device.buffer(&model.forward(x.select(Axis(0), rows).view()))?;
                let mut grad = self.device.zeros(output.len())?;
                sum += loss(&output, &target, &mut grad)? * rows.len() as f32;
                model.backward(&grad.to_vec()?);
                model.step(self.rate_in(epoch));
            }
            curve.push(sum / x.nrows() as f32);
            self.progress.update(epoch + 1, self.epochs, curve[epoch]);
        }
        Ok(curve)
    }
}

/// A number from the standard normal distribution (Box & Muller 1958).
pub fn normal(rng: &mut Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.f32()).ln()).sqrt();
    radius * (TAU * rng.f32()).cos()
}
