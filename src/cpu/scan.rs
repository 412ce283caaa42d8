//! The look at class indices before anything is written.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::tiles::Tiles;
use crate::error::{Error, Result};
use crate::target::Indices;

/// Class indices, and what they may be.
pub(crate) struct Scan<'a> {
    pub(crate) indices: Indices<'a>,
    pub(crate) classes: usize,
    pub(crate) ignore: Option<i64>,
}

impl Scan<'_> {
    /// The first row whose index is neither a class nor ignored is an error.
    pub(crate) fn check(&self) -> Result<()> {
        let first_bad = AtomicUsize::new(usize::MAX);
        let rows = self.indices.len();
        Tiles::new(rows, 1).sum(rows, |start, end| {
            let bad = (start..end).find(|&row| {
                let index = self.indices.get(row);
                !(0..self.classes as i64).contains(&index) && Some(index) != self.ignore
            });
            if let Some(row) = bad {
                first_bad.fetch_min(row, Ordering::Relaxed);
            }
            0.0
        });
        match first_bad.into_inner() {
            usize::MAX => Ok(()),
            row => Err(Error::ClassIndex { row, index: self.indices.get(row), classes: self.classes }),
        }
    }

    /// The sum of `weight(row, class)` over the rows that are not ignored.
    pub(crate) fn sum(&self, weight: impl Fn(usize, usize) -> f64 + Sync) -> f64 {
        let rows = self.indices.len();
        Tiles::new(rows, 1).sum(rows, |start, end| {
            let of = |row| {
                let index = self.indices.get(row);
                if Some(index) == self.ignore { 0.0 } else { weight(row, index as usize) }
            };
            (start..end).map(of).sum()
        })
    }
}
