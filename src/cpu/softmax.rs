//! Softmax of one row: what cross-entropy, focal and distillation share.
//!
//! Three looks at a row: its maximum; the exponentials and their sum; the gradient. The online form
//! (maximum and sum in one look) costs a second exponential an element and saves nothing where the
//! row is in a cache by then.

use super::row::{KEEP, Row, for_chunks};
use super::simd::{F32s, F64s, LANES, Machine, Mask, Operand, Pair, Span, Whole};
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
    pub(crate) ones: f64,
    /// The sum of the others.
    pub(crate) rest: f64,
}

/// Where the logits of a row come from. (A closure would not always be inlined, and then be compiled for
/// the baseline.)
pub(crate) trait Logits: Copy + Send + Sync {
    /// Sixteen logits from class `k`, minus infinity past the last. Must be `#[cfg_attr(optimized, inline(always))]`.
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S>;

    /// Turns the gradients for these logits into gradients for the input.
    #[cfg_attr(optimized, inline(always))]
    fn chain<S: Machine, T: Element, P: Span>(self, _row: &Row<'_, T>, _k: usize, _p: P, grad: F32s<S>) -> F32s<S> {
        grad
    }
}

/// The input itself.
#[derive(Clone, Copy)]
pub(crate) struct Input;

impl Logits for Input {
    #[cfg_attr(optimized, inline(always))]
    fn at<S: Machine, T: Element, P: Span>(self, s: S, row: &Row<'_, T>, k: usize, p: P) -> F32s<S> {
        row.input(s, k, p, f32::NEG_INFINITY)
    }
}

/// What else is summed while the exponentials are.
pub(crate) trait Visit<S: Machine, T> {
    /// Sees `u = z - max` and `e = exp(u)` of sixteen classes. Must be `#[cfg_attr(optimized, inline(always))]`.
    fn visit<P: Span>(&mut self, row: &Row<'_, T>, k: usize, p: P, u: F32s<S>, e: F32s<S>);

    /// A block has been seen: f32 sums go to f64. Must be `#[cfg_attr(optimized, inline(always))]`.
    fn end_block(&mut self);
}

impl<S: Machine, T> Visit<S, T> for () {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, _: &Row<'_, T>, _: usize, _: P, _: F32s<S>, _: F32s<S>) {}
    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {}
}

impl<S: Machine, T, A: Visit<S, T>, B: Visit<S, T>> Visit<S, T> for (A, B) {
    #[cfg_attr(optimized, inline(always))]
    fn visit<P: Span>(&mut self, row: &Row<'_, T>, k: usize, p: P, u: F32s<S>, e: F32s<S>) {
        self.0.visit(row, k, p, u, e);
        self.1.visit(row, k, p, u, e);
    }
    #[cfg_attr(optimized, inline(always))]
    fn end_block(&mut self) {
        self.0.end_block();
        self.1.end_block();
    }
}

/// A sum in f32 over a block, and in f64 over the blocks.
#[derive(Clone, Copy)]
pub(crate) struct BlockSum<S: Machine> {
    block: F32s<S>,
    total: F64s<S>,
}

impl<S: Machine> BlockSum<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(s: S) -> Self {
        BlockSum { block: s.zero(), total: s.zero_wide() }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add(&mut self, x: F32s<S>) {
        self.block = self.block + x;
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add_where(&mut self, mask: Mask<S>, x: impl Operand<S>) {
        self.block = self.block.add_where(mask, x);
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn end_block(&mut self) {
        self.total = self.total + self.block.widen();
        self.block = self.block.simd().zero();
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sum(self) -> f64 {
        self.total.sum()
    }

    /// The total of each lane; `ended`: whether any block but the last has been.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn lanes(self, ended: bool) -> F32s<S> {
        if ended { (self.total + self.block.widen()).narrow() } else { self.block }
    }
}

/// Exponentials while they are added up: of sixteen rows or positions, one in each lane, or of sixteen classes of a row.
pub(crate) struct Exps<S: Machine> {
    ones: BlockSum<S>,
    rest: BlockSum<S>,
    /// Whether any block has ended.
    pub(crate) ended: bool,
}

impl<S: Machine> Exps<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new(s: S) -> Self {
        Exps { ones: BlockSum::new(s), rest: BlockSum::new(s), ended: false }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add(&mut self, e: F32s<S>) {
        let is_one = e.eq(1.0);
        self.ones.add_where(is_one, 1.0);
        self.rest.add_where(!is_one, e);
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn end_block(&mut self) {
        self.ended = true;
        self.ones.end_block();
        self.rest.end_block();
    }

    /// The softmax of a row of this maximum, all lanes together.
    #[cfg_attr(optimized, inline(always))]
    fn of_row(self, max: f32) -> Softmax {
        Softmax { max, ones: self.ones.sum(), rest: self.rest.sum() }
    }

    /// The softmaxes of sixteen rows or positions, one in each lane.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn softmax(self) -> LaneSoftmax<S> {
        LaneSoftmax::new(self.ones.lanes(self.ended), self.rest.lanes(self.ended))
    }
}

/// Runs the first body for all classes, and the second after each eight but the last: sums of eight need no f64, which took a tenth of
/// the time of cross-entropy of four classes.
macro_rules! for_eights {
    ($classes:expr, |$c:ident| $body:block, $end:block) => {
        for eight in (0..$classes).step_by(8) {
            for $c in eight..$classes.min(eight + 8) $body
            if eight + 8 < $classes $end
        }
    };
}
pub(crate) use for_eights;

/// The softmax of sixteen rows, as [`Softmax`] is of one.
#[derive(Clone, Copy)]
pub(crate) struct LaneSoftmax<S: Machine> {
    ones: F32s<S>,
    rest: F32s<S>,
    pub(crate) sum: F32s<S>,
    pub(crate) inv_sum: F32s<S>,
}

impl<S: Machine> LaneSoftmax<S> {
    #[cfg_attr(optimized, inline(always))]
    fn new(ones: F32s<S>, rest: F32s<S>) -> Self {
        let sum = ones + rest;
        LaneSoftmax { ones, rest, sum, inv_sum: 1.0 / sum }
    }

    /// The log-sum-exp less the maximum, which is small where one class leads, and exact.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn ln_sum(&self) -> F32s<S> {
        // Nearly always, where there are sixteen largest logits. (One logarithm for both: 1.03 times the instructions of cross-entropy
        // of columns.)
        if !self.ones.ne(1.0).any() {
            return self.rest.ln_1p();
        }
        self.ones.ln() + (self.rest / self.ones).ln_1p()
    }

    /// How much larger the log-sum-exp is than another's, both less their maxima: exact where they are nearly alike.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn ln_ratio(&self, other: &Self) -> F32s<S> {
        let more = (self.ones - other.ones) + (self.rest - other.rest);
        // Of the smaller sum: near -1 of the larger one, `ln_1p` would make much of roundings.
        let less = more.lt(0.0);
        (more.abs() * less.pick(self.inv_sum, other.inv_sum)).ln_1p().neg_where(less)
    }

