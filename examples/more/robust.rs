//! SmoothL1 and log-cosh: how far will a disease progress, if some of what is known is wrong?

use fused_loss::{LogCosh, Mse, Reduction, Result, SmoothL1};

use crate::data;
use crate::folds::{Learnt, cross_validate};
use crate::report::{Context, Metric, Outcome, Progress};

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;
    // In one training row of ten the target is ten times too large. The rows that are tested stay as they are.
    let mut slipped = data::diabetes();
    for target in slipped.iter_mut().flat_map(|split| split.train.y.iter_mut().step_by(10)) {
        *target *= 10.0;
    }
    let progress = Progress::start("MSE");
    let misled = cross_validate(context, &slipped, &progress, |output, target, grad| {
        Mse::new().on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;

    let progress = Progress::start("SmoothL1");
    let smooth = SmoothL1::new(0.5)?; // a parabola up to an error of 50, straight beyond
    let learnt = cross_validate(context, &slipped, &progress, |output, target, grad| {
        smooth.on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let metrics = vec![mean_error(&learnt).at_most(context.pick(46.5, 48.5)).versus("MSE", mean_error(&misled))];
    let smooth = progress.finish("diabetes, 10% bad targets", learnt.curve, metrics);

    // Nothing to choose, so the unit of the targets decides: log-cosh is straight from an error of about 1, here 100.
    let progress = Progress::start("log-cosh");
    let learnt = cross_validate(context, &slipped, &progress, |output, target, grad| {
        LogCosh::new().on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let metrics = vec![mean_error(&learnt).at_most(context.pick(48.0, 50.0)).versus("MSE", mean_error(&misled))];
    let log_cosh = progress.finish("diabetes, 10% bad targets", learnt.curve, metrics);

    Ok(vec![smooth, log_cosh])
}

/// The mean absolute error, in the unit of the data set.
fn mean_error(Learnt { predictions, .. }: &Learnt) -> Metric {
    let sum: f32 = predictions.iter().map(|(p, y)| (p - y).abs()).sum();
    Metric::new("MAE", data::DIABETES_UNIT * sum / predictions.len() as f32)
}
