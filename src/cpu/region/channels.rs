//! The two looks at a tile of a channel by itself, without an activation or with a sigmoid: sums, and gradients.

use super::tile::{At, Classes, LaneSums};
use super::value::{Slopes, Sums};
use super::{Activation, BLOCK, Plan};
use crate::cpu::mem::{Dst, Mode, fence};
use crate::cpu::simd::{F32s, Kernel, LANES, Machine, Pair, Simd};
use crate::cpu::softmax::BlockSum;
use crate::element::Element;
use crate::loss::logistic;

/// The sums of one region over a tile.
pub(super) struct ChannelSums<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<T: Element> Kernel for ChannelSums<'_, '_, T> {
    type Output = (Sums, f64);

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> (Sums, f64) {
        let ChannelSums { plan, n, c, start, end } = self;
        let squared = plan.region.params.squared != 0;
        let (mut sums, mut cost) = (LaneSums::new(s), BlockSum::new(s));
        let (pair, mut classes) = (Pair(s), Classes::new());
        for block in (start..end).step_by(BLOCK) {
            let (mut i, stop) = (block, end.min(block + BLOCK));
            classes.read(s, plan, n, block, stop);
            while stop - i >= 2 * LANES {
                let [a, b] = At::two(n, i, block);
                plan.prefetch(s, c, a);
                let (x, t) = (plan.inputs(s, c, [a, b]), plan.targets(s, c, [a, b], &classes));
                let (p, value) = plan.look(x, t);
                let ((p0, p1), (t0, t1)) = (pair.split(p), pair.split(t));
                sums.add(squared, p0, t0, LANES);
                sums.add(squared, p1, t1, LANES);
                if let Some(value) = value {
                    let (low, high) = pair.split(value);
                    cost.add(low);
                    cost.add(high);
                }
                i += 2 * LANES;
            }
            while i < stop {
                let at = At::new(n, i, block, stop);
                let (x, t) = (plan.input(s, c, at), plan.target(s, c, at, &classes));
                let (p, value) = plan.look(x, t);
                sums.add(squared, p, t, at.count);
                if let Some(value) = value {
                    cost.add(s.first(at.count).pick(value, 0.0));
                }
                i += LANES;
            }
            sums.end_block();
            cost.end_block();
        }
        (sums.sums(), cost.sum())
    }
}

impl<T> Plan<'_, T> {
    /// What the region sums up, and the loss of the logits, if there is one.
    #[cfg_attr(optimized, inline(always))]
    fn look<S: Simd>(&self, x: F32s<S>, t: F32s<S>) -> (F32s<S>, Option<F32s<S>>) {
        match self.logits {
            Some((loss, _)) => {
                let l = logistic(x);
                (l.sigmoid(), Some(loss.eval(&l, x, t).value))
            }
            None if self.region.activation == Activation::Sigmoid => (x.sigmoid(), None),
            None => (x, None),
        }
    }

    /// The gradient for the input.
    #[cfg_attr(optimized, inline(always))]
    fn slope<S: Simd>(&self, slopes: Slopes, x: F32s<S>, t: F32s<S>) -> F32s<S> {
        let squared = self.region.params.squared != 0;
        if self.region.activation != Activation::Sigmoid {
            return slopes.at(squared, x, t);
        }
        // A logistic function each: shared, all of it would be computed for the region alone too, which needs half.
        let Some((loss, scale)) = self.logits else {
            let l = logistic(x);
            return slopes.at(squared, l.sigmoid(), t) * l.variance();
        };
        let l = logistic(x);
        loss.eval(&l, x, t).grad.mul_add(scale, slopes.at(squared, l.sigmoid(), t) * l.variance())
    }
}

/// The gradients of one region in a tile.
pub(super) struct ChannelGrads<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Nothing for a background that is left out: its gradient is zero, whatever it holds.
    pub(super) slopes: Option<Slopes>,
    pub(super) grad: (Dst<'a, T>, Mode),
}

impl<T: Element> Kernel for ChannelGrads<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let ChannelGrads { plan, n, c, start, end, slopes, grad } = self;
        let Some(slopes) = slopes else {
            for i in (start..end).step_by(LANES) {
                plan.store(s, grad, c, At::new(n, i, start, end), s.zero());
            }
            return fence();
        };
        let (pair, mut classes) = (Pair(s), Classes::new());
        for block in (start..end).step_by(BLOCK) {
            let (mut i, stop) = (block, end.min(block + BLOCK));
            classes.read(s, plan, n, block, stop);
            while stop - i >= 2 * LANES {
                let [a, b] = At::two(n, i, block);
                plan.prefetch(s, c, a);
                let (x, t) = (plan.inputs(s, c, [a, b]), plan.targets(s, c, [a, b], &classes));
                let (g0, g1) = pair.split(plan.slope(slopes, x, t));
                plan.store(s, grad, c, a, g0);
                plan.store(s, grad, c, b, g1);
                i += 2 * LANES;
            }
            while i < stop {
                let at = At::new(n, i, block, stop);
                let (x, t) = (plan.input(s, c, at), plan.target(s, c, at, &classes));
                plan.store(s, grad, c, at, plan.slope(slopes, x, t));
                i += LANES;
            }
        }
        fence();
    }
}
