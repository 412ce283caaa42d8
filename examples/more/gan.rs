//! A relativistic GAN with a gradient penalty draws tumours: two of their measurements, as they occur together.

use fastrand::Rng;
use fused_loss::{GradientPenalty, Reduction, RelativisticAverage, Result};
use ndarray::{Array2, Axis, concatenate};

use crate::data;
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

/// Numbers of noise for each sample.
const NOISE: usize = 2;
/// Which measurements: of the worst cells the radius and how concave they are.
const COLUMNS: [usize; 2] = [20, 27];
/// Steps that make one point of the curve.
const STEPS: usize = 50;
/// How far a finite difference reaches.
const REACH: f32 = 0.01;

pub fn run(context: &Context) -> Result<Outcome> {
    let progress = Progress::start("relativistic GAN");
    let split = data::tumours().swap_remove(0);
    let [train, test] = [&split.train.x, &split.test.x].map(|x| x.select(Axis(1), &COLUMNS));
    let mut rng = context.rng(91);
    let mut generator = Mlp::new(&[NOISE, 64, 64, 2], &mut rng);
    let mut discriminator = Mlp::new(&[2, 64, 64, 1], &mut rng);
    (generator.beta1, discriminator.beta1) = (0.5, 0.5);

    let (gan, penalty) = (RelativisticAverage::new(), GradientPenalty::r1(1.0)?);
    let batch = 128;
    let trainer = Trainer { epochs: 30, batch, rate: 0.003, device: &context.device, progress: &progress };
    let mut curve = vec![0.0; trainer.epochs];
    for (epoch, mean) in curve.iter_mut().enumerate() {
        let rate = trainer.rate_in(epoch);
        for _ in 0..STEPS {
            let rows: Vec<usize> = (0..batch).map(|_| rng.usize(..train.nrows())).collect();
            let real = train.select(Axis(0), &rows);
            let fake = draw(&mut generator, batch, &mut rng);

            // The penalty: how steep the discriminator is at the data, and the gradient of that for the slopes.
            discriminator.forward(real.view());
            let slopes = discriminator.backward(&vec![1.0; batch]);
            let mut push = vec![0.0; slopes.len()];
            let steep = penalty.forward_backward(&slopes, (batch, 2), Reduction::Mean, &mut push)?;
            // It is to go back through the slopes, and along `push` a slope is the difference of two values.
            let push = REACH * Array2::from_shape_vec((batch, 2), push).expect("a slope for each input") * batch as f32;
            let [ahead, behind] = [&real + &push, &real - &push];

            // The discriminator: real samples should seem more real to it than fake ones do on average, and the other
            // way round.
            let all = concatenate![Axis(0), real, fake, ahead, behind];
            let said = discriminator.forward(all.view());
            let mut grad = vec![0.5 / REACH / batch as f32; 4 * batch];
            grad[3 * batch..].iter_mut().for_each(|g| *g = -*g);
            let (on_real, rest) = grad.split_at_mut(batch);
            let loss = gan.discriminator(&said[..batch], &said[batch..2 * batch], on_real, &mut rest[..batch])?;
            *mean += (loss + steep) / STEPS as f32;
            discriminator.backward(&grad);
            discriminator.step(rate);

            // The generator: the same with both exchanged. What the real ones get, nobody needs.
            let fake = draw(&mut generator, batch, &mut rng);
            let said = discriminator.forward(concatenate![Axis(0), real, fake].view());
            let mut grad = vec![0.0; 2 * batch];
            let (on_real, on_fake) = grad.split_at_mut(batch);
            gan.generator(&said[..batch], &said[batch..], on_real, on_fake)?;
            let on_samples = discriminator.backward(&grad);
            generator.backward(&on_samples[2 * batch..]);
            generator.step(rate);
        }
        progress.update(epoch + 1, trainer.epochs, *mean);
    }

    let drawn = draw(&mut generator, 2000, &mut rng);
    let rival = gaussian(&train, 2000, &mut rng);
    let distance = |drawn: &Array2<f32>| Metric::new("energy distance", energy(drawn, &test));
    let metrics = vec![distance(&drawn).at_most(0.035).versus("a Gaussian", distance(&rival))];
    Ok(progress.finish("two measurements of tumours", curve, metrics))
}

/// Samples of the generator.
fn draw(generator: &mut Mlp, samples: usize, rng: &mut Rng) -> Array2<f32> {
    let noise = Array2::from_shape_simple_fn((samples, NOISE), || normal(rng));
    Array2::from_shape_vec((samples, 2), generator.forward(noise.view())).expect("two numbers a sample")
}

/// Samples of the Gaussian with the mean and the covariance of the data.
fn gaussian(data: &Array2<f32>, samples: usize, rng: &mut Rng) -> Array2<f32> {
    let mean = data.mean_axis(Axis(0)).expect("rows");
    let centred = data - &mean;
    let covariance = centred.t().dot(&centred) / data.nrows() as f32;
    let a = covariance[[0, 0]].sqrt();
    let b = covariance[[0, 1]] / a;
    let c = (covariance[[1, 1]] - b * b).sqrt();
    let sample = |_| {
        let (u, v) = (normal(rng), normal(rng));
        [mean[0] + a * u, mean[1] + b * u + c * v]
    };
    (0..samples).map(sample).collect::<Vec<_>>().into()
}

/// How far two samples are apart: twice the mean distance between them, without the mean distances within each; it is
/// about zero for samples of one distribution.
fn energy(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let mean = |a: &Array2<f32>, b: &Array2<f32>| {
        let pairs =
            a.rows().into_iter().flat_map(|p| b.rows().into_iter().map(move |q| (p[0] - q[0]).hypot(p[1] - q[1])));
        pairs.map(f64::from).sum::<f64>() / (a.nrows() * b.nrows()) as f64
    };
    (2.0 * mean(a, b) - mean(a, a) - mean(b, b)) as f32
}
