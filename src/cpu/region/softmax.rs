//! The two looks at a tile of positions with all their channels, with a softmax over them: sums, and gradients.

use super::tile::{At, Classes, LaneSums};
use super::value::{Slopes, Sums};
use super::{BLOCK, OfSoftmax, Plan, Positions, RegionTarget};
use crate::cpu::mem::{Dst, Mode, fence};
use crate::cpu::row::{KEEP, Kept};
use crate::cpu::simd::{F32s, Kernel, LANES, Machine};
use crate::cpu::softmax::{BlockSum, for_eights};
use crate::element::Element;
use crate::loss::cross_entropy::lanes::{HardLosses, HardSums, LaneLosses, LaneSums as LossSums};
use crate::loss::focal::focal_losses;

/// Whether all logits of a block are read before any is looked at, a channel at a time.
///
/// Channels of images are multiples of 4 KiB apart, and of lines so far apart a cache holds eight: where there are more, the second half
/// of a line is read from further away, and in f32 the second look at it. 4x21x65536 takes 0.82 to 0.96 of the time, and 4x4x262144 of
/// bf16 0.93; f32 elsewhere took 1.08.
fn ahead<T>(plan: &Plan<'_, T>) -> bool {
    let collide = plan.channels > 8 && (plan.inner * size_of::<T>()).is_multiple_of(4096);
    plan.channels * LANES <= KEEP && (size_of::<T>() < 4 || collide)
}

/// Softmax over the channels of sixteen positions of a block. The exponentials stay in `keep` if they fit; `AHEAD`: see [`ahead`].
struct PositionSoftmax<'k, 'p, 'a, S: Machine, T, const AHEAD: bool> {
    s: S,
    plan: &'p Plan<'a, T>,
    keep: &'k mut Kept,
    /// Whether exponentials are kept.
    fits: bool,
    /// Positions of a block, and of those that room is kept for.
    width: usize,
    room: usize,
    max: F32s<S>,
    inv_sum: F32s<S>,
    /// The logit of the target, for [`Positions::of_one_class`].
    of_target: F32s<S>,
}

impl<'k, 'p, 'a, S: Machine, T: Element, const AHEAD: bool> PositionSoftmax<'k, 'p, 'a, S, T, AHEAD> {
    #[cfg_attr(optimized, inline(always))]
    fn new(s: S, plan: &'p Plan<'a, T>, keep: &'k mut Kept) -> Self {
        let zero = s.zero();
        let fits = AHEAD || plan.channels * LANES <= KEEP;
        let width = if AHEAD { (KEEP / plan.channels / LANES * LANES).min(BLOCK) } else { BLOCK };
        let room = if AHEAD { width } else { LANES };
        PositionSoftmax { s, plan, keep, fits, width, room, max: zero, inv_sum: zero, of_target: zero }
    }

    /// Where channel `c` of these positions is kept.
    #[cfg_attr(optimized, inline(always))]
    fn slot(&self, c: usize, at: At) -> usize {
        c * self.room + if AHEAD { at.offset } else { 0 }
    }

    /// Reads the positions of sample `n` from `start` to `stop`.
    #[cfg_attr(optimized, inline(always))]
    fn read(&mut self, n: usize, start: usize, stop: usize) {
        if AHEAD {
            for c in 0..self.plan.channels {
                for i in (start..stop).step_by(LANES) {
                    let at = At::new(n, i, start, stop);
                    self.keep.put(self.slot(c, at), self.plan.input(self.s, c, at));
                    self.plan.prefetch_later(self.s, c, at, self.width);
                }
            }
        }
    }

