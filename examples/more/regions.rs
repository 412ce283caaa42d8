//! Dice's kin: generalised Dice where a region is small, Tversky where a miss costs more than a false alarm, and its
//! focal form, which turns to what is still wrong; and Lovasz's hinge, which follows the Jaccard index itself.

use fused_loss::{Buffer, DiceLoss, DiceWeight, GeneralizedDiceLoss, LovaszHinge, Reduction, Result, TverskyLoss};
use ndarray::Array2;

use crate::Loss;
use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

const PIXELS: usize = 64;

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::from(cores(context)?);
    outcomes.extend(masks(context)?);
    Ok(outcomes)
}

/// Noisy images, and which of their pixels are to be found.
struct Noisy<T> {
    x: Array2<f32>,
    y: Vec<T>,
}

/// Images to learn from, and images to be judged by. What is to be found are pixels above a threshold.
fn noisy<T>(context: &Context, noise: f32, threshold: f32, target: impl Fn(bool) -> T) -> [Noisy<T>; 2] {
    let digits = data::digits();
    let mut rng = context.rng(71);
    let mut copies = |images: &Set<u8>, copies: usize| {
        let rows: Vec<usize> = (0..copies).flat_map(|_| 0..images.y.len()).collect();
        let clean = images.rows(&rows).x;
        let y = clean.iter().map(|&pixel| target(pixel > threshold)).collect();
        Noisy { x: clean.mapv(|pixel| pixel + noise * normal(&mut rng)), y }
    };
    [copies(&digits.train, context.pick(6, 4)), copies(&digits.test, 1)]
}

/// The core of the stroke, pixels full of ink, is a tenth of the image.
fn cores(context: &Context) -> Result<[Outcome; 2]> {
    let device = &context.device;
    let [train, test] = noisy(context, 0.3, 15.5 / 16.0, u8::from);
    // The curve, and which pixels of the test images are found to be of the core, with the truth.
    let fit = |progress: &Progress, loss: &Loss<u8>| {
        let mut rng = context.rng(72);
        let mut model = Mlp::new(&[PIXELS, 128, 2 * PIXELS], &mut rng);
        let trainer = Trainer { epochs: 10, batch: 64, rate: 0.003, device, progress };
        let curve = trainer.fit(&mut model, (&train.x, &train.y), &mut rng, loss)?;
        let logits = model.forward(test.x.view());
        let found = logits.chunks_exact(2 * PIXELS).flat_map(|image| (0..PIXELS).map(|i| image[PIXELS + i] > image[i]));
        Ok((curve, Found(found.zip(test.y.iter().map(|&y| y == 1)).collect())))
    };
    // Two channels of logits an image, of what is around and of the core, and one index of a channel a pixel.
    let shape = |channels: &Buffer<u8>| [channels.len() / PIXELS, 2, 8, 8];

    let progress = Progress::start("generalised Dice");
    let loss = GeneralizedDiceLoss::new().softmax();
    let (curve, found) = fit(&progress, &|logits, channels, grad| {
        loss.on(device).forward_backward(logits, channels, shape(channels), Reduction::Mean, grad)
    })?;
    // With uniform weights what is around is nearly all that there is to gain.
    let loss = loss.weight(DiceWeight::Uniform);
    let (_, uniform) = fit(&progress, &|logits, channels, grad| {
        loss.on(device).forward_backward(logits, channels, shape(channels), Reduction::Mean, grad)
    })?;
    // Dice needs no weights here, for it takes the mean of the channels.
    let dice = DiceLoss::new().softmax();
    let (_, dice) = fit(&progress, &|logits, channels, grad| {
        dice.on(device).forward_backward(logits, channels, shape(channels), Reduction::Mean, grad)
    })?;
    let score = Metric::new("Dice", found.f(1.0)).at_least(context.pick(0.57, 0.55));
    let score = score.versus("uniform weights", Metric::new("Dice", uniform.f(1.0)));
    let metrics = vec![score, Metric::new("of DiceLoss", dice.f(1.0))];
    let generalized = progress.finish("cores of digits in noise", curve, metrics);

    // With gamma above 1 what is nearly right, here all that is around, counts less beside what is not, the core.
    let progress = Progress::start("focal Tversky");
    let plain = TverskyLoss::new(0.3, 0.7)?.softmax();
    let focal = plain.focal(2.0)?;
    let (curve, found) = fit(&progress, &|logits, channels, grad| {
        focal.on(device).forward_backward(logits, channels, shape(channels), Reduction::Mean, grad)
    })?;
    let (_, rival) = fit(&progress, &|logits, channels, grad| {
        plain.on(device).forward_backward(logits, channels, shape(channels), Reduction::Mean, grad)
    })?;
    let metrics = vec![
        found.f2().at_least(context.pick(0.66, 0.64)).versus("Tversky", rival.f2()),
        found.recall().at_least(context.pick(0.72, 0.70)).versus("Tversky", rival.recall()),
        found.precision().versus("Tversky", rival.precision()),
    ];
    Ok([generalized, progress.finish("cores of digits in noise", curve, metrics)])
}

