//! The row-wise skeleton: losses that look at all classes of a row before they know any gradient.
//!
//! A row is read from memory once and its gradient written once; the second and third look at it hit
//! a cache. Rows with few enough classes are kept in a buffer on the stack between the looks, widened,
//! and where an exponential was computed it is kept there too.

use super::mem::{Dst, Mode, Src, fence};
use super::row::{Block, Empty, Fill, Kept, ROW_TERMS, Row, RowTarget, Rows, Strided, WIDTH, for_chunks};
use super::scan::Scan;
use super::simd::{F32s, Isa, Kernel, LANES, Lanes, Machine};
use super::tiles::{Tiles, sum_weights};
use crate::call::{Output, Request};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::reduction::Reduction;
use crate::report::{HostReport, Reported};
use crate::shape::Shape;
use crate::target::{Indices, NO_CLASS, ReadClasses, Target};
use crate::third::ThirdOf;

/// A row-wise loss.
pub(crate) trait Rowwise: Copy + Send + Sync {
    const NAME: &'static str;
    /// It takes class-index targets.
    const INDEX: bool = true;
    /// It takes dense targets.
    const DENSE: bool = true;
    /// It takes class weights.
    const CLASS_WEIGHT: bool = false;
    /// It has a gradient for dense targets.
    const GRAD_TARGET: bool = false;
    /// The mean over class-index targets divides by the sum of their class weights (as PyTorch's
    /// cross-entropy does) and not by their number.
    const MEAN_BY_CLASS_WEIGHT: bool = false;

    /// Its rows have so many classes.
    const CLASSES: Option<usize> = None;
    /// It fills in the row's report.
    const REPORTS: bool = false;
    /// It has a third tensor.
    const THIRD: Option<ThirdOf> = None;
    /// It has a gradient for it.
    const GRAD_THIRD: bool = false;
    /// It is a sum, and fills in the row's terms.
    const TERMS: bool = false;

    /// Rows with this index are left out.
    fn ignore_index(&self) -> Option<i64> {
        None
    }

    /// The value of one row; writes its gradients. Must be `#[cfg_attr(optimized, inline(always))]`.
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64;

    /// Whether rows of this shape are better computed by `rows`. At most `KEEP / 16` classes are.
    fn side_by_side(_: Shape) -> bool {
        false
    }

    /// The values of sixteen rows at once, one in each lane. Must be `#[cfg_attr(optimized, inline(always))]`.
    #[cfg_attr(optimized, inline(always))]
    fn rows<S: Machine, T: Element>(&self, rows: &mut Rows<'_, '_, S, T>) -> F32s<S> {
        rows.s.zero()
    }
}

