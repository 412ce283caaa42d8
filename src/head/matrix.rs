//! Matrices of f32, row after row: their products, and rows of storage types to and from them.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::mem::{Dst, Mode, Src};
use crate::cpu::simd::{Isa, Kernel, LANES, Machine};
use crate::element::Element;

/// Numbers of an `f32` buffer as a matrix, perhaps transposed, perhaps of some columns of a wider one.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// From one row to the next, and from one column to the next.
    strides: [usize; 2],
}

impl<'a> View<'a> {
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        View { data: &data[..rows * columns], rows, columns, strides: [columns, 1] }
    }

    /// Columns `start..start + count`.
    pub(super) fn columns(self, start: usize, count: usize) -> Self {
        View { data: &self.data[(start * self.strides[1]).min(self.data.len())..], columns: count, ..self }
    }

    pub(super) fn transposed(self) -> Self {
        let [down, right] = self.strides;
        View { rows: self.columns, columns: self.rows, strides: [right, down], ..self }
    }
}

/// `out = a b`, or `out + a b` where `add`; the rows of `out` are `stride` apart. On rayon's threads; no sum is split among them, so
/// that it is the same for any number of them.
pub(super) fn product(out: &mut [f32], stride: usize, add: bool, a: View<'_>, b: View<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert!(k == b.rows && (m == 0 || n == 0 || (m - 1) * stride + n <= out.len()));
    if k == 0 && !add {
        (0..m).for_each(|r| out[r * stride..][..n].fill(0.0));
    }
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let [a_rs, a_cs] = a.strides.map(|s| s as isize);
    let [b_rs, b_cs] = b.strides.map(|s| s as isize);
    let (out, a, b) = (out.as_mut_ptr(), a.data.as_ptr(), b.data.as_ptr());
    // SAFETY: all elements that these sizes and strides mean are inside of the slices: of the output as asserted, of the factors as
    // `View` was made of. The output is ours alone.
    unsafe {
        let (alpha, beta) = (1.0, 1.0);
        let threads = Parallelism::Rayon(0);
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride as isize,
            add,
            a,
            a_cs,
            a_rs,
            b,
            b_cs,
            b_rs,
            alpha,
            beta,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Elements `i..i + f32s.len()` of each storage type to `f32`, or back.
struct Widen<'a, T> {
    from: &'a [T],
    to: &'a mut [f32],
}

impl<T: Element> Kernel for Widen<'_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let (n, from, to) = (self.to.len(), Src::new(&self.from[..self.to.len()]), Dst::new(self.to));
        for i in (0..n).step_by(LANES) {
            let count = LANES.min(n - i);
            // SAFETY: in bounds, and ours alone.
            unsafe { to.store_upto(s, i, count, from.load_upto(s, i, count, 0.0), Mode::PLAIN) };
        }
    }
}

struct Narrow<'a, T> {
    from: &'a [f32],
    to: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for Narrow<'_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let (n, from, to) = (self.to.len(), Src::new(&self.from[..self.to.len()]), Dst::new(self.to));
        let mode = Mode { accumulate: self.accumulate, ..Mode::PLAIN };
        for i in (0..n).step_by(LANES) {
            let count = LANES.min(n - i);
            // SAFETY: in bounds, and ours alone.
            unsafe { to.store_upto(s, i, count, from.load_upto(s, i, count, 0.0), mode) };
        }
    }
}

/// Numbers that one task converts at least.
const TASK: usize = 1 << 14;

/// Rows `rows` of a matrix, one below the other.
pub(super) fn gather<T: Element>(from: &[T], columns: usize, rows: &[usize], to: &mut [f32]) {
    if columns == 0 {
        return;
    }
    let isa = Isa::detect();
    let each = to.par_chunks_mut(columns).zip(rows).with_min_len(TASK.div_ceil(columns));
    each.for_each(|(to, &r)| isa.run(Widen { from: &from[r * columns..][..columns], to }));
}

/// The reverse: row after row to where `rows` says. `rows` go up.
pub(super) fn scatter<T: Element>(from: &[f32], columns: usize, rows: &[usize], to: &mut [T], accumulate: bool) {
    let isa = Isa::detect();
    // The rows as slices, for tasks to share.
    let (mut rest, mut start, mut parts) = (to, 0, Vec::with_capacity(rows.len()));
    for &r in rows {
        let (part, after) = rest[(r - start) * columns..].split_at_mut(columns);
        (rest, start) = (after, r + 1);
        parts.push(part);
    }
    let each = parts.into_par_iter().enumerate().with_min_len(TASK.div_ceil(columns.max(1)));
    each.for_each(|(i, to)| isa.run(Narrow { from: &from[i * columns..][..columns], to, accumulate }));
}

/// The elements as they are, if they are f32.
pub(super) fn as_f32<T: Element>(x: &[T]) -> Option<&[f32]> {
    // SAFETY: the only storage type of four bytes is f32.
    (size_of::<T>() == size_of::<f32>()).then(|| unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) })
}

/// The same, to be written.
pub(super) fn as_f32_mut<T: Element>(x: &mut [T]) -> &mut [f32] {
    assert!(size_of::<T>() == size_of::<f32>());
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// Elements, one after another, each rounded once.
pub(super) fn narrow<T: Element>(from: &[f32], to: &mut [T], accumulate: bool) {
    let isa = Isa::detect();
    let parts = to.par_chunks_mut(TASK).zip(from.par_chunks(TASK));
    parts.for_each(|(to, from)| isa.run(Narrow { from, to, accumulate }));
}

/// Elements, one after another.
pub(super) fn widen<T: Element>(from: &[T], to: &mut [f32]) {
    let isa = Isa::detect();
    to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| isa.run(Widen { from, to }));
}

/// Adds the sums of the columns to `to`.
pub(super) fn add_columns(from: &[f32], rows: usize, to: &mut [f32]) {
    let columns = to.len();
    to.par_chunks_mut(1 << 10).enumerate().for_each(|(part, to)| {
        let mut sums = vec![0.0; to.len()];
        // Few at a time, so that many rows do not drown in the sum of those before them.
        for block in (0..rows).step_by(16) {
            sums.fill(0.0);
            for r in block..rows.min(block + 16) {
                let row = &from[r * columns + part * (1 << 10)..][..to.len()];
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            to.iter_mut().zip(&sums).for_each(|(to, sum)| *to += sum);
        }
    });
}
