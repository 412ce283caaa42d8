//! Softmax of one row: what cross-entropy, focal and distillation share.
//!
//! Three looks at a row: its maximum; the exponentials and their sum; the gradient. The online form
//! (maximum and sum in one look) costs a second exponential an element and saves nothing where the
//! row is in a cache by then.

use super::math::Math;
use super::rowwise::Row;
use super::simd::{LANES, Lanes, Simd};
use crate::element::Element;

/// Exponentials of a row, `e_k = exp(z_k - max)`, and their sum, kept in two parts.
///
/// The parts are the number of elements with `e_k = 1`, the maximum above all, and the sum of the
/// rest. Where one class has all the probability but 1e-9, f32 knows `rest` to seven digits and knows
/// nothing of `1 + rest`: the loss is `ln(1 + rest)`, and the gradient of that class is `-rest`.
#[derive(Clone, Copy)]
pub(crate) struct Softmax {
    pub(crate) max: f32,
    /// How many exponentials are 1.
    ones: f64,
    /// The sum of the others.
    rest: f64,
}

/// Chunks whose exponentials are added in f32 before the sum goes to f64.
const BLOCK: usize = 8;

impl Softmax {
    /// Looks at the row twice. `logits` gives sixteen logits, minus infinity past the end; `visit`
    /// sees `(k, z - max, e)` of every sixteen classes.
    ///
    /// The exponentials stay in `row.keep[slot]` if they fit.
    #[inline(always)]
    pub(crate) fn new<S: Simd, T: Element>(
        s: S,
        row: &mut Row<'_, T>,
        slot: usize,
        logits: impl Fn(&Row<'_, T>, usize) -> Lanes,
        mut visit: impl FnMut(&Row<'_, T>, usize, &Lanes, &Lanes),
    ) -> Self {
        let (classes, fits) = (row.classes, row.fits());
        let mut max = [f32::NEG_INFINITY; LANES];
        for k in (0..classes).step_by(LANES) {
            let z = logits(row, k);
            for l in 0..LANES {
                // NaN is passed over here and comes back through its exponential.
                max[l] = if z[l] > max[l] { z[l] } else { max[l] };
            }
            if fits {
                row.keep[slot][k..k + LANES].copy_from_slice(&z);
            }
        }
        let max = max.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });

        let (mut ones, mut rest) = ([0f64; LANES], [0f64; LANES]);
        for block in (0..classes).step_by(BLOCK * LANES) {
            let (mut block_ones, mut block_rest) = ([0f32; LANES], [0f32; LANES]);
            for k in (block..classes.min(block + BLOCK * LANES)).step_by(LANES) {
                let mut u = if fits { kept(row, slot, k) } else { logits(row, k) };
                let mut e: Lanes = [0.0; LANES];
                for l in 0..LANES {
                    u[l] -= max;
                    e[l] = s.exp_neg(u[l]);
                    let one = if e[l] == 1.0 { 1.0 } else { 0.0 };
                    block_ones[l] += one;
                    block_rest[l] += e[l] - one;
                }
                if fits {
                    row.keep[slot][k..k + LANES].copy_from_slice(&e);
                }
                visit(row, k, &u, &e);
            }
            for l in 0..LANES {
                ones[l] += f64::from(block_ones[l]);
                rest[l] += f64::from(block_rest[l]);
            }
        }
        Softmax { max, ones: ones.iter().sum(), rest: rest.iter().sum() }
    }

    /// The sum of the exponentials.
    #[inline(always)]
    pub(crate) fn sum(&self) -> f64 {
        self.ones + self.rest
    }

    /// `ln(sum)`: the log-sum-exp less the maximum, never negative.
    #[inline(always)]
    pub(crate) fn ln_sum(&self) -> f64 {
        self.ones.ln() + (self.rest / self.ones).ln_1p()
    }

    /// The log-sum-exp.
    #[inline(always)]
    pub(crate) fn lse(&self) -> f64 {
        f64::from(self.max) + self.ln_sum()
    }

    /// `1 - p` of a class whose exponential is `e`, without cancellation.
    #[inline(always)]
    pub(crate) fn miss(&self, e: f32) -> f64 {
        let others = if e == 1.0 { self.ones - 1.0 + self.rest } else { self.ones + (self.rest - f64::from(e)) };
        others / self.sum()
    }

    /// The exponentials of classes `k..k + 16`, kept or computed again.
    #[inline(always)]
    pub(crate) fn exp<S: Simd, T: Element>(
        &self,
        s: S,
        row: &Row<'_, T>,
        slot: usize,
        k: usize,
        logits: impl Fn(&Row<'_, T>, usize) -> Lanes,
    ) -> Lanes {
        if row.fits() {
            return kept(row, slot, k);
        }
        let mut e = logits(row, k);
        for e in &mut e {
            *e = s.exp_neg(*e - self.max);
        }
        e
    }
}

#[inline(always)]
fn kept<T>(row: &Row<'_, T>, slot: usize, k: usize) -> Lanes {
    row.keep[slot][k..k + LANES].try_into().expect("sixteen")
}
