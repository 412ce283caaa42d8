//! How many vectors go through a loss together.

use crate::cpu::mem::{Dst, Lines, Mode, Src};
use crate::cpu::simd::{F32s, LANES, Machine, Pair, Simd};
use crate::element::Element;

/// The vectors that a usual call takes together: one chain of operations each.
pub(crate) trait Chains<S: Machine>: Simd {
    const ELEMENTS: usize;

    /// Asks for what will be loaded soon.
    fn prefetch<T: Element>(self, from: Src<'_, T>, i: usize);

    /// # Safety
    /// As for [`Src::load`].
    unsafe fn load<T: Element>(self, from: Src<'_, T>, i: usize) -> F32s<Self>;

    /// # Safety
    /// As for [`Dst::store_pair`].
    unsafe fn store<T: Element>(self, out: Dst<'_, T>, lines: &mut Lines, i: usize, x: F32s<Self>, mode: Mode);

    /// Adds even vectors to the first sum, odd ones to the second.
    fn add(self, x: F32s<Self>, sums: &mut [F32s<S>; 2]);
}

impl<S: Machine> Chains<S> for Pair<S> {
    const ELEMENTS: usize = 2 * LANES;

    #[cfg_attr(optimized, inline(always))]
    fn prefetch<T: Element>(self, from: Src<'_, T>, i: usize) {
        from.prefetch(self.0, i);
    }

    #[cfg_attr(optimized, inline(always))]
    unsafe fn load<T: Element>(self, from: Src<'_, T>, i: usize) -> F32s<Self> {
        // SAFETY: the caller's promise.
        unsafe { self.join(from.load(self.0, i), from.load(self.0, i + LANES)) }
    }

    #[cfg_attr(optimized, inline(always))]
    unsafe fn store<T: Element>(self, out: Dst<'_, T>, lines: &mut Lines, i: usize, x: F32s<Self>, mode: Mode) {
        // SAFETY: the caller's promise.
        unsafe { out.store_pair(self.0, lines, i, self.split(x).into(), mode) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn add(self, x: F32s<Self>, sums: &mut [F32s<S>; 2]) {
        let (even, odd) = self.split(x);
        *sums = [sums[0] + even, sums[1] + odd];
    }
}

impl<S: Machine> Chains<S> for Pair<Pair<S>> {
    const ELEMENTS: usize = 4 * LANES;

    #[cfg_attr(optimized, inline(always))]
    fn prefetch<T: Element>(self, from: Src<'_, T>, i: usize) {
        self.0.prefetch(from, i);
        self.0.prefetch(from, i + 2 * LANES);
    }

    #[cfg_attr(optimized, inline(always))]
    unsafe fn load<T: Element>(self, from: Src<'_, T>, i: usize) -> F32s<Self> {
        // SAFETY: the caller's promise.
        unsafe { self.join(self.0.load(from, i), self.0.load(from, i + 2 * LANES)) }
    }

    #[cfg_attr(optimized, inline(always))]
    unsafe fn store<T: Element>(self, out: Dst<'_, T>, lines: &mut Lines, i: usize, x: F32s<Self>, mode: Mode) {
        // Else LLVM moves the arithmetic of the second pair behind the branches of the first one's store.
        let (low, high) = self.split(x.opaque());
        // SAFETY: the caller's promise.
        unsafe {
            self.0.store(out, lines, i, low, mode);
            self.0.store(out, lines, i + 2 * LANES, high, mode);
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn add(self, x: F32s<Self>, sums: &mut [F32s<S>; 2]) {
        let (low, high) = self.split(x);
        self.0.add(low, sums);
        self.0.add(high, sums);
    }
}
