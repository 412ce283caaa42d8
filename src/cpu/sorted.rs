//! The sorted skeleton: losses of regions in which what an element weighs depends on how many errors are larger than its own.
//!
//! A region is a channel of a sample, or of the whole batch, and a group the regions of a sample, or of the batch. Errors are sorted with
//! what they are the errors of, so that equal ones stay in the order of their positions: the result is the same for any number of threads.
//! Errors that are not above zero are left out of the sort, for they come after all others and count for nothing.

use rayon::prelude::*;

use super::mem::{Dst, Src, zeros};
use super::scan::Scan;
use super::threads::shared;
use crate::call::{Output, Request};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::math;
use crate::reduction::Reduction;
use crate::target::{Indices, Target};

/// A loss of sorted errors with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sorted {
    pub(crate) name: &'static str,
    /// Errors are of a softmax over the channels, and targets are indices; else each is of its own element, and targets are masks.
    pub(crate) softmax: bool,
    /// A region is a channel of the whole batch, not of a sample.
    pub(crate) batch: bool,
    /// Regions without a foreground count for nothing.
    pub(crate) present: bool,
    pub(crate) ignore_index: Option<i64>,
}

/// An element is 31 bits of a sorted number.
pub(crate) fn check_len_of_region(loss: &'static str, len: usize) -> Result<()> {
    if i32::try_from(len).is_err() {
        return Err(Error::Unsupported { loss, what: "a region of more than 2^31 elements" });
    }
    Ok(())
}

/// Positions that a task does at once.
const TILE: usize = 1 << 12;

/// The regions of a call.
struct Plan<'a, T> {
    sorted: Sorted,
    input: Src<'a, T>,
    target: Of<'a, T>,
    channels: usize,
    inner: usize,
    /// Positions of a region.
    len: usize,
}

