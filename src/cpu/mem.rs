//! The caller's buffers as the skeletons see them: pointers with a length and a lifetime.
//!
//! Bounds are not checked here, but in debug builds: the skeletons check every length before they begin, and
//! never leave the tile, row or region that a task was given.
//!
//! Slices will not do, for two reasons: in place, the gradient *is* the input, and tasks on several
//! threads write elements of one buffer that lie between each other's (classes on axis 1).

use std::alloc::Layout;
use std::marker::PhantomData;

use super::simd::{F32s, LANES, Lanes, Machine, outline};
use crate::cuda::request::Memory;
use crate::element::Element;
use crate::error::{Error, Result};

/// A buffer to read.
pub(crate) struct Src<'a, T> {
    ptr: *const T,
    len: usize,
    lifetime: PhantomData<&'a [T]>,
}

/// A buffer to write, perhaps the same as one that is read.
pub(crate) struct Dst<'a, T> {
    ptr: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Src<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Src<'_, T> {}
impl<T> Clone for Dst<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Dst<'_, T> {}

// SAFETY: they stand for `&[T]` and `&mut [T]`; who writes what is the contract of `Dst`'s methods.
unsafe impl<T: Sync> Send for Src<'_, T> {}
unsafe impl<T: Sync> Sync for Src<'_, T> {}
unsafe impl<T: Send> Send for Dst<'_, T> {}
unsafe impl<T: Send> Sync for Dst<'_, T> {}

/// How a gradient is stored.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    /// Add to what is there.
    pub(crate) accumulate: bool,
    /// Write past the caches, whole lines at a time; see [`Lines`].
    pub(crate) stream: bool,
}

impl Mode {
    /// Written as it comes.
    pub(crate) const PLAIN: Mode = Mode { accumulate: false, stream: false };

    /// The mode for a gradient of `bytes` bytes.
    pub(crate) fn new(accumulate: bool, in_place: bool, bytes: usize) -> Self {
        /// Below this the gradient may still be in a cache when the optimiser reads it.
        const STREAM_MIN: usize = 8 << 20;
        Mode { accumulate, stream: !accumulate && !in_place && bytes >= STREAM_MIN }
    }

    /// The mode for vectors `i, i + 16, ...` of a buffer, which [`Dst::store`] streams if each is a line.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn at<T>(self, out: Dst<'_, T>, i: usize) -> Self {
        let lines = size_of::<T>() * LANES == LINE && out.ptr.wrapping_add(i).addr().is_multiple_of(LINE);
        Mode { stream: self.stream && lines, ..self }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Writes a buffer past the caches, vector after vector. For buffers far larger than the caches this saves reading each line before it is
/// overwritten, a quarter of the traffic of a loss with one target.
///
/// Only whole lines, in one go: a processor that runs out of buffers for lines that are half written writes the halves to memory. Streaming
/// vector by vector took 1.1 to 2 times as long as this for element-wise losses, and eight times as long as not to stream for
/// cross-entropy of probabilities in bf16 (Ice Lake, two threads). Large buffers from malloc begin sixteen bytes into a line, so the last
/// quarters of a vector wait for the next one.
pub(crate) struct Lines {
    /// Where the next vector belongs.
    next: *mut u8,
    /// The last quarters of it that are not written yet, and how many: as far into a line `next` is.
    held: Lanes,
    quarters: usize,
    begun: bool,
    streams: bool,
}

impl Lines {
    /// For what is not streamed.
    pub(crate) fn none() -> Self {
        Lines { next: std::ptr::null_mut(), held: [0.0; LANES], quarters: 0, begun: false, streams: false }
    }

    /// For the elements of a buffer from `i` on, if there is one.
    pub(crate) fn of<S: Machine, T>(_: S, out: Option<Dst<'_, T>>, i: usize, mode: Mode) -> Self {
        let Some(next) = out.map(|out| out.ptr.wrapping_add(i).cast::<u8>()) else { return Lines::none() };
        let streams = S::STREAMS && mode.stream && next.addr().is_multiple_of(LINE / 4);
        Lines { next, quarters: next.addr() % LINE / (LINE / 4), streams, ..Lines::none() }
    }

    /// Takes the next sixty-four bytes.
    ///
    /// # Safety
    /// They exist, and no other task reads or writes them before [`finish`](Self::finish). It is what streams.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn put<S: Machine>(&mut self, s: S, line: S::F) {
        // SAFETY: the caller's promise, here and for the vector before.
        unsafe {
            if self.begun || self.quarters == 0 {
                let before = s.lanes(&self.held).raw();
                s.stream_line(self.next.sub(self.quarters * (LINE / 4)), self.quarters, before, line);
            } else {
                plain(self.next, 0, &s.wrap(line).to_array(), 4 - self.quarters);
            }
            self.next = self.next.add(LINE);
        }
        (self.held, self.begun) = (s.wrap(line).to_array(), true);
    }

