//! Structs that begin with their size, so that they can grow.

use std::mem::MaybeUninit;

use crate::handle::{behind, behind_mut};
use crate::status::{Failure, Outcome, fl_status};

/// A struct of the caller whose first field is its size in bytes.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, and any bytes are one.
pub(crate) unsafe trait Versioned: Copy {
    /// As C calls it.
    const NAME: &'static str;

    /// What the init function writes; the size is filled in.
    fn defaults() -> Self;
}

/// Writes the defaults.
///
/// # Safety
/// The pointer is null, or can be written.
pub(crate) unsafe fn init<S: Versioned>(to: *mut S) -> Outcome {
    // SAFETY: the caller's promise. What is there may not be initialised.
    let to = unsafe { behind_mut(to.cast::<MaybeUninit<S>>(), S::NAME) }?;
    let whole = to.write(S::defaults());
    // SAFETY: its first field is the size.
    unsafe { std::ptr::from_mut(whole).cast::<usize>().write(size_of::<S>()) };
    Ok(())
}

/// The caller's struct as this version knows it: what an older one lacks has its default; what a newer one has more must be zero.
///
/// # Safety
/// The pointer is null, or as many bytes can be read as its first field says.
pub(crate) unsafe fn read<S: Versioned>(from: *const S) -> Outcome<S> {
    let wrong = |why: String| Failure::new(fl_status::FL_ERROR_STRUCT, format!("{}: {why}", S::NAME));
    // SAFETY: the caller's promise, here and below.
    let size = *unsafe { behind(from.cast::<usize>(), S::NAME) }?;
    if size < size_of::<usize>() || size > 1 << 16 {
        return Err(wrong(format!("a size of {size}; was {}_init called?", S::NAME)));
    }
    // No version ends inside of a pointer, which would be half the caller's and half the default.
    if !size.is_multiple_of(align_of::<S>()) {
        return Err(wrong(format!("a size of {size}, which no version of it has; was {}_init called?", S::NAME)));
    }
    let mut mine = S::defaults();
    let known = size.min(size_of::<S>());
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut mine).cast::<u8>(), known) };
    let more = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
    if more.iter().any(|&byte| byte != 0) {
        return Err(wrong("an option that this version of the library does not know".into()));
    }
    Ok(mine)
}

/// The same where null stands for the defaults.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_or_default<S: Versioned>(from: *const S) -> Outcome<S> {
    // SAFETY: the caller's promise.
    if from.is_null() { Ok(S::defaults()) } else { unsafe { read(from) } }
}
