//! A block of elements in f32, between the memory of a call and its losses.
//!
//! Whatever asks for more than input, target and gradient goes through here, and so does a sum of losses. What knows the storage type
//! ([`Gather`], [`Scatter`]) and what knows the loss ([`Apply`]) are functions of their own: a loss is compiled once here for all
//! storage types and for all sums that it may be a term of.

use std::mem::MaybeUninit;

use super::{BLOCK, BlockSums, Plan, Point, Pointwise, ROOM, STEP};
use crate::cpu::mem::{Dst, Lines, Mode, Src};
use crate::cpu::simd::{F32s, Kernel, LANES, Lanes, Machine, Pair, Simd};
use crate::element::Element;
use crate::loss::Logistic;

/// A number of each element of a block, if somebody put one.
#[repr(align(64))] // no vector in two cache lines
struct Row([MaybeUninit<f32>; ROOM]);

impl Row {
    const EMPTY: Row = Row([MaybeUninit::uninit(); ROOM]);

    /// Those of elements `i..i + 16`.
    ///
    /// # Safety
    /// They have been put.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn get<S: Machine>(&self, s: S, i: usize) -> F32s<S> {
        assert!(i <= ROOM - LANES); // one comparison, where a slice of a slice has three
        // SAFETY: sixteen floats, which are there as the caller promises.
        s.wrap(unsafe { s.f_load(self.0.as_ptr().add(i).cast()) })
    }

    #[cfg_attr(optimized, inline(always))]
    fn put<S: Machine>(&mut self, i: usize, x: F32s<S>) {
        assert!(i <= ROOM - LANES);
        // SAFETY: sixteen floats.
        unsafe { x.simd().f_store(self.0.as_mut_ptr().add(i).cast(), x.raw()) }
    }

    /// Takes elements `i..i + 32` of a tensor as its own from `to` on.
    ///
    /// # Safety
    /// As for [`Src::load`].
    #[cfg_attr(optimized, inline(always))]
    unsafe fn take_two<S: Machine, T: Element>(&mut self, s: S, to: usize, from: Src<'_, T>, i: usize) {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (from.load(s, i), from.load(s, i + LANES)) };
        self.put(to, low);
        self.put(to + LANES, high);
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

    /// Adds what a term has, times its weight; or begins with that of the first.
    ///
    /// # Safety
    /// The first has put them.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn add_pair<S: Machine>(&mut self, pair: Pair<S>, i: usize, x: F32s<Pair<S>>, weight: f32, first: bool) {
        // SAFETY: the caller's promise.
        let x = if first { x * weight } else { x.mul_add(weight, unsafe { self.get_pair(pair, i) }) };
        self.put_pair(i, x);
    }
}

// Functions where closures would do: a closure that LLVM does not inline is compiled for the baseline.

/// Elements `i..i + count`, then zeros; none of them where there are none, for memory may end before.
///
/// # Safety
/// As for [`Src::load_upto`].
#[cfg_attr(optimized, inline(always))]
unsafe fn load<S: Machine, T: Element>(s: S, from: Src<'_, T>, i: usize, count: usize) -> F32s<S> {
    // SAFETY: the caller's promise.
    if count == 0 { s.zero() } else { unsafe { from.load_upto(s, i, count, 0.0) } }
}

/// The values of vector `i` of a block of `count` elements: those beyond the last have values too.
#[cfg_attr(optimized, inline(always))]
fn only<S: Machine>(values: F32s<S>, i: usize, count: usize) -> F32s<S> {
    let here = count.saturating_sub(i);
    if here >= LANES { values } else { values.simd().first(here).pick(values, 0.0) }
}

/// The block.
pub(crate) struct Stage {
    /// How many elements it holds. Rows are put for whole steps; what is beyond the elements has no meaning.
    count: usize,
    wants: Wants,
    /// Elements have an aux of their own, and weights or gradients from above: else 1, and one scale for all, which are not put.
    has_aux: bool,
    has_weight: bool,
    common_scale: f32,
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
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn new<T>(plan: &Plan<'_, T>) -> Self {
        let wants = Wants {
            losses: plan.losses.is_some(),
            grad_input: plan.grad_input.is_some(),
            grad_target: plan.grad_target.is_some(),
            grad_third: plan.grad_third.is_some(),
        };
        Stage {
            count: 0,
            wants,
            has_aux: plan.class_weight.is_some() || plan.third.is_some(),
            has_weight: plan.weight.is_some() || plan.grad_output.is_some(),
            common_scale: plan.scale,
            input: Row::EMPTY,
            target: Row::EMPTY,
            aux: Row::EMPTY,
            weight: Row::EMPTY,
            scale: Row::EMPTY,
            tail: Row::EMPTY,
            soft: Row::EMPTY,
            losses: Row::EMPTY,
            grad_input: Row::EMPTY,
            grad_target: Row::EMPTY,
            grad_third: Row::EMPTY,
        }
    }

