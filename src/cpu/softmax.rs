//! Softmax of one row: what cross-entropy, focal and distillation share.
//!
//! Three looks at a row: its maximum; the exponentials and their sum; the gradient. The online form
//! (maximum and sum in one look) costs a second exponential an element and saves nothing where the
//! row is in a cache by then.

use super::math::Math;
use super::row::{Row, for_chunks};
use super::simd::{LANES, Lanes, Simd, Span, lanes};
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

/// Where the logits of a row come from. (A closure would not always be inlined, and then be compiled for
/// the baseline.)
pub(crate) trait Logits: Copy + Send + Sync {
    /// Sixteen logits from class `k`, minus infinity past the last. Must be `#[inline(always)]`.
    fn at<S: Simd, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes;

    /// Turns the gradients for these logits into gradients for the input.
    #[inline(always)]
    fn chain<S: Simd, T: Element, P: Span>(self, _s: S, _row: &Row<'_, T>, _k: usize, _p: P, _grad: &mut Lanes) {}
}

/// The input itself.
#[derive(Clone, Copy)]
pub(crate) struct Input;

impl Logits for Input {
    #[inline(always)]
    fn at<S: Simd, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> Lanes {
        row.input(s, k, p, f32::NEG_INFINITY)
    }
}

/// What else is summed while the exponentials are.
pub(crate) trait Visit<T> {
    /// Sees `u = z - max` and `e = exp(u)` of sixteen classes. Must be `#[inline(always)]`.
    fn visit<S: Simd, P: Span>(&mut self, s: S, row: &Row<'_, T>, k: usize, p: P, u: &Lanes, e: &Lanes);
}

impl<T> Visit<T> for () {
    #[inline(always)]
    fn visit<S: Simd, P: Span>(&mut self, _: S, _: &Row<'_, T>, _: usize, _: P, _: &Lanes, _: &Lanes) {}
}

/// Classes whose exponentials are added in f32 before the sum goes to f64.
const BLOCK: usize = 8 * LANES;

impl Softmax {
    /// Looks at the row twice; the exponentials stay in `row.keep[slot]` if they fit.
    #[inline(always)]
    pub(crate) fn new<S: Simd, T: Element>(
        s: S,
        row: &mut Row<'_, T>,
        slot: usize,
        logits: impl Logits,
        visitor: &mut impl Visit<T>,
    ) -> Self {
        let (classes, fits) = (row.classes, row.fits());
        let mut max = [f32::NEG_INFINITY; LANES];
        for_chunks!(row, |k, p| {
            let z = logits.at(s, row, k, p);
            for l in 0..LANES {
                // NaN is passed over here and comes back through its exponential.
                max[l] = if z[l] > max[l] { z[l] } else { max[l] };
            }
            if fits {
                row.keep[slot].put(k, z);
            }
        });
        let max = max.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });

        let (mut ones, mut rest) = ([0f64; LANES], [0f64; LANES]);
        for block in (0..classes).step_by(BLOCK) {
            let (mut block_ones, mut block_rest) = ([0f32; LANES], [0f32; LANES]);
            for_chunks!(row, block..classes.min(block + BLOCK), |k, p| {
                let z = if fits { kept(row, slot, k) } else { logits.at(s, row, k, p) };
                let u = s.sub_scalar(&z, max);
                let e = lanes!(|l| s.exp_neg(u[l]));
                let one = lanes!(|l| if e[l] == 1.0 { 1.0 } else { 0.0 });
                let other = lanes!(|l| e[l] - one[l]);
                s.add(&mut block_ones, &one);
                s.add(&mut block_rest, &other);
                if fits {
                    row.keep[slot].put(k, e);
                }
                visitor.visit(s, row, k, p, &u, &e);
            });
            s.add_wide(&mut ones, &block_ones);
            s.add_wide(&mut rest, &block_rest);
        }
        Softmax { max, ones: ones.iter().sum(), rest: rest.iter().sum() }
    }

    /// Whether one class has more than half of the probability. Its exponential is 1, and no other is.
    #[inline(always)]
    pub(crate) fn one_class_leads(&self) -> bool {
        self.sum() < 2.0
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
    pub(crate) fn exp<S: Simd, T: Element, P: Span>(
        &self,
        s: S,
        row: &Row<'_, T>,
        slot: usize,
        (k, p): (usize, P),
        logits: impl Logits,
    ) -> Lanes {
        if row.fits() {
            return kept(row, slot, k);
        }
        let z = logits.at(s, row, k, p);
        lanes!(|l| s.exp_neg(z[l] - self.max))
    }
}

#[inline(always)]
fn kept<T>(row: &Row<'_, T>, slot: usize, k: usize) -> Lanes {
    // SAFETY: `Softmax::new` puts every element of a row that fits before this is called.
    unsafe { row.keep[slot].get(k) }
}
