//! Instruction sets, chosen once at run time.
//!
//! A loss is written as scalar maths over `f32`, generic over [`Simd`]. The skeletons apply it to
//! sixteen lanes at a time inside a function compiled for one instruction set, and LLVM turns the
//! sixteen lanes into vectors. What LLVM cannot find by itself stands here: fused multiply-add
//! (without the instruction, `f32::mul_add` is a libm call), f16 conversion, non-temporal stores.

use half::{bf16, f16};

/// Elements handled together: one AVX-512 register, two AVX ones, four SSE or NEON ones.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32` values.
pub(crate) type Lanes = [f32; LANES];

/// Sixteen values, one expression for each lane. A loop, for `array::from_fn` and `array::map` are often
/// not turned into vectors.
macro_rules! lanes {
    (|$l:ident| $value:expr) => {{
        let mut lanes: $crate::cpu::simd::Lanes = [0.0; $crate::cpu::simd::LANES];
        for $l in 0..$crate::cpu::simd::LANES {
            lanes[$l] = $value;
        }
        lanes
    }};
}
pub(crate) use lanes;

/// How much of sixteen lanes is in use: a type, so that the loop over whole ones is compiled without a
/// thought of the last.
pub(crate) trait Span: Copy {
    const WHOLE: bool;
    fn count(self) -> usize;
}

/// All sixteen, side by side in memory.
#[derive(Clone, Copy)]
pub(crate) struct Whole;

/// So many.
#[derive(Clone, Copy)]
pub(crate) struct Part(pub(crate) usize);

impl Span for Whole {
    const WHOLE: bool = true;
    #[inline(always)]
    fn count(self) -> usize {
        LANES
    }
}

impl Span for Part {
    const WHOLE: bool = false;
    #[inline(always)]
    fn count(self) -> usize {
        self.0
    }
}

/// An instruction set. A value of a type that implements this exists only where the machine has the
/// instructions: [`Isa::detect`] is the one place that makes them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// `a * b + c`, rounded once where the machine has FMA, twice otherwise.
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32;

    /// The same sixteen floats, as vectors: what is computed from them, and what they were computed from,
    /// becomes vectors too.
    #[inline(always)]
    fn copy(self, x: &Lanes) -> Lanes {
        *x
    }

    /// Sixteen bfloats, widened.
    #[inline(always)]
    fn widen_bf16(self, h: &[bf16; LANES]) -> Lanes {
        lanes!(|l| f32::from_bits(u32::from(h[l].to_bits()) << 16))
    }

    /// Sixteen halves, widened.
    #[inline(always)]
    fn widen_f16(self, h: &[f16; LANES]) -> Lanes {
        lanes!(|l| widen_f16(h[l]))
    }

    /// Sixteen floats, rounded to nearest even.
    #[inline(always)]
    fn narrow_f16(self, x: &Lanes) -> [f16; LANES] {
        let mut out = [f16::ZERO; LANES];
        for l in 0..LANES {
            out[l] = narrow_f16(x[l]);
        }
        out
    }

    /// Sixteen floats, rounded to nearest even.
    #[inline(always)]
    fn narrow_bf16(self, x: &Lanes) -> [bf16; LANES] {
        let mut out = [bf16::ZERO; LANES];
        for l in 0..LANES {
            out[l] = narrow_bf16(x[l]);
        }
        out
    }

    /// `sum + x`, lane by lane. Sums are explicit vector instructions, and with them what they sum: left to
    /// itself LLVM may make vectors of two out of the lanes of two sums that are filled side by side.
    #[inline(always)]
    fn add(self, sum: &mut Lanes, x: &Lanes) {
        for l in 0..LANES {
            sum[l] += x[l];
        }
    }

    /// The same into f64.
    #[inline(always)]
    fn add_wide(self, sum: &mut [f64; LANES], x: &Lanes) {
        for l in 0..LANES {
            sum[l] += f64::from(x[l]);
        }
    }

    /// `x - y` of every lane.
    #[inline(always)]
    fn sub_scalar(self, x: &Lanes, y: f32) -> Lanes {
        lanes!(|l| x[l] - y)
    }

    /// Runs `task` in a function compiled for this instruction set.
    fn run<K: Kernel>(self, task: K) -> K::Output;
}

