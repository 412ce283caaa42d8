//! JSD: a student learns from what a teacher says. DPO: a policy learns from which of two of its answers was preferred. REINFORCE: a policy
//! learns from whether its answer was right, and the entropy keeps it trying.

use fastrand::Rng;
use fused_loss::{CrossEntropy, Dpo, DpoVariant, Jsd, Reduction, Result};
use ndarray::{Array2, Axis};

use crate::classes::{CLASSES, accuracy, cross_entropy, share_read};
use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer};
use crate::report::{Context, Metric, Outcome, Progress};

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    Ok(vec![jsd(context)?, dpo(context)?, reinforce(context)?])
}

/// A teacher who has seen all images, and a small student who sees a fifth of them.
fn jsd(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("JSD");
    let digits = data::digits();
    let mut rng = context.rng(41);
    let mut teacher = Mlp::new(&[64, 256, CLASSES], &mut rng);
    teacher.decay = 0.1;
    let trainer = Trainer { epochs: context.pick(40, 15), batch: 32, rate: 0.003, device, progress: &progress };
    trainer.fit(&mut teacher, (&digits.train.x, &digits.train.y), &mut rng, cross_entropy(device))?;

    let few = digits.train.rows(&(0..digits.train.y.len()).step_by(5).collect::<Vec<_>>());
    let trainer = Trainer { epochs: context.pick(200, 150), rate: 0.01, ..trainer };
    let mut rng = context.rng(42);
    let mut student = Mlp::new(&[64, 16, CLASSES], &mut rng);
    let teacher_logits = teacher.forward(few.x.view());
    let jsd = Jsd::new().temperature(4.0)?;
    let curve = trainer.fit(&mut student, (&few.x, &teacher_logits), &mut rng, |logits, teacher, grad| {
        // Ten logits of the student and ten of the teacher an image.
        let shape = (logits.len() / CLASSES, CLASSES);
        jsd.on(device).forward_backward(logits, teacher, shape, Reduction::Mean, grad)
    })?;

    let mut rng = context.rng(42);
    let mut alone = Mlp::new(&[64, 16, CLASSES], &mut rng);
    trainer.fit(&mut alone, (&few.x, &few.y), &mut rng, cross_entropy(device))?;
    let taught = accuracy(&mut student, &digits.test).at_least(context.pick(0.955, 0.95));
    let metrics = vec![taught.versus("hard labels", accuracy(&mut alone, &digits.test))];
    Ok(progress.finish("digits, from a teacher", curve, metrics))
}

/// A policy that has learnt to read from a hundred images gives two answers to each of the others, and is told which
/// is the better: the nearer number. That need not be the right one, so it must not be learnt as if it were.
fn dpo(context: &Context) -> Result<Outcome> {
    let device = &context.device;
    let progress = Progress::start("DPO");
    let digits = data::digits();
    let mut rng = context.rng(43);
    let mut policy = Mlp::new(&[64, 64, CLASSES], &mut rng);
    let known = digits.train.rows(&(0..100).collect::<Vec<_>>());
    let trainer = Trainer { epochs: 30, batch: 20, rate: 0.003, device, progress: &progress };
    trainer.fit(&mut policy, (&known.x, &known.y), &mut rng, cross_entropy(device))?;
    let reference = share_read(&mut policy, &digits.test);
    let pairs = Pairs::of(&mut policy, &digits.train.rows(&(100..digits.train.y.len()).collect::<Vec<_>>()), &mut rng);

    let trainer = Trainer { epochs: context.pick(40, 20), batch: 32, ..trainer };
    let mut imitator = policy.clone();
    trainer.fit(&mut imitator, (&pairs.x, &pairs.chosen), &mut rng, cross_entropy(device))?;

    // With the usual 0.1 the policy may stray further from the reference, and here it reads worse.
    let dpo = Dpo::new(0.5)?;
    let (mut by_hinge, mut by_ipo, mut other) = (policy.clone(), policy.clone(), rng.clone());
    let curve = pairs.teach(&mut policy, dpo, &trainer, &mut rng)?;
    pairs.teach(&mut by_hinge, dpo.variant(DpoVariant::Hinge), &trainer, &mut other.clone())?;
    pairs.teach(&mut by_ipo, dpo.variant(DpoVariant::Ipo), &trainer, &mut other)?;
    let learnt = accuracy(&mut policy, &digits.test).at_least(context.pick(0.88, 0.87));
    let metrics = vec![
        learnt.versus("chosen as labels", accuracy(&mut imitator, &digits.test)),
        Metric::new("the reference's", reference),
        Metric::new("by the hinge", share_read(&mut by_hinge, &digits.test)),
        Metric::new("by IPO", share_read(&mut by_ipo, &digits.test)),
    ];
    Ok(progress.finish("digits, pairs of answers", curve, metrics))
}

