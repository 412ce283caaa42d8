//! Labels of which every third is wrong, and a teacher: a student learns to read digits from both in one pass (`CombinedRows`), and from
//! the labels alone.
//!
//!     cargo run --release --example distill   # --check: fails unless the teacher helps

use fused_loss::{CrossEntropy, Distillation, Reduction, Result};
use ndarray::{Array1, Array2, Axis};

#[allow(dead_code)] // the training example uses all of it
#[path = "train/data.rs"]
mod data;

use data::Set;

const CLASSES: usize = 10;
const STEPS: usize = 600;
const RATE: f32 = 0.5;

/// Softmax regression.
struct Linear {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

impl Linear {
    fn new(features: usize) -> Self {
        Linear { weight: Array2::zeros((features, CLASSES)), bias: Array1::zeros(CLASSES) }
    }

    fn logits(&self, x: &Array2<f32>) -> Vec<f32> {
        (x.dot(&self.weight) + &self.bias).into_iter().collect()
    }

    /// A step of gradient descent, given the gradient for the logits.
    fn step(&mut self, x: &Array2<f32>, grad: &[f32]) {
        let grad = Array2::from_shape_vec((x.nrows(), CLASSES), grad.to_vec()).expect("a gradient for each logit");
        self.weight.scaled_add(-RATE, &x.t().dot(&grad));
        self.bias.scaled_add(-RATE, &grad.sum_axis(Axis(0)));
    }

    fn accuracy(&self, test: &Set<u8>) -> f64 {
        let logits = self.logits(&test.x);
        let (mut losses, mut hits) = (vec![0.0; test.y.len()], vec![0.0; test.y.len()]);
        let call = CrossEntropy::new().call(&logits, &test.y, (test.y.len(), CLASSES)).hit(&mut hits);
        call.forward_unreduced(&mut losses).expect("digits are classes");
        f64::from(hits.iter().sum::<f32>()) / hits.len() as f64
    }
}

/// Trains on the labels alone.
fn by_labels(set: &Set<u8>) -> Result<Linear> {
    let (mut model, shape) = (Linear::new(set.x.ncols()), (set.y.len(), CLASSES));
    let mut grad = vec![0.0; set.y.len() * CLASSES];
    for _ in 0..STEPS {
        CrossEntropy::new().forward_backward(&model.logits(&set.x), &set.y, shape, Reduction::Mean, &mut grad)?;
        model.step(&set.x, &grad);
    }
    Ok(model)
}

/// Trains on the labels and on what the teacher says.
fn by_both(set: &Set<u8>, teacher: &Linear) -> Result<Linear> {
    let loss = 0.2 * CrossEntropy::new().z_loss(1e-4)? + 0.8 * Distillation::new().temperature(2.0)?;
    let (mut model, shape) = (Linear::new(set.x.ncols()), (set.y.len(), CLASSES));
    let (teacher, mut grad, mut terms) = (teacher.logits(&set.x), vec![0.0; set.y.len() * CLASSES], [0.0; 3]);
    for step in 1..=STEPS {
        let logits = model.logits(&set.x);
        let call = loss.call(&logits, &set.y, &teacher, shape).terms(&mut terms);
        let value = call.forward_backward(Reduction::Mean, &mut grad)?;
        model.step(&set.x, &grad);
        if step % 150 == 0 {
            let [labels, z_loss, divergence] = terms;
            println!("step {step}: {value:.4}, of labels {labels:.4}, z-loss {z_loss:.4}, teacher {divergence:.4}");
        }
    }
    Ok(model)
}

fn main() -> Result<()> {
    let data::Split { train, test } = data::digits();
    // The teacher has seen the first half, of which all labels are right.
    let half = train.y.len() / 2;
    let teacher = by_labels(&train.rows(&(0..half).collect::<Vec<_>>()))?;
    let mut rest = train.rows(&(half..train.y.len()).collect::<Vec<_>>());
    let mut rng = fastrand::Rng::with_seed(7);
    rest.y.iter_mut().step_by(3).for_each(|y| *y = rng.u8(0..CLASSES as u8));
    let (both, alone) = (by_both(&rest, &teacher)?.accuracy(&test), by_labels(&rest)?.accuracy(&test));
    println!("of {} test images the student reads", test.y.len());
    println!("taught by the labels alone         {alone:.3}");
    println!("taught by the labels and a teacher {both:.3}");
    if std::env::args().any(|arg| arg == "--check") {
        assert!(both > 0.93 && both > alone + 0.01, "{both} {alone}");
    }
    Ok(())
}