/// Work that is compiled once for every instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, so that it takes on the instruction set of its caller.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The baseline of the target: SSE2 on x86-64, NEON on aarch64.
#[derive(Clone, Copy)]
pub(crate) struct Baseline(());

impl Simd for Baseline {
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        // NEON has FMA in its baseline, SSE2 has not.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    }
    #[inline(always)]
    fn run<K: Kernel>(self, task: K) -> K::Output {
        task.run(self)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, LANES, Lanes, Simd};
    use core::arch::x86_64::*;
    use half::{bf16, f16};

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(pub(super) ());

    impl Simd for Avx2 {
        #[inline(always)]
        fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn widen_f16(self, h: &[f16; LANES]) -> Lanes {
            let mut out = [0.0; LANES];
            // SAFETY: `self` proves F16C; both arrays hold sixteen elements.
            unsafe {
                let p = h.as_ptr().cast::<__m128i>();
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(p)));
                _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))));
            }
            out
        }
        #[inline(always)]
        fn narrow_f16(self, x: &Lanes) -> [f16; LANES] {
            let mut out = [f16::ZERO; LANES];
            // SAFETY: `self` proves F16C; both arrays hold sixteen elements.
            unsafe {
                let p = out.as_mut_ptr().cast::<__m128i>();
                _mm_storeu_si128(p, _mm256_cvtps_ph::<0>(_mm256_loadu_ps(x.as_ptr())));
                _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<0>(_mm256_loadu_ps(x.as_ptr().add(8))));
            }
            out
        }
        #[inline(always)]
        fn add(self, sum: &mut Lanes, x: &Lanes) {
            for k in [0, 8] {
                // SAFETY: `self` proves AVX; both arrays hold sixteen elements.
                unsafe {
                    let p = sum.as_mut_ptr().add(k);
                    _mm256_storeu_ps(p, _mm256_add_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(x.as_ptr().add(k))));
                }
            }
        }
        #[inline(always)]
        fn add_wide(self, sum: &mut [f64; LANES], x: &Lanes) {
            for k in [0, 4, 8, 12] {
                // SAFETY: `self` proves AVX; both arrays hold sixteen elements.
                unsafe {
                    let p = sum.as_mut_ptr().add(k);
                    let wide = _mm256_cvtps_pd(_mm_loadu_ps(x.as_ptr().add(k)));
                    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_loadu_pd(p), wide));
                }
            }
        }
        #[inline(always)]
        fn sub_scalar(self, x: &Lanes, y: f32) -> Lanes {
            let mut out = [0.0; LANES];
            for k in [0, 8] {
                // SAFETY: `self` proves AVX; both arrays hold sixteen elements.
                unsafe {
                    let v = _mm256_sub_ps(_mm256_loadu_ps(x.as_ptr().add(k)), _mm256_set1_ps(y));
                    _mm256_storeu_ps(out.as_mut_ptr().add(k), v);
                }
            }
            out
        }
        #[inline(always)]
        fn narrow_bf16(self, x: &Lanes) -> [bf16; LANES] {
            let mut out = [bf16::ZERO; LANES];
            // SAFETY: `self` proves AVX2; both arrays hold sixteen elements. The lines are those of
            // `narrow_bf16`.
            unsafe {
                let round = |x: __m256| {
                    let bits = _mm256_castps_si256(x);
                    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
                    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
                    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
                };
                let (low, high) = (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8)));
                // The packing goes by halves of 128 bits; put them back in order.
                let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(round(low), round(high)));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), packed);
            }
            out
        }
        #[inline(always)]
        fn copy(self, x: &Lanes) -> Lanes {
            let mut out = [0.0; LANES];
            for k in [0, 8] {
                // SAFETY: `self` proves AVX; both arrays hold sixteen elements.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(k), _mm256_loadu_ps(x.as_ptr().add(k))) };
            }
            out
        }
        #[inline(always)]
        fn widen_bf16(self, h: &[bf16; LANES]) -> Lanes {
            let mut out = [0.0; LANES];
            for k in [0, 8] {
                // SAFETY: `self` proves AVX2; both arrays hold sixteen elements.
                unsafe {
                    let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(h.as_ptr().add(k).cast()));
                    let wide = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
                    _mm256_storeu_ps(out.as_mut_ptr().add(k), wide);
                }
            }
            out
        }
        #[inline(always)]
        fn run<K: Kernel>(self, task: K) -> K::Output {
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
            fn go<K: Kernel>(simd: Avx2, task: K) -> K::Output {
                task.run(simd)
            }
            // SAFETY: `self` proves that the machine has these instructions.
            unsafe { go(self, task) }
        }
    }

    /// AVX-512 F, BW, DQ and VL (every AVX-512 machine since 2017 but Xeon Phi).
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(pub(super) ());

    impl Simd for Avx512 {
        #[inline(always)]
        fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn widen_f16(self, h: &[f16; LANES]) -> Lanes {
            let mut out = [0.0; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe {
                let v = _mm512_cvtph_ps(_mm256_loadu_si256(h.as_ptr().cast()));
                _mm512_storeu_ps(out.as_mut_ptr(), v);
            }
            out
        }
        #[inline(always)]
        fn narrow_f16(self, x: &Lanes) -> [f16; LANES] {
            let mut out = [f16::ZERO; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe {
                let v = _mm512_cvtps_ph::<0>(_mm512_loadu_ps(x.as_ptr()));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), v);
            }
            out
        }
        #[inline(always)]
        fn add(self, sum: &mut Lanes, x: &Lanes) {
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe {
                let p = sum.as_mut_ptr();
                _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), _mm512_loadu_ps(x.as_ptr())));
            }
        }
        #[inline(always)]
        fn add_wide(self, sum: &mut [f64; LANES], x: &Lanes) {
            for k in [0, 8] {
                // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
                unsafe {
                    let p = sum.as_mut_ptr().add(k);
                    let wide = _mm512_cvtps_pd(_mm256_loadu_ps(x.as_ptr().add(k)));
                    _mm512_storeu_pd(p, _mm512_add_pd(_mm512_loadu_pd(p), wide));
                }
            }
        }
        #[inline(always)]
        fn sub_scalar(self, x: &Lanes, y: f32) -> Lanes {
            let mut out = [0.0; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_sub_ps(_mm512_loadu_ps(x.as_ptr()), _mm512_set1_ps(y)))
            };
            out
        }
        #[inline(always)]
        fn narrow_bf16(self, x: &Lanes) -> [bf16; LANES] {
            let mut out = [bf16::ZERO; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements. The lines are those of
            // `narrow_bf16`. (AVX512_BF16 has an instruction for it, which takes denormals for zero.)
            unsafe {
                let x = _mm512_loadu_ps(x.as_ptr());
                let bits = _mm512_castps_si512(x);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                let kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
                let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
            }
            out
        }
        #[inline(always)]
        fn copy(self, x: &Lanes) -> Lanes {
            let mut out = [0.0; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_loadu_ps(x.as_ptr())) };
            out
        }
        #[inline(always)]
        fn widen_bf16(self, h: &[bf16; LANES]) -> Lanes {
            let mut out = [0.0; LANES];
            // SAFETY: `self` proves AVX-512F; both arrays hold sixteen elements.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(h.as_ptr().cast()));
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)));
            }
            out
        }
        #[inline(always)]
        fn run<K: Kernel>(self, task: K) -> K::Output {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2")]
            fn go<K: Kernel>(simd: Avx512, task: K) -> K::Output {
                task.run(simd)
            }
            // SAFETY: `self` proves that the machine has these instructions.
            unsafe { go(self, task) }
        }
    }
}

