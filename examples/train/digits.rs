//! Cross-entropy trains a network to read digits; the Kullback-Leibler divergence makes it the teacher
//! of a small one.

use fused_loss::{CrossEntropy, Distillation, Reduction, Result};

use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer};
use crate::report::{Context, Metric, Outcome, Progress};

const CLASSES: usize = 10;

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;
    let digits = data::digits();

    let progress = Progress::start("cross-entropy");
    let mut rng = context.rng(2);
    let mut teacher = Mlp::new(&[64, 256, CLASSES], &mut rng);
    teacher.decay = 0.1;
    let trainer = Trainer { epochs: context.pick(40, 15), batch: 32, rate: 0.003, device, progress: &progress };
    let curve = trainer.fit(&mut teacher, (&digits.train.x, &digits.train.y), &mut rng, |logits, digits, grad| {
        CrossEntropy::new().on(device).forward_backward(logits, digits, (digits.len(), CLASSES), Reduction::Mean, grad)
    })?;
    let metrics = vec![accuracy(&mut teacher, &digits.test).at_least(context.pick(0.967, 0.96))];
    let cross_entropy = progress.finish("digits", curve, metrics);

    // What distillation is for: the teacher's logits say of each image which digits it resembles and how
    // much, so the student learns from fewer images. It gets a fifth of them, and so does a student of
    // the same size, from the same start, that is told the right digit alone.
    let progress = Progress::start("KL");
    let few = digits.train.rows(&(0..digits.train.y.len()).step_by(5).collect::<Vec<_>>());
    let trainer = Trainer { epochs: 200, batch: 32, rate: 0.01, device, progress: &progress };

    let mut rng = context.rng(3);
    let mut student = Mlp::new(&[64, 16, CLASSES], &mut rng);
    let teacher_logits = teacher.forward(few.x.view());
    let distillation = Distillation::new().temperature(4.0)?;
    let curve = trainer.fit(&mut student, (&few.x, &teacher_logits), &mut rng, |logits, teacher, grad| {
        let rows = logits.len() / CLASSES;
        distillation.on(device).forward_backward(logits, teacher, (rows, CLASSES), Reduction::BatchMean(rows), grad)
    })?;

    let mut rng = context.rng(3);
    let mut alone = Mlp::new(&[64, 16, CLASSES], &mut rng);
    trainer.fit(&mut alone, (&few.x, &few.y), &mut rng, |logits, digits, grad| {
        CrossEntropy::new().on(device).forward_backward(logits, digits, (digits.len(), CLASSES), Reduction::Mean, grad)
    })?;
    let taught = accuracy(&mut student, &digits.test).at_least(context.pick(0.95, 0.94));
    let metrics = vec![taught.versus("hard labels", accuracy(&mut alone, &digits.test))];
    let kl = progress.finish("digits, from a teacher", curve, metrics);

    Ok(vec![cross_entropy, kl])
}

/// How many images have their largest logit at the right digit.
fn accuracy(model: &mut Mlp, test: &Set<u8>) -> Metric {
    let logits = model.forward(test.x.view());
    let right = logits.chunks_exact(CLASSES).zip(&test.y).filter(|(logits, digit)| {
        (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b])) == Some(usize::from(**digit))
    });
    Metric::new("accuracy", right.count() as f32 / test.y.len() as f32)
}
