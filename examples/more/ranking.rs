//! Soft margin: is a tumour malignant? Margin ranking: which of two patients will be worse off in a year?

use fastrand::Rng;
use fused_loss::{Hinge, MarginRanking, Mse, Reduction, Result, SoftMargin};
use ndarray::Axis;

use crate::data::{self, Set};
use crate::folds::{Learnt, cross_validate};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;

    // Both losses want labels of -1 and 1.
    let mut tumours = data::tumours();
    for split in &mut tumours {
        split.train.y.iter_mut().chain(&mut split.test.y).for_each(|y| *y = 2.0 * *y - 1.0);
    }
    let progress = Progress::start("soft margin");
    let learnt = cross_validate(context, &tumours, &progress, |scores, labels, grad| {
        SoftMargin::new().on(device).forward_backward(scores, labels, Reduction::Mean, grad)
    })?;
    // Hinge asks for a score beyond the margin and no more, so its scores are no odds.
    let hinge = cross_validate(context, &tumours, &progress, |scores, labels, grad| {
        Hinge::new().on(device).forward_backward(scores, labels, Reduction::Mean, grad)
    })?;
    let lost = log_loss(&learnt)?.at_most(context.pick(0.08, 0.095));
    let metrics = vec![accuracy(&learnt).at_least(0.965), lost.versus("hinge", log_loss(&hinge)?)];
    let soft_margin = progress.finish("tumours", learnt.curve, metrics);

    Ok(vec![soft_margin, margin_ranking(context)?])
}

/// What a ranking is for: every clinic has a scale of its own, so only patients of one clinic can be compared.
fn margin_ranking(context: &Context) -> Result<Outcome> {
    let progress = Progress::start("margin ranking");
    let (epochs, pairs) = (context.pick(40, 15), 64);
    let trainer = Trainer { epochs, batch: 32, rate: 0.003, device: &context.device, progress: &progress };
    let ranking = MarginRanking::new(0.5)?;
    let mut curve = vec![0.0; epochs];
    let (mut ranked, mut predicted) = ([0.0; 2], [0.0; 2]);
    for split in data::diabetes() {
        let mut rng = context.rng(21);
        let Set { x, y } = &split.train;
        let notes = by_clinics(y, &mut rng);
        let mut model = Mlp::new(&[x.ncols(), 32, 1], &mut rng);
        model.decay = 1.0;
        for (epoch, mean) in curve.iter_mut().enumerate() {
            for _ in 0..y.len() / trainer.batch {
                let (first, second) = compared(&notes, pairs, &mut rng);
                let labels: Vec<f32> =
                    first.iter().zip(&second).map(|(&a, &b)| (notes[a] - notes[b]).signum()).collect();
                // Both sides of the pairs go through one network, and so do their gradients.
                let scores = model.forward(x.select(Axis(0), &[first, second].concat()).view());
                let (high, low) = scores.split_at(pairs);
                let mut grad = vec![0.0; 2 * pairs];
                let (grad_high, grad_low) = grad.split_at_mut(pairs);
                let loss = ranking.forward_backward(high, low, &labels, Reduction::Mean, grad_high, grad_low)?;
                *mean += loss / (5 * (y.len() / trainer.batch)) as f32;
                model.backward(&grad);
                model.step(trainer.rate_in(epoch));
            }
            progress.update(epoch + 1, epochs, *mean);
        }
        add(&mut ranked, &model.forward(split.test.x.view()), &split.test.y);

        let mut rng = context.rng(21);
        let mut rival = Mlp::new(&[x.ncols(), 32, 1], &mut rng);
        rival.decay = 1.0;
        trainer.fit(&mut rival, (x, &notes), &mut rng, |output, target, grad| {
            Mse::new().on(&context.device).forward_backward(output, target, Reduction::Mean, grad)
        })?;
        add(&mut predicted, &rival.forward(split.test.x.view()), &split.test.y);
    }
    let right = |[right, all]: [f32; 2]| Metric::new("pairs in order", right / all);
    let metrics = vec![right(ranked).at_least(context.pick(0.73, 0.70)).versus("MSE", right(predicted))];
    Ok(progress.finish("diabetes, 20 clinics", curve, metrics))
}

const CLINICS: usize = 20;

/// What the clinics have noted: each the truth, but with a unit and a zero of its own. Patient `i` is one of clinic
/// `i % CLINICS`.
fn by_clinics(y: &[f32], rng: &mut Rng) -> Vec<f32> {
    let scales: Vec<_> = (0..CLINICS).map(|_| (normal(rng).exp(), 2.0 * normal(rng))).collect();
    y.iter().enumerate().map(|(i, y)| scales[i % CLINICS].0 * y + scales[i % CLINICS].1).collect()
}

/// Pairs of patients of one clinic, of whom one is worse off.
fn compared(notes: &[f32], pairs: usize, rng: &mut Rng) -> (Vec<usize>, Vec<usize>) {
    let draw = std::iter::repeat_with(|| (rng.usize(..notes.len()), rng.usize(..notes.len())));
    draw.filter(|&(a, b)| a % CLINICS == b % CLINICS && notes[a] != notes[b]).take(pairs).unzip()
}

/// Adds how many pairs of test rows are in the right order, and how many there are.
fn add([right, all]: &mut [f32; 2], scores: &[f32], y: &[f32]) {
    for (i, j) in (0..y.len()).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|&(i, j)| y[i] != y[j]) {
        *all += 1.0;
        *right += f32::from((scores[i] > scores[j]) == (y[i] > y[j]));
    }
}

fn accuracy(Learnt { predictions, .. }: &Learnt) -> Metric {
    let right = predictions.iter().filter(|(p, y)| (*p > 0.0) == (*y > 0.0));
    Metric::new("accuracy", right.count() as f32 / predictions.len() as f32)
}

/// How much is lost if the scores are taken for the logarithms of odds.
fn log_loss(Learnt { predictions, .. }: &Learnt) -> Result<Metric> {
    let (scores, labels): (Vec<f32>, Vec<f32>) = predictions.iter().copied().unzip();
    Ok(Metric::new("log-loss", SoftMargin::new().forward(&scores, &labels, Reduction::Mean)?))
}
