//! Losses of classes, which read digits: two with a margin, one that does not get too sure of itself, and one of
//! log-probabilities that no softmax gives.

use fused_loss::{Buffer, CategoricalHinge, CrossEntropy, Device, MultiMargin, Nll, Reduction, Result, SoftmaxFocal};
use ndarray::{Array2, Axis};

use crate::Loss;
use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

pub const CLASSES: usize = 10;

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::from(margins(context)?);
    outcomes.extend([focal(context)?, nll(context)?]);
    Ok(outcomes)
}

/// Cross-entropy of ten logits an image: the rival, and what makes a teacher.
pub fn cross_entropy(device: &Device) -> impl Fn(&Buffer<f32>, &Buffer<u8>, &mut Buffer<f32>) -> Result<f32> {
    move |logits, digits, grad| {
        CrossEntropy::new().on(device).forward_backward(logits, digits, (digits.len(), CLASSES), Reduction::Mean, grad)
    }
}

/// Both losses with a margin ask that the score of the right digit is above the others by 1, and nothing once it is:
/// the first of the highest of the others, the second of each.
fn margins(context: &Context) -> Result<[Outcome; 2]> {
    let device = &context.device;
    let digits = data::digits();
    let fit = |progress: &Progress, loss: &Loss<u8>| {
        let mut rng = context.rng(31);
        let mut model = Mlp::new(&[64, 64, CLASSES], &mut rng);
        let trainer = Trainer { epochs: context.pick(20, 10), batch: 32, rate: 0.003, device, progress };
        let curve = trainer.fit(&mut model, (&digits.train.x, &digits.train.y), &mut rng, loss)?;
        Ok((curve, share_read(&mut model, &digits.test)))
    };
    let (_, rival) = fit(&Progress::start("cross-entropy"), &cross_entropy(device))?;

    // No better and no worse.
    let metrics = |score: f32| {
        let accuracy = Metric::new("accuracy", score).at_least(context.pick(0.955, 0.94));
        vec![accuracy, Metric::new("cross-entropy's", rival)]
    };

    // One row of ten scores an image, and one index of a class.
    let progress = Progress::start("categorical hinge");
    let (curve, score) = fit(&progress, &|scores, digits, grad| {
        let (loss, shape) = (CategoricalHinge::new(), (digits.len(), CLASSES));
        loss.on(device).forward_backward(scores, digits, shape, Reduction::Mean, grad)
    })?;
    let hinge = progress.finish("digits", curve, metrics(score));

    let progress = Progress::start("multi-margin");
    let (curve, score) = fit(&progress, &|scores, digits, grad| {
        let (loss, shape) = (MultiMargin::new(), (digits.len(), CLASSES));
        loss.on(device).forward_backward(scores, digits, shape, Reduction::Mean, grad)
    })?;
    let margin = progress.finish("digits", curve, metrics(score));
    Ok([hinge, margin])
}

/// A network learns half of the images, with noise, by heart. By focal loss it does not get as sure of itself, for an
/// image that is nearly right hardly counts.
fn focal(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("softmax focal");
    let digits = data::digits();
    let mut rng = context.rng(32);
    let mut noisy = |x: &Array2<f32>| x.mapv(|pixel| pixel + 0.3 * normal(&mut rng));
    let half = digits.train.rows(&(0..digits.train.y.len()).step_by(2).collect::<Vec<_>>());
    let train = Set { x: noisy(&half.x), y: half.y };
    let test = Set { x: noisy(&digits.test.x), y: digits.test.y };

    // How much is lost by probabilities for the test images, and how many are read.
    let fit = |loss: &Loss<u8>| {
        let mut rng = context.rng(33);
        let mut model = Mlp::new(&[64, 64, CLASSES], &mut rng);
        let trainer = Trainer { epochs: context.pick(80, 60), batch: 32, rate: 0.003, device, progress: &progress };
        let curve = trainer.fit(&mut model, (&train.x, &train.y), &mut rng, loss)?;
        let logits = model.forward(test.x.view());
        let lost = CrossEntropy::new().forward(&logits, &test.y, (test.y.len(), CLASSES), Reduction::Mean)?;
        Ok((curve, Metric::new("log-loss", lost), accuracy(&mut model, &test)))
    };
    let focal = SoftmaxFocal::new().gamma(3.0)?;
    let (curve, lost, read) = fit(&|logits, digits, grad| {
        focal.on(device).forward_backward(logits, digits, (digits.len(), CLASSES), Reduction::Mean, grad)
    })?;
    let (_, rival_lost, rival_read) = fit(&cross_entropy(device))?;
    let metrics =
        vec![lost.at_most(0.75).versus("cross-entropy", rival_lost), read.versus("cross-entropy", rival_read)];
    Ok(progress.finish("digits in noise, by heart", curve, metrics))
}

