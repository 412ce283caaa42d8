//! The value of a region from its sums, and what its gradients are made of.

use crate::cpu::simd::{F32s, Simd};
use crate::params::{DiceParams, WEIGH_SIMPLE, WEIGH_SQUARE};

/// I, P and T of a region.
pub(super) type Sums = [f64; 3];

/// The gradient of a region's loss is `overlap * t + size * p^(k - 1)` at every element.
#[derive(Clone, Copy, Default)]
pub(super) struct Slopes {
    overlap: f32,
    size: f32,
}

impl Slopes {
    pub(super) fn new([overlap, size]: [f64; 2], scale: f64) -> Self {
        Slopes { overlap: (overlap * scale) as f32, size: (size * scale) as f32 }
    }

    /// dl/dp
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn at<S: Simd>(self, squared: bool, p: F32s<S>, t: F32s<S>) -> F32s<S> {
        t.mul_add(self.overlap, if squared { p * self.size } else { p.simd().splat(self.size) })
    }
}

impl DiceParams {
    /// The value of a region with these sums, and its slopes.
    pub(super) fn value(&self, [i, p, t]: Sums) -> (f64, [f64; 2]) {
        let power = if self.squared == 0 { 1.0 } else { 2.0 };
        let [overlap, union_i, union_p, union_t] =
            [self.overlap, self.union_i, self.union_p, self.union_t].map(f64::from);
        let nr = overlap * i + f64::from(self.smooth_nr);
        let dr = union_i * i + union_p * p + union_t * t + f64::from(self.smooth_dr);
        let (score, inv) = (nr / dr, 1.0 / dr);
        let (value, bend) = self.focal(1.0 - score);
        let inv = inv * bend;
        (value, [(score * union_i - overlap) * inv, power * score * union_p * inv])
    }

    /// `miss^gamma` and its derivative, which below zero and at zero, where for `gamma < 1` it has no end, are zero.
    fn focal(&self, miss: f64) -> (f64, f64) {
        let gamma = f64::from(self.gamma);
        if gamma == 1.0 {
            return (miss, 1.0);
        }
        if miss <= 0.0 {
            return (0.0, 0.0);
        }
        (miss.powf(gamma), gamma * miss.powf(gamma - 1.0))
    }

    /// The value of regions that have one together, and the slopes of each.
    pub(super) fn together(&self, sums: &[Sums]) -> (f64, Vec<[f64; 2]>) {
        // A region without targets has the weight of the smallest that has some: none if there is none.
        let least = sums.iter().map(|[_, _, t]| t.abs()).filter(|t| *t > 0.0).fold(f64::INFINITY, f64::min);
        let weight = |&[_, _, t]: &Sums| match (self.together, if t == 0.0 { least } else { t }) {
            (WEIGH_SIMPLE, t) => 1.0 / t,
            (WEIGH_SQUARE, t) => 1.0 / (t * t),
            _ => 1.0,
        };
        let weights: Vec<f64> = sums.iter().map(weight).collect();
        let mut all = [0.0; 3];
        for (s, w) in sums.iter().zip(&weights) {
            add(&mut all, s.map(|s| s * w));
        }
        let (value, [overlap, size]) = self.value(all);
        (value, weights.iter().map(|w| [overlap * w, size * w]).collect())
    }
}

pub(super) fn add(sum: &mut Sums, other: Sums) {
    for k in 0..3 {
        sum[k] += other[k];
    }
}
