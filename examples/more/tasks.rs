//! Two tasks of one network: which digit is it, and how much ink has it? Their losses are in units that have nothing to do with one
//! another, and how much each counts is learned beside the network.

use fused_loss::{CrossEntropy, Mse, Reduction, Result, TaskUncertainty};
use ndarray::{ArrayView2, Axis};

use crate::classes::{CLASSES, share_right};
use crate::data::{self, Set, Split};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

/// What both tasks see.
const SEEN: usize = 64;

/// A network with two ends.
struct TwoHeads {
    trunk: Mlp,
    digit: Mlp,
    ink: Mlp,
}

impl TwoHeads {
    /// What both ends have to say: ten logits an image, and a number.
    fn forward(&mut self, images: ArrayView2<f32>) -> [Vec<f32>; 2] {
        let seen = self.trunk.forward(images);
        let seen = ArrayView2::from_shape((images.nrows(), SEEN), &seen).expect("rows of what is seen");
        [self.digit.forward(seen), self.ink.forward(seen)]
    }

    fn learn(&mut self, grads: [&[f32]; 2], rate: f32) {
        let [digit, ink] = [self.digit.backward(grads[0]), self.ink.backward(grads[1])];
        self.trunk.backward(&digit.iter().zip(ink).map(|(a, b)| a + b).collect::<Vec<_>>());
        for part in [&mut self.trunk, &mut self.digit, &mut self.ink] {
            part.step(rate);
        }
    }
}

/// The noise of a pixel, which goes from 0 to 1: without it, both tasks would be easy.
const NOISE: f32 = 0.2;

/// Learns both tasks with weights that are learned too, and again with the sum of both losses as they are. Whoever squares grey levels has
/// losses in the hundreds, beside which those of digits are nothing.
pub fn run(context: &Context) -> Result<Outcome> {
    let progress = Progress::start("task uncertainty");
    let mut rng = context.rng(81);
    let Split { train, test } = data::digits();
    let usual = train.x.sum_axis(Axis(1)).mean().expect("at least one row");
    let [(train, ink), (test, test_ink)] = [train, test].map(|Set { x, y }| {
        // Beyond what is usual, in grey levels, of which a pixel has sixteen; without the noise.
        let ink: Vec<f32> = x.sum_axis(Axis(1)).iter().map(|ink| 16.0 * (ink - usual)).collect();
        (Set { x: x.mapv(|pixel| pixel + NOISE * normal(&mut rng)), y }, ink)
    });
    let epochs = context.pick(40, 20);
    let trainer = Trainer { epochs, batch: 64, rate: 0.003, device: &context.device, progress: &progress };
    let fit = |learned: bool| -> Result<_> {
        let mut rng = context.rng(82);
        let [trunk, digit, ink_of] =
            [&[64, 64, SEEN], &[SEEN, 32, CLASSES], &[SEEN, 32, 1]].map(|n| Mlp::new(n, &mut rng));
        let mut model = TwoHeads { trunk, digit, ink: ink_of };
        // The logarithms of both variances. That of the ink begins where all guess what is usual; from zero it would be long on its way,
        // and the first gradients thousands of times those to come, which Adam remembers.
        let (mut s_digit, mut s_ink) = (0.0, (ink.iter().map(|x| x * x).sum::<f32>() / ink.len() as f32).ln());
        let mut order: Vec<usize> = (0..train.y.len()).collect();
        let mut curve = vec![0.0; epochs];
        for (epoch, mean) in curve.iter_mut().enumerate() {
            rng.shuffle(&mut order);
            for rows in order.chunks(trainer.batch) {
                let Set { x, y } = train.rows(rows);
                let true_ink: Vec<f32> = rows.iter().map(|&row| ink[row]).collect();
                let [logits, guess] = model.forward(x.view());
                let (mut on_logits, mut on_guess) = (vec![0.0; logits.len()], vec![0.0; guess.len()]);
                let of_digit = TaskUncertainty::classification(s_digit)?;
                let of_ink = TaskUncertainty::regression(s_ink)?;
                // Weights do not depend on the losses: each call has its own from the start.
                let weights = if learned { [of_digit.weight(), of_ink.weight()] } else { [1.0, 1.0] };
                let call = CrossEntropy::new().call(&logits, &y, (rows.len(), CLASSES)).grad_output(weights[0]);
                let wrong = call.forward_backward(Reduction::Mean, &mut on_logits)?;
                let call = Mse::new().call(&guess, &true_ink).grad_output(weights[1]);
                let off = call.forward_backward(Reduction::Mean, &mut on_guess)?;
                model.learn([&on_logits, &on_guess], trainer.rate_in(epoch));
                s_digit -= 0.01 * of_digit.grad(wrong);
                s_ink -= 0.01 * of_ink.grad(off);
                *mean += (of_digit.value(wrong) + of_ink.value(off)) * rows.len() as f32 / order.len() as f32;
            }
            progress.update(epoch + 1, epochs, *mean);
        }
        let [logits, guess] = model.forward(test.x.view());
        Ok((curve, share_right(&logits, &test), mean_distance(guess.iter().zip(&test_ink))))
    };
    let (curve, right, off) = fit(true)?;
    let (_, plain_right, plain_off) = fit(false)?;
    let nothing = vec![0.0; test_ink.len()];
    let metrics = vec![
        Metric::new("accuracy", right).at_least(0.87).versus("plain sum", Metric::new("accuracy", plain_right)),
        Metric::new("ink off by", off)
            .at_most(context.pick(20.0, 24.0))
            .versus("usual ink", Metric::new("ink off by", mean_distance(nothing.iter().zip(&test_ink)))),
        Metric::new("plain sum off by", plain_off),
    ];
    Ok(progress.finish("digits in noise, their ink", curve, metrics))
}

fn mean_distance<'a>(pairs: impl ExactSizeIterator<Item = (&'a f32, &'a f32)>) -> f32 {
    let n = pairs.len() as f32;
    pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / n
}
