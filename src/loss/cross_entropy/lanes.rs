//! Cross-entropy of sixteen rows or positions at once, one in each lane.

use crate::cpu::simd::{F32s, Machine, Mask};
use crate::cpu::softmax::{BlockSum, LaneExps, LaneSoftmax};

/// What is added up over the classes.
pub(crate) struct LaneSums<S: Machine> {
    s: S,
    exps: LaneExps<S>,
    mass: BlockSum<S>,
    cost: BlockSum<S>,
}

impl<S: Machine> LaneSums<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(s: S) -> Self {
        LaneSums { s, exps: LaneExps::new(s), mass: BlockSum::new(s), cost: BlockSum::new(s) }
    }

    /// A class: its logit less the largest, the exponential of that, and the weight that targets put on it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add(&mut self, u: F32s<S>, e: F32s<S>, a: F32s<S>) {
        self.exps.add(e);
        self.mass.add(a);
        // Zero times minus infinity is a masked class that the target does not ask for.
        self.cost.add_where(!a.eq(0.0), -a * u);
    }

    /// After eight classes.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn end_block(&mut self) {
        self.exps.end_block();
        self.mass.end_block();
        self.cost.end_block();
    }

    /// The softmax, and the sum of the costs, for other losses of the same sums.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn softmax_and_cost(self) -> (LaneSoftmax<S>, F32s<S>) {
        (self.exps.softmax(), self.cost.lanes())
    }

    /// After all; `max` is the largest logit.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn losses(self, max: F32s<S>, z_loss: f32) -> LaneLosses<S> {
        let (softmax, mass, cost) = (self.exps.softmax(), self.mass.lanes(), self.cost.lanes());
        let ln_sum = softmax.ln_sum();
        let lse = max + ln_sum;
        let value = mass * ln_sum + cost;
        let (value, pull) =
            if z_loss == 0.0 { (value, self.s.zero()) } else { (value + z_loss * lse * lse, 2.0 * z_loss * lse) };
        let miss = softmax.miss_of_leader();
        let (slope, top) = ((mass + pull) * softmax.inv_sum, pull * (1.0 - miss) - mass * miss);
        LaneLosses { value, ln_sum, mass, slope, top, leads: softmax.sum.lt(2.0) }
    }
}

/// The losses, and what their gradients need: see `Slopes`, which is the same of one row.
#[derive(Clone, Copy)]
pub(crate) struct LaneLosses<S: Machine> {
    pub(crate) value: F32s<S>,
    /// The logarithm of the sum of the exponentials.
    pub(crate) ln_sum: F32s<S>,
    mass: F32s<S>,
    slope: F32s<S>,
    /// Of the class of probability near 1, if there is one.
    top: F32s<S>,
    leads: Mask<S>,
}

impl<S: Machine> LaneLosses<S> {
    /// The gradient of classes with these exponentials and weights.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn grad(&self, e: F32s<S>, a: F32s<S>) -> F32s<S> {
        (e.eq(1.0) & self.leads).pick((self.mass - a) + self.top, e * self.slope - a)
    }
}
