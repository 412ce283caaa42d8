//! Trains a small candle network to read digits, with this crate's cross-entropy.
//!
//! ```sh
//! cargo run --release --features candle --example candle
//! ```
//!
//! Prints a line every few epochs, and the accuracy on images that it has not seen; `--check` makes less than 0.95 an error.

use std::process::ExitCode;
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Error, Result, Tensor, Var};
use fused_loss::candle::OnTensors;
use fused_loss::{CrossEntropy, Reduction};

const EPOCHS: usize = 30;
const BATCH: usize = 32;

fn main() -> Result<ExitCode> {
    let started = Instant::now();
    let device = Device::Cpu;
    let (train, test) = digits(&device)?;
    let mut rng = fastrand::Rng::with_seed(1);
    let net = Mlp::new(&[64, 128, 10], &mut rng, &device)?;
    let mut adam = Adam::new(net.variables())?;
    let cross_entropy = CrossEntropy::new().label_smoothing(0.1).map_err(Error::wrap)?;

    let rows = train.digits.elem_count();
    let mut order: Vec<u32> = (0..rows as u32).collect();
    for epoch in 1..=EPOCHS {
        rng.shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let batch = Tensor::new(batch, &device)?;
            let (pixels, digits) = (train.pixels.index_select(&batch, 0)?, train.digits.index_select(&batch, 0)?);
            // The value, and with it the gradient for the logits, which `backward` hands on to the network.
            let loss = cross_entropy.tensors(&net.forward(&pixels)?, &digits).forward(Reduction::Mean)?;
            adam.step(&loss.backward()?)?;
            sum += loss.to_scalar::<f32>()?;
        }
        if epoch % 5 == 0 {
            let mean = sum / rows.div_ceil(BATCH) as f32;
            println!("epoch {epoch:2}: loss {mean:.4}, accuracy on test images {:.3}", net.accuracy(&test)?);
        }
    }
    let accuracy = net.accuracy(&test)?;
    println!("accuracy {accuracy:.3} after {:.1} s", started.elapsed().as_secs_f32());
    let low = std::env::args().any(|arg| arg == "--check") && accuracy < 0.95;
    Ok(if low { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Images of 8 x 8 pixels from 0 to 1, `(images, 64)`, and the digit that each is of.
struct Images {
    pixels: Tensor,
    digits: Tensor,
}

/// To train on, and, every fifth, to test on.
fn digits(device: &Device) -> Result<(Images, Images)> {
    let part = |test: bool| {
        let lines = include_str!("data/digits.csv").lines().enumerate().filter(|(i, _)| (i % 5 == 0) == test);
        let (mut pixels, mut digits) = (Vec::new(), Vec::new());
        for (_, line) in lines {
            let mut numbers: Vec<f32> =
                line.split(',').map(|x| x.parse().map_err(Error::wrap)).collect::<Result<_>>()?;
            digits.extend(numbers.pop().map(|digit| digit as u8));
            pixels.extend(numbers.into_iter().map(|x| x / 16.0));
        }
        let shape = (digits.len(), pixels.len() / digits.len());
        Ok::<_, Error>(Images {
            pixels: Tensor::from_vec(pixels, shape, device)?,
            digits: Tensor::from_vec(digits, shape.0, device)?,
        })
    };
    Ok((part(false)?, part(true)?))
}

/// Dense layers with a ReLU between them.
struct Mlp {
    /// `(inputs, outputs)` and `(outputs)`
    layers: Vec<(Var, Var)>,
}

impl Mlp {
    fn new(widths: &[usize], rng: &mut fastrand::Rng, device: &Device) -> Result<Self> {
        let layer = |w: &[usize]| {
            // He's initialisation, from a seed: candle's CPU generator has none.
            let deviation = (2.0 / w[0] as f32).sqrt();
            let mut normal = || (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0;
            let weights: Vec<f32> = (0..w[0] * w[1]).map(|_| deviation * normal()).collect();
            let weights = Var::from_tensor(&Tensor::from_vec(weights, (w[0], w[1]), device)?)?;
            Ok((weights, Var::zeros(w[1], DType::F32, device)?))
        };
        Ok(Mlp { layers: widths.windows(2).map(layer).collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (weights, bias)) in self.layers.iter().enumerate() {
            x = if i == 0 { x } else { x.relu()? };
            x = x.matmul(weights)?.broadcast_add(bias)?;
        }
        Ok(x)
    }

    fn variables(&self) -> Vec<Var> {
        self.layers.iter().flat_map(|(weights, bias)| [weights.clone(), bias.clone()]).collect()
    }

    fn accuracy(&self, test: &Images) -> Result<f32> {
        let said = self.forward(&test.pixels)?.argmax(D::Minus1)?;
        let right = said.eq(&test.digits.to_dtype(DType::U32)?)?;
        right.to_dtype(DType::F32)?.mean_all()?.to_scalar()
    }
}

/// Adam, with its usual constants.
struct Adam {
    steps: i32,
    /// Each with the running means of its gradient and of that squared.
    variables: Vec<(Var, Tensor, Tensor)>,
}

impl Adam {
    fn new(variables: Vec<Var>) -> Result<Self> {
        let with_means = |v: Var| Ok((v.clone(), v.zeros_like()?, v.zeros_like()?));
        Ok(Adam { steps: 0, variables: variables.into_iter().map(with_means).collect::<Result<_>>()? })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        const RATE: f64 = 0.003;
        self.steps += 1;
        let [first, second] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.steps));
        for (variable, mean, square) in &mut self.variables {
            let Some(grad) = grads.get(variable) else { continue };
            *mean = ((&*mean * 0.9)? + (grad * 0.1)?)?;
            *square = ((&*square * 0.999)? + (grad.sqr()? * 0.001)?)?;
            let step = ((&*mean / first)? / ((&*square / second)?.sqrt()? + 1e-8)?)?;
            variable.set(&(variable.as_tensor() - (step * RATE)?)?)?;
        }
        Ok(())
    }
}
