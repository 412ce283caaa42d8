//! MSE, MAE and Huber: how far will a disease progress?

use fused_loss::{Huber, Mae, Mse, Reduction, Result};

use crate::data;
use crate::folds::{Learnt, cross_validate};
use crate::report::{Context, Metric, Outcome, Progress};

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;
    let patients = data::diabetes();

    let progress = Progress::start("MSE");
    let learnt = cross_validate(context, &patients, &progress, |output, target, grad| {
        Mse::new().on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let metrics =
        vec![r2(&learnt).at_least(context.pick(0.47, 0.38)), mean_error(&learnt).at_most(context.pick(45.5, 48.5))];
    let mse = progress.finish("diabetes", learnt.curve, metrics);

    let progress = Progress::start("MAE");
    let learnt = cross_validate(context, &patients, &progress, |output, target, grad| {
        Mae::new().on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let metrics =
        vec![r2(&learnt).at_least(context.pick(0.47, 0.38)), mean_error(&learnt).at_most(context.pick(45.5, 48.5))];
    let mae = progress.finish("diabetes", learnt.curve, metrics);

    // What Huber is for: bad data. In one training row of ten the decimal point has slipped, and the
    // target is ten times too large. The rows that are tested stay as they are.
    let mut slipped = data::diabetes();
    for target in slipped.iter_mut().flat_map(|split| split.train.y.iter_mut().step_by(10)) {
        *target *= 10.0;
    }
    let progress = Progress::start("Huber");
    let huber = Huber::new(0.5)?; // errors above 50 pull no more than one of 50
    let learnt = cross_validate(context, &slipped, &progress, |output, target, grad| {
        huber.on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let misled = cross_validate(context, &slipped, &progress, |output, target, grad| {
        Mse::new().on(device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let metrics = vec![
        r2(&learnt).at_least(context.pick(0.45, 0.38)).versus("MSE", r2(&misled)),
        mean_error(&learnt).at_most(context.pick(46.5, 48.5)).versus("MSE", mean_error(&misled)),
    ];
    let huber = progress.finish("diabetes, 10% bad targets", learnt.curve, metrics);

    Ok(vec![mse, mae, huber])
}

/// The part of the targets' variance that is explained.
fn r2(Learnt { predictions, .. }: &Learnt) -> Metric {
    let mean = predictions.iter().map(|(_, y)| y).sum::<f32>() / predictions.len() as f32;
    let unexplained: f32 = predictions.iter().map(|(p, y)| (p - y).powi(2)).sum();
    let variance: f32 = predictions.iter().map(|(_, y)| (mean - y).powi(2)).sum();
    Metric::new("R2", 1.0 - unexplained / variance)
}

/// The mean absolute error, in the unit of the data set.
fn mean_error(Learnt { predictions, .. }: &Learnt) -> Metric {
    let sum: f32 = predictions.iter().map(|(p, y)| (p - y).abs()).sum();
    Metric::new("MAE", data::DIABETES_UNIT * sum / predictions.len() as f32)
}
