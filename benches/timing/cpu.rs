//! Turns on the CPU, by the clock.

use std::hint::black_box;
use std::time::Instant;

use fused_loss::{Element, Reduction};
use rayon::prelude::*;

use super::cases::Case;
use super::cases::draw::Problem;
use super::cases::job::{Job, Verb, Weight};
use super::{Timed, Turn, memory};

pub struct Cpu<'a, T> {
    case: &'a Case,
    pub problem: Problem<T>,
    grad: Vec<T>,
    /// Calls between two looks at the clock: a look costs as much as a hundred elements.
    calls: u32,
}

impl<'a, T: Element> Cpu<'a, T> {
    pub fn new(case: &'a Case, problem: Problem<T>) -> Self {
        let len = problem.input.len();
        Cpu { case, grad: vec![T::default(); len], calls: ((1 << 15) / len).max(1) as u32, problem }
    }

    /// One fused call.
    fn call(&mut self) -> Result<f32, String> {
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

    /// Value and gradient.
    pub fn answer(&mut self) -> Result<(f32, Vec<T>), String> {
        Ok((self.call()?, self.grad.clone()))
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
