//! What a tail or a stride takes, one element at a time.
//!
//! These are functions, and not inlined as all else is, because they are loops: every tail of every loss had them, and LLVM's time for a
//! function grows with the product of its loops and its length.

use std::ptr;

use super::LANES;

/// `count` elements, then `pad`.
///
/// # Safety
/// So many can be read there, at any alignment; at most sixteen.
#[inline(never)]
pub(crate) unsafe fn read_part<T: Copy>(p: *const T, count: usize, pad: T) -> [T; LANES] {
    let mut part = [pad; LANES];
    // SAFETY: as bytes, for which any alignment will do; the slice sees to the sixteen.
    unsafe { ptr::copy_nonoverlapping(p.cast::<u8>(), part[..count].as_mut_ptr().cast(), count * size_of::<T>()) };
    part
}

/// # Safety
/// `count` elements can be written there, at any alignment; at most sixteen.
#[inline(never)]
pub(crate) unsafe fn write_part<T: Copy>(p: *mut T, count: usize, x: &[T; LANES]) {
    // SAFETY: as above.
    unsafe { ptr::copy_nonoverlapping(x[..count].as_ptr().cast(), p.cast::<u8>(), count * size_of::<T>()) };
}

/// Elements `0, stride, ...`, `count` of them, then zeros.
///
/// # Safety
/// They can be read; at most sixteen.
#[inline(never)]
pub(crate) unsafe fn gather<T: Copy + Default>(p: *const T, stride: usize, count: usize) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    for (l, lane) in lanes[..count].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *lane = unsafe { *p.add(l * stride) };
    }
    lanes
}

/// # Safety
/// Elements `0, stride, ...`, `count` of them, can be written; at most sixteen.
#[inline(never)]
pub(crate) unsafe fn scatter<T: Copy>(p: *mut T, stride: usize, count: usize, x: &[T; LANES]) {
    for (l, lane) in x[..count].iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { *p.add(l * stride) = *lane };
    }
}
