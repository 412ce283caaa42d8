//! The instruction sets of x86-64 beyond its baseline.

use super::half::{narrow_f16, widen_f16};
use super::{Kernel, LANES, Machine, Simd};
use core::arch::x86_64::*;
use core::mem::transmute;

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

/// AVX-512 F, BW, DQ and VL (every AVX-512 machine since 2017 but Xeon Phi), and what AVX2 asks for.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(super) ());

impl Simd for Avx512 {
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;

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
        fn f_select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        fn f_add_where(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_add_ps(a, m, a, b);
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
    type D = [__m512d; 2];

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> __m512i = transmute(*x);
        fn m_first(count: usize) -> __mmask16 = first512(count);
        fn m_any(a: __mmask16) -> bool = a != 0;
        fn m_from_array(m: &[bool; LANES]) -> __mmask16 = {
            let bytes = _mm_loadu_si128(m.as_ptr().cast());
            _mm_test_epi8_mask(bytes, bytes)
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
        fn f_stream(p: *mut f32, x: __m512) = {
            // Sixteen bytes and not more: large buffers from malloc start sixteen bytes into a page, and the
            // write-combining buffers of the processor join the stores to whole lines all the same.
            _mm_stream_ps(p, _mm512_castps512_ps128(x));
            _mm_stream_ps(p.add(4), _mm512_extractf32x4_ps::<1>(x));
            _mm_stream_ps(p.add(8), _mm512_extractf32x4_ps::<2>(x));
            _mm_stream_ps(p.add(12), _mm512_extractf32x4_ps::<3>(x));
        };
        fn h_stream(p: *mut u16, x: [u16; LANES]) = {
            let x: [__m128i; 2] = transmute(x);
            _mm_stream_si128(p.cast(), x[0]);
            _mm_stream_si128(p.cast::<__m128i>().add(1), x[1]);
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
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
        fn go<K: Kernel>(simd: Avx512, task: K) -> K::Output {
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

/// AVX2, FMA and F16C: two registers for sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(super) ());

type F = [__m256; 2];
type U = [__m256i; 2];
type D = [__m256d; 4];

/// The same on both halves. (Not by a closure: one that is not inlined would be compiled for the baseline.)
macro_rules! both {
    (|$($x:ident),*| $body:expr) => {
        [{ $(let $x = $x[0];)* $body }, { $(let $x = $x[1];)* $body }]
    };
}

#[cfg_attr(optimized, inline(always))]
fn mask256(m: &[bool; LANES]) -> F {
    // SAFETY: called by the methods of `Avx2` alone.
    unsafe {
        let bytes: [__m128i; 2] = [_mm_loadl_epi64(m.as_ptr().cast()), _mm_loadl_epi64(m.as_ptr().add(8).cast())];
        // A bool is 0 or 1.
        both!(|bytes| _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_cvtepu8_epi32(bytes))))
    }
}

impl Simd for Avx2 {
    type F = F;
    type U = U;
    /// All bits of a lane set, or none.
    type M = F;

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
        fn f_select(m: F, a: F, b: F) -> F = both!(|m, a, b| _mm256_blendv_ps(b, a, m));
        fn f_add_where(m: F, a: F, b: F) -> F = both!(|m, a, b| _mm256_blendv_ps(a, _mm256_add_ps(a, b), m));
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
    type D = D;

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> U = transmute(*x);
        fn m_first(count: usize) -> F = {
            let mut m = [false; LANES];
            m[..count].fill(true);
            mask256(&m)
        };
        fn m_any(a: F) -> bool = _mm256_movemask_ps(_mm256_or_ps(a[0], a[1])) != 0;
        fn m_from_array(m: &[bool; LANES]) -> F = mask256(m);
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
        fn f_stream(p: *mut f32, x: F) = {
            _mm_stream_ps(p, _mm256_castps256_ps128(x[0]));
            _mm_stream_ps(p.add(4), _mm256_extractf128_ps::<1>(x[0]));
            _mm_stream_ps(p.add(8), _mm256_castps256_ps128(x[1]));
            _mm_stream_ps(p.add(12), _mm256_extractf128_ps::<1>(x[1]));
        };
        fn h_stream(p: *mut u16, x: [u16; LANES]) = {
            let x: [__m128i; 2] = transmute(x);
            _mm_stream_si128(p.cast(), x[0]);
            _mm_stream_si128(p.cast::<__m128i>().add(1), x[1]);
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
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
        fn go<K: Kernel>(simd: Avx2, task: K) -> K::Output {
            task.run(simd)
        }
        // SAFETY: `self` proves that the machine has these instructions.
        unsafe { go(self, task) }
    }
}

/// SSE2, which every x86-64 has: four registers for sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Baseline(pub(super) ());

type Q = [__m128; 4];
type QI = [__m128i; 4];
type QD = [__m128d; 8];

/// The same on all four quarters.
macro_rules! quarters {
    (|$($x:ident),*| $body:expr) => {[
        { $(let $x = $x[0];)* $body },
        { $(let $x = $x[1];)* $body },
        { $(let $x = $x[2];)* $body },
        { $(let $x = $x[3];)* $body },
    ]};
}

/// The same on all eight pairs.
macro_rules! eighths {
    (|$($x:ident),*| $body:expr) => {[
        { $(let $x = $x[0];)* $body },
        { $(let $x = $x[1];)* $body },
        { $(let $x = $x[2];)* $body },
        { $(let $x = $x[3];)* $body },
        { $(let $x = $x[4];)* $body },
        { $(let $x = $x[5];)* $body },
        { $(let $x = $x[6];)* $body },
        { $(let $x = $x[7];)* $body },
    ]};
}

impl Simd for Baseline {
    type F = Q;
    type U = QI;
    /// All bits of a lane set, or none.
    type M = Q;

    intrinsics! {
        fn f_splat(x: f32) -> Q = [_mm_set1_ps(x); 4];
        fn f_add(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_add_ps(a, b));
        fn f_sub(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_sub_ps(a, b));
        fn f_mul(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_mul_ps(a, b));
        fn f_div(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_div_ps(a, b));
        fn f_neg(a: Q) -> Q = quarters!(|a| _mm_xor_ps(a, _mm_set1_ps(-0.0)));
        fn f_mul_add(a: Q, b: Q, c: Q) -> Q = quarters!(|a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c));
        fn f_min(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_min_ps(a, b));
        fn f_max(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_max_ps(a, b));
        fn f_lt(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_cmplt_ps(a, b));
        fn f_le(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_cmple_ps(a, b));
        fn f_eq(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_cmpeq_ps(a, b));
        fn f_select(m: Q, a: Q, b: Q) -> Q = quarters!(|m, a, b| _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b)));
        fn f_add_where(m: Q, a: Q, b: Q) -> Q =
            quarters!(|m, a, b| _mm_or_ps(_mm_and_ps(m, _mm_add_ps(a, b)), _mm_andnot_ps(m, a)));
        fn f_to_bits(x: Q) -> QI = quarters!(|x| _mm_castps_si128(x));
        fn u_to_float(x: QI) -> Q = quarters!(|x| _mm_castsi128_ps(x));
        fn u_convert(x: QI) -> Q = quarters!(|x| _mm_cvtepi32_ps(x));
        fn u_splat(x: u32) -> QI = [_mm_set1_epi32(x as i32); 4];
        fn u_add(a: QI, b: QI) -> QI = quarters!(|a, b| _mm_add_epi32(a, b));
        fn u_sub(a: QI, b: QI) -> QI = quarters!(|a, b| _mm_sub_epi32(a, b));
        fn u_and(a: QI, b: QI) -> QI = quarters!(|a, b| _mm_and_si128(a, b));
        fn u_or(a: QI, b: QI) -> QI = quarters!(|a, b| _mm_or_si128(a, b));
        fn u_shl(a: QI, n: u32) -> QI = quarters!(|a| _mm_sll_epi32(a, _mm_cvtsi32_si128(n as i32)));
        fn u_shr(a: QI, n: u32) -> QI = quarters!(|a| _mm_srl_epi32(a, _mm_cvtsi32_si128(n as i32)));
        fn u_eq(a: QI, b: QI) -> Q = quarters!(|a, b| _mm_castsi128_ps(_mm_cmpeq_epi32(a, b)));
        fn m_and(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_and_ps(a, b));
        fn m_or(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_or_ps(a, b));
        fn m_not(a: Q) -> Q = quarters!(|a| _mm_xor_ps(a, _mm_castsi128_ps(_mm_set1_epi32(-1))));
    }
}

