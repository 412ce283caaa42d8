//! Cross-entropy of sixteen rows or positions at once, one in each lane.

use crate::cpu::row::Rows;
use crate::cpu::simd::{F32s, Machine, Mask};
use crate::cpu::softmax::{BlockSum, Exps, LaneSoftmax, for_eights};
use crate::element::Element;

/// What is added up over the classes.
pub(crate) struct LaneSums<S: Machine> {
    exps: Exps<S>,
    mass: BlockSum<S>,
    cost: BlockSum<S>,
}

impl<S: Machine> LaneSums<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(s: S) -> Self {
        LaneSums { exps: Exps::new(s), mass: BlockSum::new(s), cost: BlockSum::new(s) }
    }

    /// A class: its logit less the largest, the exponential of that, and the weight that targets put on it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add(&mut self, u: F32s<S>, e: F32s<S>, a: F32s<S>) {
        self.exps.add(e);
        self.mass.add(a);
        // Zero times minus infinity is a masked class that the target does not ask for.
        self.cost.add_where(a.ne(0.0), -a * u);
    }

    /// After eight classes.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn end_block(&mut self) {
        self.exps.end_block();
        self.mass.end_block();
        self.cost.end_block();
    }

    /// After all; `max` is the largest logit. Without values, where nothing but gradients is asked for.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn losses(self, values: bool, max: F32s<S>, z_loss: f32) -> LaneLosses<S> {
        let ended = self.exps.ended;
        LaneLosses::new(self.exps.softmax(), values, (self.mass.lanes(ended), self.cost.lanes(ended)), max, z_loss)
    }
}

/// What is added up over the classes where the target of each row is one of them.
pub(crate) struct HardSums<S: Machine> {
    exps: Exps<S>,
    /// The target's logit, less the largest.
    u: F32s<S>,
}

impl<S: Machine> HardSums<S> {
    /// Given the target's logit less the largest, where it is known.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(u: F32s<S>) -> Self {
        HardSums { exps: Exps::new(u.simd()), u }
    }

    /// Those of sixteen rows, whose largest logits are `max`; keeps the exponentials instead of the logits.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn of_rows<T: Element>(rows: &mut Rows<'_, '_, S, T>, max: F32s<S>) -> Self {
        let mut sums = HardSums::new(rows.s.zero());
        for_eights!(
            rows.classes,
            |c| {
                let u = rows.kept(c) - max;
                let e = u.exp_neg();
                sums.add(e);
                sums.u = rows.has_class(c).pick(u, sums.u);
                rows.keep(c, e);
            },
            {
                sums.end_block();
            }
        );
        sums
    }

    /// The exponential of a class.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add(&mut self, e: F32s<S>) {
        self.exps.add(e);
    }

    /// After eight classes.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn end_block(&mut self) {
        self.exps.end_block();
    }

    /// The softmax, and the target's logit less the largest.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn softmax_and_target(self) -> (LaneSoftmax<S>, F32s<S>) {
        (self.exps.softmax(), self.u)
    }

    /// Cross-entropy, after all; `max` is the largest logit, `weight` that of the target's class. See [`LaneSums::losses`].
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn losses(self, values: bool, max: F32s<S>, weight: F32s<S>, z_loss: f32) -> HardLosses<S> {
        // Zero times minus infinity is a masked class that the target does not ask for.
        let cost = weight.eq(0.0).pick(0.0, -weight * self.u);
        let losses = LaneLosses::new(self.exps.softmax(), values, (weight, cost), max, z_loss);
        let at_target = losses.grad(self.u.exp_neg(), weight);
        HardLosses { value: losses.value, each: losses.slope, at_target }
    }
}

/// The losses of rows whose targets are one class, and what their gradients need.
#[derive(Clone, Copy)]
pub(crate) struct HardLosses<S: Machine> {
    pub(crate) value: F32s<S>,
    /// What exponentials are multiplied by, and the gradient of the target's class.
    pub(crate) each: F32s<S>,
    pub(crate) at_target: F32s<S>,
}

impl<S: Machine> HardLosses<S> {
    /// The gradient of classes with these exponentials, in rows whose target it is and in others.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn grad(&self, e: F32s<S>, hit: Mask<S>) -> F32s<S> {
        hit.pick(self.at_target, e * self.each)
    }

    /// The same losses, whose gradients are multiplied by this.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn scaled(self, by: F32s<S>) -> Self {
        HardLosses { each: self.each * by, at_target: self.at_target * by, ..self }
    }
}

impl<S: Machine> LaneLosses<S> {
    /// `mass` and `cost` are the sums of the targets' weights, and of them times how far their logits are below the largest.
    #[cfg_attr(optimized, inline(always))]
    fn new(softmax: LaneSoftmax<S>, values: bool, (mass, cost): (F32s<S>, F32s<S>), max: F32s<S>, z_loss: f32) -> Self {
        let ln_sum = if values || z_loss != 0.0 { softmax.ln_sum() } else { max.simd().zero() };
        let lse = max + ln_sum;
        let value = mass * ln_sum + cost;
        let (value, pull) =
            if z_loss == 0.0 { (value, max.simd().zero()) } else { (value + z_loss * lse * lse, 2.0 * z_loss * lse) };
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