/// What a tile of rows needs to know.
struct Plan<'a, T> {
    shape: Shape,
    input: Src<'a, T>,
    target: RowTarget<'a, T>,
    indices: Option<Indices<'a>>,
    class_weight: Option<&'a [f32]>,
    weight: Option<(&'a [f32], usize)>,
    losses: Option<Dst<'a, f32>>,
    grad_output: Option<&'a [f32]>,
    grad_input: Option<(Dst<'a, T>, Mode)>,
    grad_target: Option<(Dst<'a, T>, Mode)>,
    third: Option<Src<'a, T>>,
    grad_third: Option<(Dst<'a, T>, Mode)>,
    scale: f32,
    report: HostReport<'a>,
}

/// Whether a row is what the loss is of.
pub(crate) fn check_classes(loss: &'static str, classes: Option<usize>, shape: Shape) -> Result<()> {
    match classes {
        Some(4) if shape.classes != 4 => Err(Error::Unsupported { loss, what: "a box of other than four numbers" }),
        _ => Ok(()),
    }
}

/// Runs the loss.
pub(crate) fn run<T: Element, F: Rowwise>(loss: F, request: Request<'_, T>) -> Result<f32> {
    let n = request.input.len();
    let extras = request.extras;
    let unsupported = |what| Error::Unsupported { loss: F::NAME, what };
    let shape = extras.shape.ok_or(unsupported("a call without a shape"))?;
    shape.check_input(n)?;
    check_classes(F::NAME, F::CLASSES, shape)?;
    let rows = shape.rows();
    let third = F::THIRD.map(|of| if of == ThirdOf::Rows { rows } else { n });
    let third = extras.third.check(F::NAME, third, F::GRAD_THIRD)?;
    if extras.class_weight.is_some() && !F::CLASS_WEIGHT {
        return Err(unsupported("a class weight"));
    }
    if let Some(w) = extras.class_weight {
        check_len("class_weight", shape.classes, w.len())?;
    }
    let weight = extras.weight.map(|w| w.per_loss(rows)).transpose()?;
    let indices = extras.target.indices();
    let target = match extras.target {
        Target::Nothing if !F::INDEX && !F::DENSE => RowTarget::Nothing,
        Target::Dense(t) if F::DENSE => {
            check_len("target", n, t.len())?;
            RowTarget::Dense(Src::new(t))
        }
        // The class itself is filled in row by row.
        _ if indices.is_some() && F::INDEX => RowTarget::Nothing,
        _ => return Err(unsupported("a target of this kind")),
    };
    if let Some(grad) = &extras.grad_target {
        if !F::GRAD_TARGET || indices.is_some() {
            return Err(unsupported("a gradient for these targets"));
        }
        check_len("grad_target", n, grad.len())?;
    }
    if indices.is_none() && loss.ignore_index().is_some_and(|i| i >= 0) {
        return Err(unsupported("an ignored class with dense targets"));
    }
    extras.report.check((F::NAME, F::REPORTS), indices.is_some(), rows, (|to| to.len(), |to| to.indices()))?;
    let class_weight = extras.class_weight;
    let scan = indices.map(|indices| Scan { indices, classes: shape.classes, ignore: loss.ignore_index() });
    let counted = match &scan {
        Some(scan) => {
            check_len("target", rows, scan.indices.len())?;
            scan.check()?
        }
        None => rows,
    };
    if let Some(terms) = &extras.terms {
        check_len("terms", if F::TERMS { ROW_TERMS } else { 0 }, terms.len())?;
    }
    let (mut losses, mut grad_output, mut denominator) = (None, None, 1.0);
    match request.output {
        Output::Reduced(reduction) => {
            reduction.check(rows)?;
            let rows = Counted { scan: scan.as_ref(), counted, class_weight, weight };
            denominator = rows.denominator(reduction, F::MEAN_BY_CLASS_WEIGHT);
        }
        Output::Unreduced { .. } if extras.terms.is_some() => {
            return Err(unsupported("asking for terms without a reduction"));
        }
        Output::Unreduced { losses: l, grad_output: g } => {
            if let Some(l) = l {
                check_len("losses", rows, l.len())?;
            }
            if let Some(g) = g {
                check_len("grad_output", rows, g.len())?;
            }
            (losses, grad_output) = (l, g);
        }
    }
    let bytes = n * size_of::<T>();
    let plan = Plan {
        shape,
        input: request.input,
        target,
        indices,
        class_weight,
        weight,
        losses,
        grad_output,
        grad_input: request.grad_input.map(|g| (g, Mode::new(extras.accumulate, request.in_place, bytes))),
        grad_target: extras.grad_target.map(|g| (g, Mode::new(extras.accumulate, false, bytes))),
        third,
        grad_third: extras.third.grad.map(|g| (g, Mode::new(extras.accumulate, false, bytes))),
        scale: (f64::from(extras.grad_output) / denominator) as f32,
        report: extras.report,
    };
    let isa = Isa::detect();
    let tiles = Tiles::rows(rows, shape.classes);
    let total = if F::TERMS {
        let task = |start: usize, end: usize| isa.run(Tile { loss, plan: &plan, start, end });
        let [total, terms @ ..] = tiles.sums(rows, n, &task);
        if let Some(out) = extras.terms {
            // SAFETY: there are so many; nobody else writes them.
            (0..ROW_TERMS).for_each(|j| unsafe { out.set(j, (terms[j] / denominator) as f32) });
        }
        total
    } else {
        tiles.sum_weighing(rows, n, &|start, end| isa.run(Tile { loss, plan: &plan, start, end })[0])
    };
    Ok((total / denominator) as f32)
}

/// The rows of a call, to be counted.
pub(crate) struct Counted<'r, 'a> {
    pub(crate) scan: Option<&'r Scan<'a>>,
    /// The rows that are not ignored.
    pub(crate) counted: usize,
    pub(crate) class_weight: Option<&'a [f32]>,
    /// And how many consecutive rows share one.
    pub(crate) weight: Option<(&'a [f32], usize)>,
}

impl Counted<'_, '_> {
    /// What the sum of the losses is divided by.
    pub(crate) fn denominator(&self, reduction: Reduction, mean_by_class_weight: bool) -> f64 {
        let &Counted { scan, counted, class_weight, weight } = self;
        let mean = || match (scan, class_weight) {
            (Some(scan), Some(w)) if mean_by_class_weight => scan.sum(|_, class| f64::from(w[class])),
            _ => counted as f64,
        };
        let weighted = || match (scan, weight, class_weight) {
            (None, Some((w, each)), _) => sum_weights(w) * each as f64,
            (_, None, None) | (None, ..) => counted as f64,
            (Some(scan), ..) => scan.sum(|row, class| {
                let of_row = weight.map_or(1.0, |(w, each)| f64::from(w[row / each]));
                of_row * class_weight.map_or(1.0, |w| f64::from(w[class]))
            }),
        };
        reduction.denominator(mean, weighted)
    }
}

struct Tile<'p, 'a, T, F> {
    loss: F,
    plan: &'p Plan<'a, T>,
    start: usize,
    end: usize,
}

impl<T: Element, F: Rowwise> Kernel for Tile<'_, '_, T, F> {
    /// The value, and its terms.
    type Output = [f64; 1 + ROW_TERMS];

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> Self::Output {
        let total =
            if F::side_by_side(self.plan.shape) { [self.side_by_side(s), 0.0, 0.0, 0.0] } else { self.one_by_one(s) };
        fence();
        total
    }
}

impl<T: Element, F: Rowwise> Tile<'_, '_, T, F> {
    #[cfg_attr(optimized, inline(always))]
    fn one_by_one<S: Machine>(&self, s: S) -> [f64; 1 + ROW_TERMS] {
        let &Tile { loss, plan, start, end } = self;
        let mut keep = [Kept::new(), Kept::new(), Kept::new()];
        let shape = plan.shape;
        let (mut total, mut terms) = ([0.0; 1 + ROW_TERMS], [0.0; ROW_TERMS]);
        for r in start..end {
            if F::TERMS {
                terms = [0.0; ROW_TERMS];
            }
            let (weight, scale) = plan.weight_and_scale(r);
            let mut row = Row {
                classes: shape.classes,
                input: Strided { buffer: plan.input, base: plan.base(r), stride: shape.inner },
                target: plan.target,
                third: plan.third,
                label: match (F::THIRD, plan.third) {
                    // SAFETY: there is one for each row, and nobody writes them.
                    (Some(ThirdOf::Rows), Some(labels)) => unsafe { labels.get(r) },
                    _ => 0.0,
                },
                class_weight: plan.class_weight,
                scale,
                grad_input: plan.grad_input.map(|(grad, mode)| (grad, mode.at(grad, plan.base(r)))),
                grad_target: plan.grad_target.map(|(grad, mode)| (grad, mode.at(grad, plan.base(r)))),
                grad_third: plan.grad_third.map(|(grad, mode)| (grad, mode.at(grad, plan.base(r)))),
                keep: &mut keep,
                report: Reported::NOTHING,
                terms: &mut terms,
            };
            let mut value = 0.0;
            let index = plan.indices.map(|i| i.get(r));
            if index.is_some() && index == loss.ignore_index() {
                // Exactly zero, whatever the row holds.
                for_chunks!(row, |k, p| { row.put(s, k, p, s.zero()) });
            } else {
                if let Some(index) = index {
                    row.target = RowTarget::Class(index as usize);
                }
                value = loss.row(s, &mut row) * f64::from(weight);
            }
            total[0] += value;
            if F::TERMS {
                (0..ROW_TERMS).for_each(|j| total[1 + j] += row.terms[j] * f64::from(weight));
            }
            if F::REPORTS {
                // SAFETY: row `r` belongs to this task; the lengths have been checked.
                unsafe { plan.report.put(r, &row.report) };
            }
            if let Some(losses) = plan.losses {
                // SAFETY: row `r` belongs to this task.
                unsafe { losses.set(r, value as f32) };
            }
        }
        total
    }

    #[cfg_attr(optimized, inline(always))]
    fn side_by_side<S: Machine>(&self, s: S) -> f64 {
        let &Tile { loss, plan, start, end } = self;
        let (mut keep, mut index) = (Kept::new(), [NO_CLASS; WIDTH]);
        let Shape { classes, inner, .. } = plan.shape;
        let width = Block::<T>::width(classes, inner);
        let (mut total, mut r) = (s.zero_wide(), start);
        while r < end {
            // Not past the last position of a sample: the next row is elsewhere.
            let left = if inner == 1 { end - r } else { (end - r).min(inner - r % inner) };
            let block = Block {
                classes,
                input: plan.input,
                target: plan.target,
                grad_input: plan.grad_input,
                grad_target: plan.grad_target,
                base: plan.base(r),
                row_stride: if inner == 1 { classes } else { 1 },
                class_stride: inner,
                count: left.min(width),
                width,
            };
            if let Some(indices) = plan.indices {
                let classes = &mut index[..block.count.next_multiple_of(LANES)];
                s.run(ReadClasses { indices, start: r, count: block.count, ignore: loss.ignore_index(), classes });
            }
            s.run(Fill(block, &mut keep));
            for offset in (0..block.count).step_by(LANES) {
                total = total + self.sixteen(s, (r, &index), block, offset, &mut keep).widen();
            }
            if block.grad_input.is_some() {
                s.run(Empty(block, &keep));
            }
            r += block.count;
        }
        total.sum()
    }

    /// The values of sixteen rows of a block that begins with row `first`.
    #[cfg_attr(optimized, inline(always))]
    fn sixteen<S: Machine>(
        &self,
        s: S,
        (first, classes): (usize, &[u32; WIDTH]),
        block: Block<'_, T>,
        offset: usize,
        keep: &mut Kept,
    ) -> F32s<S> {
        let &Tile { loss, plan, .. } = self;
        let (r, count) = (first + offset, LANES.min(block.count - offset));
        let (weights, scale) = if plan.weight.is_none() && plan.grad_output.is_none() {
            (s.splat(1.0), s.splat(plan.scale))
        } else {
            let (weights, scales) = plan.weights_and_scales(r, count);
            (s.lanes(&weights), s.lanes(&scales))
        };
        let mut index = [NO_CLASS; LANES];
        index.copy_from_slice(&classes[offset..offset + LANES]);
        let ignored = if plan.indices.is_some() { s.bits_of(&index).eq(NO_CLASS) } else { s.first(0) };
        let class_weight = plan.class_weight;
        let mut rows = Rows { s, classes: block.classes, block, offset, keep, index, ignored, class_weight, scale };
        // Weight times value; but zero, whatever the row holds, where it is ignored.
        let values = ignored.pick(0.0, loss.rows(&mut rows) * weights);
        if let Some(losses) = plan.losses {
            // SAFETY: rows `r..r + count` belong to this task.
            unsafe { losses.store_upto(s, r, count, values, Mode::PLAIN) };
        }
        s.first(count).pick(values, 0.0)
    }
}

impl<T> Plan<'_, T> {
    /// Where class 0 of a row is.
    #[cfg_attr(optimized, inline(always))]
    fn base(&self, r: usize) -> usize {
        let Shape { classes, inner, .. } = self.shape;
        if inner == 1 { r * classes } else { r / inner * classes * inner + r % inner }
    }

    /// The weight of a row, and what its gradients are multiplied by.
    #[cfg_attr(optimized, inline(always))]
    fn weight_and_scale(&self, r: usize) -> (f32, f32) {
        let weight = self.weight.map_or(1.0, |(w, each)| w[r / each]);
        let scale = self.scale * weight;
        (weight, self.grad_output.map_or(scale, |g| scale * g[r]))
    }

    /// The same of rows `r..r + count`, at most sixteen, then zeros. Not inlined, as in [`outline`](super::simd::outline).
    #[inline(never)]
    fn weights_and_scales(&self, r: usize, count: usize) -> (Lanes, Lanes) {
        let (mut weights, mut scales): (Lanes, Lanes) = Default::default();
        for l in 0..count {
            (weights[l], scales[l]) = self.weight_and_scale(r + l);
        }
        (weights, scales)
    }
}
