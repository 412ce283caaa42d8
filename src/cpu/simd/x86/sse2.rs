//! SSE2.

use core::arch::x86_64::*;
use core::mem::transmute;

use super::super::half::{narrow_f16, widen_f16};
use super::super::{F32s, IOTA, Kernel, LANES, Machine, Pair, Simd, zip_map};
use crate::cpu::math::Elementary;

/// SSE2, which every x86-64 has: four registers for sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Baseline(pub(in crate::cpu::simd) ());

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
    // Machines with nothing but SSE2 are few, and its code is the longest.
    const CALLS: bool = true;
    type F = Q;
    type U = QI;
    /// All bits of a lane set, or none.
    type M = Q;

    #[cfg_attr(optimized, inline(always))]
    fn function<E: Elementary>(self, x: F32s<Self>) -> (F32s<Self>, F32s<Self>) {
        #[inline(never)]
        fn call<E: Elementary>(x: F32s<Baseline>) -> (F32s<Baseline>, F32s<Baseline>) {
            E::of(x)
        }
        call::<E>(x)
    }

    #[cfg_attr(optimized, inline(always))]
    fn f_zip_map(self, a: Self::F, b: Self::F, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F) {
        zip_map(self, a, b, f)
    }

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
        fn f_not_lt(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_cmpnlt_ps(a, b));
        fn f_ne(a: Q, b: Q) -> Q = quarters!(|a, b| _mm_cmpneq_ps(a, b));
        fn f_select(m: Q, a: Q, b: Q) -> Q = quarters!(|m, a, b| _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b)));
        fn f_add_where(m: Q, a: Q, b: Q) -> Q = quarters!(|m, a, b| _mm_add_ps(a, _mm_and_ps(m, b)));
        fn f_neg_where(m: Q, a: Q) -> Q = quarters!(|m, a| _mm_xor_ps(a, _mm_and_ps(m, _mm_set1_ps(-0.0))));
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
    type Chains = Pair<Self>;
    #[cfg_attr(optimized, inline(always))]
    fn chains(self) -> Self::Chains {
        Pair(self)
    }
    // As above.
    const LOOPS: bool = false;
    type D = QD;

    intrinsics! {
        fn u_from_array(x: &[u32; LANES]) -> QI = transmute(*x);
        fn m_first(count: usize) -> Q = {
            let (lane, count) = (transmute::<[u32; LANES], QI>(IOTA), _mm_set1_epi32(count as i32));
            quarters!(|lane| _mm_castsi128_ps(_mm_cmpgt_epi32(count, lane)))
        };
        fn m_any(a: Q) -> bool = _mm_movemask_ps(_mm_or_ps(_mm_or_ps(a[0], a[1]), _mm_or_ps(a[2], a[3]))) != 0;
        fn d_zero() -> QD = [_mm_setzero_pd(); 8];
        fn d_widen(x: Q) -> QD = transmute(quarters!(|x| [_mm_cvtps_pd(x), _mm_cvtps_pd(_mm_movehl_ps(x, x))]));
        fn d_add(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_add_pd(a, b));
        fn d_sub(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_sub_pd(a, b));
        fn d_mul(a: QD, b: QD) -> QD = eighths!(|a, b| _mm_mul_pd(a, b));
        fn d_from_array(x: [f64; LANES]) -> QD = transmute(x);
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
        fn go<K: Kernel>(simd: Baseline, task: K) -> K::Output {
            task.run(simd)
        }
        go(self, task)
    }
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
