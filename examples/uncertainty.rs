//! How sure is a prediction? Two ways of asking, on how a disease progressed in 442 patients: an interval between two quantiles
//! (`Quantile`), and a Gaussian whose variance is predicted too (`GaussianNll`), both by linear models.
//!
//!     cargo run --release --example uncertainty   # --check: fails where the intervals do not hold what they should

use fused_loss::{GaussianNll, Quantile, Reduction, Result};
use ndarray::{Array1, Array2};

#[allow(dead_code)] // the training example uses all of it
#[path = "train/data.rs"]
mod data;

/// A linear model with one output.
struct Linear {
    weight: Array1<f32>,
    bias: f32,
}

impl Linear {
    fn new(features: usize) -> Self {
        Linear { weight: Array1::zeros(features), bias: 0.0 }
    }

    fn forward(&self, x: &Array2<f32>) -> Vec<f32> {
        (x.dot(&self.weight) + self.bias).to_vec()
    }

    /// A step of gradient descent, given the gradient for the outputs.
    fn step(&mut self, x: &Array2<f32>, grad: &[f32], rate: f32) {
        let grad = Array1::from(grad.to_vec());
        self.bias -= rate * grad.sum();
        self.weight.scaled_add(-rate, &x.t().dot(&grad));
    }
}

const STEPS: usize = 1500;

/// What of the targets is below the quantile that was learnt.
fn below(quantile: f32, data::Split { train, test }: &data::Split<f32>) -> Result<Vec<bool>> {
    let mut model = Linear::new(train.x.ncols());
    let (loss, mut grad) = (Quantile::new(quantile)?, vec![0.0; train.y.len()]);
    for step in 0..STEPS {
        loss.forward_backward(&model.forward(&train.x), &train.y, Reduction::Mean, &mut grad)?;
        model.step(&train.x, &grad, 1.0 * (1.0 - step as f32 / STEPS as f32));
    }
    Ok(model.forward(&test.x).iter().zip(&test.y).map(|(q, y)| y < q).collect())
}

/// The part of the targets that is within 1.28 standard deviations of the mean, which for a Gaussian is 0.8.
fn within(data::Split { train, test }: &data::Split<f32>) -> Result<Vec<bool>> {
    let (mut mean, mut ln_variance) = (Linear::new(train.x.ncols()), Linear::new(train.x.ncols()));
    let (mut grad, mut grad_variance) = (vec![0.0; train.y.len()], vec![0.0; train.y.len()]);
    for _ in 0..STEPS {
        let variance: Vec<f32> = ln_variance.forward(&train.x).into_iter().map(f32::exp).collect();
        let predicted = mean.forward(&train.x);
        let nll = GaussianNll::new();
        nll.forward_backward(&predicted, &train.y, &variance, Reduction::Mean, &mut grad, &mut grad_variance)?;
        // Through the exponential.
        grad_variance.iter_mut().zip(&variance).for_each(|(g, v)| *g *= v);
        mean.step(&train.x, &grad, 0.05);
        ln_variance.step(&train.x, &grad_variance, 0.05);
    }
    let both = mean.forward(&test.x).into_iter().zip(ln_variance.forward(&test.x));
    Ok(both.zip(&test.y).map(|((m, v), y)| (y - m).abs() < 1.28 * (0.5 * v).exp()).collect())
}

fn main() -> Result<()> {
    let (mut between, mut near) = (Vec::new(), Vec::new());
    for split in data::diabetes() {
        let (low, high) = (below(0.1, &split)?, below(0.9, &split)?);
        between.extend(low.into_iter().zip(high).map(|(low, high)| high && !low));
        near.extend(within(&split)?);
    }
    let share = |inside: &[bool]| inside.iter().filter(|&&inside| inside).count() as f64 / inside.len() as f64;
    let (quantiles, gaussian) = (share(&between), share(&near));
    println!("of 442 patients, each predicted by a model that has not seen them, where 0.80 should be:");
    println!("between the quantiles 0.1 and 0.9  {quantiles:.2}");
    println!("within 1.28 standard deviations    {gaussian:.2}");
    if std::env::args().any(|arg| arg == "--check") {
        assert!((quantiles - 0.8).abs() < 0.06 && (gaussian - 0.8).abs() < 0.06);
    }
    Ok(())
}