    /// Writes what is held.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn finish(&mut self) {
        if self.begun && self.quarters != 0 {
            // SAFETY: the promise of who put it.
            unsafe { plain(self.next, self.quarters, &self.held, self.quarters) };
        }
        self.begun = false;
    }
}

/// Writes `count` quarters of a line as everything else is written: the first of them, or, with `back`, the last, which belong so many
/// quarters before `p`.
///
/// # Safety
/// They can be written.
#[cold]
#[inline(never)]
unsafe fn plain(p: *mut u8, back: usize, line: &Lanes, count: usize) {
    let (quarter, from) = (LINE / 4, if back == 0 { 0 } else { 4 - back });
    let from = line.as_ptr().cast::<u8>().wrapping_add(from * quarter);
    // SAFETY: at most four quarters, and the caller's promise.
    unsafe { from.copy_to_nonoverlapping(p.sub(back * quarter), count * quarter) };
}

impl<'a, T: Element> Src<'a, T> {
    pub(crate) fn new(x: &'a [T]) -> Self {
        Src { ptr: x.as_ptr(), len: x.len(), lifetime: PhantomData }
    }

    /// # Safety
    /// The memory is host memory that stands for a `&[T]` of this lifetime.
    pub(crate) unsafe fn of(memory: Memory) -> Self {
        Src { ptr: memory.address as *const T, len: memory.len, lifetime: PhantomData }
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    #[cfg(debug_assertions)]
    pub(crate) fn memory(self) -> Memory {
        Memory { address: self.ptr as u64, len: self.len }
    }

    /// Elements `i..i + 16`.
    ///
    /// # Safety
    /// They exist, and no other task writes them meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn load<S: Machine>(self, s: S, i: usize) -> F32s<S> {
        debug_assert!(i < self.len && self.len - i >= LANES);
        // SAFETY: in bounds.
        unsafe { T::load(s, self.ptr.add(i)) }
    }

    /// Asks for the elements that follow 2 KiB after `i..i + 32`, whether they exist or not. (A quarter of what a
    /// loss of much arithmetic takes is waiting, without it: the loads of the next page are too far ahead for the
    /// processor to see.)
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn prefetch<S: Machine>(self, s: S, i: usize) {
        let p = self.ptr.wrapping_add(i + 2048 / size_of::<T>());
        s.prefetch(p);
        if size_of::<T>() == 4 {
            s.prefetch(p.wrapping_add(LANES));
        }
    }

    /// Asks for elements `i..i + 32`, whether they exist or not, no further than the second level of cache.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn prefetch_later<S: Machine>(self, s: S, i: usize) {
        let p = self.ptr.wrapping_add(i);
        s.prefetch_later(p);
        if size_of::<T>() == 4 {
            s.prefetch_later(p.wrapping_add(LANES));
        }
    }

    /// Elements `i..i + count`, then `pad`; `count` is at most 16.
    ///
    /// # Safety
    /// They exist, and no other task writes them meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn load_upto<S: Machine>(self, s: S, i: usize, count: usize, pad: f32) -> F32s<S> {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.load(s, i) };
        }
        debug_assert!(i <= self.len && self.len - i >= count && count <= LANES);
        // SAFETY: in bounds.
        unsafe { T::load_part(s, self.ptr.add(i), count, pad) }
    }

    /// Elements `i, i + stride, ...`, `count` of them, then `pad`.
    ///
    /// # Safety
    /// They exist, and no other task writes them meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn gather<S: Machine>(self, s: S, i: usize, stride: usize, count: usize, pad: f32) -> F32s<S> {
        debug_assert!(count <= LANES && (count == 0 || i + (count - 1) * stride < self.len));
        if count == LANES {
            // SAFETY: in bounds.
            return unsafe { T::gather(s, self.ptr.add(i), stride) };
        }
        // SAFETY: in bounds, and an array.
        let all = unsafe { T::load(s, outline::gather(self.ptr.add(i), stride, count).as_ptr()) };
        s.first(count).pick(all, pad)
    }

    /// One element.
    ///
    /// # Safety
    /// It exists, and no other task writes it meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn get(self, i: usize) -> f32 {
        debug_assert!(i < self.len);
        // SAFETY: in bounds.
        unsafe { *self.ptr.add(i) }.to_f32()
    }
}

