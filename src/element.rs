//! The storage types.

use half::{bf16, f16};

use crate::cpu::simd::{LANES, Lanes, Simd};

/// What the skeletons need of a storage type; out of reach, so that [`Element`] stays sealed.
pub(crate) mod storage {
    use super::{LANES, Lanes, Simd};

    #[allow(private_bounds)]
    pub trait Storage: Sized {
        fn widen<S: Simd>(simd: S, x: &[Self; LANES]) -> Lanes;
        fn narrow<S: Simd>(simd: S, x: &Lanes) -> [Self; LANES];
    }
}
use storage::Storage;

/// A storage type of tensors: `f32`, [`half::f16`] or [`half::bf16`].
///
/// It is storage only: values are widened to `f32` when they are loaded, all arithmetic is `f32`,
/// sums end in `f64`, and a gradient is rounded once, to nearest even, when it is stored.
pub trait Element: Storage + Copy + Default + Send + Sync + std::fmt::Debug + 'static {
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

impl Storage for f32 {
    #[inline(always)]
    fn widen<S: Simd>(_: S, x: &[f32; LANES]) -> Lanes {
        *x
    }
    #[inline(always)]
    fn narrow<S: Simd>(_: S, x: &Lanes) -> [f32; LANES] {
        *x
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

impl Storage for f16 {
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

impl Storage for bf16 {
    #[inline(always)]
    fn widen<S: Simd>(_: S, x: &[bf16; LANES]) -> Lanes {
        let mut out: Lanes = [0.0; LANES];
        for l in 0..LANES {
            out[l] = f32::from_bits(u32::from(x[l].to_bits()) << 16);
        }
        out
    }
    #[inline(always)]
    fn narrow<S: Simd>(_: S, x: &Lanes) -> [bf16; LANES] {
        let mut out = [bf16::ZERO; LANES];
        for l in 0..LANES {
            let bits = x[l].to_bits();
            // Nearest even; the carry into the exponent is what overflow to infinity is. A NaN keeps
            // its sign and is made quiet, so that the cut-off payload cannot turn it into infinity.
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            let bits = if x[l].is_nan() { bits >> 16 | 0x40 } else { rounded };
            out[l] = bf16::from_bits(bits as u16);
        }
        out
    }
}
