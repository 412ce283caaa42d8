//! The storage types.

use half::{bf16, f16};

use crate::call::{AnyRequest, Request};
use crate::cpu::simd::{LANES, Lanes, Simd};

/// What the skeletons need of a storage type; out of reach, so that [`Element`] stays sealed.
pub(crate) mod storage {
    use super::{LANES, Lanes, Simd};
    use crate::call::{AnyRequest, Request};

    // `Simd` is private, and so is this trait; that it is a supertrait of a public one is how it is sealed.
    #[allow(private_bounds)]
    pub trait Storage: Sized {
        fn widen<S: Simd>(simd: S, x: &[Self; LANES]) -> Lanes;
        fn narrow<S: Simd>(simd: S, x: &Lanes) -> [Self; LANES];
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

#[allow(private_bounds)]
impl Storage for f32 {
    fn erase(request: Request<'_, f32>) -> AnyRequest<'_> {
        AnyRequest::F32(request)
    }
    #[inline(always)]
    fn widen<S: Simd>(s: S, x: &[f32; LANES]) -> Lanes {
        s.copy(x)
    }
    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: &Lanes) -> [f32; LANES] {
        s.copy(x)
    }
}

impl Element for f16 {
    const NAME: &'static str = "float16";
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

#[allow(private_bounds)]
impl Storage for f16 {
    fn erase(request: Request<'_, f16>) -> AnyRequest<'_> {
        AnyRequest::F16(request)
    }
    #[inline(always)]
    fn widen<S: Simd>(s: S, x: &[f16; LANES]) -> Lanes {
        s.widen_f16(x)
    }
    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: &Lanes) -> [f16; LANES] {
        s.narrow_f16(x)
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bfloat16";
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

#[allow(private_bounds)]
impl Storage for bf16 {
    fn erase(request: Request<'_, bf16>) -> AnyRequest<'_> {
        AnyRequest::Bf16(request)
    }
    #[inline(always)]
    fn widen<S: Simd>(s: S, x: &[bf16; LANES]) -> Lanes {
        s.widen_bf16(x)
    }
    #[inline(always)]
    fn narrow<S: Simd>(s: S, x: &Lanes) -> [bf16; LANES] {
        s.narrow_bf16(x)
    }
}
