//! The chunks of a call on the CPU, one after another.

use super::matrix::{self, View};
use super::{LinearCall, LinearGrads, LinearShape, Scale};
use crate::call::{Call, Output, Request, Weight};
use crate::cpu::mem::{Dst, zeros};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::parallel::{ReduceOp, Rows, run_rows};
use crate::reduction::Reduction;
use crate::shape::Shape;
use crate::target::{Indices, Target};

/// How many tokens are done at once, and how many classes of the weight are widened at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunks {
    pub(super) tokens: usize,
    classes: usize,
}

impl Chunks {
    pub(super) fn new<T>(budget: usize, shape: LinearShape, counted: usize) -> Result<Self> {
        let LinearShape { hidden, classes, .. } = shape;
        // Its logits; its input and the gradient of that, widened; its number, target, weight and loss.
        let token = 4 * classes as u128 + 8 * hidden as u128 + 24;
        let class = if is_f32::<T>() { 0 } else { 4 * hidden as u128 };
        let (needed, all) = (token + class, budget as u128);
        if needed > all {
            return Err(Error::Budget { needed, budget });
        }
        // Where the weight is f32 it is taken as it is.
        let at_once = (all / 8).min(all - token).checked_div(class).unwrap_or(u128::MAX);
        let at_once = at_once.clamp(1, classes.max(1) as u128);
        let most = ((all - at_once * class) / token) as usize;
        // Chunks of equal size.
        let tokens = counted.div_ceil(counted.div_ceil(most).max(1));
        Ok(Chunks { tokens, classes: at_once as usize })
    }
}

/// The storage types are f32 and two of two bytes.
fn is_f32<T>() -> bool {
    size_of::<T>() == size_of::<f32>()
}

/// A call that has been checked.
pub(super) struct Pass<'p, 'a, T> {
    pub(super) call: &'p LinearCall<'a, T>,
    pub(super) indices: Indices<'a>,
    pub(super) ignore: Option<i64>,
    /// Of the gradients.
    pub(super) scale: f32,
    pub(super) chunks: Chunks,
    /// Where ranks share the classes.
    pub(super) rows: Option<Rows<'a>>,
}

impl<T: Element> Pass<'_, '_, T> {
    /// The sum of the losses.
    pub(super) fn run(
        &self,
        mut losses: Option<&mut [f32]>,
        grads: LinearGrads<'_, T>,
        Scale { by, grad: mut grad_by }: Scale<'_>,
    ) -> Result<f64> {
        let LinearCall { input, shape: LinearShape { tokens, hidden, classes }, accumulate, .. } = *self.call;
        let LinearGrads { input: mut grad_input, weight: mut grad_weight, bias: mut grad_bias } = grads;
        let of_inputs = grad_input.is_some() || grad_by.is_some();
        let backward = of_inputs || grad_weight.is_some() || grad_bias.is_some();
        let size = self.chunks.tokens;
        let mut logits = zeros(size * classes)?;
        let mut inputs = zeros(size * hidden)?;
        let mut grad_inputs = zeros(if of_inputs { size * hidden } else { 0 })?;
        let mut tile = zeros(if is_f32::<T>() { 0 } else { self.chunks.classes * hidden })?;
        // Those of a chunk.
        let (mut rows, mut targets, mut weights) =
            (Vec::with_capacity(size), Vec::with_capacity(size), Vec::with_capacity(size));
        if !accumulate {
            // What is written below is of the tokens that count. (The first product overwrites the weight's.)
            for g in [grad_bias.as_deref_mut(), grad_weight.as_deref_mut().filter(|_| size == 0)].into_iter().flatten()
            {
                g.fill(0.0);
            }
        }
        if let Some(losses) = losses.as_deref_mut() {
            losses.fill(0.0);
        }
        let (mut total, mut first, mut next) = (0.0, true, 0);
        loop {
            rows.clear();
            let from = next;
            while rows.len() < size && next < tokens {
                if Some(self.indices.get(next)) != self.ignore {
                    rows.push(next);
                }
                next += 1;
            }
            // The ignored ones up to the next chunk too.
            while next < tokens && Some(self.indices.get(next)) == self.ignore {
                next += 1;
            }
            if let Some(grad) = grad_input.as_deref_mut().filter(|_| !accumulate && rows.len() < next - from) {
                let mut left_out = rows.iter().copied().peekable();
                for r in from..next {
                    if left_out.next_if_eq(&r).is_none() {
                        grad[r * hidden..][..hidden].fill(T::default());
                    }
                }
            }
            if rows.is_empty() {
                break;
            }
            let n = rows.len();
            targets.clear();
            targets.extend(rows.iter().map(|&r| self.indices.get(r)));
            weights.clear();
            weights.extend(self.call.token_weight.into_iter().flat_map(|w| rows.iter().map(|&r| w[r])));
            matrix::gather(input, hidden, &rows, &mut inputs[..n * hidden]);
            if by != 1.0 {
                // Here, where they are fewer than logits.
                inputs[..n * hidden].iter_mut().for_each(|x| *x *= by);
            }
            let (inputs, logits) = (View::new(&inputs, n, hidden), &mut logits[..n * classes]);
            self.logits(inputs, logits, &mut tile);
            total += self.losses(logits, &targets, &weights, &rows, losses.as_deref_mut(), backward)?;
            if let Some(grad) = grad_bias.as_deref_mut() {
                matrix::add_columns(logits, n, grad);
            }
            let logits = View::new(logits, n, classes);
            if let Some(grad) = grad_weight.as_deref_mut() {
                matrix::product(grad, hidden, accumulate || !first, logits.transposed(), inputs);
            }
            if of_inputs {
                let grads = &mut grad_inputs[..n * hidden];
                self.grad_inputs(logits, grads, &mut tile);
                if let Some(rows) = &self.rows {
                    rows.vocab.ranks.all_reduce(grads, ReduceOp::Sum)?;
                }
                if let Some(grad) = grad_by.as_deref_mut() {
                    let own = rows.iter().flat_map(|&r| &input[r * hidden..][..hidden]);
                    *grad += own.zip(&*grads).map(|(x, g)| f64::from(x.to_f32()) * f64::from(*g)).sum::<f64>();
                }
                if by != 1.0 {
                    grads.iter_mut().for_each(|g| *g *= by);
                }
                if let Some(grad) = grad_input.as_deref_mut() {
                    matrix::scatter(grads, hidden, &rows, grad, accumulate);
                }
            }
            first = false;
        }
        Ok(total)
    }

