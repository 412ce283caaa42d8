//! The CPU backend: four skeletons over rayon and SIMD.
pub(crate) mod elementwise;
#[cfg(test)]
mod levels;
pub(crate) mod math;
pub(crate) mod mem;
pub(crate) mod region;
pub(crate) mod row;
pub(crate) mod rowwise;
pub(crate) mod scan;
pub(crate) mod simd;
pub(crate) mod softmax;
pub(crate) mod sorted;
pub(crate) mod threads;
pub(crate) mod tiles;
