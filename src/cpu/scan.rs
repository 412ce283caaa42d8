//! The look at class indices before anything is written.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::simd::{Isa, Kernel, Machine};
use super::tiles::Tiles;
use crate::error::{Error, Result};
use crate::target::{Indices, for_indices};

/// Class indices, and what they may be.
pub(crate) struct Scan<'a> {
    pub(crate) indices: Indices<'a>,
    pub(crate) classes: usize,
    pub(crate) ignore: Option<i64>,
}

impl Scan<'_> {
    /// The number of rows that are not ignored. The first row whose index is neither a class nor ignored is an
    /// error.
    pub(crate) fn check(&self) -> Result<usize> {
        let first_bad = AtomicUsize::new(usize::MAX);
        let rows = self.indices.len();
        let isa = Isa::detect();
        let counted = Tiles::new(rows, 1).sum(rows, &|start, end| {
            let (bad, counted) = isa.run(Count { scan: self, start, end });
            if bad && let Some(row) = (start..end).find(|&row| !self.allows(self.indices.get(row))) {
                first_bad.fetch_min(row, Ordering::Relaxed);
            }
            counted as f64
        });
        match first_bad.into_inner() {
            usize::MAX => Ok(counted as usize),
            row => Err(Error::ClassIndex { row, index: self.indices.get(row), classes: self.classes }),
        }
    }

    fn allows(&self, index: i64) -> bool {
        (0..self.classes as i64).contains(&index) || Some(index) == self.ignore
    }

    /// The sum of `weight(row, class)` over the rows that are not ignored.
    pub(crate) fn sum(&self, weight: impl Fn(usize, usize) -> f64 + Sync) -> f64 {
        let rows = self.indices.len();
        Tiles::new(rows, 1).sum(rows, &|start, end| {
            let of = |row| {
                let index = self.indices.get(row);
                if Some(index) == self.ignore { 0.0 } else { weight(row, index as usize) }
            };
            (start..end).map(of).sum()
        })
    }
}

/// Whether any index of some rows is neither a class nor ignored, and how many are not ignored.
struct Count<'s, 'a> {
    scan: &'s Scan<'a>,
    start: usize,
    end: usize,
}

impl Kernel for Count<'_, '_> {
    type Output = (bool, usize);

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, _: S) -> (bool, usize) {
        let Count { scan: &Scan { indices, classes, ignore }, start, end } = self;
        for_indices!(indices, |x| {
            let (mut bad, mut counted) = (false, 0);
            for &index in &x[start..end] {
                let index = i64::from(index);
                // Without a class to ignore, one that is none either way.
                let ignored = index == ignore.unwrap_or(-1) && ignore.is_some();
                bad |= !(ignored || (index as u64) < classes as u64);
                counted += usize::from(!ignored);
            }
            (bad, counted)
        })
    }
}
