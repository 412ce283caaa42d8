//! The caller's buffers as the skeletons see them: pointers with a length and a lifetime.
//!
//! Slices will not do, for two reasons: in place, the gradient *is* the input, and tasks on several
//! threads write elements of one buffer that lie between each other's (classes on axis 1).

use std::marker::PhantomData;

use super::simd::{LANES, Lanes, Simd};
use crate::element::Element;

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
    /// Write past the caches. For buffers far larger than them this saves reading each line before
    /// it is overwritten, a quarter of the traffic of a loss with one target.
    pub(crate) stream: bool,
}

impl Mode {
    /// The mode for a gradient of `bytes` bytes.
    pub(crate) fn new(accumulate: bool, in_place: bool, bytes: usize) -> Self {
        /// Below this the gradient may still be in a cache when the optimiser reads it.
        const STREAM_MIN: usize = 8 << 20;
        Mode { accumulate, stream: !accumulate && !in_place && bytes >= STREAM_MIN }
    }
}

impl<'a, T: Element> Src<'a, T> {
    pub(crate) fn new(x: &'a [T]) -> Self {
        Src { ptr: x.as_ptr(), len: x.len(), lifetime: PhantomData }
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Elements `i..i + 16`.
    ///
    /// # Safety
    /// No other task writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(self, s: S, i: usize) -> Lanes {
        assert!(i < self.len && self.len - i >= LANES);
        // SAFETY: in bounds; unaligned reads of plain numbers.
        T::widen(s, unsafe { &*self.ptr.add(i).cast::<[T; LANES]>() })
    }

    /// Elements `i..i + count`, then `pad`; `count` is at most 16.
    ///
    /// # Safety
    /// No other task writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn load_upto<S: Simd>(self, s: S, i: usize, count: usize, pad: f32) -> Lanes {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.load(s, i) };
        }
        assert!(i <= self.len && self.len - i >= count && count <= LANES);
        let mut part = [T::default(); LANES];
        // SAFETY: in bounds, and `part` is our own.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.add(i), part.as_mut_ptr(), count) };
        let mut x = T::widen(s, &part);
        for lane in &mut x[count..] {
            *lane = pad;
        }
        x
    }

    /// Elements `i, i + stride, ...`, `count` of them, then `pad`.
    ///
    /// # Safety
    /// No other task writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn gather<S: Simd>(self, s: S, i: usize, stride: usize, count: usize, pad: f32) -> Lanes {
        assert!(count <= LANES && (count == 0 || i + (count - 1) * stride < self.len));
        let mut part = [T::default(); LANES];
        for (l, lane) in part[..count].iter_mut().enumerate() {
            // SAFETY: in bounds.
            *lane = unsafe { *self.ptr.add(i + l * stride) };
        }
        let mut x = T::widen(s, &part);
        for lane in &mut x[count..] {
            *lane = pad;
        }
        x
    }

    /// One element.
    ///
    /// # Safety
    /// No other task writes it meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn get(self, i: usize) -> f32 {
        assert!(i < self.len);
        // SAFETY: in bounds.
        unsafe { *self.ptr.add(i) }.to_f32()
    }
}

impl<'a, T: Element> Dst<'a, T> {
    pub(crate) fn new(x: &'a mut [T]) -> Self {
        Dst { ptr: x.as_mut_ptr(), len: x.len(), lifetime: PhantomData }
    }

    /// The same elements, to read.
    pub(crate) fn src(self) -> Src<'a, T> {
        Src { ptr: self.ptr, len: self.len, lifetime: PhantomData }
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// Writes `x` to elements `i..i + 16`.
    ///
    /// # Safety
    /// No other task reads or writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(self, s: S, i: usize, mut x: Lanes, mode: Mode) {
        assert!(i < self.len && self.len - i >= LANES);
        // SAFETY: in bounds, as the caller promises exclusive.
        let out = unsafe { self.ptr.add(i) }.cast::<[T; LANES]>();
        if mode.accumulate {
            let old = T::widen(s, unsafe { &*out });
            for l in 0..LANES {
                x[l] += old[l];
            }
        }
        let narrow = T::narrow(s, &x);
        if !(mode.stream && stream(out, &narrow)) {
            // SAFETY: as above.
            unsafe { *out = narrow };
        }
    }

    /// Writes the first `count` of `x` to elements `i..i + count`.
    ///
    /// # Safety
    /// No other task reads or writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn store_upto<S: Simd>(self, s: S, i: usize, count: usize, x: Lanes, mode: Mode) {
        // SAFETY: the caller's promise.
        unsafe {
            match count {
                LANES => self.store(s, i, x, mode),
                _ => self.scatter(s, i, 1, count, x, mode),
            }
        }
    }

    /// Writes the first `count` of `x` to elements `i, i + stride, ...`.
    ///
    /// # Safety
    /// No other task reads or writes them meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn scatter<S: Simd>(self, s: S, i: usize, stride: usize, count: usize, mut x: Lanes, mode: Mode) {
        assert!(count <= LANES && (count == 0 || i + (count - 1) * stride < self.len));
        if mode.accumulate {
            // SAFETY: in bounds, as the caller promises exclusive.
            let old = unsafe { self.src().gather(s, i, stride, count, 0.0) };
            for l in 0..LANES {
                x[l] += old[l];
            }
        }
        for (l, value) in T::narrow(s, &x)[..count].iter().enumerate() {
            // SAFETY: as above.
            unsafe { *self.ptr.add(i + l * stride) = *value };
        }
    }
}

impl Dst<'_, f32> {
    /// Writes one element.
    ///
    /// # Safety
    /// No other task reads or writes it meanwhile. (Bounds are checked.)
    #[inline(always)]
    pub(crate) unsafe fn set(self, i: usize, x: f32) {
        assert!(i < self.len);
        // SAFETY: in bounds, as the caller promises exclusive.
        unsafe { *self.ptr.add(i) = x };
    }
}

/// Writes past the caches; false, and nothing written, where the address is not aligned for it.
///
/// Sixteen-byte stores and not wider ones: large buffers from malloc start sixteen bytes into a page,
/// and the write-combining buffers of the processor join the stores to whole lines all the same.
#[inline(always)]
fn stream<T: Element>(out: *mut [T; LANES], x: &[T; LANES]) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        if !out.cast::<__m128i>().is_aligned() {
            return false;
        }
        for k in 0..size_of::<[T; LANES]>() / 16 {
            // SAFETY: `out` is valid for writes and aligned; SSE2 is the baseline of x86-64.
            unsafe {
                _mm_stream_si128(out.cast::<__m128i>().add(k), _mm_loadu_si128(x.as_ptr().cast::<__m128i>().add(k)))
            };
        }
        true
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (out, x);
        false
    }
}

/// Orders the streamed stores of this thread before whatever follows, as other threads see it. Every
/// task that may have streamed ends with it.
#[inline(always)]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is the baseline of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}
