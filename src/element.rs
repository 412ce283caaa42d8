//! The storage types.

use half::{bf16, f16};

use crate::call::{AnyRequest, Request};
use crate::cpu::mem::Lines;
use crate::cpu::simd::{F32s, LANES, Machine, outline};

/// What the skeletons need of a storage type; out of reach, so that [`Element`] stays sealed.
#[allow(unsafe_code)]
pub(crate) mod storage {
    use super::{F32s, LANES, Lines, Machine, outline};
    use crate::call::{AnyRequest, Request};

    /// Sixteen elements in and out of memory. Arithmetic is f32; storing rounds to nearest even.
    // `Simd` is private, and so is this trait; that it is a supertrait of a public one is how it is sealed.
    #[allow(private_bounds, private_interfaces)]
    pub trait Storage: Copy + Default {
        /// # Safety
        /// Sixteen elements can be read there.
        unsafe fn load<S: Machine>(s: S, p: *const Self) -> F32s<S>;

        /// `count` elements, then `pad`.
        ///
        /// # Safety
        /// So many elements can be read there; at most sixteen.
        unsafe fn load_part<S: Machine>(s: S, p: *const Self, count: usize, pad: f32) -> F32s<S>;

        /// # Safety
        /// Sixteen elements can be written there.
        unsafe fn store<S: Machine>(p: *mut Self, x: F32s<S>);

        /// # Safety
        /// `count` elements can be written there; at most sixteen.
        unsafe fn store_part<S: Machine>(p: *mut Self, count: usize, x: F32s<S>);

        /// Gives two vectors to be streamed after those before.
        ///
        /// # Safety
        /// As for [`Lines::put`].
        unsafe fn stream<S: Machine>(to: &mut Lines, low: F32s<S>, high: F32s<S>);

        /// Elements `0, stride, .. 15 stride`.
        ///
        /// # Safety
        /// They can be read.
        #[cfg_attr(optimized, inline(always))]
        unsafe fn gather<S: Machine>(s: S, p: *const Self, stride: usize) -> F32s<S> {
            // SAFETY: the caller's promise, and an array.
            unsafe { Self::load(s, outline::gather(p, stride, LANES).as_ptr()) }
        }

        /// # Safety
        /// Elements `0, stride, .. 15 stride` can be written.
        #[cfg_attr(optimized, inline(always))]
        unsafe fn scatter<S: Machine>(p: *mut Self, stride: usize, x: F32s<S>) {
            let mut lanes = [Self::default(); LANES];
            // SAFETY: our own array, and the caller's promise.
            unsafe {
                Self::store(lanes.as_mut_ptr(), x);
                outline::scatter(p, stride, LANES, &lanes);
            }
        }

        fn erase(request: Request<'_, Self>) -> AnyRequest<'_>;
    }
}
use storage::Storage;

/// A storage type of tensors: `f32`, [`half::f16`] or [`half::bf16`].
///
/// It is storage only: values are widened to `f32` when they are loaded, all arithmetic is `f32`,
/// sums end in `f64`, and a gradient is rounded once, to nearest even, when it is stored.
pub trait Element: Storage + crate::device::Storable {
    /// Its name in PyTorch: `float32`, `float16` or `bfloat16`.
    const NAME: &'static str;
    /// Rounds to nearest even.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const NAME: &'static str = "float32";
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

#[allow(private_bounds, private_interfaces, unsafe_code)]
impl Storage for f32 {
    fn erase(request: Request<'_, f32>) -> AnyRequest<'_> {
        AnyRequest::F32(request)
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn load<S: Machine>(s: S, p: *const f32) -> F32s<S> {
        // SAFETY: the caller's promise, here and below.
        s.wrap(unsafe { s.f_load(p) })
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn load_part<S: Machine>(s: S, p: *const f32, count: usize, pad: f32) -> F32s<S> {
        s.wrap(unsafe { s.f_load_part(p, count, pad) })
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn store<S: Machine>(p: *mut f32, x: F32s<S>) {
        unsafe { x.simd().f_store(p, x.raw()) }
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn store_part<S: Machine>(p: *mut f32, count: usize, x: F32s<S>) {
        unsafe { x.simd().f_store_part(p, count, x.raw()) }
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn stream<S: Machine>(to: &mut Lines, low: F32s<S>, high: F32s<S>) {
        unsafe {
            to.put(low.simd(), low.raw());
            to.put(low.simd(), high.raw());
        }
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn gather<S: Machine>(s: S, p: *const f32, stride: usize) -> F32s<S> {
        if stride > MAX_STRIDE {
            return s.lanes(&unsafe { outline::gather(p, stride, LANES) });
        }
        s.wrap(unsafe { s.f_gather(p, stride as i32) })
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn scatter<S: Machine>(p: *mut f32, stride: usize, x: F32s<S>) {
        if stride > MAX_STRIDE {
            return unsafe { outline::scatter(p, stride, LANES, &x.to_array()) };
        }
        unsafe { x.simd().f_scatter(p, stride as i32, x.raw()) }
    }
}

/// Beyond this, the offset of the last lane in bytes is no `i32`.
const MAX_STRIDE: usize = i32::MAX as usize / (4 * LANES);

/// Storage of a type of two bytes.
macro_rules! half_storage {
    ($half:ty, $name:literal, $request:ident, $widen:ident, $narrow:ident) => {
        impl Element for $half {
            const NAME: &'static str = $name;
            fn from_f32(x: f32) -> Self {
                Self::from_f32(x)
            }
            fn to_f32(self) -> f32 {
                Self::to_f32(self)
            }
        }

        #[allow(private_bounds, private_interfaces, unsafe_code)]
        impl Storage for $half {
            fn erase(request: Request<'_, Self>) -> AnyRequest<'_> {
                AnyRequest::$request(request)
            }
            #[cfg_attr(optimized, inline(always))]
            unsafe fn load<S: Machine>(s: S, p: *const Self) -> F32s<S> {
                // SAFETY: the caller's promise, here and below. The alignment of both types is that of one element.
                s.wrap(s.$widen(unsafe { p.cast::<[u16; LANES]>().read() }))
            }
            #[cfg_attr(optimized, inline(always))]
            unsafe fn load_part<S: Machine>(s: S, p: *const Self, count: usize, pad: f32) -> F32s<S> {
                let bits = unsafe { s.h_load_part(p.cast(), count) };
                let x = s.wrap(s.$widen(bits));
                s.first(count).pick(x, pad)
            }
            #[cfg_attr(optimized, inline(always))]
            unsafe fn store<S: Machine>(p: *mut Self, x: F32s<S>) {
                unsafe { p.cast::<[u16; LANES]>().write(x.simd().$narrow(x.raw())) }
            }
            #[cfg_attr(optimized, inline(always))]
            unsafe fn store_part<S: Machine>(p: *mut Self, count: usize, x: F32s<S>) {
                unsafe { x.simd().h_store_part(p.cast(), count, x.simd().$narrow(x.raw())) }
            }
            #[cfg_attr(optimized, inline(always))]
            unsafe fn stream<S: Machine>(to: &mut Lines, low: F32s<S>, high: F32s<S>) {
                let s = low.simd();
                unsafe { to.put(s, s.h_line([s.$narrow(low.raw()), s.$narrow(high.raw())])) }
            }
        }
    };
}
half_storage!(f16, "float16", F16, f16_widen, f16_narrow);
half_storage!(bf16, "bfloat16", Bf16, bf16_widen, bf16_narrow);