    /// Computes the logistic function of the input, for the losses that are made of it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn logistic<S: Machine>(&mut self, s: S) {
        s.run(LogisticOfInput(self));
    }

    /// Adds a loss with this weight to what is staged, or begins with it; adds its values to the sums of the first block, and puts
    /// those of the others.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn apply<S: Machine, F: Pointwise>(
        &mut self,
        s: S,
        loss: F,
        weight: f32,
        first: bool,
        sums: &mut BlockSums,
    ) {
        s.run(Apply { stage: self, loss, weight, first, sums });
    }

    /// # Safety
    /// `Gather` has filled it.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn aux<S: Machine>(&self, pair: Pair<S>, i: usize) -> F32s<Pair<S>> {
        // SAFETY: the caller's promise.
        if self.has_aux { unsafe { self.aux.get_pair(pair, i) } } else { pair.splat(1.0) }
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
        // A copy of the plan: behind a reference it might change with every store.
        let Gather { stage, plan: &plan, i: start, count } = self;
        stage.count = count;
        // What is weighed goes vector by vector, as does what is left of the rest.
        let plain = !stage.has_weight && plan.class_weight.is_none();
        let whole = if plain { count / STEP * STEP } else { 0 };
        for v in (0..whole).step_by(STEP) {
            plan.prefetch(s, start + v);
            // SAFETY: there are as many, and no other task writes them.
            unsafe {
                stage.input.take_two(s, v, plan.input, start + v);
                // Where there is no target nobody looks at it.
                stage.target.take_two(s, v, plan.target.unwrap_or(plan.input), start + v);
                if let Some(third) = plan.third {
                    stage.aux.take_two(s, v, third, start + v);
                }
            }
        }
        for v in (whole..count.next_multiple_of(STEP)).step_by(LANES) {
            let (i, count) = (start + v, count.saturating_sub(v).min(LANES));
            if v % STEP == 0 {
                plan.prefetch(s, i);
            }
            let mut aux = s.splat(1.0);
            if let Some(w) = plan.class_weight {
                aux = s.lanes(&lanes(count, |l| w[(i + l) % w.len()]));
            }
            let weight = match plan.weight {
                Some((w, 1)) => s.lanes(&lanes(count, |l| w[i + l])),
                Some((w, each)) => s.lanes(&lanes(count, |l| w[(i + l) / each])),
                None => s.splat(1.0),
            };
            let mut scale = weight * plan.scale;
            // SAFETY: tiles do not overlap, and a tile belongs to one task.
            unsafe {
                stage.input.put(v, load(s, plan.input, i, count));
                let mut target = s.zero();
                if let Some(t) = plan.target {
                    target = load(s, t, i, count);
                }
                stage.target.put(v, target);
                if let Some(third) = plan.third {
                    aux = load(s, third, i, count);
                }
                if let Some(g) = plan.grad_output {
                    scale = scale * load(s, Src::new(g), i, count);
                }
            }
            if stage.has_aux {
                stage.aux.put(v, aux);
            }
            if stage.has_weight {
                stage.weight.put(v, weight);
                stage.scale.put(v, scale);
            }
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
    sums: &'a mut BlockSums,
}

