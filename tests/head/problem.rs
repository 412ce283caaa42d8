//! A head's problem, and its answer in f64.

use fused_loss::head::LinearCrossEntropy;
use fused_loss::{CrossEntropy, Element};

use super::cases::textbook::{self, CrossEntropyOptions};

/// A generator of numbers in -1..1.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }
    pub fn numbers<T: Element>(&mut self, n: usize, scale: f64) -> Vec<T> {
        (0..n).map(|_| T::from_f32((self.next() * scale) as f32)).collect()
    }
}

/// A problem with all it may have.
pub struct Problem<T> {
    pub shape: (usize, usize, usize),
    pub input: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Option<Vec<T>>,
    pub target: Vec<i64>,
    pub class_weight: Option<Vec<f32>>,
    pub token_weight: Option<Vec<f32>>,
    pub options: CrossEntropyOptions,
}

fn wide<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Value of each token, and the gradients of their sum times `scale`.
pub struct Answer {
    pub losses: Vec<f64>,
    pub input: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
}

impl<T: Element> Problem<T> {
    pub fn new(shape: (usize, usize, usize), everything: bool) -> Self {
        let (tokens, hidden, classes) = shape;
        let mut random = Random(tokens as u64 * 31 + classes as u64);
        let target = (0..tokens).map(|i| if i % 3 == 1 { -100 } else { (i * 7 % classes.max(1)) as i64 }).collect();
        let weights = |random: &mut Random, n: usize| (0..n).map(|_| (random.next() * 0.5 + 1.0) as f32).collect();
        let mut problem = Problem {
            shape,
            input: random.numbers(tokens * hidden, 1.0),
            weight: random.numbers(classes * hidden, 1.0),
            bias: None,
            target,
            class_weight: None,
            token_weight: None,
            options: CrossEntropyOptions { smoothing: 0.0, z_loss: 0.0, softcap: None },
        };
        if everything {
            problem.bias = Some(random.numbers(classes, 1.0));
            problem.class_weight = Some(weights(&mut random, classes));
            problem.token_weight = Some(weights(&mut random, tokens));
            let [smoothing, z_loss, softcap] = [0.1f32, 1e-3, 3.0].map(f64::from);
            problem.options = CrossEntropyOptions { smoothing, z_loss, softcap: Some(softcap) };
        }
        problem
    }

    pub fn loss(&self) -> CrossEntropy {
        let loss = CrossEntropy::new().label_smoothing(self.options.smoothing as f32).unwrap();
        let loss = loss.z_loss(self.options.z_loss as f32).unwrap();
        loss.softcap(self.options.softcap.map(|x| x as f32)).unwrap()
    }

    pub fn call<'a>(&'a self, head: &LinearCrossEntropy) -> fused_loss::head::LinearCall<'a, T> {
        let mut call = head.call(&self.input, &self.weight, &self.target, self.shape);
        if let Some(bias) = &self.bias {
            call = call.bias(bias);
        }
        if let Some(weight) = &self.class_weight {
            call = call.class_weight(weight);
        }
        if let Some(weight) = &self.token_weight {
            call = call.token_weight(weight);
        }
        call
    }

    /// In f64, the gradient of the logits by central differences.
    pub fn answer(&self, scale: f64) -> Answer {
        let (tokens, hidden, classes) = self.shape;
        let (input, weight) = (wide(&self.input), wide(&self.weight));
        let class_weight = self.class_weight.as_ref().map_or(vec![1.0; classes], |w| wide(w));
        let mut answer = Answer {
            losses: vec![0.0; tokens],
            input: vec![0.0; tokens * hidden],
            weight: vec![0.0; classes * hidden],
            bias: vec![0.0; classes],
        };
        for i in (0..tokens).filter(|&i| self.target[i] != -100) {
            let x = &input[i * hidden..][..hidden];
            let bias = |c: usize| self.bias.as_ref().map_or(0.0, |b| f64::from(b[c].to_f32()));
            let row = |c: usize| &weight[c * hidden..][..hidden];
            let mut z: Vec<f64> =
                (0..classes).map(|c| bias(c) + x.iter().zip(row(c)).map(|(x, w)| x * w).sum::<f64>()).collect();
            let mut q = vec![0.0; classes];
            q[self.target[i] as usize] = 1.0;
            let of_token = self.token_weight.as_ref().map_or(1.0, |w| f64::from(w[i]));
            let value = |z: &[f64]| of_token * textbook::cross_entropy(z, &q, &class_weight, self.options);
            answer.losses[i] = value(&z);
            for c in 0..classes {
                let (kept, h) = (z[c], 1e-4);
                let mut at = |x: f64| {
                    z[c] = x;
                    value(&z)
                };
                // Of the fourth order.
                let [a, b, c_, d] = [-2.0, -1.0, 1.0, 2.0].map(|k| at(kept + k * h));
                let g = scale * (a - 8.0 * b + 8.0 * c_ - d) / (12.0 * h);
                z[c] = kept;
                answer.bias[c] += g;
                for k in 0..hidden {
                    answer.input[i * hidden + k] += g * weight[c * hidden + k];
                    answer.weight[c * hidden + k] += g * x[k];
                }
            }
        }
        answer
    }

    pub fn denominator(&self) -> f64 {
        let weight = |&t: &i64| self.class_weight.as_ref().map_or(1.0, |w| f64::from(w[t as usize]));
        self.target.iter().filter(|&&t| t != -100).map(weight).sum()
    }
}

/// To a share of the largest.
#[track_caller]
pub fn close<T: Element>(what: &str, want: &[f64], got: &[T], tolerance: f64) {
    let largest = want.iter().fold(0f64, |a, x| a.max(x.abs()));
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        let got = f64::from(got.to_f32());
        assert!((want - got).abs() <= tolerance * largest, "{what}[{i}]: expected {want}, got {got}, of {largest}");
    }
}
