//! Vectors of sixteen lanes that read like scalars.

use core::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

use super::{LANES, Lanes, Machine, Simd};

/// Sixteen `f32`.
#[derive(Clone, Copy)]
pub(crate) struct F32s<S: Simd> {
    pub(super) v: S::F,
    pub(super) s: S,
}

/// Sixteen `u32`; arithmetic wraps around.
#[derive(Clone, Copy)]
pub(crate) struct U32s<S: Simd> {
    pub(super) v: S::U,
    pub(super) s: S,
}

/// Sixteen bools.
#[derive(Clone, Copy)]
pub(crate) struct Mask<S: Simd> {
    pub(super) v: S::M,
    pub(super) s: S,
}

/// Sixteen `f64`.
#[derive(Clone, Copy)]
pub(crate) struct F64s<S: Machine> {
    pub(super) v: S::D,
    pub(super) s: S,
}

/// A vector, or one number for all lanes.
pub(crate) trait Operand<S: Simd>: Copy {
    fn on(self, s: S) -> F32s<S>;
}

impl<S: Simd> Operand<S> for F32s<S> {
    #[cfg_attr(optimized, inline(always))]
    fn on(self, _: S) -> F32s<S> {
        self
    }
}

impl<S: Simd> Operand<S> for f32 {
    #[cfg_attr(optimized, inline(always))]
    fn on(self, s: S) -> F32s<S> {
        s.splat(self)
    }
}

/// The operators between vectors, and between a vector and a number on either side.
macro_rules! float_operators {
    ($($trait:ident $method:ident $f:ident;)*) => {$(
        impl<S: Simd, R: Operand<S>> $trait<R> for F32s<S> {
            type Output = F32s<S>;
            #[cfg_attr(optimized, inline(always))]
            fn $method(self, other: R) -> F32s<S> {
                F32s { v: self.s.$f(self.v, other.on(self.s).v), s: self.s }
            }
        }
        impl<S: Simd> $trait<F32s<S>> for f32 {
            type Output = F32s<S>;
            #[cfg_attr(optimized, inline(always))]
            fn $method(self, other: F32s<S>) -> F32s<S> {
                F32s { v: other.s.$f(other.s.f_splat(self), other.v), s: other.s }
            }
        }
    )*};
}
float_operators! { Add add f_add; Sub sub f_sub; Mul mul f_mul; Div div f_div; }

impl<S: Simd> Neg for F32s<S> {
    type Output = F32s<S>;
    #[cfg_attr(optimized, inline(always))]
    fn neg(self) -> F32s<S> {
        let s = self.s;
        F32s { v: s.f_neg(self.v), s }
    }
}

/// Comparisons. NaN is not less than anything, nor anything than it: `not_lt` is true for it, as is `ne`.
macro_rules! comparisons {
    ($($name:ident $f:ident;)*) => {
        impl<S: Simd> F32s<S> {$(
            #[cfg_attr(optimized, inline(always))]
            pub(crate) fn $name(self, other: impl Operand<S>) -> Mask<S> {
                Mask { v: self.s.$f(self.v, other.on(self.s).v), s: self.s }
            }
        )*}
    };
}
comparisons! { lt f_lt; le f_le; eq f_eq; not_lt f_not_lt; ne f_ne; }

