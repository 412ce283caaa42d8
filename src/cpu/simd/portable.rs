//! The instruction set of the target itself, in plain Rust, where there is none of our own: NEON on aarch64. One
//! loop over sixteen lanes an operation, which LLVM turns into vectors.

use super::half::{narrow_bf16, narrow_f16, widen_f16};
use super::{Kernel, LANES, Machine, Pair, Simd, zip_map};

/// The baseline of the target.
#[derive(Clone, Copy)]
pub(crate) struct Baseline(pub(super) ());

/// One expression for each lane.
macro_rules! lanes {
    ($zero:expr, |$l:ident| $value:expr) => {{
        let mut lanes = [$zero; LANES];
        for $l in 0..LANES {
            lanes[$l] = $value;
        }
        lanes
    }};
}

impl Simd for Baseline {
    type F = [f32; LANES];
    type U = [u32; LANES];
    type M = [bool; LANES];
    #[cfg_attr(optimized, inline(always))]
    fn f_zip_map(self, a: Self::F, b: Self::F, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F) {
        zip_map(self, a, b, f)
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| a[l] + b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| a[l] - b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| a[l] * b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| a[l] / b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_neg(self, a: Self::F) -> Self::F {
        lanes!(0.0, |l| -a[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // NEON has fused multiply-add in its baseline, SSE2 has not, and `f32::mul_add` is a libm call there.
        let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        lanes!(0.0, |l| if fused { a[l].mul_add(b[l], c[l]) } else { a[l] * b[l] + c[l] })
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_min(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| if a[l] < b[l] { a[l] } else { b[l] })
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_max(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_lt(self, a: Self::F, b: Self::F) -> Self::M {
        lanes!(false, |l| a[l] < b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_le(self, a: Self::F, b: Self::F) -> Self::M {
        lanes!(false, |l| a[l] <= b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_eq(self, a: Self::F, b: Self::F) -> Self::M {
        lanes!(false, |l| a[l] == b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| if m[l] { a[l] } else { b[l] })
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_add_where(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        lanes!(0.0, |l| if m[l] { a[l] + b[l] } else { a[l] })
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_to_bits(self, x: Self::F) -> Self::U {
        lanes!(0, |l| x[l].to_bits())
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_to_float(self, x: Self::U) -> Self::F {
        lanes!(0.0, |l| f32::from_bits(x[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_convert(self, x: Self::U) -> Self::F {
        lanes!(0.0, |l| x[l] as i32 as f32)
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_splat(self, x: u32) -> Self::U {
        [x; LANES]
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_add(self, a: Self::U, b: Self::U) -> Self::U {
        lanes!(0, |l| a[l].wrapping_add(b[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_sub(self, a: Self::U, b: Self::U) -> Self::U {
        lanes!(0, |l| a[l].wrapping_sub(b[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_and(self, a: Self::U, b: Self::U) -> Self::U {
        lanes!(0, |l| a[l] & b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_or(self, a: Self::U, b: Self::U) -> Self::U {
        lanes!(0, |l| a[l] | b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_shl(self, a: Self::U, n: u32) -> Self::U {
        lanes!(0, |l| a[l] << n)
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_shr(self, a: Self::U, n: u32) -> Self::U {
        lanes!(0, |l| a[l] >> n)
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_eq(self, a: Self::U, b: Self::U) -> Self::M {
        lanes!(false, |l| a[l] == b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn m_and(self, a: Self::M, b: Self::M) -> Self::M {
        lanes!(false, |l| a[l] & b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn m_or(self, a: Self::M, b: Self::M) -> Self::M {
        lanes!(false, |l| a[l] | b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn m_not(self, a: Self::M) -> Self::M {
        lanes!(false, |l| !a[l])
    }
}

impl Machine for Baseline {
    type Chains = Pair<Self>;
    #[cfg_attr(optimized, inline(always))]
    fn chains(self) -> Self::Chains {
        Pair(self)
    }
    type D = [f64; LANES];
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_store(self, p: *mut f32, x: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::F>().write_unaligned(x) }
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_from_array(self, x: &[u32; LANES]) -> Self::U {
        *x
    }
    #[cfg_attr(optimized, inline(always))]
    fn m_first(self, count: usize) -> Self::M {
        lanes!(false, |l| l < count)
    }
    #[cfg_attr(optimized, inline(always))]
    fn m_any(self, a: Self::M) -> bool {
        a.contains(&true)
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_zero(self) -> Self::D {
        [0.0; LANES]
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_widen(self, x: Self::F) -> Self::D {
        lanes!(0.0, |l| f64::from(x[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_add(self, a: Self::D, b: Self::D) -> Self::D {
        lanes!(0.0, |l| a[l] + b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_sub(self, a: Self::D, b: Self::D) -> Self::D {
        lanes!(0.0, |l| a[l] - b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_mul(self, a: Self::D, b: Self::D) -> Self::D {
        lanes!(0.0, |l| a[l] * b[l])
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_from_array(self, x: [f64; LANES]) -> Self::D {
        x
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_to_array(self, x: Self::D) -> [f64; LANES] {
        x
    }
    #[cfg_attr(optimized, inline(always))]
    fn d_narrow(self, x: Self::D) -> Self::F {
        lanes!(0.0, |l| x[l] as f32)
    }
    #[cfg_attr(optimized, inline(always))]
    fn bf16_widen(self, h: [u16; LANES]) -> Self::F {
        lanes!(0.0, |l| f32::from_bits(u32::from(h[l]) << 16))
    }
    #[cfg_attr(optimized, inline(always))]
    fn bf16_narrow(self, x: Self::F) -> [u16; LANES] {
        lanes!(0, |l| narrow_bf16(x[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn f16_widen(self, h: [u16; LANES]) -> Self::F {
        lanes!(0.0, |l| widen_f16(h[l]))
    }
    #[cfg_attr(optimized, inline(always))]
    fn f16_narrow(self, x: Self::F) -> [u16; LANES] {
        lanes!(0, |l| narrow_f16(x[l]))
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