/// The instruction set in use.
#[derive(Clone, Copy)]
pub(crate) enum Isa {
    Baseline(Baseline),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
}

impl Isa {
    /// The widest instruction set of this machine.
    pub(crate) fn detect() -> Self {
        *Self::available().last().expect("the baseline is always there")
    }

    /// Every instruction set of this machine, narrowest first: the tests run them all.
    pub(crate) fn available() -> &'static [Self] {
        static AVAILABLE: std::sync::OnceLock<Vec<Isa>> = std::sync::OnceLock::new();
        AVAILABLE.get_or_init(|| {
            #[allow(unused_mut)]
            let mut sets = vec![Isa::Baseline(Baseline(()))];
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                let avx2 = has!("avx2") && has!("fma") && has!("f16c") && has!("bmi1") && has!("bmi2");
                if avx2 {
                    sets.push(Isa::Avx2(x86::Avx2(())));
                }
                if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    sets.push(Isa::Avx512(x86::Avx512(())));
                }
            }
            sets
        })
    }

    /// Its name, for benchmarks and bug reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Isa::Baseline(_) => "baseline",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "AVX2+FMA",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "AVX-512",
        }
    }

    /// Runs `task` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, task: K) -> K::Output {
        match self {
            Isa::Baseline(s) => s.run(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(s) => s.run(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(s) => s.run(task),
        }
    }
}

