//! The two looks at a tile of positions with all their channels, with a softmax over them: sums, and gradients.

use super::tile::{At, Classes, LaneSums};
use super::value::{Slopes, Sums};
use super::{BLOCK, OfSoftmax, Plan, Positions, RegionTarget};
use crate::cpu::mem::{Dst, Mode, fence};
use crate::cpu::row::{KEEP, Kept};
use crate::cpu::simd::{F32s, Kernel, LANES, Machine};
use crate::cpu::softmax::BlockSum;
use crate::element::Element;
use crate::loss::cross_entropy::lanes::{HardLosses, HardSums, LaneLosses, LaneSums as LossSums};
use crate::loss::focal::focal_losses;

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

/// The losses of sixteen positions beside the region loss, and what their gradients need.
#[derive(Clone, Copy)]
enum Losses<S: Machine> {
    /// Of targets that are one class.
    Hard(HardLosses<S>),
    Soft(LaneLosses<S>),
}

impl<S: Machine> Losses<S> {
    #[cfg_attr(optimized, inline(always))]
    fn value(&self) -> F32s<S> {
        match self {
            Losses::Hard(losses) => losses.value,
            Losses::Soft(losses) => losses.value,
        }
    }
}

impl Positions<'_> {
    /// The gradient of channel `c`, whose exponentials are `e`.
    #[cfg_attr(optimized, inline(always))]
    fn grad<S: Machine, T: Element>(
        &self,
        plan: &Plan<'_, T>,
        (losses, e): (&Losses<S>, F32s<S>),
        c: usize,
        at: At,
        classes: &Classes,
    ) -> F32s<S> {
        match losses {
            Losses::Hard(losses) => losses.grad(e, classes.hit(e.simd(), c, at)),
            Losses::Soft(losses) => losses.grad(e, self.on(plan, c, plan.target(e.simd(), c, at, classes))),
        }
    }

    /// What the targets `t` of channel `c` put on it, for cross-entropy.
    #[cfg_attr(optimized, inline(always))]
    fn on<S: Machine, T>(&self, plan: &Plan<'_, T>, c: usize, t: F32s<S>) -> F32s<S> {
        let OfSoftmax::CrossEntropy { smoothing, .. } = self.loss else { return t };
        let w = self.class_weight.map_or(1.0, |w| w[c]);
        t.mul_add(1.0 - smoothing, smoothing / plan.channels as f32) * w
    }

    #[cfg_attr(optimized, inline(always))]
    fn look<S: Machine, T: Element>(
        &self,
        softmax: &PositionSoftmax<'_, S>,
        plan: &Plan<'_, T>,
        at: At,
        classes: &Classes,
    ) -> Losses<S> {
        let (s, max) = (softmax.s, softmax.max);
        let hard = matches!(plan.target, RegionTarget::Index(_));
        match self.loss {
            OfSoftmax::CrossEntropy { smoothing, z_loss } if smoothing != 0.0 || !hard => {
                let mut sums = LossSums::new(s);
                for block in (0..plan.channels).step_by(8) {
                    for c in block..plan.channels.min(block + 8) {
                        let a = self.on(plan, c, plan.target(s, c, at, classes));
                        sums.add(plan.input(s, c, at) - max, softmax.exp(plan, c, at), a);
                    }
                    sums.end_block();
                }
                Losses::Soft(sums.losses(max, z_loss))
            }
            _ => {
                // The class weights of the targets.
                let mut weight = s.splat(if self.class_weight.is_none() { 1.0 } else { 0.0 });
                let mut sums = HardSums::new(s);
                for block in (0..plan.channels).step_by(8) {
                    for c in block..plan.channels.min(block + 8) {
                        let hit = classes.hit(s, c, at);
                        sums.add(plan.input(s, c, at) - max, softmax.exp(plan, c, at), hit);
                        if let Some(w) = self.class_weight {
                            weight = weight.add_where(hit, w[c]);
                        }
                    }
                    sums.end_block();
                }
                Losses::Hard(match self.loss {
                    OfSoftmax::CrossEntropy { z_loss, .. } => sums.losses(max, weight, z_loss),
                    OfSoftmax::Focal { gamma } => focal_losses(sums, gamma, weight),
                })
            }
        }
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
        let classes = &mut Classes::new();
        for block in (start..end).step_by(BLOCK) {
            classes.read(s, plan, n, block, end);
            for i in (block..end.min(block + BLOCK)).step_by(LANES) {
                let at = At { n, i, count: LANES.min(end - i) };
                softmax.look(plan, at);
                for c in 0..plan.channels {
                    sums[c].add(squared, softmax.at(plan, c, at), plan.target(s, c, at, classes), at.count);
                }
                if let Some(positions) = plan.positions {
                    let value = positions.look(&softmax, plan, at, classes).value();
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
        let classes = &mut Classes::new();
        for i in (start..end).step_by(LANES) {
            if i % BLOCK == 0 {
                classes.read(s, plan, n, i, end);
            }
            let at = At { n, i, count: LANES.min(end - i) };
            softmax.look(plan, at);
            let mut mean = s.zero();
            for c in 0..plan.channels {
                let (p, t) = (softmax.at(plan, c, at), plan.target(s, c, at, classes));
                mean = mean + slopes[c].at(squared, p, t) * p;
            }
            let mut beside = None;
            if let Some(positions) = plan.positions {
                beside = Some((positions, positions.look(&softmax, plan, at, classes)));
            }
            for c in 0..plan.channels {
                let (p, t) = (softmax.at(plan, c, at), plan.target(s, c, at, classes));
                let mut g = p * (slopes[c].at(squared, p, t) - mean);
                if let Some((positions, losses)) = beside {
                    let of_loss = positions.grad(plan, (&losses, softmax.exp(plan, c, at)), c, at, classes);
                    g = g + of_loss * positions.scale;
                }
                plan.store(s, grad, c, at, g);
            }
        }
        fence();
    }
}
