//! What the looks of the region skeleton at a tile have in common.

use super::value::Sums;
use super::{BLOCK, Plan, RegionTarget};
use crate::cpu::mem::{Dst, Mode, Src};
use crate::cpu::row::{Load, Store};
use crate::cpu::simd::{F32s, LANES, Machine, Mask, Pair};
use crate::cpu::softmax::BlockSum;
use crate::element::Element;
use crate::target::{NO_CLASS, ReadClasses};

/// Positions `i..i + count` of sample `n`, at most sixteen, and where they are in their block.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) n: usize,
    pub(super) i: usize,
    pub(super) count: usize,
    pub(super) offset: usize,
}

impl At {
    /// From `i` on, of a block from `start` to `stop`.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn new(n: usize, i: usize, start: usize, stop: usize) -> Self {
        At { n, i, count: LANES.min(stop - i), offset: i - start }
    }

    /// Twice sixteen positions.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn two(n: usize, i: usize, start: usize) -> [Self; 2] {
        let offset = i - start;
        [At { n, i, count: LANES, offset }, At { n, i: i + LANES, count: LANES, offset: offset + LANES }]
    }
}

impl<T: Element> Plan<'_, T> {
    /// Asks for what follows.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn prefetch<S: Machine>(&self, s: S, c: usize, at: At) {
        self.input.prefetch(s, self.index(c, at));
        if let RegionTarget::Dense(t) = self.target {
            t.prefetch(s, self.index(c, at));
        }
    }

    /// Asks for the input that is so many positions away, a line at a time.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn prefetch_later<S: Machine>(&self, s: S, c: usize, at: At, away: usize) {
        if at.offset.is_multiple_of(2 * LANES) {
            self.input.prefetch_later(s, self.index(c, at) + away);
        }
    }

    /// Input of a channel, twice sixteen.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn inputs<S: Machine>(&self, s: S, c: usize, [a, b]: [At; 2]) -> F32s<Pair<S>> {
        Pair(s).join(self.input(s, c, a), self.input(s, c, b))
    }

    /// Targets of a channel, twice sixteen.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn targets<S: Machine>(&self, s: S, c: usize, [a, b]: [At; 2], classes: &Classes) -> F32s<Pair<S>> {
        Pair(s).join(self.target(s, c, a, classes), self.target(s, c, b, classes))
    }

    /// Input of a channel, zero past the last position.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn input<S: Machine>(&self, s: S, c: usize, at: At) -> F32s<S> {
        load(s, self.input, self.index(c, at), at.count)
    }

    /// Targets of a channel, zero past the last position; `classes` are those of the block.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn target<S: Machine>(&self, s: S, c: usize, at: At, classes: &Classes) -> F32s<S> {
        match self.target {
            RegionTarget::Dense(t) => load(s, t, self.index(c, at), at.count),
            RegionTarget::Index(_) => classes.hit(s, c, at).pick(1.0, 0.0),
        }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(super) fn store<S: Machine>(&self, s: S, (dst, mode): (Dst<'_, T>, Mode), c: usize, at: At, g: F32s<S>) {
        let i = self.index(c, at);
        let mode = mode.at(dst, i);
        if at.count == LANES {
            // SAFETY: tiles do not overlap, and a tile belongs to one task.
            unsafe { dst.store(s, i, g, mode) };
        } else {
            Store { dst, at: i, stride: 1, count: at.count, mode }.few(s, g);
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn index(&self, c: usize, at: At) -> usize {
        (at.n * self.channels + c) * self.inner + at.i
    }
}

/// The classes of a block of positions, [`NO_CLASS`] past the last, if targets are classes.
pub(super) struct Classes([u32; BLOCK]);

impl Classes {
    pub(super) fn new() -> Self {
        Classes([NO_CLASS; BLOCK])
    }

    /// The positions whose class is `c`.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn hit<S: Machine>(&self, s: S, c: usize, at: At) -> Mask<S> {
        let mut index = [0; LANES];
        index.copy_from_slice(&self.0[at.offset..at.offset + LANES]);
        s.bits_of(&index).eq(c as u32)
    }

    /// Those of sample `n` from `start` to `stop`, at most `BLOCK`.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn read<S: Machine, T>(&mut self, s: S, plan: &Plan<'_, T>, n: usize, start: usize, stop: usize) {
        if let RegionTarget::Index(indices) = plan.target {
            let (start, count) = (n * plan.inner + start, stop - start);
            s.run(ReadClasses { indices, start, count, ignore: None, classes: &mut self.0 });
        }
    }
}

/// Elements `i..i + count`, then zeros.
#[cfg_attr(optimized, inline(always))]
fn load<S: Machine, T: Element>(s: S, src: Src<'_, T>, i: usize, count: usize) -> F32s<S> {
    if count == LANES {
        // SAFETY: tiles do not overlap, and a tile belongs to one task.
        unsafe { src.load(s, i) }
    } else {
        Load { src, at: i, stride: 1, count, pad: 0.0 }.few(s)
    }
}

/// I, P and T of a region.
#[derive(Clone, Copy)]
pub(super) struct LaneSums<S: Machine>([BlockSum<S>; 3]);

impl<S: Machine> LaneSums<S> {
    pub(super) fn new(s: S) -> Self {
        LaneSums([BlockSum::new(s); 3])
    }

    /// Adds sixteen positions; those past the last have `t = 0`, and a `p` that is left out.
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn add(&mut self, squared: bool, p: F32s<S>, t: F32s<S>, count: usize) {
        let p = if count == LANES { p } else { p.simd().first(count).pick(p, 0.0) };
        self.0[0].add(p * t);
        self.0[1].add(if squared { p * p } else { p });
        self.0[2].add(if squared { t * t } else { t });
    }

    #[cfg_attr(optimized, inline(always))]
    pub(super) fn end_block(&mut self) {
        for sum in &mut self.0 {
            sum.end_block();
        }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(super) fn sums(self) -> Sums {
        [self.0[0].sum(), self.0[1].sum(), self.0[2].sum()]
    }
}
