use crate::cpu::row::{Row, RowTarget};
use crate::cpu::simd::{F32s, LANES, Machine, Span};
use crate::element::Element;

/// The weight `a` that the target of a row puts on every class, smoothing and class weights included.
#[derive(Clone, Copy)]
pub(crate) struct TargetWeights<'a, T> {
    target: RowTarget<'a, T>,
    /// `1 - smoothing`, times the class weight of an index.
    on_target: f32,
    /// `smoothing / C`.
    on_all: f32,
}

impl<'a, T: Element> TargetWeights<'a, T> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(row: &Row<'a, T>, smoothing: f32) -> Self {
        let weight = match row.target {
            RowTarget::Class(t) => row.class_weight_at(t),
            _ => 1.0,
        };
        TargetWeights {
            target: row.target,
            on_target: (1.0 - smoothing) * weight,
            on_all: smoothing / row.classes as f32,
        }
    }

    /// Of one class that may be among those of another part of the row, then `usize::MAX`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn of_class(class: usize, on_target: f32, on_all: f32) -> Self {
        TargetWeights { target: RowTarget::Class(class), on_target, on_all }
    }

    /// Whether any of the classes `k..k + 16` has a weight. Most have none, if the target is an index.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn some(&self, k: usize) -> bool {
        match self.target {
            RowTarget::Class(t) => self.on_all != 0.0 || (t >= k && t - k < LANES),
            _ => true,
        }
    }

    /// The weight of classes `k..k + 16`, if the target is a class and not one of them, and there are no class weights.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn apart_from(&self, k: usize) -> Option<f32> {
        match self.target {
            RowTarget::Class(t) if t < k || t - k >= LANES => Some(self.on_all),
            _ => None,
        }
    }

    /// The sum of all weights, and of them times how far logits are below the largest, given how far the target's is and the sum over
    /// all classes, if the target is a class and there are no class weights.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn mass_and_cost(&self, classes: usize, of_target: f64, of_all: f64) -> (f64, f64) {
        // Zero times infinity is a masked class that the target does not ask for.
        let times = |weight: f32, below: f64| if weight == 0.0 { 0.0 } else { f64::from(weight) * below };
        let mass = f64::from(self.on_target) + f64::from(self.on_all) * classes as f64;
        (mass, times(self.on_target, of_target) + times(self.on_all, of_all))
    }

    /// The weights of classes `k..k + 16`, zero past the last class.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn at<S: Machine, P: Span>(&self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        let w = row.class_weights(s, k, p);
        match self.target {
            RowTarget::Dense(_) => w * (self.on_target * row.dense(s, k, p, 0.0) + self.on_all),
            RowTarget::Class(t) => w * self.on_all + s.only(t.wrapping_sub(k)).pick(self.on_target, 0.0),
            RowTarget::Nothing => s.zero(),
        }
    }
}