/// A policy that has learnt to read from a hundred images answers for each of the others, and is told no more than whether it was right.
fn reinforce(context: &Context) -> Result<Outcome> {
    let progress = Progress::start("REINFORCE");
    let digits = data::digits();
    let mut rng = context.rng(44);
    let mut policy = Mlp::new(&[64, 64, CLASSES], &mut rng);
    let rows = |rows: std::ops::Range<usize>| digits.train.rows(&rows.collect::<Vec<_>>());
    let (known, asked) = (rows(0..100), rows(100..digits.train.y.len()));
    let trainer = Trainer { epochs: 30, batch: 20, rate: 0.003, device: &context.device, progress: &progress };
    trainer.fit(&mut policy, (&known.x, &known.y), &mut rng, cross_entropy(&context.device))?;
    let before = accuracy(&mut policy, &digits.test);

    let trainer = Trainer { epochs: context.pick(40, 20), batch: 32, ..trainer };
    let mut curve = vec![0.0; trainer.epochs];
    let (mut order, mut expected, mut of_all) = ((0..asked.y.len()).collect::<Vec<usize>>(), 0.5, 0.0);
    // Minus the entropy, but for a constant, is the divergence from a teacher that knows nothing.
    let certainty = Jsd::new().beta(1.0)?;
    for (epoch, mean) in curve.iter_mut().enumerate() {
        rng.shuffle(&mut order);
        of_all = 0.0;
        for batch in order.chunks(trainer.batch) {
            let (n, shape) = (batch.len() as f32, (batch.len(), CLASSES));
            let logits = policy.forward(asked.x.select(Axis(0), batch).view());
            let drawn: Vec<u8> = logits.chunks_exact(CLASSES).map(|logits| two_answers(logits, &mut rng)[0]).collect();
            let right = |(&row, answer): (&usize, &u8)| if asked.y[row] == *answer { 1.0 } else { 0.0 };
            let rewards: Vec<f32> = batch.iter().zip(&drawn).map(right).collect();
            let advantages: Vec<f32> = rewards.iter().map(|reward| (reward - expected) / n).collect();

            // Cross-entropy of what was drawn is minus its log-probability; the entropy comes with it.
            let [mut losses, mut entropy] = [vec![0.0; drawn.len()], vec![0.0; drawn.len()]];
            let mut grad = vec![0.0; logits.len()];
            let call = CrossEntropy::new().call(&logits, &drawn, shape).entropy(&mut entropy);
            call.forward_backward_unreduced(&advantages, &mut losses, &mut grad)?;
            let nothing = vec![0.0; logits.len()];
            certainty
                .call(&logits, &nothing, shape)
                .grad_output(0.01)
                .accumulate()
                .backward(Reduction::Mean, &mut grad)?;
            policy.backward(&grad);
            policy.step(trainer.rate_in(epoch));

            let reward = rewards.iter().sum::<f32>();
            expected += 0.05 * (reward / n - expected);
            *mean += (n - reward) / order.len() as f32;
            of_all += entropy.iter().sum::<f32>() / order.len() as f32;
        }
        progress.update(epoch + 1, trainer.epochs, *mean);
    }
    let metrics = vec![
        accuracy(&mut policy, &digits.test).at_least(context.pick(0.9, 0.88)).versus("before", before),
        Metric::new("entropy", of_all),
    ];
    Ok(progress.finish("digits, right or wrong", curve, metrics))
}

