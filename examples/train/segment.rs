//! Dice: which pixels belong to the digit, in an image full of noise?

use fastrand::Rng;
use fused_loss::{DiceLoss, Reduction, Result};
use ndarray::Array2;

use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer, normal};
use crate::plot;
use crate::report::{Context, Metric, Outcome, Progress};

const PIXELS: usize = 64;
/// A pixel above 7 of 16 is the digit's, and a threshold here separates the two best.
const THRESHOLD: f32 = 7.5 / 16.0;
/// The standard deviation of the noise; the images themselves go from 0 to 1.
const NOISE: f32 = 0.5;

pub fn run(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("Dice");
    let mut rng = context.rng(4);
    let digits = data::digits();
    let (train, masks) = noisy(&digits.train, context.pick(40, 10), &mut rng);
    let (test, truth) = noisy(&digits.test, 1, &mut rng);

    let mut model = Mlp::new(&[PIXELS, 128, 128, PIXELS], &mut rng);
    let trainer = Trainer { epochs: context.pick(10, 8), batch: 64, rate: 0.003, device, progress: &progress };
    let loss = DiceLoss::new().sigmoid();
    let curve = trainer.fit(&mut model, (&train, &masks), &mut rng, |logits, masks, grad| {
        let images = logits.len() / PIXELS;
        loss.on(device).forward_backward(logits, masks, [images, 1, 8, 8], Reduction::Mean, grad)
    })?;

    // A logit above zero is a probability above one half.
    let found: Vec<f32> = model.forward(test.view()).into_iter().map(|logit| f32::from(logit > 0.0)).collect();
    let bright: Vec<f32> = test.iter().map(|&pixel| f32::from(pixel > THRESHOLD)).collect();
    let score = dice(&found, &truth).at_least(context.pick(0.80, 0.76));
    let metrics = vec![score.versus("threshold", dice(&bright, &truth))];
    let mut outcome = progress.finish("digits in noise", curve, metrics);

    // A picture of the first test image of each digit.
    let first = |digit| digits.test.y.iter().position(|&y| y == digit).expect("all ten digits are there");
    let pick = |images: &[f32]| (0..10).flat_map(|digit| images[first(digit) * PIXELS..][..PIXELS].to_vec()).collect();
    let noisy: Vec<f32> = test.into_iter().collect();
    let rows = [
        ("noisy image", pick(&noisy)),
        ("threshold", pick(&bright)),
        ("network, Dice loss", pick(&found)),
        ("true mask", pick(&truth)),
    ];
    outcome.pictures.push(("dice.svg", plot::images("Which pixels are the digit's? (test images)", &rows)));
    Ok(outcome)
}

/// Noisy copies of the images, and the masks of the clean ones.
fn noisy(images: &Set<u8>, copies: usize, rng: &mut Rng) -> (Array2<f32>, Vec<f32>) {
    let rows: Vec<usize> = (0..copies).flat_map(|_| 0..images.y.len()).collect();
    let clean = images.rows(&rows).x;
    let masks = clean.iter().map(|&pixel| f32::from(pixel > THRESHOLD)).collect();
    (clean.mapv(|pixel| pixel + NOISE * normal(rng)), masks)
}

/// The Dice score, the mean over the images: twice the overlap by the sum of both sizes.
fn dice(found: &[f32], truth: &[f32]) -> Metric {
    let images = found.chunks_exact(PIXELS).zip(truth.chunks_exact(PIXELS)).map(|(found, truth)| {
        let overlap: f32 = found.iter().zip(truth).map(|(f, t)| f * t).sum();
        2.0 * overlap / (found.iter().sum::<f32>() + truth.iter().sum::<f32>())
    });
    Metric::new("Dice", images.sum::<f32>() / (found.len() / PIXELS) as f32)
}
