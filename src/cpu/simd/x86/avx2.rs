//! AVX2.

use core::arch::{asm, x86_64::*};
use core::mem::transmute;

use super::super::{IOTA, Kernel, LANES, Machine, Pair, Simd, zip_map};

/// AVX2, FMA and F16C: two registers for sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(in crate::cpu::simd) ());

type F = [__m256; 2];
type U = [__m256i; 2];
type D = [__m256d; 4];

/// The same on both halves. (Not by a closure: one that is not inlined would be compiled for the baseline.)
macro_rules! both {
    (|$($x:ident),*| $body:expr) => {
        [{ $(let $x = $x[0];)* $body }, { $(let $x = $x[1];)* $body }]
    };
}

impl Simd for Avx2 {
    type F = F;
    type U = U;
    /// All bits of a lane set, or none.
    type M = F;

    #[cfg_attr(optimized, inline(always))]
    fn f_zip_map(self, a: Self::F, b: Self::F, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F) {
        zip_map(self, a, b, f)
    }

    #[cfg_attr(optimized, inline(always))]
    fn f_opaque(self, a: F) -> F {
        /// (In assembly a register has to be one of the function's own features.)
        #[inline]
        #[target_feature(enable = "avx2")]
        fn opaque([mut a, mut b]: F) -> F {
            // SAFETY: there are no instructions.
            unsafe {
                asm!("/* {0} {1} */", inout(ymm_reg) a, inout(ymm_reg) b, options(nomem, nostack, preserves_flags));
            }
            [a, b]
        }
        // SAFETY: the machine has the instructions, or there were no `self`.
        unsafe { opaque(a) }
    }

    intrinsics! {
        fn f_splat(x: f32) -> F = [_mm256_set1_ps(x); 2];
        fn f_add(a: F, b: F) -> F = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        fn f_sub(a: F, b: F) -> F = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        fn f_mul(a: F, b: F) -> F = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        fn f_div(a: F, b: F) -> F = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fn f_neg(a: F) -> F = both!(|a| _mm256_xor_ps(a, _mm256_set1_ps(-0.0)));
        fn f_mul_add(a: F, b: F, c: F) -> F = [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        fn f_min(a: F, b: F) -> F = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        fn f_max(a: F, b: F) -> F = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        fn f_lt(a: F, b: F) -> F = both!(|a, b| _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        fn f_le(a: F, b: F) -> F = both!(|a, b| _mm256_cmp_ps::<_CMP_LE_OQ>(a, b));
        fn f_eq(a: F, b: F) -> F = both!(|a, b| _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b));
        fn f_not_lt(a: F, b: F) -> F = both!(|a, b| _mm256_cmp_ps::<_CMP_NLT_UQ>(a, b));
        fn f_ne(a: F, b: F) -> F = both!(|a, b| _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b));
        fn f_select(m: F, a: F, b: F) -> F = both!(|m, a, b| _mm256_blendv_ps(b, a, m));
        fn f_add_where(m: F, a: F, b: F) -> F = both!(|m, a, b| _mm256_add_ps(a, _mm256_and_ps(m, b)));
        fn f_neg_where(m: F, a: F) -> F = both!(|m, a| _mm256_xor_ps(a, _mm256_and_ps(m, _mm256_set1_ps(-0.0))));
        fn f_to_bits(x: F) -> U = both!(|x| _mm256_castps_si256(x));
        fn u_to_float(x: U) -> F = both!(|x| _mm256_castsi256_ps(x));
        fn u_convert(x: U) -> F = both!(|x| _mm256_cvtepi32_ps(x));
        fn u_splat(x: u32) -> U = [_mm256_set1_epi32(x as i32); 2];
        fn u_add(a: U, b: U) -> U = both!(|a, b| _mm256_add_epi32(a, b));
        fn u_sub(a: U, b: U) -> U = both!(|a, b| _mm256_sub_epi32(a, b));
        fn u_and(a: U, b: U) -> U = both!(|a, b| _mm256_and_si256(a, b));
        fn u_or(a: U, b: U) -> U = both!(|a, b| _mm256_or_si256(a, b));
        fn u_shl(a: U, n: u32) -> U = both!(|a| _mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32)));
        fn u_shr(a: U, n: u32) -> U = both!(|a| _mm256_srl_epi32(a, _mm_cvtsi32_si128(n as i32)));
        fn u_eq(a: U, b: U) -> F = both!(|a, b| _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)));
        fn m_and(a: F, b: F) -> F = both!(|a, b| _mm256_and_ps(a, b));
        fn m_or(a: F, b: F) -> F = both!(|a, b| _mm256_or_ps(a, b));
        fn m_not(a: F) -> F = both!(|a| _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))));
    }
}

