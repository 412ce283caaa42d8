//! The numbers that losses are timed on: drawn and checked at a small size, and repeated up to the full one.

use fused_loss::Element;

use super::cases::Case;
use super::cases::draw::{Dims, Labels, Problem};
use super::cases::oracle::Oracle;
use super::list;

/// Elements that are drawn and checked; larger problems repeat them.
const DRAWN: usize = 1 << 14;

/// Few enough rows of a problem to check.
pub fn draw<T: Element>(case: &Case, dims: Dims) -> Problem<T> {
    let small = match dims.inner {
        1 => Dims { outer: dims.outer.min(DRAWN.div_ceil(dims.classes)), ..dims },
        inner => Dims { outer: 1, inner: inner.min(DRAWN), ..dims },
    };
    let mut problem = Problem::<T>::draw(case, small, 7);
    // The battery takes all integer types in turn; times are compared with PyTorch's, whose class indices are i64.
    let wide = match &problem.labels {
        Labels::I32(t) => Some(t.iter().map(|&t| t.into()).collect()),
        Labels::U32(t) => Some(t.iter().map(|&t| t.into()).collect()),
        Labels::U8(t) => Some(t.iter().map(|&t| t.into()).collect()),
        Labels::Nothing | Labels::Dense(_) | Labels::I64(_) => None,
    };
    problem.labels = wide.map(Labels::I64).unwrap_or(problem.labels);
    problem
}

/// The value must be the textbook's, and the gradient finite.
pub fn check<T: Element>(case: &Case, problem: &Problem<T>, value: f32, grad: &[T]) -> Result<(), String> {
    let mean = |case: &Case| {
        let oracle = Oracle::new(case, problem, 0, 1);
        oracle.losses.iter().sum::<f64>() / oracle.counts.iter().sum::<f64>()
    };
    let want = match list::terms(case) {
        None => mean(case),
        Some(terms) => {
            let table = list::table();
            terms.iter().map(|name| mean(list::find(&table, name).expect("terms are in the table"))).sum()
        }
    };
    let got = f64::from(value);
    if (got - want).abs() <= 1e-6 * want.abs() {
        let finite = grad.iter().all(|g| g.to_f32().is_finite());
        return if finite { Ok(()) } else { Err(format!("{}: a gradient is not finite", case.name)) };
    }
    Err(format!("{}: {got} where the textbook says {want}", case.name))
}

/// How a small problem becomes a large one: each run of `run` numbers is repeated until it has `full`, and all of them until there
/// are `total`.
#[derive(Clone, Copy, Debug)]
pub struct Repeat {
    pub run: usize,
    pub full: usize,
    pub total: usize,
}

impl Repeat {
    /// Of numbers of each element. Each run of positions (or the whole, for rows) is repeated within itself.
    pub fn of_elements(from: Dims, to: Dims) -> Self {
        let (run, full) = if to.inner > 1 { (from.inner, to.inner) } else { (from.elements(), to.elements()) };
        Repeat { run, full, total: to.elements() }
    }

    /// Of numbers of each row.
    pub fn of_rows(from: Dims, to: Dims) -> Self {
        let (run, full) = if to.inner > 1 { (from.inner, to.inner) } else { (from.rows(), to.rows()) };
        Repeat { run, full, total: to.rows() }
    }

    /// A third tensor of this length, which has a number for each element or for each row.
    pub(super) fn of_third(len: usize, from: Dims, to: Dims) -> Self {
        if len == from.elements() { Repeat::of_elements(from, to) } else { Repeat::of_rows(from, to) }
    }
}

/// The problem over and over, up to the full shape.
pub fn repeat<T: Element>(small: Problem<T>, dims: Dims) -> Problem<T> {
    let (elements, rows) = (Repeat::of_elements(small.dims, dims), Repeat::of_rows(small.dims, dims));
    let labels = match &small.labels {
        Labels::Nothing => Labels::Nothing,
        Labels::Dense(t) => Labels::Dense(grow(t, elements)),
        Labels::I64(t) => Labels::I64(grow(t, rows)),
        _ => unreachable!("indices have been made i64"),
    };
    let third = small.third.as_deref().map(|x| grow(x, Repeat::of_third(x.len(), small.dims, dims)));
    Problem { dims, input: grow(&small.input, elements), labels, third, class_weight: small.class_weight }
}

fn grow<U: Copy>(from: &[U], Repeat { run, full, total }: Repeat) -> Vec<U> {
    let mut to = Vec::with_capacity(total);
    while to.len() < total {
        for run in from.chunks(run) {
            let end = (to.len() + full).min(total);
            while to.len() < end {
                to.extend_from_slice(&run[..run.len().min(end - to.len())]);
            }
        }
    }
    to
}
