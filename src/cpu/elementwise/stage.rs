//! A block of elements in f32, between the memory of a call and its losses.
//!
//! Whatever asks for more than input, target and gradient goes through here, and so does a sum of losses. What knows the storage type
//! ([`Gather`], [`Scatter`]) and what knows the loss ([`Apply`]) are functions of their own: a loss is compiled once here for all
//! storage types and for all sums that it may be a term of.

use std::mem::MaybeUninit;

use super::{BLOCK, Plan, Point, Pointwise};
use crate::cpu::mem::{Mode, Src};
use crate::cpu::simd::{F32s, Kernel, LANES, Lanes, Machine, Pair};
use crate::element::Element;
use crate::loss::Logistic;

/// What of a block is taken together.
const STEP: usize = 2 * LANES;

/// A number of each element of a block, if somebody put one.
struct Row([MaybeUninit<f32>; BLOCK]);

impl Row {
    const EMPTY: Row = Row([MaybeUninit::uninit(); BLOCK]);

    /// Those of elements `i..i + 16`.
    ///
    /// # Safety
    /// They have been put.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn get<S: Machine>(&self, s: S, i: usize) -> F32s<S> {
        // SAFETY: sixteen floats, which are there as the caller promises.
        s.wrap(unsafe { s.f_load(self.0[i..][..LANES].as_ptr().cast()) })
    }

    #[cfg_attr(optimized, inline(always))]
    fn put<S: Machine>(&mut self, i: usize, x: F32s<S>) {
        // SAFETY: sixteen floats.
        unsafe { x.simd().f_store(self.0[i..][..LANES].as_mut_ptr().cast(), x.raw()) }
    }

    /// Those of elements `i..i + 32`.
    ///
    /// # Safety
    /// As for [`get`](Self::get).
    #[cfg_attr(optimized, inline(always))]
    unsafe fn get_pair<S: Machine>(&self, pair: Pair<S>, i: usize) -> F32s<Pair<S>> {
        // SAFETY: the caller's promise.
        unsafe { pair.join(self.get(pair.0, i), self.get(pair.0, i + LANES)) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn put_pair<S: Machine>(&mut self, i: usize, x: F32s<Pair<S>>) {
        let (low, high) = x.simd().split(x);
        self.put(i, low);
        self.put(i + LANES, high);
    }
}

/// The block.
pub(crate) struct Stage {
    /// How many elements it holds. Rows are put for whole steps; what is beyond the elements has no meaning.
    count: usize,
    wants: Wants,
    input: Row,
    target: Row,
    aux: Row,
    /// What values are multiplied by, and gradients.
    weight: Row,
    scale: Row,
    /// `tail` and `soft` of [`Logistic`].
    tail: Row,
    soft: Row,
    /// What the losses make of it.
    losses: Row,
    grad_input: Row,
    grad_target: Row,
    grad_third: Row,
}

/// What is asked of the losses beside their sum.
#[derive(Clone, Copy)]
struct Wants {
    losses: bool,
    grad_input: bool,
    grad_target: bool,
    grad_third: bool,
}

impl Stage {
    pub(super) fn new<T>(plan: &Plan<'_, T>) -> Self {
        let wants = Wants {
            losses: plan.losses.is_some(),
            grad_input: plan.grad_input.is_some(),
            grad_target: plan.grad_target.is_some(),
            grad_third: plan.grad_third.is_some(),
        };
        const E: Row = Row::EMPTY;
        let [input, target, aux, weight, scale, tail, soft, losses, grad_input, grad_target, grad_third] = [E; 11];
        Stage {
            count: 0,
            wants,
            input,
            target,
            aux,
            weight,
            scale,
            tail,
            soft,
            losses,
            grad_input,
            grad_target,
            grad_third,
        }
    }

    /// Computes the logistic function of the input, for the losses that are made of it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn logistic<S: Machine>(&mut self, s: S) {
        s.run(LogisticOfInput(self));
    }

    /// Adds a loss with this weight to what is staged, or begins with it; the sums of its values, of even vectors and of odd ones.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn apply<S: Machine, F: Pointwise>(&mut self, s: S, loss: F, weight: f32, first: bool) -> [Lanes; 2] {
        s.run(Apply { stage: self, loss, weight, first })
    }
}

/// Fills the stage with elements `i..i + count` of the call.
pub(super) struct Gather<'a, 'p, T> {
    pub(super) stage: &'a mut Stage,
    pub(super) plan: &'a Plan<'p, T>,
    pub(super) i: usize,
    pub(super) count: usize,
}

impl<T: Element> Kernel for Gather<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Gather { stage, plan, count, .. } = self;
        stage.count = count;
        for v in (0..count.next_multiple_of(STEP)).step_by(LANES) {
            let (i, count) = (self.i + v, count.saturating_sub(v).min(LANES));
            // SAFETY (all loads): tiles do not overlap, and a tile belongs to one task.
            let load = |from: Src<'_, T>| match count {
                0 => s.zero(),
                _ => unsafe { from.load_upto(s, i, count, 0.0) },
            };
            if plan.mode.stream && v % STEP == 0 {
                plan.input.prefetch(s, i);
                plan.target.inspect(|target| target.prefetch(s, i));
            }
            stage.input.put(v, load(plan.input));
            stage.target.put(v, plan.target.map_or(s.zero(), load));
            let aux = match (plan.third, plan.class_weight) {
                (Some(third), _) => load(third),
                (None, Some(w)) => s.lanes(&lanes(count, |l| w[(i + l) % w.len()])),
                (None, None) => s.splat(1.0),
            };
            stage.aux.put(v, aux);
            let weight = match plan.weight {
                Some((w, 1)) => s.lanes(&lanes(count, |l| w[i + l])),
                Some((w, each)) => s.lanes(&lanes(count, |l| w[(i + l) / each])),
                None => s.splat(1.0),
            };
            let mut scale = weight * plan.scale;
            if let (Some(g), 1..) = (plan.grad_output, count) {
                scale = scale * unsafe { Src::new(g).load_upto(s, i, count, 0.0) };
            }
            stage.weight.put(v, weight);
            stage.scale.put(v, scale);
        }
    }
}