    /// Writes their gradients.
    #[cfg_attr(optimized, inline(always))]
    fn write(&self, grad: (Dst<'a, T>, Mode), n: usize, start: usize, stop: usize) {
        if self.keeps_gradients() {
            for c in 0..self.plan.channels {
                for i in (start..stop).step_by(LANES) {
                    let at = At::new(n, i, start, stop);
                    // SAFETY: `put` has put them.
                    self.plan.store(self.s, grad, c, at, unsafe { self.keep.get(self.s, self.slot(c, at)) });
                }
            }
        }
    }

    /// The logits of a channel, as long as `look` has not seen them.
    #[cfg_attr(optimized, inline(always))]
    fn logit(&self, c: usize, at: At) -> F32s<S> {
        if AHEAD {
            // SAFETY: `read` has put them.
            unsafe { self.keep.get(self.s, self.slot(c, at)) }
        } else {
            self.plan.input(self.s, c, at)
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn look(&mut self, at: At, classes: &Classes) {
        let (s, plan) = (self.s, self.plan);
        self.max = s.splat(f32::NEG_INFINITY);
        if matches!(plan.positions, Some(positions) if positions.of_one_class(plan)) {
            for c in 0..plan.channels {
                let z = self.logit(c, at);
                self.max = self.max.or_larger(z);
                self.of_target = classes.hit(s, c, at).pick(z, self.of_target);
            }
        } else {
            for c in 0..plan.channels {
                self.max = self.max.or_larger(self.logit(c, at));
            }
        }
        let mut sum = s.zero();
        for c in 0..plan.channels {
            let e = (self.logit(c, at) - self.max).exp_neg();
            sum = sum + e;
            if self.fits {
                self.keep.put(self.slot(c, at), e);
            }
        }
        self.inv_sum = 1.0 / sum;
    }

    /// The exponentials of a channel.
    #[cfg_attr(optimized, inline(always))]
    fn exp(&self, c: usize, at: At) -> F32s<S> {
        if self.fits {
            // SAFETY: `look` has put them.
            unsafe { self.keep.get(self.s, self.slot(c, at)) }
        } else {
            (self.plan.input(self.s, c, at) - self.max).exp_neg()
        }
    }

    /// The probabilities of a channel.
    #[cfg_attr(optimized, inline(always))]
    fn at(&self, c: usize, at: At) -> F32s<S> {
        self.exp(c, at) * self.inv_sum
    }

    /// Whether gradients are kept until all of a block are: where a vector is a line they need not be.
    fn keeps_gradients(&self) -> bool {
        AHEAD && size_of::<T>() * LANES < 64
    }

    /// The gradients of a channel, whose exponentials nobody needs any more.
    #[cfg_attr(optimized, inline(always))]
    fn put(&mut self, grad: (Dst<'a, T>, Mode), c: usize, at: At, g: F32s<S>) {
        if self.keeps_gradients() {
            self.keep.put(self.slot(c, at), g);
        } else {
            self.plan.store(self.s, grad, c, at, g);
        }
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

    /// Whether the losses need the logit of one class of each position.
    #[cfg_attr(optimized, inline(always))]
    fn of_one_class<T>(&self, plan: &Plan<'_, T>) -> bool {
        let smooth = matches!(self.loss, OfSoftmax::CrossEntropy { smoothing, .. } if smoothing != 0.0);
        matches!(plan.target, RegionTarget::Index(_)) && !smooth
    }

    /// Without values, where nothing but gradients is asked for.
    #[cfg_attr(optimized, inline(always))]
    fn look<S: Machine, T: Element, const AHEAD: bool>(
        &self,
        values: bool,
        softmax: &PositionSoftmax<'_, '_, '_, S, T, AHEAD>,
        at: At,
        classes: &Classes,
    ) -> Losses<S> {
        let (s, max, plan) = (softmax.s, softmax.max, softmax.plan);
        match self.loss {
            OfSoftmax::CrossEntropy { z_loss, .. } if !self.of_one_class(plan) => {
                let mut sums = LossSums::new(s);
                for_eights!(
                    plan.channels,
                    |c| {
                        let a = self.on(plan, c, plan.target(s, c, at, classes));
                        sums.add(plan.input(s, c, at) - max, softmax.exp(c, at), a);
                    },
                    {
                        sums.end_block();
                    }
                );
                Losses::Soft(sums.losses(values, max, z_loss))
            }
            _ => {
                // The class weights of the targets.
                let mut weight = s.splat(1.0);
                if let Some(w) = self.class_weight {
                    for c in 0..plan.channels {
                        weight = classes.hit(s, c, at).pick(w[c], weight);
                    }
                }
                let mut sums = HardSums::new(softmax.of_target - max);
                for_eights!(
                    plan.channels,
                    |c| {
                        sums.add(softmax.exp(c, at));
                    },
                    {
                        sums.end_block();
                    }
                );
                Losses::Hard(match self.loss {
                    OfSoftmax::CrossEntropy { z_loss, .. } => sums.losses(values, max, weight, z_loss),
                    OfSoftmax::Focal { gamma } => focal_losses(sums, gamma, weight),
                })
            }
        }
    }
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
        if ahead(self.plan) { self.look::<S, true>(s) } else { self.look::<S, false>(s) }
    }
}

impl<T: Element> SoftmaxSums<'_, '_, T> {
    #[cfg_attr(optimized, inline(always))]
    fn look<S: Machine, const AHEAD: bool>(self, s: S) -> (Vec<Sums>, f64) {
        let SoftmaxSums { plan, n, start, end } = self;
        let squared = plan.region.params.squared != 0;
        let mut keep = Kept::new();
        let mut softmax = PositionSoftmax::<S, T, AHEAD>::new(s, plan, &mut keep);
        let mut sums = vec![LaneSums::new(s); plan.channels];
        let mut cost = BlockSum::new(s);
        // (The same loops as those of the gradients. By a macro of both, without `room`, f32 of four channels took 1.07 to 1.16 of the time.)
        let (width, classes) = (softmax.width, &mut Classes::new());
        for block in (start..end).step_by(width) {
            let stop = end.min(block + width);
            classes.read(s, plan, n, block, stop);
            softmax.read(n, block, stop);
            for i in (block..stop).step_by(LANES) {
                let at = At::new(n, i, block, stop);
                softmax.look(at, classes);
                for c in 0..plan.channels {
                    sums[c].add(squared, softmax.at(c, at), plan.target(s, c, at, classes), at.count);
                }
                if let Some(positions) = plan.positions {
                    let value = positions.look(true, &softmax, at, classes).value();
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
        if ahead(self.plan) { self.look::<S, true>(s) } else { self.look::<S, false>(s) }
    }
}

impl<T: Element> SoftmaxGrads<'_, '_, T> {
    #[cfg_attr(optimized, inline(always))]
    fn look<S: Machine, const AHEAD: bool>(self, s: S) {
        let SoftmaxGrads { plan, n, start, end, slopes, grad } = self;
        let squared = plan.region.params.squared != 0;
        let mut keep = Kept::new();
        let mut softmax = PositionSoftmax::<S, T, AHEAD>::new(s, plan, &mut keep);
        let (width, classes) = (softmax.width, &mut Classes::new());
        for block in (start..end).step_by(width) {
            let stop = end.min(block + width);
            classes.read(s, plan, n, block, stop);
            softmax.read(n, block, stop);
            for i in (block..stop).step_by(LANES) {
                let at = At::new(n, i, block, stop);
                softmax.look(at, classes);
                let mut mean = s.zero();
                for c in 0..plan.channels {
                    let (p, t) = (softmax.at(c, at), plan.target(s, c, at, classes));
                    mean = mean + slopes[c].at(squared, p, t) * p;
                }
                let mut beside = None;
                if let Some(positions) = plan.positions {
                    beside = Some((positions, positions.look(false, &softmax, at, classes)));
                }
                for c in 0..plan.channels {
                    let (p, t) = (softmax.at(c, at), plan.target(s, c, at, classes));
                    let mut g = p * (slopes[c].at(squared, p, t) - mean);
                    if let Some((positions, losses)) = beside {
                        let of_loss = positions.grad(plan, (&losses, softmax.exp(c, at)), c, at, classes);
                        g = g + of_loss * positions.scale;
                    }
                    softmax.put(grad, c, at, g);
                }
            }
            softmax.write(grad, n, block, stop);
        }
        fence();
    }
}