impl Machine for Baseline {
    type D = QD;

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> QI = transmute(*x);
        fn m_first(count: usize) -> Q = mask128(core::array::from_fn(|l| if l < count { u32::MAX } else { 0 }));
        fn m_from_array(m: &[bool; LANES]) -> Q = mask128(m.map(|m| if m { u32::MAX } else { 0 }));
        fn m_any(a: Q) -> bool = _mm_movemask_ps(_mm_or_ps(_mm_or_ps(a[0], a[1]), _mm_or_ps(a[2], a[3]))) != 0;
        fn d_zero() -> QD = [_mm_setzero_pd(); 8];
        fn d_widen(x: Q) -> QD = transmute(quarters!(|x| [_mm_cvtps_pd(x), _mm_cvtps_pd(_mm_movehl_ps(x, x))]));
        fn d_add(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_add_pd(a, b));
        fn d_sub(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_sub_pd(a, b));
        fn d_mul(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_mul_pd(a, b));
        fn d_to_array(x: QD) -> [f64; LANES] = transmute(x);
        fn d_narrow(x: QD) -> Q = {
            let x: [[__m128d; 2]; 4] = transmute(x);
            quarters!(|x| _mm_movelh_ps(_mm_cvtpd_ps(x[0]), _mm_cvtpd_ps(x[1])))
        };
        fn bf16_widen(h: [u16; LANES]) -> Q = {
            let (h, zero) = (transmute::<[u16; LANES], [__m128i; 2]>(h), _mm_setzero_si128());
            // Sixteen zeros below each.
            [
                _mm_castsi128_ps(_mm_unpacklo_epi16(zero, h[0])),
                _mm_castsi128_ps(_mm_unpackhi_epi16(zero, h[0])),
                _mm_castsi128_ps(_mm_unpacklo_epi16(zero, h[1])),
                _mm_castsi128_ps(_mm_unpackhi_epi16(zero, h[1])),
            ]
        };
        fn bf16_narrow(x: Q) -> [u16; LANES] = {
            // The lines of `narrow_bf16`, but the last shift keeps the sign: the packing takes i32.
            let half = quarters!(|x| {
                let bits = _mm_castps_si128(x);
                let odd = _mm_and_si128(_mm_srli_epi32::<16>(bits), _mm_set1_epi32(1));
                let rounded = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
                let quiet = _mm_or_si128(bits, _mm_set1_epi32(0x40_0000));
                let nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
                _mm_srai_epi32::<16>(_mm_or_si128(_mm_and_si128(nan, quiet), _mm_andnot_si128(nan, rounded)))
            });
            transmute([_mm_packs_epi32(half[0], half[1]), _mm_packs_epi32(half[2], half[3])])
        };
        fn f16_widen(h: [u16; LANES]) -> Q = transmute(widen_f16s(h));
        fn f16_narrow(x: Q) -> [u16; LANES] = narrow_f16s(transmute::<Q, [f32; LANES]>(x));
    }

    memory! {
        fn f_load(p: *const f32) -> Q =
            [_mm_loadu_ps(p), _mm_loadu_ps(p.add(4)), _mm_loadu_ps(p.add(8)), _mm_loadu_ps(p.add(12))];
        fn f_store(p: *mut f32, x: Q) = {
            _mm_storeu_ps(p, x[0]);
            _mm_storeu_ps(p.add(4), x[1]);
            _mm_storeu_ps(p.add(8), x[2]);
            _mm_storeu_ps(p.add(12), x[3]);
        };
        fn f_stream(p: *mut f32, x: Q) = {
            _mm_stream_ps(p, x[0]);
            _mm_stream_ps(p.add(4), x[1]);
            _mm_stream_ps(p.add(8), x[2]);
            _mm_stream_ps(p.add(12), x[3]);
        };
        fn h_stream(p: *mut u16, x: [u16; LANES]) = {
            let x: [__m128i; 2] = transmute(x);
            _mm_stream_si128(p.cast(), x[0]);
            _mm_stream_si128(p.cast::<__m128i>().add(1), x[1]);
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
        // A function of its own, as for the other sets: the callers are many.
        #[inline(never)]
        fn go<K: Kernel>(simd: Baseline, task: K) -> K::Output {
            task.run(simd)
        }
        go(self, task)
    }
}

#[cfg_attr(optimized, inline(always))]
fn mask128(m: [u32; LANES]) -> Q {
    // SAFETY: plain bits.
    unsafe { transmute(m) }
}

/// Not inlined: the code is long, and machines with nothing but SSE2 are few.
#[inline(never)]
fn widen_f16s(h: [u16; LANES]) -> [f32; LANES] {
    h.map(widen_f16)
}

#[inline(never)]
fn narrow_f16s(x: [f32; LANES]) -> [u16; LANES] {
    x.map(narrow_f16)
}