impl<'a, T: Element> Dst<'a, T> {
    pub(crate) fn new(x: &'a mut [T]) -> Self {
        Dst { ptr: x.as_mut_ptr(), len: x.len(), lifetime: PhantomData }
    }

    /// Memory that holds nothing yet: to be written before it is read.
    #[cfg(any(feature = "candle", feature = "burn"))]
    pub(crate) fn spare(x: &'a mut [std::mem::MaybeUninit<T>]) -> Self {
        Dst { ptr: x.as_mut_ptr().cast(), len: x.len(), lifetime: PhantomData }
    }

    /// # Safety
    /// The memory is host memory that stands for a `&mut [T]` of this lifetime, but that it may be the input's.
    pub(crate) unsafe fn of(memory: Memory) -> Self {
        Dst { ptr: memory.address as *mut T, len: memory.len, lifetime: PhantomData }
    }

    /// The same elements, to read.
    pub(crate) fn src(self) -> Src<'a, T> {
        Src { ptr: self.ptr, len: self.len, lifetime: PhantomData }
    }

    #[cfg(debug_assertions)]
    pub(crate) fn memory(self) -> Memory {
        self.src().memory()
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Writes `x` to elements `i..i + 16`.
    ///
    /// # Safety
    /// They exist, no other task reads or writes them meanwhile, and the mode is one [`at`](Mode::at) an element
    /// that lies a multiple of sixteen away.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn store<S: Machine>(self, s: S, i: usize, x: F32s<S>, mode: Mode) {
        debug_assert!(i < self.len && self.len - i >= LANES);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe {
            let out = self.ptr.add(i);
            if S::STREAMS && mode.stream && size_of::<T>() * LANES == LINE {
                s.stream_line(out.cast(), 0, x.raw(), x.raw());
            } else {
                T::store(out, if mode.accumulate { T::load(s, out) + x } else { x });
            }
        }
    }

    /// Writes two vectors to elements `i..i + 32`, which follow those that `lines` had before.
    ///
    /// # Safety
    /// As for [`store`](Self::store), whatever the mode is, until [`Lines::finish`].
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn store_pair<S: Machine>(
        self,
        s: S,
        lines: &mut Lines,
        i: usize,
        [low, high]: [F32s<S>; 2],
        mode: Mode,
    ) {
        debug_assert!(i < self.len && self.len - i >= 2 * LANES);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe {
            if lines.streams {
                debug_assert_eq!(lines.next, self.ptr.add(i).cast());
                return T::stream(lines, low, high);
            }
            let mode = Mode { stream: false, ..mode };
            self.store(s, i, low, mode);
            self.store(s, i + LANES, high, mode);
        }
    }

    /// Writes the first `count` of `x` to elements `i..i + count`.
    ///
    /// # Safety
    /// As for [`store`](Self::store).
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn store_upto<S: Machine>(self, s: S, i: usize, count: usize, x: F32s<S>, mode: Mode) {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.store(s, i, x, mode) };
        }
        debug_assert!(i <= self.len && self.len - i >= count && count <= LANES);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe {
            let out = self.ptr.add(i);
            T::store_part(out, count, if mode.accumulate { T::load_part(s, out, count, 0.0) + x } else { x });
        }
    }

    /// Writes the first `count` of `x` to elements `i, i + stride, ...`.
    ///
    /// # Safety
    /// They exist, and no other task reads or writes them meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn scatter<S: Machine>(
        self,
        s: S,
        i: usize,
        stride: usize,
        count: usize,
        x: F32s<S>,
        mode: Mode,
    ) {
        debug_assert!(count <= LANES && (count == 0 || i + (count - 1) * stride < self.len));
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe {
            let x = if mode.accumulate { self.src().gather(s, i, stride, count, 0.0) + x } else { x };
            if count == LANES {
                return T::scatter(self.ptr.add(i), stride, x);
            }
            let mut lanes = [T::default(); LANES];
            T::store(lanes.as_mut_ptr(), x);
            outline::scatter(self.ptr.add(i), stride, count, &lanes);
        }
    }
}

/// Zeros, or an error where there is no memory for them. Fresh pages come as zeros, which nobody writes before they are used.
pub(crate) fn zeros(n: usize) -> Result<Vec<f32>> {
    let no_memory = || Error::OutOfMemory { bytes: n as u128 * 4 };
    let layout = Layout::array::<f32>(n).map_err(|_| no_memory())?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: it is not of size 0; the numbers are zeros, from the global allocator, of the layout of a vector of so many.
    unsafe {
        let data = std::alloc::alloc_zeroed(layout).cast::<f32>();
        if data.is_null() { Err(no_memory()) } else { Ok(Vec::from_raw_parts(data, n, n)) }
    }
}

