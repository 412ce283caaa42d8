//! Binary cross-entropy, hinge and focal loss: is a tumour malignant?

use fused_loss::{BceWithLogits, Hinge, HingeLabels, Reduction, Result, SigmoidFocal};

use crate::data;
use crate::folds::{Learnt, cross_validate};
use crate::report::{Context, Metric, Outcome, Progress};

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;
    let tumours = data::tumours();

    let progress = Progress::start("BCE");
    let learnt = cross_validate(context, &tumours, &progress, |logits, labels, grad| {
        BceWithLogits::new().on(device).forward_backward(logits, labels, Reduction::Mean, grad)
    })?;
    let metrics = vec![accuracy(&learnt).at_least(0.965), f1(&learnt).at_least(0.955)];
    let bce = progress.finish("tumours", learnt.curve, metrics);

    let progress = Progress::start("hinge");
    let hinge = Hinge::new().labels(HingeLabels::ZeroOne);
    let learnt = cross_validate(context, &tumours, &progress, |scores, labels, grad| {
        hinge.on(device).forward_backward(scores, labels, Reduction::Mean, grad)
    })?;
    let metrics = vec![accuracy(&learnt).at_least(0.96), f1(&learnt).at_least(0.945)];
    let hinge = progress.finish("tumours", learnt.curve, metrics);

    // What focal loss is for: a rare class. Nine of ten malignant tumours are taken out of the training
    // rows; those that are left are 6% of them. The rows that are tested stay as they are.
    let mut rare = data::tumours();
    for split in &mut rare {
        let rows = 0..split.train.y.len();
        let (malignant, benign): (Vec<usize>, _) = rows.partition(|&row| split.train.y[row] == 1.0);
        let few = malignant.into_iter().step_by(10);
        split.train = split.train.rows(&few.chain(benign).collect::<Vec<_>>());
    }
    let progress = Progress::start("focal");
    let focal = SigmoidFocal::new().alpha(0.9)?.gamma(2.0)?;
    let learnt = cross_validate(context, &rare, &progress, |logits, labels, grad| {
        focal.on(device).forward_backward(logits, labels, Reduction::Mean, grad)
    })?;
    let plain = cross_validate(context, &rare, &progress, |logits, labels, grad| {
        BceWithLogits::new().on(device).forward_backward(logits, labels, Reduction::Mean, grad)
    })?;
    let metrics = vec![f1(&learnt).at_least(0.93).versus("BCE", f1(&plain)), accuracy(&learnt).at_least(0.95)];
    let focal = progress.finish("tumours, 6% malignant", learnt.curve, metrics);

    Ok(vec![bce, hinge, focal])
}

/// How many rows have this prediction and this label. A logit above zero says 1, and so does the score
/// that hinge loss learns.
fn count(learnt: &Learnt, prediction: f32, label: f32) -> f32 {
    learnt.predictions.iter().filter(|&&(p, y)| f32::from(p > 0.0) == prediction && y == label).count() as f32
}

fn accuracy(learnt: &Learnt) -> Metric {
    Metric::new("accuracy", (count(learnt, 1.0, 1.0) + count(learnt, 0.0, 0.0)) / learnt.predictions.len() as f32)
}

/// The harmonic mean of precision and recall of the malignant class.
fn f1(learnt: &Learnt) -> Metric {
    let (hits, alarms, misses) = (count(learnt, 1.0, 1.0), count(learnt, 1.0, 0.0), count(learnt, 0.0, 1.0));
    Metric::new("F1", 2.0 * hits / (2.0 * hits + alarms + misses))
}
