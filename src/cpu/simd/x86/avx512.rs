//! AVX-512.

use core::arch::{asm, x86_64::*};
use core::mem::transmute;

use super::super::{Kernel, LANES, Machine, Pair, Simd, zip_map};

/// AVX-512 F, BW, DQ and VL (every AVX-512 machine since 2017 but Xeon Phi), and what AVX2 asks for.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(in crate::cpu::simd) ());

impl Simd for Avx512 {
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;

    #[cfg_attr(optimized, inline(always))]
    fn f_zip_map(self, a: Self::F, b: Self::F, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F) {
        zip_map(self, a, b, f)
    }

    #[cfg_attr(optimized, inline(always))]
    fn f_opaque(self, a: __m512) -> __m512 {
        /// (In assembly a register has to be one of the function's own features.)
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn opaque(mut a: __m512) -> __m512 {
            // SAFETY: there are no instructions.
            unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
            a
        }
        // SAFETY: the machine has the instructions, or there were no `self`.
        unsafe { opaque(a) }
    }

    intrinsics! {
        fn f_splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn f_add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn f_sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn f_mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn f_div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn f_quotient(a: __m512, b: __m512) -> __m512 = {
            // A division takes as long as nineteen multiplications. The estimate is right to 14 bits, and one step of
            // Newton's doubles them.
            let r = _mm512_rcp14_ps(b);
            let r = _mm512_fmadd_ps(_mm512_fnmadd_ps(b, r, _mm512_set1_ps(1.0)), r, r);
            _mm512_mul_ps(a, r)
        };
        fn f_neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        fn f_mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn f_min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn f_max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn f_lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn f_le(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
        fn f_eq(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        fn f_not_lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b);
        fn f_ne(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b);
        fn f_select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        fn f_sign(a: __m512) -> __m512 = {
            // What becomes of a quiet NaN, a signalling one, zero, one, the infinities, and numbers below and above zero, from the right:
            // 1 is the number itself, 2 the same as a quiet NaN, 9 is -1 and A is 1.
            _mm512_fixupimm_ps::<0>(a, a, _mm512_set1_epi32(0xa9a9_a121_u32 as i32))
        };
        fn f_add_where(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_add_ps(a, m, a, b);
        fn f_mul_add_where(m: __mmask16, a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_mask3_fmadd_ps(a, b, c, m);
        fn f_neg_where(m: __mmask16, a: __m512) -> __m512 = _mm512_mask_xor_ps(a, m, a, _mm512_set1_ps(-0.0));
        fn f_to_bits(x: __m512) -> __m512i = _mm512_castps_si512(x);
        fn u_to_float(x: __m512i) -> __m512 = _mm512_castsi512_ps(x);
        fn u_convert(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
        fn u_splat(x: u32) -> __m512i = _mm512_set1_epi32(x as i32);
        fn u_add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn u_sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn u_and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn u_or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn u_shl(a: __m512i, n: u32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32));
        fn u_shr(a: __m512i, n: u32) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32));
        fn u_eq(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpeq_epi32_mask(a, b);
        fn m_and(a: __mmask16, b: __mmask16) -> __mmask16 = a & b;
        fn m_or(a: __mmask16, b: __mmask16) -> __mmask16 = a | b;
        fn m_not(a: __mmask16) -> __mmask16 = !a;
    }
}

impl Machine for Avx512 {
    type Chains = Pair<Pair<Self>>;
    #[cfg_attr(optimized, inline(always))]
    fn chains(self) -> Self::Chains {
        Pair(Pair(self))
    }
    const PARTS: bool = true;
    const STREAMS: bool = true;
    type D = [__m512d; 2];

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> __m512i = transmute(*x);
        fn m_first(count: usize) -> __mmask16 = first512(count);
        fn m_any(a: __mmask16) -> bool = a != 0;
        fn h_line(x: [[u16; LANES]; 2]) -> __m512 = {
            let [a, b] = transmute::<[[u16; LANES]; 2], [__m256i; 2]>(x);
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b))
        };
        fn d_zero() -> [__m512d; 2] = [_mm512_setzero_pd(); 2];
        fn d_widen(x: __m512) -> [__m512d; 2] =
            [_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(x))];
        fn d_add(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_add_pd(a[0], b[0]), _mm512_add_pd(a[1], b[1])];
        fn d_sub(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_sub_pd(a[0], b[0]), _mm512_sub_pd(a[1], b[1])];
        fn d_mul(a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] =
            [_mm512_mul_pd(a[0], b[0]), _mm512_mul_pd(a[1], b[1])];
        fn d_from_array(x: [f64; LANES]) -> [__m512d; 2] = transmute(x);
        fn d_to_array(x: [__m512d; 2]) -> [f64; LANES] = transmute(x);
        fn d_narrow(x: [__m512d; 2]) -> __m512 =
            _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm512_cvtpd_ps(x[0])), _mm512_cvtpd_ps(x[1]));
        fn bf16_widen(h: [u16; LANES]) -> __m512 =
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(transmute::<[u16; LANES], __m256i>(h))));
        fn bf16_narrow(x: __m512) -> [u16; LANES] = {
            // The lines of `narrow_bf16`. (AVX512_BF16 has an instruction for it, which takes denormals for zero.)
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
            transmute(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept)))
        };
        fn f16_widen(h: [u16; LANES]) -> __m512 = _mm512_cvtph_ps(transmute::<[u16; LANES], __m256i>(h));
        fn f16_narrow(x: __m512) -> [u16; LANES] = transmute(_mm512_cvtps_ph::<0>(x));
    }

    memory! {
        fn f_load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
        fn f_store(p: *mut f32, x: __m512) = _mm512_storeu_ps(p, x);
        fn f_load_part(p: *const f32, count: usize, pad: f32) -> __m512 =
            _mm512_mask_loadu_ps(_mm512_set1_ps(pad), first512(count), p);
        fn f_store_part(p: *mut f32, count: usize, x: __m512) = _mm512_mask_storeu_ps(p, first512(count), x);
        fn h_load_part(p: *const u16, count: usize) -> [u16; LANES] =
            transmute(_mm256_maskz_loadu_epi16(first512(count), p.cast()));
        fn h_store_part(p: *mut u16, count: usize, x: [u16; LANES]) =
            _mm256_mask_storeu_epi16(p.cast(), first512(count), transmute::<[u16; LANES], __m256i>(x));
        fn f_gather(p: *const f32, stride: i32) -> __m512 =
            _mm512_i32gather_ps::<4>(_mm512_mullo_epi32(iota512(), _mm512_set1_epi32(stride)), p);
        fn f_scatter(p: *mut f32, stride: i32, x: __m512) =
            _mm512_i32scatter_ps::<4>(p, _mm512_mullo_epi32(iota512(), _mm512_set1_epi32(stride)), x);
        fn stream_line(p: *mut u8, quarters: usize, before: __m512, line: __m512) = {
            let eighths = _mm512_add_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(8 - 2 * quarters as i64));
            let (before, line) = (_mm512_castps_si512(before), _mm512_castps_si512(line));
            _mm512_stream_si512(p.cast(), _mm512_permutex2var_epi64(before, eighths, line));
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
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
        fn go<K: Kernel>(simd: Avx512, task: K) -> K::Output {
            super::align_frame();
            task.run(simd)
        }
        // SAFETY: `self` proves that the machine has these instructions.
        unsafe { go(self, task) }
    }
}

#[cfg_attr(optimized, inline(always))]
fn first512(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as u16
}

#[cfg_attr(optimized, inline(always))]
fn iota512() -> __m512i {
    // SAFETY: plain bits. The intrinsic that is made for this would need AVX-512 here.
    unsafe { transmute::<[i32; LANES], __m512i>(core::array::from_fn(|l| l as i32)) }
}
