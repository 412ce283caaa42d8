//! Two vectors side by side.

use super::{F32s, Machine, Simd};
use crate::cpu::math::Elementary;

/// Arithmetic on two vectors at a time. A loss is a long chain of operations, each of which waits for the one before;
/// two chains, interleaved, keep the processor busy where its window is too short to find the next one by itself.
#[derive(Clone, Copy)]
pub(crate) struct Pair<S>(pub(crate) S);

impl<S: Simd> Pair<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn join(self, a: F32s<S>, b: F32s<S>) -> F32s<Pair<S>> {
        F32s { v: (a.v, b.v), s: self }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn split(self, x: F32s<Pair<S>>) -> (F32s<S>, F32s<S>) {
        (F32s { v: x.v.0, s: self.0 }, F32s { v: x.v.1, s: self.0 })
    }
}

/// A pair, or a pair of pairs: as many vectors as an instruction set has registers for in a long chain of operations.
pub(crate) trait Chains<S: Machine>: Simd {
    const PAIRS: usize;

    /// Of one pair, or of both.
    fn of_pairs(self, first: F32s<Pair<S>>, second: F32s<Pair<S>>) -> F32s<Self>;

    /// The pair, twice, or both.
    fn pairs(self, x: F32s<Self>) -> (F32s<Pair<S>>, F32s<Pair<S>>);
}

impl<S: Machine> Chains<S> for Pair<S> {
    const PAIRS: usize = 1;

    #[cfg_attr(optimized, inline(always))]
    fn of_pairs(self, first: F32s<Pair<S>>, _: F32s<Pair<S>>) -> F32s<Self> {
        first
    }

    #[cfg_attr(optimized, inline(always))]
    fn pairs(self, x: F32s<Self>) -> (F32s<Pair<S>>, F32s<Pair<S>>) {
        (x, x)
    }
}

impl<S: Machine> Chains<S> for Pair<Pair<S>> {
    const PAIRS: usize = 2;

    #[cfg_attr(optimized, inline(always))]
    fn of_pairs(self, first: F32s<Pair<S>>, second: F32s<Pair<S>>) -> F32s<Self> {
        self.join(first, second)
    }

    #[cfg_attr(optimized, inline(always))]
    fn pairs(self, x: F32s<Self>) -> (F32s<Pair<S>>, F32s<Pair<S>>) {
        self.split(x)
    }
}

/// Methods that do the same to both.
macro_rules! both {
    ($(fn $name:ident($($arg:ident: $t:ident),*) -> $r:ident;)*) => {$(
        #[cfg_attr(optimized, inline(always))]
        fn $name(self, $($arg: Self::$t),*) -> Self::$r {
            (self.0.$name($($arg.0),*), self.0.$name($($arg.1),*))
        }
    )*};
}

impl<S: Simd> Simd for Pair<S> {
    type F = (S::F, S::F);
    type U = (S::U, S::U);
    type M = (S::M, S::M);

    both! {
        fn f_add(a: F, b: F) -> F;
        fn f_sub(a: F, b: F) -> F;
        fn f_mul(a: F, b: F) -> F;
        fn f_div(a: F, b: F) -> F;
        fn f_quotient(a: F, b: F) -> F;
        fn f_neg(a: F) -> F;
        fn f_opaque(a: F) -> F;
        fn f_mul_add(a: F, b: F, c: F) -> F;
        fn f_min(a: F, b: F) -> F;
        fn f_max(a: F, b: F) -> F;
        fn f_lt(a: F, b: F) -> M;
        fn f_le(a: F, b: F) -> M;
        fn f_eq(a: F, b: F) -> M;
        fn f_not_lt(a: F, b: F) -> M;
        fn f_ne(a: F, b: F) -> M;
        fn f_select(m: M, a: F, b: F) -> F;
        fn f_add_where(m: M, a: F, b: F) -> F;
        fn f_mul_add_where(m: M, a: F, b: F, c: F) -> F;
        fn f_neg_where(m: M, a: F) -> F;
        fn f_sign(a: F) -> F;
        fn f_to_bits(x: F) -> U;
        fn u_to_float(x: U) -> F;
        fn u_convert(x: U) -> F;
        fn u_add(a: U, b: U) -> U;
        fn u_sub(a: U, b: U) -> U;
        fn u_and(a: U, b: U) -> U;
        fn u_or(a: U, b: U) -> U;
        fn u_eq(a: U, b: U) -> M;
        fn m_and(a: M, b: M) -> M;
        fn m_or(a: M, b: M) -> M;
        fn m_not(a: M) -> M;
    }

    #[cfg_attr(optimized, inline(always))]
    fn function<E: Elementary>(self, x: F32s<Self>) -> (F32s<Self>, F32s<Self>) {
        if !S::CALLS {
            return E::of(x);
        }
        let (a, b) = self.split(x);
        let ((a0, a1), (b0, b1)) = (self.0.function::<E>(a), self.0.function::<E>(b));
        (self.join(a0, b0), self.join(a1, b1))
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_zip_map(self, a: Self::F, b: Self::F, mut f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F) {
        let (a0, b0) = self.0.f_zip_map(a.0, b.0, &mut f);
        let (a1, b1) = self.0.f_zip_map(a.1, b.1, &mut f);
        ((a0, a1), (b0, b1))
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_splat(self, x: f32) -> Self::F {
        (self.0.f_splat(x), self.0.f_splat(x))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_splat(self, x: u32) -> Self::U {
        (self.0.u_splat(x), self.0.u_splat(x))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_shl(self, a: Self::U, n: u32) -> Self::U {
        (self.0.u_shl(a.0, n), self.0.u_shl(a.1, n))
    }
    #[cfg_attr(optimized, inline(always))]
    fn u_shr(self, a: Self::U, n: u32) -> Self::U {
        (self.0.u_shr(a.0, n), self.0.u_shr(a.1, n))
    }
}