    /// `1 - p` of the class that leads, without cancellation.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn miss_of_leader(&self) -> F32s<S> {
        (self.ones - 1.0 + self.rest) * self.inv_sum
    }

    /// The same of classes with these exponentials.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn miss(&self, e: F32s<S>) -> F32s<S> {
        e.eq(1.0).pick(self.miss_of_leader(), (self.ones + (self.rest - e)) * self.inv_sum)
    }
}

/// Classes whose exponentials are added in f32 before the sum goes to f64.
const BLOCK: usize = 8 * LANES;

impl Softmax {
    /// Looks at the row twice; the exponentials stay in `row.keep[slot]` if they fit.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn new<S: Machine, T: Element>(
        s: S,
        row: &mut Row<'_, T>,
        slot: usize,
        logits: impl Logits,
        visitor: &mut impl Visit<S, T>,
    ) -> Self {
        let classes = row.classes;
        let mut max = s.splat(f32::NEG_INFINITY);
        for_chunks!(row, |k, p| {
            // NaN is passed over here and comes back through its exponential.
            max = max.or_larger(logits.at(s, row, k, p));
        });
        let max = max.max_lane();

        let mut exps = Exps::new(s);
        let pair = Pair(s);
        for block in (0..classes).step_by(BLOCK) {
            macro_rules! see {
                ($k:expr, $p:expr, $u:expr, $e:expr) => {{
                    exps.add($e);
                    // Where the row does not fit, what is kept is of no use, and costs less than to ask.
                    row.keep[slot].put($k % KEEP, $e);
                    visitor.visit(row, $k, $p, $u, $e);
                }};
            }
            let end = classes.min(block + BLOCK);
            let (whole, mut k) = (row.whole().min(end), block);
            while k + 2 * LANES <= whole {
                let z = pair.join(logits.at(s, row, k, Whole), logits.at(s, row, k + LANES, Whole));
                row.prefetch_next(s, k);
                let u = z - max;
                let ((u0, u1), (e0, e1)) = (pair.split(u), pair.split(u.exp_neg()));
                see!(k, Whole, u0, e0);
                see!(k + LANES, Whole, u1, e1);
                k += 2 * LANES;
            }
            for_chunks!(row, k..end, |k, p| {
                let u = logits.at(s, row, k, p) - max;
                let e = u.exp_neg();
                see!(k, p, u, e);
            });
            exps.end_block();
            visitor.end_block();
        }
        exps.of_row(max)
    }

    /// Whether one class has more than half of the probability. Its exponential is 1, and no other is.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn one_class_leads(&self) -> bool {
        self.sum() < 2.0
    }

    /// The sum of the exponentials.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sum(&self) -> f64 {
        self.ones + self.rest
    }

    /// `ln(sum)`: the log-sum-exp less the maximum, never negative. Of a row of a thousand classes it takes a thirtieth of the time.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn ln_sum(&self) -> f64 {
        (self.ones - 1.0 + self.rest).ln_1p()
    }

    /// The log-sum-exp.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn lse(&self) -> f64 {
        f64::from(self.max) + self.ln_sum()
    }

    /// `1 - p` of a class whose exponential is `e`, without cancellation.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn miss(&self, e: f32) -> f64 {
        let others = if e == 1.0 { self.ones - 1.0 + self.rest } else { self.ones + (self.rest - f64::from(e)) };
        others / self.sum()
    }

    /// The exponentials of classes `k..k + 16` of a row that fits.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn kept<S: Machine, T: Element>(&self, s: S, row: &Row<'_, T>, slot: usize, k: usize) -> F32s<S> {
        assert!(row.fits() && k < row.classes);
        // SAFETY: `new` puts every element of a row before this is called.
        unsafe { row.keep[slot].get(s, k) }
    }

    /// The exponentials of classes `k..k + 16`, kept or computed again.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn exp<S: Machine, T: Element, P: Span>(
        &self,
        s: S,
        row: &Row<'_, T>,
        slot: usize,
        (k, p): (usize, P),
        logits: impl Logits,
    ) -> F32s<S> {
        if row.fits() {
            // SAFETY: `new` puts every element of a row that fits before this is called.
            unsafe { row.keep[slot].get(s, k) }
        } else {
            (logits.at(s, row, k, p) - self.max).exp_neg()
        }
    }
}