/// Images come in pairs, and of each only the sum of both digits is known. A softmax for each image gives the
/// probability of every sum, and what learns from a probability is its logarithm.
fn nll(context: &Context) -> Result<Outcome> {
    const SUMS: usize = 2 * CLASSES - 1;
    let progress = Progress::start("NLL");
    let digits = data::digits();
    let Set { x, y } = &digits.train;
    let mut rng = context.rng(34);
    let mut model = Mlp::new(&[64, 64, CLASSES], &mut rng);
    let epochs = context.pick(30, 20);
    let trainer = Trainer { epochs, batch: 32, rate: 0.005, device: &context.device, progress: &progress };
    let mut order: Vec<usize> = (0..y.len()).collect();
    // The pairs are the same in every epoch.
    rng.shuffle(&mut order);
    let mut pairs: Vec<[usize; 2]> = order.as_chunks().0.to_vec();
    let mut curve = vec![0.0; epochs];
    for (epoch, mean) in curve.iter_mut().enumerate() {
        rng.shuffle(&mut pairs);
        for batch in pairs.chunks(trainer.batch) {
            let sums: Vec<u8> = batch.iter().map(|&[a, b]| y[a] + y[b]).collect();
            let images = x.select(Axis(0), &batch.concat());
            let logits = Array2::from_shape_vec((images.nrows(), CLASSES), model.forward(images.view())).expect("ten");
            let exp = logits.mapv(f32::exp);
            let p = &exp / &exp.sum_axis(Axis(1)).insert_axis(Axis(1));

            // Not quite zero where a sum is impossible, so that no logarithm is infinite.
            let mut of_sum = Array2::from_elem((batch.len(), SUMS), 1e-6f32);
            for (row, a, b) in places(batch.len()) {
                of_sum[[row, a + b]] += p[[2 * row, a]] * p[[2 * row + 1, b]];
            }
            let log_prob: Vec<f32> = of_sum.iter().map(|p| p.ln()).collect();
            let mut grad = vec![0.0; log_prob.len()];
            let shape = (batch.len(), SUMS);
            let loss = Nll::new().forward_backward(&log_prob, &sums, shape, Reduction::Mean, &mut grad)?;
            *mean += loss * batch.len() as f32 / pairs.len() as f32;

            // Back through the logarithm, the sums and the softmax.
            let mut grad_p = Array2::<f32>::zeros(p.dim());
            for (row, a, b) in places(batch.len()) {
                let g = grad[row * SUMS + a + b] / of_sum[[row, a + b]];
                grad_p[[2 * row, a]] += g * p[[2 * row + 1, b]];
                grad_p[[2 * row + 1, b]] += g * p[[2 * row, a]];
            }
            let inner = (&grad_p * &p).sum_axis(Axis(1)).insert_axis(Axis(1));
            let grad_logits: Vec<f32> = ((grad_p - inner) * &p).into_iter().collect();
            model.backward(&grad_logits);
            model.step(trainer.rate_in(epoch));
        }
        progress.update(epoch + 1, epochs, *mean);
    }
    let mut told = Mlp::new(&[64, 64, CLASSES], &mut rng);
    trainer.fit(&mut told, (x, y), &mut rng, cross_entropy(&context.device))?;
    let metrics = vec![
        accuracy(&mut model, &digits.test).at_least(0.95),
        Metric::new("told every digit", share_read(&mut told, &digits.test)),
    ];
    Ok(progress.finish("digits, sums of two known", curve, metrics))
}

/// Every row with every pair of digits.
fn places(rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..rows).flat_map(|row| (0..CLASSES * CLASSES).map(move |both| (row, both / CLASSES, both % CLASSES)))
}

/// How many images have their largest output at the right digit.
pub fn accuracy(model: &mut Mlp, test: &Set<u8>) -> Metric {
    Metric::new("accuracy", share_read(model, test))
}

/// The same as a number.
pub fn share_read(model: &mut Mlp, test: &Set<u8>) -> f32 {
    share_right(&model.forward(test.x.view()), test)
}

/// The same of outputs.
pub fn share_right(outputs: &[f32], test: &Set<u8>) -> f32 {
    let right = outputs.chunks_exact(CLASSES).zip(&test.y).filter(|(outputs, digit)| {
        (0..CLASSES).max_by(|&a, &b| outputs[a].total_cmp(&outputs[b])) == Some(usize::from(**digit))
    });
    right.count() as f32 / test.y.len() as f32
}