impl Machine for Avx2 {
    type Chains = Pair<Self>;
    #[cfg_attr(optimized, inline(always))]
    fn chains(self) -> Self::Chains {
        Pair(self)
    }
    const STREAMS: bool = true;
    type D = D;

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> U = transmute(*x);
        fn m_first(count: usize) -> F = {
            let (lane, count) = (transmute::<[u32; LANES], U>(IOTA), _mm256_set1_epi32(count as i32));
            both!(|lane| _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lane)))
        };
        fn m_any(a: F) -> bool = _mm256_movemask_ps(_mm256_or_ps(a[0], a[1])) != 0;
        fn h_line(x: [[u16; LANES]; 2]) -> F = transmute(x);
        fn d_zero() -> D = [_mm256_setzero_pd(); 4];
        fn d_widen(x: F) -> D = [
            _mm256_cvtps_pd(_mm256_castps256_ps128(x[0])),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x[0])),
            _mm256_cvtps_pd(_mm256_castps256_ps128(x[1])),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x[1])),
        ];
        fn d_add(a: D, b: D) -> D =
            [_mm256_add_pd(a[0], b[0]), _mm256_add_pd(a[1], b[1]), _mm256_add_pd(a[2], b[2]), _mm256_add_pd(a[3], b[3])];
        fn d_sub(a: D, b: D) -> D =
            [_mm256_sub_pd(a[0], b[0]), _mm256_sub_pd(a[1], b[1]), _mm256_sub_pd(a[2], b[2]), _mm256_sub_pd(a[3], b[3])];
        fn d_mul(a: D, b: D) -> D =
            [_mm256_mul_pd(a[0], b[0]), _mm256_mul_pd(a[1], b[1]), _mm256_mul_pd(a[2], b[2]), _mm256_mul_pd(a[3], b[3])];
        fn d_from_array(x: [f64; LANES]) -> D = transmute(x);
        fn d_to_array(x: D) -> [f64; LANES] = transmute(x);
        fn d_narrow(x: D) -> F = [
            _mm256_set_m128(_mm256_cvtpd_ps(x[1]), _mm256_cvtpd_ps(x[0])),
            _mm256_set_m128(_mm256_cvtpd_ps(x[3]), _mm256_cvtpd_ps(x[2])),
        ];
        fn bf16_widen(h: [u16; LANES]) -> F = {
            let h: [__m128i; 2] = transmute(h);
            both!(|h| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(h))))
        };
        fn bf16_narrow(x: F) -> [u16; LANES] = {
            // The lines of `narrow_bf16`.
            let [low, high] = both!(|x| {
                let bits = _mm256_castps_si256(x);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
                _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
            });
            // The packing goes by halves of 128 bits; put them back in order.
            transmute(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high)))
        };
        fn f16_widen(h: [u16; LANES]) -> F = {
            let h: [__m128i; 2] = transmute(h);
            both!(|h| _mm256_cvtph_ps(h))
        };
        fn f16_narrow(x: F) -> [u16; LANES] = transmute(both!(|x| _mm256_cvtps_ph::<0>(x)));
    }

    memory! {
        fn f_load(p: *const f32) -> F = [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))];
        fn f_store(p: *mut f32, x: F) = {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        };
        fn stream_line(p: *mut u8, quarters: usize, before: F, line: F) = {
            let all = [before[0], before[1], line[0], line[1]];
            let (a, b) = match quarters {
                0 => (all[2], all[3]),
                1 => (_mm256_permute2f128_ps::<0x21>(all[1], all[2]), _mm256_permute2f128_ps::<0x21>(all[2], all[3])),
                2 => (all[1], all[2]),
                _ => (_mm256_permute2f128_ps::<0x21>(all[0], all[1]), _mm256_permute2f128_ps::<0x21>(all[1], all[2])),
            };
            _mm256_stream_ps(p.cast(), a);
            _mm256_stream_ps(p.cast::<f32>().add(8), b);
        };
    }

    #[cfg_attr(optimized, inline(always))]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: SSE is the baseline of x86-64, and a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
    }

    #[cfg_attr(optimized, inline(always))]
    fn prefetch_later<T>(self, p: *const T) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }

    #[cfg_attr(optimized, inline(always))]
    fn run<K: Kernel>(self, task: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
        fn go<K: Kernel>(simd: Avx2, task: K) -> K::Output {
            super::align_frame();
            task.run(simd)
        }
        // SAFETY: `self` proves that the machine has these instructions.
        unsafe { go(self, task) }
    }
}