impl<T: Element> Dst<'_, T> {
    /// Writes one element, or adds to it.
    ///
    /// # Safety
    /// It exists, and no other task reads or writes it meanwhile.
    pub(crate) unsafe fn put(self, i: usize, x: f32, accumulate: bool) {
        debug_assert!(i < self.len);
        // SAFETY: in bounds, as the caller promises exclusive.
        let to = unsafe { &mut *self.ptr.add(i) };
        *to = T::from_f32(if accumulate { to.to_f32() + x } else { x });
    }
}

impl Dst<'_, f32> {
    /// Writes one element.
    ///
    /// # Safety
    /// It exists, and no other task reads or writes it meanwhile.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn set(self, i: usize, x: f32) {
        debug_assert!(i < self.len);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe { *self.ptr.add(i) = x };
    }
}

impl<'a> From<&'a mut [f32]> for Dst<'a, f32> {
    fn from(x: &'a mut [f32]) -> Self {
        Dst::new(x)
    }
}

impl<'a> From<&'a mut [i64]> for Dst<'a, i64> {
    fn from(x: &'a mut [i64]) -> Self {
        Dst { ptr: x.as_mut_ptr(), len: x.len(), lifetime: PhantomData }
    }
}

impl Dst<'_, i64> {
    pub(crate) fn indices(self) -> usize {
        self.len
    }

    #[cfg(debug_assertions)]
    pub(crate) fn memory_of_indices(self) -> Memory {
        Memory { address: self.ptr as u64, len: self.len }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// It exists, and no other task reads or writes it meanwhile.
    pub(crate) unsafe fn set_index(self, i: usize, x: i64) {
        debug_assert!(i < self.len);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe { *self.ptr.add(i) = x };
    }
}

/// Orders the streamed stores of this thread before whatever follows, as other threads see it. Every
/// task that may have streamed ends with it.
#[cfg_attr(optimized, inline(always))]
pub(crate) fn fence() {
    // Miri has no streamed stores, and does not know this.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is the baseline of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel};
    use half::{bf16, f16};

    /// Writes so many pairs of vectors of numbers that count up, from an element on.
    struct Count<'a, T> {
        out: Dst<'a, T>,
        from: usize,
        pairs: usize,
        mode: Mode,
    }

    impl<T: Element> Kernel for Count<'_, T> {
        type Output = bool;

        #[cfg_attr(optimized, inline(always))]
        fn run<S: Machine>(self, s: S) -> bool {
            let Count { out, from, pairs, mode } = self;
            let mut lines = Lines::of(s, Some(out), from, mode);
            let vector = |i: usize| s.lanes(&std::array::from_fn(|l| (i + l) as f32));
            for i in (from..from + pairs * 2 * LANES).step_by(2 * LANES) {
                // SAFETY: there are as many elements, of this test alone.
                unsafe { out.store_pair(s, &mut lines, i, [vector(i), vector(i + LANES)], mode) };
            }
            lines.finish();
            fence();
            lines.streams
        }
    }

    /// On every instruction set, from every element of a cache line on, nothing but what they were given is written.
    #[test]
    fn lines_write_what_they_are_given() {
        fn check<T: Element>() {
            const N: usize = 64 + 5 * 2 * LANES + 64;
            #[repr(align(64))]
            struct Aligned<T>([T; N]);
            for &isa in Isa::available() {
                let mut streamed = 0;
                for (from, pairs) in (0..64).flat_map(|from| (0..=5).map(move |pairs| (from, pairs))) {
                    let Aligned(out) = &mut Aligned([T::from_f32(-1.0); N]);
                    let mode = Mode { accumulate: false, stream: true };
                    streamed += usize::from(isa.run(Count { out: Dst::new(out), from, pairs, mode }));
                    let to = from + pairs * 2 * LANES;
                    for (i, x) in out.iter().enumerate() {
                        let expected = if (from..to).contains(&i) { T::from_f32(i as f32).to_f32() } else { -1.0 };
                        assert_eq!(x.to_f32(), expected, "{} {}: {pairs} pairs from {from}, {i}", isa.name(), T::NAME);
                    }
                }
                // From every address that is a multiple of sixteen bytes.
                let wide = ["AVX2+FMA", "AVX-512"].contains(&isa.name());
                assert_eq!(streamed, if wide { 6 * 64 / (16 / size_of::<T>()) } else { 0 }, "{}", isa.name());
            }
        }
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }
}