/// Images with two answers each.
struct Pairs {
    x: Array2<f32>,
    chosen: Vec<u8>,
    rejected: Vec<u8>,
    /// By how much the policy that gave them preferred the chosen one.
    reference: Vec<f32>,
}

impl Pairs {
    fn of(policy: &mut Mlp, images: &Set<u8>, rng: &mut Rng) -> Self {
        let logits = policy.forward(images.x.view());
        let (mut rows, mut chosen, mut rejected, mut reference) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (row, (logits, &truth)) in logits.chunks_exact(CLASSES).zip(&images.y).enumerate() {
            let mut answers = two_answers(logits, rng);
            answers.sort_by_key(|answer| answer.abs_diff(truth));
            let [better, worse] = answers;
            if better.abs_diff(truth) < worse.abs_diff(truth) {
                rows.push(row);
                chosen.push(better);
                rejected.push(worse);
                // What is subtracted from logits to make them log-probabilities is the same for both.
                reference.push(logits[usize::from(better)] - logits[usize::from(worse)]);
            }
        }
        Pairs { x: images.x.select(Axis(0), &rows), chosen, rejected, reference }
    }

    /// What is preferred, to a policy; the curve of its loss.
    fn teach(&self, policy: &mut Mlp, dpo: Dpo, trainer: &Trainer, rng: &mut Rng) -> Result<Vec<f32>> {
        let mut curve = vec![0.0; trainer.epochs];
        let mut order: Vec<usize> = (0..self.chosen.len()).collect();
        for (epoch, mean) in curve.iter_mut().enumerate() {
            rng.shuffle(&mut order);
            for batch in order.chunks(trainer.batch) {
                let (n, shape) = (batch.len(), (batch.len(), CLASSES));
                let pick = |answers: &[u8]| batch.iter().map(|&i| answers[i]).collect::<Vec<_>>();
                let (chosen, rejected) = (pick(&self.chosen), pick(&self.rejected));
                let reference: Vec<f32> = batch.iter().map(|&i| self.reference[i]).collect();
                let logits = policy.forward(self.x.select(Axis(0), batch).view());

                // The log-probability of both answers, one number a pair.
                let answer = CrossEntropy::new();
                let [mut log_chosen, mut log_rejected] = [vec![0.0; n], vec![0.0; n]];
                answer.log_probs(&logits, &chosen, shape, &mut log_chosen)?;
                answer.log_probs(&logits, &rejected, shape, &mut log_rejected)?;
                let [mut on_chosen, mut on_rejected] = [vec![0.0; n], vec![0.0; n]];
                let call = dpo.call(&log_chosen, &log_rejected, &reference).grad_target(&mut on_rejected);
                *mean += call.forward_backward(Reduction::Mean, &mut on_chosen)? * n as f32 / order.len() as f32;

                // Cross-entropy is minus a log-probability, and so the gradients go back through it with their sign turned.
                on_chosen.iter_mut().chain(&mut on_rejected).for_each(|g| *g = -*g);
                let mut grad = vec![0.0; logits.len()];
                answer.call(&logits, &chosen, shape).backward_unreduced(&on_chosen, &mut grad)?;
                answer.call(&logits, &rejected, shape).accumulate().backward_unreduced(&on_rejected, &mut grad)?;
                policy.backward(&grad);
                policy.step(trainer.rate_in(epoch));
            }
            trainer.progress.update(epoch + 1, trainer.epochs, *mean);
        }
        Ok(curve)
    }
}

/// Two classes, drawn by their probability without putting the first back.
fn two_answers(logits: &[f32], rng: &mut Rng) -> [u8; 2] {
    // The largest two of logits with Gumbel noise are such a sample.
    let mut noisy: Vec<(f32, u8)> =
        logits.iter().zip(0..).map(|(z, class)| (z - (-(1.0 - rng.f32()).ln()).ln(), class)).collect();
    noisy.sort_by(|a, b| b.0.total_cmp(&a.0));
    [noisy[0].1, noisy[1].1]
}