/// The first `count` lanes, then ones.
#[cfg_attr(optimized, inline(always))]
fn lanes(count: usize, of: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [1.0; LANES];
    lanes[..count].iter_mut().enumerate().for_each(|(l, lane)| *lane = of(l));
    lanes
}

struct LogisticOfInput<'a>(&'a mut Stage);

impl Kernel for LogisticOfInput<'_> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let (stage, pair) = (self.0, Pair(s));
        for i in (0..stage.count).step_by(STEP) {
            // SAFETY: `Gather` has put the input.
            let (tail, soft) = unsafe { stage.input.get_pair(pair, i) }.logistic_tail();
            stage.tail.put_pair(i, tail);
            stage.soft.put_pair(i, soft);
        }
    }
}

struct Apply<'a, F> {
    stage: &'a mut Stage,
    loss: F,
    weight: f32,
    first: bool,
}

impl<F: Pointwise> Kernel for Apply<'_, F> {
    type Output = [Lanes; 2];

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> [Lanes; 2] {
        let Apply { stage, loss, weight, first } = self;
        let (pair, count, wants) = (Pair(s), stage.count, stage.wants);
        let put = |row: &mut Row, i: usize, x: F32s<Pair<S>>| {
            // SAFETY: the first loss has put it.
            let x = if first { x * weight } else { x.mul_add(weight, unsafe { row.get_pair(pair, i) }) };
            row.put_pair(i, x);
        };
        let mut sums = [s.zero(); 2];
        for i in (0..count).step_by(STEP) {
            // SAFETY: `Gather` has put them.
            let of = |row: &Row| unsafe { row.get_pair(pair, i) };
            let (x, t, aux) = (of(&stage.input), of(&stage.target), of(&stage.aux));
            let Point { value, grad } = if F::LOGISTIC {
                // `LogisticOfInput` has put the rest.
                let l = Logistic { positive: x.gt(0.0), abs: x.abs(), tail: of(&stage.tail), soft: of(&stage.soft) };
                loss.eval_with(&l, x, t, aux)
            } else {
                loss.eval(x, t, aux)
            };
            let value = value * of(&stage.weight);
            if wants.losses {
                put(&mut stage.losses, i, value);
            }
            if wants.grad_input {
                put(&mut stage.grad_input, i, grad);
            }
            if F::GRAD_TARGET && wants.grad_target {
                put(&mut stage.grad_target, i, loss.grad_target(x, t, aux));
            }
            if F::GRAD_THIRD && wants.grad_third {
                put(&mut stage.grad_third, i, loss.grad_third(x, t, aux));
            }
            let (low, high) = pair.split(value);
            // What is beyond the elements has values too.
            let only = |value: F32s<S>, i: usize| match count.saturating_sub(i) {
                LANES.. => value,
                some => s.first(some).pick(value, 0.0),
            };
            sums = [sums[0] + only(low, i), sums[1] + only(high, i + LANES)];
        }
        [sums[0].to_array(), sums[1].to_array()]
    }
}

/// Writes what the losses made.
pub(super) struct Scatter<'a, 'p, T> {
    pub(super) stage: &'a Stage,
    pub(super) plan: &'a Plan<'p, T>,
    pub(super) i: usize,
    pub(super) mode: Mode,
    /// Whether gradients that would be denormal are zero.
    pub(super) faint: bool,
}

impl<T: Element> Kernel for Scatter<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Scatter { stage, plan, .. } = self;
        for v in (0..stage.count).step_by(LANES) {
            let (i, count) = (self.i + v, LANES.min(stage.count - v));
            // SAFETY (all of it): `Gather` has put the scale and the losses what was asked of them; tiles do not overlap, and a tile
            // belongs to one task.
            unsafe {
                let scale = stage.scale.get(s, v);
                if let Some(out) = plan.losses {
                    out.store_upto(s, i, count, stage.losses.get(s, v), Mode::PLAIN);
                }
                if let Some(out) = plan.grad_target {
                    let grad = stage.grad_target.get(s, v) * scale;
                    out.store_upto(s, i, count, grad, plan.target_mode.at(out, i));
                }
                if let Some(out) = plan.grad_third {
                    let grad = stage.grad_third.get(s, v) * scale;
                    out.store_upto(s, i, count, grad, plan.target_mode.at(out, i));
                }
                if let Some(out) = plan.grad_input {
                    let mut grad = stage.grad_input.get(s, v);
                    if self.faint {
                        grad = grad.abs().lt(f32::MIN_POSITIVE / scale.abs()).pick(0.0, grad);
                    }
                    out.store_upto(s, i, count, grad * scale, self.mode);
                }
            }
        }
    }
}
