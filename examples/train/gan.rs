//! The GAN loss: two networks play against each other until one draws what the other cannot tell from
//! the data, eight Gaussians on a ring.

use std::f32::consts::TAU;

use fastrand::Rng;
use fused_loss::{GanLoss, GanMode, Mse, Reduction, Result};
use ndarray::{Array2, Axis, concatenate};

use crate::nn::{Mlp, Trainer, normal};
use crate::plot;
use crate::report::{Context, Metric, Outcome, Progress};

/// What the ring consists of.
const MODES: usize = 8;
/// The standard deviation of each Gaussian; the ring has radius 1.
const SPREAD: f32 = 0.05;
/// Numbers of noise for each sample.
const NOISE: usize = 2;
/// How far from the data the points beside them are: a standard deviation.
const BESIDE: f32 = 0.1;
/// Steps that make one point of the curves.
const STEPS: usize = 100;

pub fn run(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("GAN");
    let mut rng = context.rng(5);
    let mut generator = Mlp::new(&[NOISE, 64, 64, 2], &mut rng);
    let mut discriminator = Mlp::new(&[2, 64, 64, 1], &mut rng);
    // With less momentum the players do not overrun each other (Radford et al. 2016).
    (generator.beta1, discriminator.beta1) = (0.5, 0.5);

    let gan = GanLoss::new(GanMode::NonSaturating).on(device);
    let batch = 256;
    let trainer = Trainer { epochs: context.pick(40, 25), batch, rate: 0.005, device, progress: &progress };
    let (mut curve_d, mut curve_g) = (Vec::new(), Vec::new());
    let mut pictures = vec![("the data".to_string(), ring(1000, &mut rng))];

    for epoch in 0..trainer.epochs {
        let rate = trainer.rate_in(epoch);
        // On its own this game goes round in circles or forgets modes. It settles if the discriminator
        // must not be steep at the data (R1, Mescheder et al. 2018), which here means that it must not say
        // something else of points beside them. Less and less of it, for it blurs.
        let flat = Mse::new().on(device).grad_output(0.5 * rate / trainer.rate);
        let (mut sum_d, mut sum_g) = (0.0, 0.0);
        for _ in 0..STEPS {
            // The discriminator learns to tell real from fake.
            let real = ring(batch, &mut rng);
            let beside = real.mapv(|x| x + BESIDE * normal(&mut rng));
            let fake = draw(&mut generator, batch, &mut rng);
            let logits = discriminator.forward(concatenate![Axis(0), real, beside, fake].view());
            let real = device.buffer(&logits[..batch])?;
            let beside = device.buffer(&logits[batch..2 * batch])?;
            let fake = device.buffer(&logits[2 * batch..])?;
            let [mut grad_real, mut grad_beside, mut grad_fake] =
                [device.zeros(batch)?, device.zeros(batch)?, device.zeros(batch)?];
            sum_d += gan.discriminator(&real, &fake, Reduction::Mean, &mut grad_real, &mut grad_fake)?;
            flat.forward_backward(&beside, &real, Reduction::Mean, &mut grad_beside)?;
            flat.accumulate().forward_backward(&real, &beside, Reduction::Mean, &mut grad_real)?;
            discriminator.backward(&[grad_real.to_vec()?, grad_beside.to_vec()?, grad_fake.to_vec()?].concat());
            discriminator.step(rate);

            // The generator learns to mislead it. The gradient for its samples comes through the
            // discriminator, which takes no step here.
            let samples = draw(&mut generator, batch, &mut rng);
            let fake = device.buffer(&discriminator.forward(samples.view()))?;
            let mut grad = device.zeros(batch)?;
            sum_g += gan.generator(&fake, Reduction::Mean, &mut grad)?;
            let grad_samples = discriminator.backward(&grad.to_vec()?);
            generator.backward(&grad_samples);
            generator.step(rate);
        }
        curve_d.push(sum_d / STEPS as f32);
        curve_g.push(sum_g / STEPS as f32);
        progress.update(epoch + 1, trainer.epochs, curve_d[epoch]);
        if [1, 4, trainer.epochs].contains(&(epoch + 1)) {
            pictures.push((format!("generated, step {}", (epoch + 1) * STEPS), draw(&mut generator, 1000, &mut rng)));
        }
    }

    let samples = draw(&mut generator, 10_000, &mut rng);
    let metrics =
        vec![covered(&samples).at_least(context.pick(8.0, 7.0)), near(&samples).at_least(context.pick(0.85, 0.70))];
    let mut outcome = progress.finish("8 Gaussians on a ring", curve_d, metrics);
    outcome.curves[0].0 = "discriminator";
    outcome.curves.push(("generator", curve_g));
    outcome.pictures.push(("gan.svg", plot::scatter("A GAN learns a ring of eight Gaussians", &pictures)));
    Ok(outcome)
}

fn center(mode: usize) -> [f32; 2] {
    let angle = mode as f32 * TAU / MODES as f32;
    [angle.cos(), angle.sin()]
}

/// Samples of the data.
fn ring(samples: usize, rng: &mut Rng) -> Array2<f32> {
    let sample = |_| center(rng.usize(..MODES)).map(|x| x + SPREAD * normal(rng));
    (0..samples).map(sample).collect::<Vec<_>>().into()
}

/// Samples of the generator.
fn draw(generator: &mut Mlp, samples: usize, rng: &mut Rng) -> Array2<f32> {
    let noise = Array2::from_shape_simple_fn((samples, NOISE), || normal(rng));
    Array2::from_shape_vec((samples, 2), generator.forward(noise.view())).expect("two numbers a sample")
}

/// How many samples lie within three standard deviations of each mode; of true samples 98.9% do.
fn hits(samples: &Array2<f32>) -> [usize; MODES] {
    std::array::from_fn(|mode| {
        let [x, y] = center(mode);
        samples.rows().into_iter().filter(|p| (p[0] - x).hypot(p[1] - y) < 3.0 * SPREAD).count()
    })
}

/// How many modes get at least a quarter of their share of the samples.
fn covered(samples: &Array2<f32>) -> Metric {
    let modes = hits(samples).into_iter().filter(|hits| 4 * MODES * hits >= samples.nrows());
    Metric::new("modes", modes.count() as f32)
}

/// Which part of the samples lies near any mode.
fn near(samples: &Array2<f32>) -> Metric {
    Metric::new("near a mode", hits(samples).iter().sum::<usize>() as f32 / samples.nrows() as f32)
}