#[derive(Clone, Copy)]
enum Of<'a, T> {
    Mask(&'a [T]),
    Class(Indices<'a>),
}

pub(crate) fn run<T: Element>(sorted: Sorted, request: Request<'_, T>) -> Result<f32> {
    let n = request.input.len();
    let extras = request.extras;
    let unsupported = |what| Error::Unsupported { loss: sorted.name, what };
    let shape = extras.shape.ok_or(unsupported("a call without a shape"))?;
    shape.check_input(n)?;
    extras.report.check((sorted.name, false), true, 0, (|to| to.len(), |to| to.indices()))?;
    extras.third.check(sorted.name, None, false)?;
    if extras.class_weight.is_some() {
        return Err(unsupported("a class weight"));
    }
    if extras.weight.is_some() {
        return Err(unsupported("a weight"));
    }
    if extras.grad_target.is_some() {
        return Err(unsupported("a gradient for the targets"));
    }
    let (samples, channels, inner) = (shape.outer, shape.classes, shape.inner);
    let (groups, len) = if sorted.batch { (1, samples * inner) } else { (samples, inner) };
    check_len_of_region(sorted.name, len)?;
    let target = match (extras.target, extras.target.indices()) {
        (Target::Dense(t), _) if !sorted.softmax => {
            check_len("target", n, t.len())?;
            Of::Mask(t)
        }
        (_, Some(indices)) if sorted.softmax => {
            check_len("target", samples * inner, indices.len())?;
            Scan { indices, classes: channels, ignore: sorted.ignore_index }.check()?;
            Of::Class(indices)
        }
        _ => return Err(unsupported("a target of this kind")),
    };
    let regions = groups * channels;
    let (mut losses, mut grad_output, mut denominator) = (None, None, 1.0);
    let mut mean = false;
    match request.output {
        Output::Reduced(reduction) => {
            reduction.check(regions)?;
            mean = matches!(reduction, Reduction::Mean | Reduction::WeightedMean);
            if !mean {
                denominator = reduction.denominator(|| regions as f64, || regions as f64);
            }
        }
        Output::Unreduced { losses: l, grad_output: g } => {
            l.as_ref().map_or(Ok(()), |l| check_len("losses", regions, l.len()))?;
            g.map_or(Ok(()), |g| check_len("grad_output", regions, g.len()))?;
            (losses, grad_output) = (l, g);
        }
    }
    if mean && groups == 0 {
        return Ok(f32::NAN);
    }
    if n == 0 {
        // Regions without elements, perhaps more of them than there is time to look at.
        if let Some(losses) = losses {
            // SAFETY: this is the only task.
            (0..regions).for_each(|r| unsafe { losses.set(r, 0.0) });
        }
        return Ok(0.0);
    }
    let plan = Plan { sorted, input: request.input, target, channels, inner, len };
    let backward = request.grad_input.is_some();
    // Of a group: the softmax, and what the elements weigh.
    let mut probs = zeros(if sorted.softmax { channels * len } else { 0 })?;
    let mut slopes = zeros(if backward { channels * len } else { 0 })?;
    let mut total = 0.0;
    for group in 0..groups {
        if sorted.softmax {
            shared(|| plan.softmax(group, &mut probs));
        }
        let of = Dst::new(&mut slopes);
        let found = shared(|| {
            let one = |c| plan.region(group, c, &probs, backward.then_some(of));
            (0..channels).into_par_iter().map(one).collect::<Result<Vec<(f64, bool)>>>()
        })?;
        let present = found.iter().filter(|(_, present)| *present).count();
        let share = match (mean, present) {
            (false, _) => 1.0 / denominator,
            (true, 0) => 0.0,
            (true, present) => 1.0 / (present as f64 * groups as f64),
        };
        let mut scales = Vec::with_capacity(channels);
        for (c, (value, present)) in found.into_iter().enumerate() {
            total += value * share;
            let r = group * channels + c;
            if let Some(losses) = losses {
                // SAFETY: this is the only task.
                unsafe { losses.set(r, value as f32) };
            }
            let scale = f64::from(extras.grad_output) * share;
            scales.push(if present { scale as f32 * grad_output.map_or(1.0, |g| g[r]) } else { 0.0 });
        }
        if let Some(grad) = request.grad_input {
            shared(|| plan.grads(group, &probs, &slopes, &scales, grad, extras.accumulate));
        }
    }
    Ok(total as f32)
}

impl<T: Element> Plan<'_, T> {
    /// The row of position `i` of a group, and its element of channel 0.
    fn place(&self, group: usize, i: usize) -> (usize, usize) {
        let (sample, position) = if self.sorted.batch { (i / self.inner, i % self.inner) } else { (group, i) };
        (sample * self.inner + position, sample * self.channels * self.inner + position)
    }

    /// The class of a row, none if that counts for nothing.
    fn class(&self, row: usize) -> Option<usize> {
        match self.target {
            Of::Class(indices) => {
                let index = indices.get(row);
                (Some(index) != self.sorted.ignore_index).then_some(index as usize)
            }
            Of::Mask(_) => None,
        }
    }

    /// The softmax of each position, of all positions of a channel one after another.
    fn softmax(&self, group: usize, probs: &mut [f32]) {
        let (to, len) = (Dst::new(probs), self.len);
        (0..len.div_ceil(TILE)).into_par_iter().for_each(|tile| {
            let mut e = vec![0.0; self.channels];
            for i in tile * TILE..len.min((tile + 1) * TILE) {
                let (_, first) = self.place(group, i);
                // SAFETY, of both: the element exists, and a position is one task's.
                let at = |c: usize| unsafe { self.input.get(first + c * self.inner) };
                let max = (0..self.channels).fold(f32::NEG_INFINITY, |max, c| max.max(at(c)));
                let mut sum = 0.0;
                for (c, e) in e.iter_mut().enumerate() {
                    *e = math::exp(at(c) - max);
                    sum += *e;
                }
                for (c, e) in e.iter().enumerate() {
                    unsafe { to.set(c * len + i, e / sum) };
                }
            }
        });
    }

    /// The value of a region and whether it counts; what its elements weigh goes to its part of `slopes`.
    fn region(&self, group: usize, c: usize, probs: &[f32], slopes: Option<Dst<'_, f32>>) -> Result<(f64, bool)> {
        let (mut sorted, mut foreground) = (Vec::new(), 0usize);
        sorted.try_reserve(self.len).map_err(|_| Error::OutOfMemory { bytes: 8 * self.len as u128 })?;
        let put = |i: usize, slope: f32| {
            if let Some(slopes) = slopes {
                // SAFETY: the element exists, and a region is one task's.
                unsafe { slopes.set(c * self.len + i, slope) };
            }
        };
        for i in 0..self.len {
            let (row, first) = self.place(group, i);
            let (error, marked) = match self.target {
                Of::Mask(mask) => {
                    let k = first + c * self.inner;
                    let t = mask[k].to_f32();
                    // SAFETY: it exists.
                    (1.0 - unsafe { self.input.get(k) } * (2.0 * t - 1.0), t > 0.5)
                }
                Of::Class(_) => {
                    let Some(class) = self.class(row) else {
                        put(i, 0.0);
                        continue;
                    };
                    let p = probs[c * self.len + i];
                    if class == c { (1.0 - p, true) } else { (p, false) }
                }
            };
            foreground += usize::from(marked);
            if error <= 0.0 {
                put(i, 0.0);
            } else {
                // Falling errors, NaN first, and of equal ones the first position first.
                let key = if error.is_nan() { 0 } else { !error.to_bits() };
                sorted.push(u64::from(key) << 32 | (i as u64) << 1 | u64::from(marked));
            }
        }
        sorted.par_sort_unstable();
        let (mut value, mut before) = (0.0, 0usize);
        for (place, &item) in sorted.iter().enumerate() {
            let (key, i, marked) = ((item >> 32) as u32, (item as u32 >> 1) as usize, item & 1 == 1);
            let error = if key == 0 { f32::NAN } else { f32::from_bits(!key) };
            let below = foreground + (place - before);
            let slope = match (marked, below) {
                (true, _) => 1.0 / below as f64,
                (false, 0) => 1.0,
                (false, _) => (foreground - before) as f64 / (below as f64 * (below + 1) as f64),
            };
            value += f64::from(error) * slope;
            put(i, if error.is_nan() { error } else { slope as f32 });
            before += usize::from(marked);
        }
        let present = !self.sorted.present || foreground > 0;
        Ok((if present || value.is_nan() { value } else { 0.0 }, present))
    }

    fn grads(&self, group: usize, probs: &[f32], slopes: &[f32], scales: &[f32], grad: Dst<'_, T>, accumulate: bool) {
        let len = self.len;
        (0..len.div_ceil(TILE)).into_par_iter().for_each(|tile| {
            for i in tile * TILE..len.min((tile + 1) * TILE) {
                let (row, first) = self.place(group, i);
                // SAFETY: the element exists, and a position is one task's.
                let put = |c: usize, g: f32| unsafe { grad.put(first + c * self.inner, g, accumulate) };
                match self.target {
                    Of::Mask(mask) => {
                        for (c, scale) in scales.iter().enumerate() {
                            let (slope, y) = (slopes[c * len + i], 2.0 * mask[first + c * self.inner].to_f32() - 1.0);
                            put(c, if slope == 0.0 { 0.0 } else { -y * slope * scale });
                        }
                    }
                    Of::Class(_) => {
                        let class = self.class(row);
                        let slope = |c: usize| {
                            let of_error = slopes[c * len + i] * scales[c];
                            if class == Some(c) { -of_error } else { of_error }
                        };
                        let mean = match class {
                            Some(_) => (0..self.channels).map(|c| probs[c * len + i] * slope(c)).sum(),
                            None => 0.0f32,
                        };
                        for c in 0..self.channels {
                            put(c, if class.is_some() { probs[c * len + i] * (slope(c) - mean) } else { 0.0 });
                        }
                    }
                }
            }
        });
    }
}