impl<F: Pointwise> Kernel for Apply<'_, F> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Apply { stage, loss, weight, first, .. } = self;
        let (pair, wants, all, has_weight) = (Pair(s), stage.wants, stage.count, stage.has_weight);
        for (block, of_block) in (0..all).step_by(BLOCK).zip(self.sums) {
            let [even, odd] = of_block;
            let mut sums = if block == 0 { [s.lanes(even), s.lanes(odd)] } else { [s.zero(); 2] };
            let count = all.min(block + BLOCK);
            for i in (block..count).step_by(STEP) {
                // SAFETY (all of it): `Gather` has put what is staged, `LogisticOfInput` its two rows where the loss asks for them, and the
                // first loss what the others add to.
                unsafe {
                    let x = stage.input.get_pair(pair, i);
                    let (t, aux) = (stage.target.get_pair(pair, i), stage.aux(pair, i));
                    let Point { value, grad } = if F::LOGISTIC {
                        let (tail, soft) = (stage.tail.get_pair(pair, i), stage.soft.get_pair(pair, i));
                        loss.eval_with(&Logistic::new(x, tail, soft), x, t, aux)
                    } else {
                        loss.eval(x, t, aux)
                    };
                    let value = if has_weight { value * stage.weight.get_pair(pair, i) } else { value };
                    if wants.losses {
                        stage.losses.add_pair(pair, i, value, weight, first);
                    }
                    if wants.grad_input {
                        stage.grad_input.add_pair(pair, i, grad, weight, first);
                    }
                    if F::GRAD_TARGET && wants.grad_target {
                        stage.grad_target.add_pair(pair, i, loss.grad_target(x, t, aux), weight, first);
                    }
                    if F::GRAD_THIRD && wants.grad_third {
                        stage.grad_third.add_pair(pair, i, loss.grad_third(x, t, aux), weight, first);
                    }
                    let (low, high) = pair.split(value);
                    sums = [sums[0] + only(low, i, count), sums[1] + only(high, i + LANES, count)];
                }
            }
            *of_block = [sums[0].to_array(), sums[1].to_array()];
        }
    }
}

/// Writes what the losses made.
pub(super) struct Scatter<'a, 'p, T> {
    pub(super) stage: &'a Stage,
    pub(super) plan: &'a Plan<'p, T>,
    /// Of the gradients for input, target and third tensor.
    pub(super) lines: &'a mut [Lines; 3],
    pub(super) i: usize,
    /// Whether gradients that would be denormal are zero.
    pub(super) faint: bool,
}

impl<T: Element> Kernel for Scatter<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Scatter { stage, plan: &plan, lines, i: start, faint } = self;
        if let Some(out) = plan.losses {
            let written = Written { row: &stage.losses, stage, scaled: false, faint: false };
            written.to(s, out, &mut Lines::none(), start, Mode::PLAIN);
        }
        let grads = [
            (plan.grad_input, &stage.grad_input, plan.mode, faint),
            (plan.grad_target, &stage.grad_target, plan.target_mode, false),
            (plan.grad_third, &stage.grad_third, plan.target_mode, false),
        ];
        for ((out, row, mode, faint), lines) in grads.into_iter().zip(lines) {
            if let Some(out) = out {
                Written { row, stage, scaled: true, faint }.to(s, out, lines, start, mode);
            }
        }
    }
}

/// A row of the stage on its way to memory.
struct Written<'a> {
    row: &'a Row,
    stage: &'a Stage,
    /// Times the scale of its elements.
    scaled: bool,
    /// Numbers that the scale would make denormal are zero.
    faint: bool,
}

impl Written<'_> {
    #[cfg_attr(optimized, inline(always))]
    fn to<S: Machine, T: Element>(self, s: S, out: Dst<'_, T>, lines: &mut Lines, start: usize, mode: Mode) {
        let (pair, count) = (Pair(s), self.stage.count);
        for v in (0..count).step_by(STEP) {
            // SAFETY (all of it): the losses have put what was asked of them, `Gather` the scale, for whole steps; tiles do not overlap,
            // and a tile belongs to one task.
            let (low, high) = pair.split(unsafe { self.pair(pair, v) });
            let (i, here) = (start + v, count - v);
            unsafe {
                if here >= STEP {
                    out.store_pair(s, lines, i, [low, high], mode);
                    continue;
                }
                let mode = Mode { stream: false, ..mode };
                out.store_upto(s, i, here.min(LANES), low, mode);
                if here > LANES {
                    out.store_upto(s, i + LANES, here - LANES, high, mode);
                }
            }
        }
    }

    /// # Safety
    /// They have been put.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn pair<S: Machine>(&self, pair: Pair<S>, v: usize) -> F32s<Pair<S>> {
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.row.get_pair(pair, v);
            if !self.scaled {
                return x;
            }
            let common = pair.splat(self.stage.common_scale);
            let scale = if self.stage.has_weight { self.stage.scale.get_pair(pair, v) } else { common };
            let x = if self.faint { x.abs().lt(pair.splat(f32::MIN_POSITIVE) / scale.abs()).pick(0.0, x) } else { x };
            x * scale
        }
    }
}