/// Which pixels belong to the digit, if it is worse to miss one than to take one too many? And if the Jaccard index is the judge?
fn masks(context: &Context) -> Result<[Outcome; 2]> {
    let device = &context.device;
    let [train, test] = noisy(context, 0.5, 7.5 / 16.0, f32::from);
    let fit = |progress: &Progress, loss: &Loss<f32>| {
        let mut rng = context.rng(73);
        let mut model = Mlp::new(&[PIXELS, 128, PIXELS], &mut rng);
        let trainer = Trainer { epochs: 10, batch: 64, rate: 0.003, device, progress };
        let curve = trainer.fit(&mut model, (&train.x, &train.y), &mut rng, loss)?;
        let found = model.forward(test.x.view()).into_iter().map(|logit| logit > 0.0);
        Ok((curve, Found(found.zip(test.y.iter().map(|&y| y == 1.0)).collect())))
    };
    // One channel of logits an image, and a mask of the same shape.
    let shape = |logits: &Buffer<f32>| [logits.len() / PIXELS, 1, 8, 8];

    let progress = Progress::start("Tversky");
    let loss = TverskyLoss::new(0.2, 0.8)?.sigmoid(); // a miss costs as much as four false alarms
    let (curve, found) = fit(&progress, &|logits, masks, grad| {
        loss.on(device).forward_backward(logits, masks, shape(logits), Reduction::Mean, grad)
    })?;
    let dice = DiceLoss::new().sigmoid();
    let (_, rival) = fit(&progress, &|logits, masks, grad| {
        dice.on(device).forward_backward(logits, masks, shape(logits), Reduction::Mean, grad)
    })?;
    let metrics = vec![
        found.f2().at_least(0.84).versus("Dice", rival.f2()),
        found.recall().at_least(0.95).versus("Dice", rival.recall()),
        found.precision().versus("Dice", rival.precision()),
    ];
    let tversky = progress.finish("digits in noise", curve, metrics);

    // Its logits are cut at zero, as a hinge's: there is no sigmoid.
    let progress = Progress::start("Lovasz hinge");
    let loss = LovaszHinge::new();
    let (curve, found) = fit(&progress, &|logits, masks, grad| {
        loss.on(device).forward_backward(logits, masks, shape(logits), Reduction::Mean, grad)
    })?;
    let metrics = vec![found.jaccard().at_least(context.pick(0.70, 0.69)).versus("Dice", rival.jaccard())];
    Ok([tversky, progress.finish("digits in noise", curve, metrics)])
}

/// Of each pixel, whether it was found and whether it should have been.
struct Found(Vec<(bool, bool)>);

impl Found {
    /// Precision and recall, of which recall counts twice as much.
    fn f2(&self) -> Metric {
        Metric::new("F2", self.f(2.0))
    }

    fn recall(&self) -> Metric {
        let [hits, _, misses] = self.counts();
        Metric::new("recall", hits / (hits + misses))
    }

    fn precision(&self) -> Metric {
        let [hits, alarms, _] = self.counts();
        Metric::new("precision", hits / (hits + alarms))
    }

    fn jaccard(&self) -> Metric {
        let [hits, alarms, misses] = self.counts();
        Metric::new("Jaccard", hits / (hits + alarms + misses))
    }

    /// The mean of precision and recall that counts recall `beta` times as much; 1 makes it the Dice score.
    fn f(&self, beta: f32) -> f32 {
        let (square, [hits, alarms, misses]) = (beta * beta, self.counts());
        (1.0 + square) * hits / ((1.0 + square) * hits + square * misses + alarms)
    }

    /// Hits, false alarms and misses.
    fn counts(&self) -> [f32; 3] {
        [(true, true), (true, false), (false, true)]
            .map(|kind| self.0.iter().filter(|&&pixel| pixel == kind).count() as f32)
    }
}
