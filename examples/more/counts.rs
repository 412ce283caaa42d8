//! Poisson: a pixel of the digits counts how many of 16 dots are ink. How many will it be in the half that is hidden?

use fused_loss::{Mse, PoissonNll, Reduction, Result};
use ndarray::{Array2, Axis, s};

use crate::data;
use crate::nn::{Mlp, Trainer};
use crate::report::{Context, Metric, Outcome, Progress};

/// Pixels of half an image.
const HALF: usize = 32;

pub fn run(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("Poisson");
    let digits = data::digits();
    // The upper half as it is, and the counts of the lower.
    let halves = |x: &Array2<f32>| (x.slice(s![.., ..HALF]).to_owned(), counts(x));
    let ((train, train_counts), (test, test_counts)) = (halves(&digits.train.x), halves(&digits.test.x));

    // The network gives the logarithm of each rate, so that a rate is above zero whatever it gives.
    let mut rng = context.rng(11);
    let mut model = Mlp::new(&[HALF, 128, HALF], &mut rng);
    model.decay = 0.1;
    let trainer = Trainer { epochs: context.pick(30, 10), batch: 32, rate: 0.003, device, progress: &progress };
    let curve = trainer.fit(&mut model, (&train, &train_counts), &mut rng, |log_rates, counts, grad| {
        PoissonNll::new().on(device).forward_backward(log_rates, counts, Reduction::Mean, grad)
    })?;
    let rates: Vec<f32> = model.forward(test.view()).into_iter().map(f32::exp).collect();

    // Squared error may say less than nothing, which is no rate; there it gets the rate that suits it best.
    let mut rng = context.rng(11);
    let mut rival = Mlp::new(&[HALF, 128, HALF], &mut rng);
    rival.decay = 0.1;
    trainer.fit(&mut rival, (&train, &train_counts), &mut rng, |output, counts, grad| {
        Mse::new().on(device).forward_backward(output, counts, Reduction::Mean, grad)
    })?;
    let predicted = rival.forward(test.view());
    let clipped = |least: f32| deviance(&predicted.iter().map(|p| p.max(least)).collect::<Vec<_>>(), &test_counts);
    let squared = [0.03, 0.1, 0.3, 1.0].map(clipped).into_iter().fold(f32::INFINITY, f32::min);

    // And the mean of each pixel, which knows nothing of the upper half.
    let mean = digits.train.x.slice(s![.., HALF..]).mean_axis(Axis(0)).expect("images") * 16.0;
    let means: Vec<f32> = (0..test_counts.len()).map(|i| mean[i % HALF].max(0.01)).collect();

    let metric = |value| Metric::new("deviance", value);
    let poisson =
        metric(deviance(&rates, &test_counts)).at_most(context.pick(2.45, 2.9)).versus("MSE", metric(squared));
    let metrics = vec![poisson, Metric::new("of mean rates", deviance(&means, &test_counts))];
    Ok(progress.finish("lower halves of digits", curve, metrics))
}

/// The data set has counts from 0 to 16.
fn counts(x: &Array2<f32>) -> Vec<f32> {
    x.slice(s![.., HALF..]).iter().map(|pixel| 16.0 * pixel).collect()
}

/// Twice what the likelihood lacks of its best, the mean over the counts: for counts what the squared error is for
/// numbers with noise.
fn deviance(rates: &[f32], counts: &[f32]) -> f32 {
    let terms = rates.iter().zip(counts).map(|(&rate, &count)| {
        let seen = if count > 0.0 { count * (count / rate).ln() } else { 0.0 };
        2.0 * (seen - (count - rate))
    });
    terms.sum::<f32>() / counts.len() as f32
}