impl<S: Simd> F32s<S> {
    /// The instruction set.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn simd(self) -> S {
        self.s
    }

    /// As the skeletons need it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn raw(self) -> S::F {
        self.v
    }

    /// Itself, of which the compiler knows nothing any more: what is computed of it is not moved to before this.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn opaque(self) -> Self {
        F32s { v: self.s.f_opaque(self.v), s: self.s }
    }

    /// `self * b + c`, rounded once where the machine has FMA, twice otherwise.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn mul_add(self, b: impl Operand<S>, c: impl Operand<S>) -> Self {
        F32s { v: self.s.f_mul_add(self.v, b.on(self.s).v, c.on(self.s).v), s: self.s }
    }

    /// `self + x` where `mask`, `self` elsewhere.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add_where(self, mask: Mask<S>, x: impl Operand<S>) -> Self {
        F32s { v: self.s.f_add_where(mask.v, self.v, x.on(self.s).v), s: self.s }
    }

    /// `self + a * b` where `mask`, `self` elsewhere.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn add_product_where(self, mask: Mask<S>, a: Self, b: Self) -> Self {
        F32s { v: self.s.f_mul_add_where(mask.v, a.v, b.v, self.v), s: self.s }
    }

    /// `-self` where `mask`, `self` elsewhere.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn neg_where(self, mask: Mask<S>) -> Self {
        F32s { v: self.s.f_neg_where(mask.v, self.v), s: self.s }
    }

    /// A function of two numbers with two results, lane by lane.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn zip_map(self, other: Self, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self, Self) {
        let (a, b) = self.s.f_zip_map(self.v, other.v, f);
        (self.s.wrap(a), self.s.wrap(b))
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn abs(self) -> Self {
        (self.to_bits() & 0x7fff_ffff).to_float()
    }

    /// -1, 0 of either sign, or 1; NaN for NaN.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sign(self) -> Self {
        F32s { v: self.s.f_sign(self.v), s: self.s }
    }

    /// This magnitude with the sign of `sign`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn copysign(self, sign: Self) -> Self {
        ((self.to_bits() & 0x7fff_ffff) | (sign.to_bits() & 0x8000_0000)).to_float()
    }

    /// `self / b` within one ulp and fast, for a `b` that is finite and normal, or NaN.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn over(self, b: Self) -> Self {
        F32s { v: self.s.f_quotient(self.v, b.v), s: self.s }
    }

    /// `if self < low { low } else { self }`: NaN stays NaN.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn at_least(self, low: impl Operand<S>) -> Self {
        F32s { v: self.s.f_max(low.on(self.s).v, self.v), s: self.s }
    }

    /// `if self > high { high } else { self }`: NaN stays NaN.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn at_most(self, high: impl Operand<S>) -> Self {
        F32s { v: self.s.f_min(high.on(self.s).v, self.v), s: self.s }
    }

    /// `if other > self { other } else { self }`: a NaN in `other` is passed over.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn or_larger(self, other: Self) -> Self {
        F32s { v: self.s.f_max(other.v, self.v), s: self.s }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn gt(self, other: impl Operand<S>) -> Mask<S> {
        other.on(self.s).lt(self)
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn ge(self, other: impl Operand<S>) -> Mask<S> {
        other.on(self.s).le(self)
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn is_nan(self) -> Mask<S> {
        self.ne(self)
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn to_bits(self) -> U32s<S> {
        U32s { v: self.s.f_to_bits(self.v), s: self.s }
    }
}

impl<S: Machine> F32s<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn to_array(self) -> Lanes {
        let mut out = [0.0; LANES];
        // SAFETY: sixteen floats.
        unsafe { self.s.f_store(out.as_mut_ptr(), self.v) };
        out
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn widen(self) -> F64s<S> {
        F64s { v: self.s.d_widen(self.v), s: self.s }
    }

    /// The largest lane. No lane is NaN.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn max_lane(self) -> f32 {
        let x = self.to_array();
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let two = |l: usize| larger(x[l], x[l + 8]);
        let four = |l: usize| larger(two(l), two(l + 4));
        larger(larger(four(0), four(2)), larger(four(1), four(3)))
    }
}

/// The operators of `U32s`, with vectors and with one number for all lanes.
macro_rules! bit_operators {
    ($($trait:ident $method:ident $f:ident;)*) => {$(
        impl<S: Simd> $trait for U32s<S> {
            type Output = U32s<S>;
            #[cfg_attr(optimized, inline(always))]
            fn $method(self, other: Self) -> Self {
                U32s { v: self.s.$f(self.v, other.v), s: self.s }
            }
        }
        impl<S: Simd> $trait<u32> for U32s<S> {
            type Output = U32s<S>;
            #[cfg_attr(optimized, inline(always))]
            fn $method(self, other: u32) -> Self {
                U32s { v: self.s.$f(self.v, self.s.u_splat(other)), s: self.s }
            }
        }
    )*};
}
bit_operators! { Add add u_add; Sub sub u_sub; BitAnd bitand u_and; BitOr bitor u_or; }

impl<S: Simd> U32s<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn shl(self, n: u32) -> Self {
        U32s { v: self.s.u_shl(self.v, n), s: self.s }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn shr(self, n: u32) -> Self {
        U32s { v: self.s.u_shr(self.v, n), s: self.s }
    }

    /// The floats of these bits.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn to_float(self) -> F32s<S> {
        F32s { v: self.s.u_to_float(self.v), s: self.s }
    }

    /// The floats of these values, as `i32`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn convert(self) -> F32s<S> {
        F32s { v: self.s.u_convert(self.v), s: self.s }
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn eq(self, other: u32) -> Mask<S> {
        Mask { v: self.s.u_eq(self.v, self.s.u_splat(other)), s: self.s }
    }
}

impl<S: Simd> Mask<S> {
    /// `a` where true, `b` elsewhere.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn pick(self, a: impl Operand<S>, b: impl Operand<S>) -> F32s<S> {
        F32s { v: self.s.f_select(self.v, a.on(self.s).v, b.on(self.s).v), s: self.s }
    }
}

impl<S: Machine> Mask<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn any(self) -> bool {
        self.s.m_any(self.v)
    }
}

impl<S: Simd> BitAnd for Mask<S> {
    type Output = Self;
    #[cfg_attr(optimized, inline(always))]
    fn bitand(self, other: Self) -> Self {
        Mask { v: self.s.m_and(self.v, other.v), s: self.s }
    }
}

impl<S: Simd> BitOr for Mask<S> {
    type Output = Self;
    #[cfg_attr(optimized, inline(always))]
    fn bitor(self, other: Self) -> Self {
        Mask { v: self.s.m_or(self.v, other.v), s: self.s }
    }
}

impl<S: Simd> Not for Mask<S> {
    type Output = Self;
    #[cfg_attr(optimized, inline(always))]
    fn not(self) -> Self {
        Mask { v: self.s.m_not(self.v), s: self.s }
    }
}

macro_rules! wide_operators {
    ($($trait:ident $method:ident $f:ident;)*) => {$(
        impl<S: Machine> $trait for F64s<S> {
            type Output = F64s<S>;
            #[cfg_attr(optimized, inline(always))]
            fn $method(self, other: Self) -> Self {
                F64s { v: self.s.$f(self.v, other.v), s: self.s }
            }
        }
    )*};
}
wide_operators! { Add add d_add; Sub sub d_sub; Mul mul d_mul; }

impl<S: Machine> F64s<S> {
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn to_array(self) -> [f64; LANES] {
        self.s.d_to_array(self.v)
    }

    /// The sum of all lanes, as a tree.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sum(self) -> f64 {
        let x = self.to_array();
        let two = |l: usize| x[l] + x[l + 8];
        let four = |l: usize| two(l) + two(l + 4);
        (four(0) + four(2)) + (four(1) + four(3))
    }

    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn narrow(self) -> F32s<S> {
        F32s { v: self.s.d_narrow(self.v), s: self.s }
    }
}
