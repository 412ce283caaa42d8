//! The instruction sets of x86-64.

/// Methods that are intrinsics.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $t:ty),*) $(-> $r:ty)? = $body:expr;)*) => {$(
        #[cfg_attr(optimized, inline(always))]
        fn $name(self, $($arg: $t),*) $(-> $r)? {
            // SAFETY: `self` proves that the machine has these instructions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}

/// Methods that are intrinsics and follow pointers.
macro_rules! memory {
    ($(fn $name:ident($($arg:ident: $t:ty),*) $(-> $r:ty)? = $body:expr;)*) => {$(
        #[cfg_attr(optimized, inline(always))]
        unsafe fn $name(self, $($arg: $t),*) $(-> $r)? {
            // SAFETY: `self` proves that the machine has these instructions; the pointers are the caller's promise.
            unsafe { $body }
        }
    )*};
}

mod avx2;
mod avx512;
mod sse2;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
pub(crate) use sse2::Baseline;