    /// Some classes of the weight, widened if need be.
    fn some_classes<'t>(&'t self, start: usize, count: usize, tile: &'t mut [f32]) -> View<'t> {
        let hidden = self.call.shape.hidden;
        let part = &self.call.weight[start * hidden..][..count * hidden];
        if let Some(part) = matrix::as_f32(part) {
            return View::new(part, count, hidden);
        }
        let tile = &mut tile[..count * hidden];
        matrix::widen(part, tile);
        View::new(tile, count, hidden)
    }

    /// The first class of each tile, and how many it has.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let (classes, each) = (self.call.shape.classes, self.chunks.classes);
        (0..classes).step_by(each).map(move |start| (start, each.min(classes - start)))
    }

    fn logits(&self, inputs: View<'_>, logits: &mut [f32], tile: &mut [f32]) {
        let classes = self.call.shape.classes;
        if let Some(bias) = self.call.bias.filter(|_| classes != 0) {
            let (first, rest) = logits.split_at_mut(classes);
            matrix::widen(bias, first);
            rest.chunks_exact_mut(classes).for_each(|row| row.copy_from_slice(first));
        }
        for (start, count) in self.tiles() {
            let weight = self.some_classes(start, count, tile).transposed();
            matrix::product(&mut logits[start..], classes, self.call.bias.is_some(), inputs, weight);
        }
    }

    fn grad_inputs(&self, logits: View<'_>, grads: &mut [f32], tile: &mut [f32]) {
        if self.call.shape.classes == 0 {
            // All of them are other ranks'.
            grads.fill(0.0);
        }
        for (start, count) in self.tiles() {
            let weight = self.some_classes(start, count, tile);
            matrix::product(grads, self.call.shape.hidden, start != 0, logits.columns(start, count), weight);
        }
    }

    /// The sum of the losses of a chunk; its logits become their gradient.
    fn losses(
        &self,
        logits: &mut [f32],
        targets: &[i64],
        weights: &[f32],
        rows: &[usize],
        losses: Option<&mut [f32]>,
        backward: bool,
    ) -> Result<f64> {
        let LinearCall { head, class_weight, token_weight, shape, .. } = *self.call;
        if let Some(of) = &self.rows {
            let (classes, logits) = (of.classes(rows.iter().copied()), Dst::new(logits));
            let shard = of.shard(&classes, token_weight.map(|_| weights));
            let grad = backward.then_some((logits, true, false, self.scale));
            let mut chunk = vec![0.0; rows.len()];
            let total = run_rows(&shard, of.vocab, logits.src(), grad, Some(&mut chunk))?;
            if let Some(losses) = losses {
                rows.iter().zip(&chunk).for_each(|(&r, &loss)| losses[r] = loss);
            }
            return Ok(total);
        }
        let shape = Shape::from((rows.len(), shape.classes));
        let call = Call::new(head.loss, (), Target::<f32>::I64(targets), Some(shape));
        let mut extras = call.extras;
        extras.weight = token_weight.map(|_| Weight::PerElement(weights));
        extras.class_weight = class_weight;
        extras.grad_output = self.scale;
        let mut chunk = losses.as_ref().map(|_| zeros(rows.len())).transpose()?;
        let output = match chunk.as_deref_mut() {
            Some(losses) => Output::Unreduced { losses: Some(Dst::new(losses)), grad_output: None },
            None => Output::Reduced(Reduction::Sum),
        };
        let logits = Dst::new(logits);
        let grad_input = backward.then_some(logits);
        let request = Request { input: logits.src(), extras, grad_input, in_place: backward, output };
        let sum = request.run(&head.loss)?;
        for (losses, chunk) in losses.into_iter().zip(&chunk) {
            rows.iter().zip(chunk).for_each(|(&r, &loss)| losses[r] = loss);
        }
        Ok(f64::from(sum))
    }
}
