//! Trains a small burn network to read digits, with this crate's cross-entropy.
//!
//! ```sh
//! cargo run --release --features burn --example burn
//! ```
//!
//! Prints a line every few epochs, and the accuracy on images that it has not seen; `--check` makes less than 0.95 an error.

use std::process::ExitCode;
use std::time::Instant;

use burn_tensor::activation::relu;
use burn_tensor::{Device, Gradients, Int, Tensor, TensorData};
use fused_loss::burn::OnTensors;
use fused_loss::{CrossEntropy, Reduction};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const EPOCHS: usize = 30;
const BATCH: usize = 32;

fn main() -> Result<ExitCode> {
    let started = Instant::now();
    let device = Device::flex().autodiff();
    let (train, test) = digits(&device)?;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut net = Mlp::new(&[64, 128, 10], &mut rng, &device);
    let mut adam = Adam::default();
    let cross_entropy = CrossEntropy::new().label_smoothing(0.1)?;

    let rows = train.digits.dims()[0];
    let mut order: Vec<i64> = (0..rows as i64).collect();
    for epoch in 1..=EPOCHS {
        rng.shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let batch = Tensor::<1, Int>::from_data(TensorData::new(batch.to_vec(), [batch.len()]), &device);
            let (pixels, digits) =
                (train.pixels.clone().select(0, batch.clone()), train.digits.clone().select(0, batch));
            // The value, and with it the gradient for the logits, which `backward` hands on to the network.
            let loss = cross_entropy.tensors(&net.forward(pixels), &digits).forward(Reduction::Mean)?;
            sum += loss.clone().into_scalar::<f32>();
            adam.step(&mut net, &loss.backward());
        }
        if epoch % 5 == 0 {
            let mean = sum / rows.div_ceil(BATCH) as f32;
            println!("epoch {epoch:2}: loss {mean:.4}, accuracy on test images {:.3}", net.accuracy(&test));
        }
    }
    let accuracy = net.accuracy(&test);
    println!("accuracy {accuracy:.3} after {:.1} s", started.elapsed().as_secs_f32());
    let low = std::env::args().any(|arg| arg == "--check") && accuracy < 0.95;
    Ok(if low { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Images of 8 x 8 pixels from 0 to 1, `[images, 64]`, and the digit that each is of.
struct Images {
    pixels: Tensor<2>,
    digits: Tensor<1, Int>,
}

/// To train on, and, every fifth, to test on.
fn digits(device: &Device) -> Result<(Images, Images)> {
    let part = |test: bool| {
        let lines = include_str!("data/digits.csv").lines().enumerate().filter(|(i, _)| (i % 5 == 0) == test);
        let (mut pixels, mut digits) = (Vec::new(), Vec::new());
        for (_, line) in lines {
            let mut numbers: Vec<f32> = line.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
            digits.extend(numbers.pop().map(|digit| digit as i64));
            pixels.extend(numbers.into_iter().map(|x| x / 16.0));
        }
        let images = digits.len();
        let shape = [images, pixels.len() / images];
        Ok::<_, Box<dyn std::error::Error>>(Images {
            pixels: Tensor::from_data(TensorData::new(pixels, shape), device),
            digits: Tensor::from_data(TensorData::new(digits, [images]), device),
        })
    };
    Ok((part(false)?, part(true)?))
}

/// Dense layers with a ReLU between them.
struct Mlp {
    /// `[inputs, outputs]` and `[1, outputs]`, in turn.
    variables: Vec<Tensor<2>>,
}

impl Mlp {
    fn new(widths: &[usize], rng: &mut fastrand::Rng, device: &Device) -> Self {
        let mut layer = |w: &[usize]| {
            // He's initialisation.
            let deviation = (2.0 / w[0] as f32).sqrt();
            let mut normal = || (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0;
            let weights: Vec<f32> = (0..w[0] * w[1]).map(|_| deviation * normal()).collect();
            let weights = Tensor::<2>::from_data(TensorData::new(weights, [w[0], w[1]]), device);
            [weights.require_grad(), Tensor::zeros([1, w[1]], device).require_grad()]
        };
        Mlp { variables: widths.windows(2).flat_map(&mut layer).collect() }
    }

    fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for (i, layer) in self.variables.chunks(2).enumerate() {
            x = if i == 0 { x } else { relu(x) };
            x = x.matmul(layer[0].clone()) + layer[1].clone();
        }
        x
    }

    fn accuracy(&self, test: &Images) -> f32 {
        let said = self.forward(test.pixels.clone()).argmax(1).flatten::<1>(0, 1);
        said.equal(test.digits.clone()).float().mean().into_scalar()
    }
}

/// Adam, with its usual constants.
#[derive(Default)]
struct Adam {
    steps: i32,
    /// Of each variable the running means of its gradient and of that squared.
    means: Vec<(Tensor<2>, Tensor<2>)>,
}

impl Adam {
    fn step(&mut self, net: &mut Mlp, grads: &Gradients) {
        const RATE: f32 = 0.003;
        self.steps += 1;
        let [first, second] = [0.9f32, 0.999].map(|beta| 1.0 - beta.powi(self.steps));
        if self.means.is_empty() {
            let zeros = |v: &Tensor<2>| v.clone().inner().zeros_like();
            self.means = net.variables.iter().map(|v| (zeros(v), zeros(v))).collect();
        }
        for (variable, (mean, square)) in net.variables.iter_mut().zip(&mut self.means) {
            let Some(grad) = variable.grad(grads) else { continue };
            *mean = mean.clone() * 0.9 + grad.clone() * 0.1;
            *square = square.clone() * 0.999 + grad.clone() * grad * 0.001;
            let step = mean.clone() / first / ((square.clone() / second).sqrt() + 1e-8);
            *variable = Tensor::from_inner(variable.clone().inner() - step * RATE).require_grad();
        }
    }
}