/// Half to float without a branch, so that it vectorises: the exponent is moved by a multiplication,
/// which also normalises subnormal halves.
#[inline(always)]
fn widen_f16(h: f16) -> f32 {
    let bits = u32::from(h.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN: the exponent field is all ones in both formats.
    let special = magnitude | 0x7f80_0000;
    let value = if (bits & 0x7c00) == 0x7c00 { special } else { scaled.to_bits() };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// Float to half, to nearest even, without a branch.
#[inline(always)]
fn narrow_f16(x: f32) -> f16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 the half is subnormal: adding 0.5 makes the FPU round at the right place.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let rounded = if magnitude < 113 << 23 { subnormal } else { normal };
    // 65520 and above round to infinity.
    let finite = if magnitude >= 0x477f_f000 { 0x7c00 } else { rounded };
    let half = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13) & 0x3ff } else { finite };
    f16::from_bits((half | (bits >> 16) & 0x8000) as u16)
}

/// Float to bfloat, to nearest even, without a branch. The carry into the exponent is what overflow to
/// infinity is; a NaN keeps its sign and is made quiet, so that losing its low bits cannot make it infinity.
#[inline(always)]
fn narrow_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = if x.is_nan() { bits | 0x40_0000 } else { rounded };
    bf16::from_bits((kept >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_and_narrows_as_the_half_crate_does_it() {
        for &isa in Isa::available() {
            struct Check;
            impl Kernel for Check {
                type Output = ();
                #[inline(always)]
                fn run<S: Simd>(self, s: S) {
                    for base in (0..=u16::MAX).step_by(LANES) {
                        let h: [f16; LANES] = core::array::from_fn(|l| f16::from_bits(base + l as u16));
                        let wide = s.widen_f16(&h);
                        let back = s.narrow_f16(&wide);
                        for l in 0..LANES {
                            let want = h[l].to_f32();
                            assert!(wide[l].to_bits() == want.to_bits() || wide[l].is_nan() && want.is_nan());
                            assert!(back[l].to_bits() == h[l].to_bits() || back[l].is_nan() && h[l].is_nan());
                        }
                    }
                }
            }
            isa.run(Check);
        }
    }

    #[test]
    fn floats_round_to_half_and_bfloat_to_nearest_even() {
        for &isa in Isa::available() {
            struct Check;
            impl Kernel for Check {
                type Output = ();
                #[inline(always)]
                fn run<S: Simd>(self, s: S) {
                    for base in (0..=u32::MAX - 4096 * 16).step_by(4096 * 16 - 77) {
                        let x: Lanes = core::array::from_fn(|l| f32::from_bits(base + 4099 * l as u32));
                        let half = s.narrow_f16(&x);
                        let brain = s.narrow_bf16(&x);
                        for l in 0..LANES {
                            let want = bf16::from_f32(x[l]);
                            let same = brain[l].to_bits() == want.to_bits() || brain[l].is_nan() && want.is_nan();
                            assert!(same, "{:e}: {:?} {:?}", x[l], brain[l], want);
                            let want = f16::from_f32_const(x[l]);
                            let same = half[l].to_bits() == want.to_bits() || half[l].is_nan() && want.is_nan();
                            assert!(same, "{:e}: {:?} {:?}", x[l], half[l], want);
                        }
                    }
                }
            }
            isa.run(Check);
        }
    }
}
