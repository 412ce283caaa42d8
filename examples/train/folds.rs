//! Five-fold cross-validation, for the data sets that are too small to be tested on a part of them: five
//! models each leave out a fifth of the rows, and each row is predicted by the model that has not seen it.

use fused_loss::{Buffer, Result};

use crate::data::Split;
use crate::nn::{Mlp, Trainer};
use crate::report::{Context, Progress};

pub struct Learnt {
    /// The mean of the five training curves.
    pub curve: Vec<f32>,
    /// For each row what was predicted, and what is true.
    pub predictions: Vec<(f32, f32)>,
}

/// Trains networks with one output, a number or a logit.
pub fn cross_validate(
    context: &Context,
    splits: &[Split<f32>],
    progress: &Progress,
    mut loss: impl FnMut(&Buffer<f32>, &Buffer<f32>, &mut Buffer<f32>) -> Result<f32>,
) -> Result<Learnt> {
    let epochs = context.pick(60, 20);
    let trainer = Trainer { epochs, batch: 32, rate: 0.005, device: &context.device, progress };
    let mut learnt = Learnt { curve: vec![0.0; epochs], predictions: Vec::new() };
    for Split { train, test } in splits {
        let mut rng = context.rng(1);
        let mut model = Mlp::new(&[train.x.ncols(), 32, 1], &mut rng);
        model.decay = 1.0; // so few rows are soon learnt by heart
        let curve = trainer.fit(&mut model, (&train.x, &train.y), &mut rng, &mut loss)?;
        for (mean, loss) in learnt.curve.iter_mut().zip(curve) {
            *mean += loss / splits.len() as f32;
        }
        learnt.predictions.extend(model.forward(test.x.view()).into_iter().zip(test.y.iter().copied()));
    }
    Ok(learnt)
}
