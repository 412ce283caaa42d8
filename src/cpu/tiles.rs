//! Work in tiles, on one thread or many, with the same result to the last bit.
//!
//! Where a tile begins depends on the number of elements and on nothing else, a tile's sum is computed
//! by one task, and the sums are added in the order of the tiles.

use rayon::prelude::*;

use super::threads::shared;

/// The tiling of a number of elements (or rows).
pub(crate) struct Tiles {
    tile: usize,
}

/// What is done to elements `start..end`: the `N` sums over them. Not a type of its own for each: rayon is then compiled once.
pub(crate) type Task<'a, const N: usize = 1> = dyn Fn(usize, usize) -> [f64; N] + Sync + 'a;

/// Fewest elements of a tile.
const TILE: usize = 1 << 14;
/// Most tiles, which bounds the partial sums to 8 KiB each.
const MAX_TILES: usize = 1 << 10;
/// Fewest elements for which waking the thread pool pays.
const PARALLEL_MIN: usize = 1 << 16;

impl Tiles {
    /// Tiles of a multiple of `unit` elements.
    pub(crate) fn new(n: usize, unit: usize) -> Self {
        Tiles { tile: n.div_ceil(MAX_TILES).max(TILE).next_multiple_of(unit) }
    }

    /// Tiles of whole rows, about as many elements as other tiles have.
    pub(crate) fn rows(rows: usize, elements_per_row: usize) -> Self {
        Tiles { tile: rows.div_ceil(MAX_TILES).max(TILE.div_ceil(elements_per_row.max(1))) }
    }

    /// The sum over all tiles `start..end` of `n` of what `task` returns.
    pub(crate) fn sum(&self, n: usize, task: &(dyn Fn(usize, usize) -> f64 + Sync)) -> f64 {
        self.sum_weighing(n, n, task)
    }

    /// The same, where the `n` are rows that hold `elements` elements together.
    pub(crate) fn sum_weighing(&self, n: usize, elements: usize, task: &(dyn Fn(usize, usize) -> f64 + Sync)) -> f64 {
        self.sums(n, elements, &|start, end| [task(start, end)])[0]
    }

    /// The same of several sums.
    pub(crate) fn sums<const N: usize>(&self, n: usize, elements: usize, task: &Task<'_, N>) -> [f64; N] {
        let count = n.div_ceil(self.tile);
        let one = |i: usize| task(i * self.tile, n.min((i + 1) * self.tile));
        let add = |mut sums: [f64; N], more: [f64; N]| {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            sums
        };
        match count {
            0 => [0.0; N],
            1 => one(0),
            _ if elements < PARALLEL_MIN => (0..count).map(one).fold([0.0; N], add),
            _ => {
                let mut partial = [[0f64; N]; MAX_TILES];
                let partial = &mut partial[..count];
                shared(|| partial.par_iter_mut().enumerate().for_each(|(i, sums)| *sums = one(i)));
                partial.iter().copied().fold([0.0; N], add)
            }
        }
    }
}

/// The sum of weights, in f64.
pub(crate) fn sum_weights(w: &[f32]) -> f64 {
    Tiles::new(w.len(), 1).sum(w.len(), &|start, end| w[start..end].iter().map(|&w| f64::from(w)).sum())
}
