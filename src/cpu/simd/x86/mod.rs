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

/// Has the stack frame of the function that this is inlined into begin with a cache line, so that no vector that LLVM spills lies in two.
/// A processor that cannot forward a spilled vector to its reload makes that wait for all stores before, those past the caches too. LLVM
/// aligns frames by itself, but not where it has given the frame pointer away before it knows of a spill: by the luck of a
/// build, 16-bit MSE, MAE, Huber and hinge took up to four times as long from memory on an AMD EPYC with AVX2, and f32 up to twice.
#[cfg_attr(optimized, inline(always))]
#[allow(clippy::pointers_in_nomem_asm_block)] // it is not followed
fn align_frame() {
    // Miri has no assembly.
    #[cfg(not(miri))]
    {
        #[repr(align(64))]
        struct Line(#[allow(dead_code)] [u8; 64]);
        let line = std::mem::MaybeUninit::<Line>::uninit();
        // SAFETY: there are no instructions.
        unsafe { std::arch::asm!("/* {} */", in(reg) line.as_ptr(), options(nomem, nostack, preserves_flags)) };
    }
}

mod avx2;
mod avx512;
mod sse2;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
pub(crate) use sse2::Baseline;
