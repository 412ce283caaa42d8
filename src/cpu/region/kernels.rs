//! The two looks of the region skeleton at a tile: sums, and gradients.

use super::{BLOCK, CrossEntropy, Plan, RegionTarget, Slopes, Sums};
use crate::cpu::mem::{Dst, Mode, fence};
use crate::cpu::region::Activation;
use crate::cpu::row::{KEEP, Kept};
use crate::cpu::simd::{F32s, Kernel, LANES, Machine, Pair, Simd};
use crate::cpu::softmax::BlockSum;
use crate::element::Element;
use crate::loss::cross_entropy::lanes::{LaneLosses, LaneSums as LossSums};
use crate::loss::logistic;

/// Positions `i..i + count` of sample `n`, at most sixteen.
#[derive(Clone, Copy)]
struct At {
    n: usize,
    i: usize,
    count: usize,
}

impl At {
    /// Twice sixteen positions.
    fn two(n: usize, i: usize) -> [Self; 2] {
        [At { n, i, count: LANES }, At { n, i: i + LANES, count: LANES }]
    }
}

impl<T: Element> Plan<'_, T> {
    /// Asks for what follows.
    #[cfg_attr(optimized, inline(always))]
    fn prefetch<S: Machine>(&self, s: S, c: usize, at: At) {
        self.input.prefetch(s, self.index(c, at));
        if let RegionTarget::Dense(t) = self.target {
            t.prefetch(s, self.index(c, at));
        }
    }

    /// Input of a channel, twice sixteen.
    #[cfg_attr(optimized, inline(always))]
    fn inputs<S: Machine>(&self, s: S, c: usize, [a, b]: [At; 2]) -> F32s<Pair<S>> {
        Pair(s).join(self.input(s, c, a), self.input(s, c, b))
    }

    /// Input of a channel, zero past the last position.
    #[cfg_attr(optimized, inline(always))]
    fn input<S: Machine>(&self, s: S, c: usize, at: At) -> F32s<S> {
        // SAFETY (here and below): tiles do not overlap, and a tile belongs to one task.
        unsafe { self.input.load_upto(s, self.index(c, at), at.count, 0.0) }
    }

    /// Targets of a channel, zero past the last position.
    #[cfg_attr(optimized, inline(always))]
    fn target<S: Machine>(&self, s: S, c: usize, at: At) -> F32s<S> {
        match self.target {
            RegionTarget::Dense(t) => unsafe { t.load_upto(s, self.index(c, at), at.count, 0.0) },
            RegionTarget::Index(indices) => {
                // Checked to be channels, of which there are fewer than 2^31.
                let (index, _) = indices.sixteen(at.n * self.inner + at.i, at.count, None);
                s.bits_of(&index.map(|i| i as u32)).eq(c as u32).pick(1.0, 0.0)
            }
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn store<S: Machine>(&self, s: S, (dst, mode): (Dst<'_, T>, Mode), c: usize, at: At, g: F32s<S>) {
        let i = self.index(c, at);
        unsafe { dst.store_upto(s, i, at.count, g, mode.at(dst, i)) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn index(&self, c: usize, at: At) -> usize {
        (at.n * self.channels + c) * self.inner + at.i
    }
}

/// I, P and T of a region.
#[derive(Clone, Copy)]
struct LaneSums<S: Machine>([BlockSum<S>; 3]);

impl<S: Machine> LaneSums<S> {
    fn new(s: S) -> Self {
        LaneSums([BlockSum::new(s); 3])
    }

    /// Adds sixteen positions; those past the last have `t = 0`, and a `p` that is left out.
    #[cfg_attr(optimized, inline(always))]
    fn add(&mut self, squared: bool, p: F32s<S>, t: F32s<S>, count: usize) {
        let p = if count == LANES { p } else { p.simd().first(count).pick(p, 0.0) };
        self.0[0].add(p * t);
        self.0[1].add(if squared { p * p } else { p });
        self.0[2].add(if squared { t * t } else { t });
    }

    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        for sum in &mut self.0 {
            sum.end_block();
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn sums(self) -> Sums {
        [self.0[0].sum(), self.0[1].sum(), self.0[2].sum()]
    }
}

/// The sums of one region over a tile.
pub(super) struct PointwiseSums<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<T: Element> Kernel for PointwiseSums<'_, '_, T> {
    type Output = (Sums, f64);

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> (Sums, f64) {
        let PointwiseSums { plan, n, c, start, end } = self;
        let squared = plan.region.params.squared != 0;
        let (mut sums, mut cost) = (LaneSums::new(s), BlockSum::new(s));
        let pair = Pair(s);
        for block in (start..end).step_by(BLOCK) {
            let (mut i, stop) = (block, end.min(block + BLOCK));
            while stop - i >= 2 * LANES {
                let [a, b] = At::two(n, i);
                plan.prefetch(s, c, a);
                let (x, t) = (plan.inputs(s, c, [a, b]), pair.join(plan.target(s, c, a), plan.target(s, c, b)));
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
                let at = At { n, i, count: LANES.min(stop - i) };
                let (x, t) = (plan.input(s, c, at), plan.target(s, c, at));
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
pub(super) struct PointwiseGrads<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Nothing for a background that is left out: its gradient is zero, whatever it holds.
    pub(super) slopes: Option<Slopes>,
    pub(super) grad: (Dst<'a, T>, Mode),
}

impl<T: Element> Kernel for PointwiseGrads<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let PointwiseGrads { plan, n, c, start, end, slopes, grad } = self;
        let Some(slopes) = slopes else {
            for i in (start..end).step_by(LANES) {
                plan.store(s, grad, c, At { n, i, count: LANES.min(end - i) }, s.zero());
            }
            return fence();
        };
        let pair = Pair(s);
        let mut i = start;
        while end - i >= 2 * LANES {
            let [a, b] = At::two(n, i);
            plan.prefetch(s, c, a);
            let (x, t) = (plan.inputs(s, c, [a, b]), pair.join(plan.target(s, c, a), plan.target(s, c, b)));
            let (g0, g1) = pair.split(plan.slope(slopes, x, t));
            plan.store(s, grad, c, a, g0);
            plan.store(s, grad, c, b, g1);
            i += 2 * LANES;
        }
        while i < end {
            let at = At { n, i, count: LANES.min(end - i) };
            let (x, t) = (plan.input(s, c, at), plan.target(s, c, at));
            plan.store(s, grad, c, at, plan.slope(slopes, x, t));
            i += LANES;
        }
        fence();
    }
}

impl Slopes {
    /// dl/dp
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Simd>(self, squared: bool, p: F32s<S>, t: F32s<S>) -> F32s<S> {
        t.mul_add(self.overlap, if squared { p * self.size } else { p.simd().splat(self.size) })
    }
}

/// Softmax over the channels of sixteen positions. The exponentials stay in `keep` if they fit.
struct PositionSoftmax<'k, S: Machine> {
    s: S,
    keep: &'k mut Kept,
    max: F32s<S>,
    inv_sum: F32s<S>,
}

impl<'k, S: Machine> PositionSoftmax<'k, S> {
    fn new(s: S, keep: &'k mut Kept) -> Self {
        PositionSoftmax { s, keep, max: s.zero(), inv_sum: s.zero() }
    }

    #[cfg_attr(optimized, inline(always))]
    fn look<T: Element>(&mut self, plan: &Plan<'_, T>, at: At) {
        let s = self.s;
        self.max = s.splat(f32::NEG_INFINITY);
        for c in 0..plan.channels {
            self.max = self.max.or_larger(plan.input(s, c, at));
        }
        let mut sum = s.zero();
        let fits = fits(plan);
        for c in 0..plan.channels {
            let e = (plan.input(s, c, at) - self.max).exp_neg();
            sum = sum + e;
            if fits {
                self.keep.put(c * LANES, e);
            }
        }
        self.inv_sum = 1.0 / sum;
    }

    /// The exponentials of a channel.
    #[cfg_attr(optimized, inline(always))]
    fn exp<T: Element>(&self, plan: &Plan<'_, T>, c: usize, at: At) -> F32s<S> {
        if fits(plan) {
            // SAFETY: `look` has put them.
            unsafe { self.keep.get(self.s, c * LANES) }
        } else {
            (plan.input(self.s, c, at) - self.max).exp_neg()
        }
    }

    /// The probabilities of a channel.
    #[cfg_attr(optimized, inline(always))]
    fn at<T: Element>(&self, plan: &Plan<'_, T>, c: usize, at: At) -> F32s<S> {
        self.exp(plan, c, at) * self.inv_sum
    }
}

impl CrossEntropy<'_> {
    /// The weight that targets put on channel `c` of `channels`.
    #[cfg_attr(optimized, inline(always))]
    fn weight<S: Simd>(&self, channels: usize, c: usize, t: F32s<S>) -> F32s<S> {
        let w = self.class_weight.map_or(1.0, |w| w[c]);
        t.mul_add(1.0 - self.smoothing, self.smoothing / channels as f32) * w
    }

    #[cfg_attr(optimized, inline(always))]
    fn look<S: Machine, T: Element>(
        &self,
        softmax: &PositionSoftmax<'_, S>,
        plan: &Plan<'_, T>,
        at: At,
    ) -> LaneLosses<S> {
        let (s, max) = (softmax.s, softmax.max);
        let mut sums = LossSums::new(s);
        for block in (0..plan.channels).step_by(8) {
            for c in block..plan.channels.min(block + 8) {
                let a = self.weight(plan.channels, c, plan.target(s, c, at));
                sums.add(plan.input(s, c, at) - max, softmax.exp(plan, c, at), a);
            }
            sums.end_block();
        }
        sums.losses(max, self.z_loss)
    }
}

fn fits<T>(plan: &Plan<'_, T>) -> bool {
    plan.channels * LANES <= KEEP
}

/// The sums of all channels over a tile.
pub(super) struct SoftmaxSums<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<T: Element> Kernel for SoftmaxSums<'_, '_, T> {
    type Output = (Vec<Sums>, f64);

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> (Vec<Sums>, f64) {
        let SoftmaxSums { plan, n, start, end } = self;
        let squared = plan.region.params.squared != 0;
        let mut keep = Kept::new();
        let mut softmax = PositionSoftmax::new(s, &mut keep);
        let mut sums = vec![LaneSums::new(s); plan.channels];
        let mut cost = BlockSum::new(s);
        for block in (start..end).step_by(BLOCK) {
            for i in (block..end.min(block + BLOCK)).step_by(LANES) {
                let at = At { n, i, count: LANES.min(end - i) };
                softmax.look(plan, at);
                for c in 0..plan.channels {
                    sums[c].add(squared, softmax.at(plan, c, at), plan.target(s, c, at), at.count);
                }
                if let Some(cross_entropy) = plan.cross_entropy {
                    let value = cross_entropy.look(&softmax, plan, at).value;
                    cost.add(s.first(at.count).pick(value, 0.0));
                }
            }
            for sums in &mut sums {
                sums.end_block();
            }
            cost.end_block();
        }
        let mut out = Vec::with_capacity(plan.channels);
        for sums in sums {
            out.push(sums.sums());
        }
        (out, cost.sum())
    }
}

/// The gradients of all channels in a tile.
pub(super) struct SoftmaxGrads<'p, 'a, T> {
    pub(super) plan: &'p Plan<'a, T>,
    pub(super) n: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) slopes: &'p [Slopes],
    pub(super) grad: (Dst<'a, T>, Mode),
}

impl<T: Element> Kernel for SoftmaxGrads<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let SoftmaxGrads { plan, n, start, end, slopes, grad } = self;
        let squared = plan.region.params.squared != 0;
        let mut keep = Kept::new();
        let mut softmax = PositionSoftmax::new(s, &mut keep);
        for i in (start..end).step_by(LANES) {
            let at = At { n, i, count: LANES.min(end - i) };
            softmax.look(plan, at);
            let mut mean = s.zero();
            for c in 0..plan.channels {
                let (p, t) = (softmax.at(plan, c, at), plan.target(s, c, at));
                mean = mean + slopes[c].at(squared, p, t) * p;
            }
            let beside =
                plan.cross_entropy.map(|cross_entropy| (cross_entropy, cross_entropy.look(&softmax, plan, at)));
            for c in 0..plan.channels {
                let (p, t) = (softmax.at(plan, c, at), plan.target(s, c, at));
                let mut g = p * (slopes[c].at(squared, p, t) - mean);
                if let Some((cross_entropy, losses)) = beside {
                    let a = cross_entropy.weight(plan.channels, c, t);
                    g = g + losses.grad(softmax.exp(plan, c, at), a) * cross_entropy.scale;
                }
                plan.store(s, grad, c, at, g);
            }
        }
        fence();
    }
}
