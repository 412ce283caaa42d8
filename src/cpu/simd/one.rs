//! One lane: the elementary functions of a number, for formulas that are written for one element. They are straight-line code, so
//! that LLVM makes vectors of a loop over them.

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct One;

/// Methods that are an expression.
macro_rules! scalar {
    ($(fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty = $body:expr;)*) => {$(
        #[cfg_attr(optimized, inline(always))]
        fn $name(self, $($arg: $t),*) -> $r {
            $body
        }
    )*};
}

impl Simd for One {
    type F = f32;
    type U = u32;
    type M = bool;

    scalar! {
        fn f_splat(x: f32) -> f32 = x;
        fn f_add(a: f32, b: f32) -> f32 = a + b;
        fn f_sub(a: f32, b: f32) -> f32 = a - b;
        fn f_mul(a: f32, b: f32) -> f32 = a * b;
        fn f_div(a: f32, b: f32) -> f32 = a / b;
        fn f_neg(a: f32) -> f32 = -a;
        // `f32::mul_add` is a call where the crate's own target has no such instruction, whatever this is inlined into.
        fn f_mul_add(a: f32, b: f32, c: f32) -> f32 = a * b + c;
        fn f_min(a: f32, b: f32) -> f32 = if a < b { a } else { b };
        fn f_max(a: f32, b: f32) -> f32 = if a > b { a } else { b };
        fn f_lt(a: f32, b: f32) -> bool = a < b;
        fn f_le(a: f32, b: f32) -> bool = a <= b;
        fn f_eq(a: f32, b: f32) -> bool = a == b;
        fn f_select(m: bool, a: f32, b: f32) -> f32 = if m { a } else { b };
        fn f_add_where(m: bool, a: f32, b: f32) -> f32 = if m { a + b } else { a };
        fn f_zip_map(a: f32, b: f32, f: impl FnMut(f32, f32) -> (f32, f32)) -> (f32, f32) = { let mut f = f; f(a, b) };
        fn f_to_bits(x: f32) -> u32 = x.to_bits();
        fn u_to_float(x: u32) -> f32 = f32::from_bits(x);
        fn u_convert(x: u32) -> f32 = x as i32 as f32;
        fn u_splat(x: u32) -> u32 = x;
        fn u_add(a: u32, b: u32) -> u32 = a.wrapping_add(b);
        fn u_sub(a: u32, b: u32) -> u32 = a.wrapping_sub(b);
        fn u_and(a: u32, b: u32) -> u32 = a & b;
        fn u_or(a: u32, b: u32) -> u32 = a | b;
        fn u_shl(a: u32, n: u32) -> u32 = a << n;
        fn u_shr(a: u32, n: u32) -> u32 = a >> n;
        fn u_eq(a: u32, b: u32) -> bool = a == b;
        fn m_and(a: bool, b: bool) -> bool = a & b;
        fn m_or(a: bool, b: bool) -> bool = a | b;
        fn m_not(a: bool) -> bool = !a;
    }
}
