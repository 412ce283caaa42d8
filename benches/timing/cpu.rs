//! Turns on the CPU, by the clock.

use std::hint::black_box;
use std::time::Instant;

use fused_loss::{CrossEntropy, Element, Reduction};
use rayon::prelude::*;

use super::cases::Case;
use super::cases::draw::Problem;
use super::cases::job::{AnyLoss, Job, Verb, Weight};
use super::{Timed, Turn, list, memory};

pub struct Cpu<'a, T> {
    case: &'a Case,
    pub problem: Problem<T>,
    grad: Vec<T>,
    /// Calls between two looks at the clock: a look costs as much as a hundred elements.
    calls: u32,
    reported: Option<Reported>,
}

/// What is written of each row.
struct Reported {
    log_prob: Vec<f32>,
    entropy: Vec<f32>,
    lse: Vec<f32>,
    hit: Vec<f32>,
    argmax: Vec<i64>,
}

impl Reported {
    fn new(rows: usize) -> Self {
        let [log_prob, entropy, lse, hit] = [(); 4].map(|()| vec![0.0; rows]);
        Reported { log_prob, entropy, lse, hit, argmax: vec![0; rows] }
    }
}

impl<'a, T: Element> Cpu<'a, T> {
    pub fn new(case: &'a Case, problem: Problem<T>) -> Self {
        let len = problem.input.len();
        let reported = (list::reported(case) > 0).then(|| Reported::new(problem.dims.rows()));
        Cpu { case, grad: vec![T::default(); len], calls: ((1 << 15) / len).max(1) as u32, problem, reported }
    }

    /// One fused call.
    fn call(&mut self) -> Result<f32, String> {
        if let AnyLoss::CrossEntropy(loss) = self.case.loss
            && self.reported.is_some()
        {
            return self.reporting(loss);
        }
        let job = Job {
            input: &self.problem.input,
            target: self.problem.labels.target(),
            shape: self.problem.shape(self.case),
            weight: Weight::None,
            class_weight: self.problem.class_weight.as_deref(),
            grad_output: 0.5,
            accumulate: false,
            grad_target: None,
            third: self.problem.third.as_deref(),
            grad_third: None,
            verb: Verb::ForwardBackward(Reduction::Mean, &mut self.grad),
        };
        self.case.loss.run(job).map_err(|error| format!("{}: {error}", self.case.name))
    }

    fn reporting(&mut self, loss: CrossEntropy) -> Result<f32, String> {
        let (problem, to) = (&self.problem, self.reported.as_mut().expect("it reports"));
        let shape = problem.shape(self.case).expect("rows have a shape");
        let call = loss.call(&problem.input, problem.labels.target(), shape).grad_output(0.5);
        let call = call.log_prob(&mut to.log_prob).entropy(&mut to.entropy).lse(&mut to.lse).hit(&mut to.hit);
        let value = call.argmax(&mut to.argmax).forward_backward(Reduction::Mean, &mut self.grad);
        value.map_err(|error| format!("{}: {error}", self.case.name))
    }

    /// Value and gradient.
    pub fn answer(&mut self) -> Result<(f32, Vec<T>), String> {
        let value = self.call()?;
        if let Some(Reported { log_prob, argmax, .. }) = &self.reported {
            // Cross-entropy of a class is minus its log-probability; rows that are ignored have no class.
            let counted = argmax.iter().filter(|&&class| class >= 0).count() as f64;
            let of_rows = -log_prob.iter().map(|&x| f64::from(x)).sum::<f64>() / counted;
            if (of_rows - f64::from(value)).abs() > 1e-6 * of_rows {
                return Err(format!("{}: {of_rows} by its rows, {value} by its value", self.case.name));
            }
        }
        Ok((value, self.grad.clone()))
    }
}

/// What a loss is compared with: every thread copies its share.
pub fn copy<T: Element>(from: &[T], to: &mut [T]) {
    if from.len() < 1 << 16 {
        return black_box(to).copy_from_slice(from);
    }
    let share = from.len().div_ceil(rayon::current_num_threads());
    to.par_chunks_mut(share).zip(from.par_chunks(share)).for_each(|(to, from)| to.copy_from_slice(from));
}

impl<T: Element> Timed for Cpu<'_, T> {
    fn turns(&mut self, turns: usize) -> Result<Vec<Turn>, String> {
        let turn = |_| {
            let started = Instant::now();
            for _ in 0..self.calls {
                black_box(self.call()?);
            }
            let loss = started.elapsed() / self.calls;
            let started = Instant::now();
            for _ in 0..self.calls {
                copy(&self.problem.input, &mut self.grad);
            }
            Ok(Turn { loss, copy: started.elapsed() / self.calls })
        };
        (0..turns).map(turn).collect()
    }

    fn memory(&mut self) -> Result<usize, String> {
        memory::of_a_call(|| self.call().map(drop))
    }

    fn launches(&self) -> Option<usize> {
        None
    }
}
