//! What an instruction set can do.

use super::{Chains, F32s, F64s, Kernel, LANES, Lanes, Mask, U32s, outline};

use crate::cpu::math::Elementary;

/// Arithmetic on vectors. A value of a type that implements this exists only where the machine has the
/// instructions: [`Isa::detect`](super::Isa::detect) is the one place that makes them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Whether elementary functions are called, so that they are compiled once, and not inlined.
    const CALLS: bool = false;
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `u32`.
    type U: Copy;
    /// Sixteen bools.
    type M: Copy;
    fn f_splat(self, x: f32) -> Self::F;
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b` within one ulp, for any `a` and a `b` that is finite and normal, or NaN.
    #[cfg_attr(optimized, inline(always))]
    fn f_quotient(self, a: Self::F, b: Self::F) -> Self::F {
        self.f_div(a, b)
    }
    /// An elementary function.
    #[cfg_attr(optimized, inline(always))]
    fn function<E: Elementary>(self, x: F32s<Self>) -> (F32s<Self>, F32s<Self>) {
        E::of(x)
    }
    /// Flips the sign, of zero and NaN as well.
    fn f_neg(self, a: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the machine has FMA, twice otherwise.
    fn f_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`, so that a NaN gives `b`.
    fn f_min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`, so that a NaN gives `b`.
    fn f_max(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn f_le(self, a: Self::F, b: Self::F) -> Self::M;
    fn f_eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// The opposites of `f_lt` and `f_eq`: true for NaN.
    #[cfg_attr(optimized, inline(always))]
    fn f_not_lt(self, a: Self::F, b: Self::F) -> Self::M {
        self.m_not(self.f_lt(a, b))
    }
    #[cfg_attr(optimized, inline(always))]
    fn f_ne(self, a: Self::F, b: Self::F) -> Self::M {
        self.m_not(self.f_eq(a, b))
    }
    fn f_select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// `a + b` where `m`, `a` elsewhere (but perhaps 0 for -0).
    fn f_add_where(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` where `m`, `c` elsewhere; rounded as [`f_mul_add`](Self::f_mul_add), or twice.
    #[cfg_attr(optimized, inline(always))]
    fn f_mul_add_where(self, m: Self::M, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.f_add_where(m, c, self.f_mul(a, b))
    }
    /// Flips the sign where `m`.
    #[cfg_attr(optimized, inline(always))]
    fn f_neg_where(self, m: Self::M, a: Self::F) -> Self::F {
        self.f_select(m, self.f_neg(a), a)
    }
    /// -1, 0 of either sign, or 1; NaN for NaN.
    #[cfg_attr(optimized, inline(always))]
    fn f_sign(self, a: Self::F) -> Self::F {
        let a = self.wrap(a);
        a.abs().gt(0.0).pick(self.splat(1.0).copysign(a), a).raw()
    }
    fn f_to_bits(self, x: Self::F) -> Self::U;
    /// A function of two numbers with two results, lane by lane.
    fn f_zip_map(self, a: Self::F, b: Self::F, f: impl FnMut(f32, f32) -> (f32, f32)) -> (Self::F, Self::F);
    /// The floats of these bits.
    fn u_to_float(self, x: Self::U) -> Self::F;
    /// The floats of these values, as `i32`.
    fn u_convert(self, x: Self::U) -> Self::F;
    fn u_splat(self, x: u32) -> Self::U;
    fn u_add(self, a: Self::U, b: Self::U) -> Self::U;
    fn u_sub(self, a: Self::U, b: Self::U) -> Self::U;
    fn u_and(self, a: Self::U, b: Self::U) -> Self::U;
    fn u_or(self, a: Self::U, b: Self::U) -> Self::U;
    fn u_shl(self, a: Self::U, n: u32) -> Self::U;
    fn u_shr(self, a: Self::U, n: u32) -> Self::U;
    fn u_eq(self, a: Self::U, b: Self::U) -> Self::M;
    fn m_and(self, a: Self::M, b: Self::M) -> Self::M;
    fn m_or(self, a: Self::M, b: Self::M) -> Self::M;
    fn m_not(self, a: Self::M) -> Self::M;

    /// `a`, of which the compiler knows nothing any more.
    #[cfg_attr(optimized, inline(always))]
    fn f_opaque(self, a: Self::F) -> Self::F {
        a
    }

    #[cfg_attr(optimized, inline(always))]
    fn splat(self, x: f32) -> F32s<Self> {
        F32s { v: self.f_splat(x), s: self }
    }

    #[cfg_attr(optimized, inline(always))]
    fn zero(self) -> F32s<Self> {
        self.splat(0.0)
    }

    #[cfg_attr(optimized, inline(always))]
    fn bits(self, x: u32) -> U32s<Self> {
        U32s { v: self.u_splat(x), s: self }
    }

    /// A vector of this set.
    #[cfg_attr(optimized, inline(always))]
    fn wrap(self, v: Self::F) -> F32s<Self> {
        F32s { v, s: self }
    }
}

/// The number of each lane.
pub(super) const IOTA: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// `f_zip_map` of an instruction set.
#[cfg_attr(optimized, inline(always))]
pub(super) fn zip_map<S: Machine>(s: S, a: S::F, b: S::F, mut f: impl FnMut(f32, f32) -> (f32, f32)) -> (S::F, S::F) {
    let (a, b) = (s.wrap(a).to_array(), s.wrap(b).to_array());
    let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
    for l in 0..LANES {
        (first[l], second[l]) = f(a[l], b[l]);
    }
    (s.lanes(&first).raw(), s.lanes(&second).raw())
}

/// An instruction set: vectors of sixteen, to and from memory.
pub(crate) trait Machine: Simd {
    /// Whether usual calls are worth a loop of their own for every loss and storage type, of which there are so many that they are
    /// most of the crate.
    const LOOPS: bool = true;
    /// Whether a few elements are read and written by one instruction.
    const PARTS: bool = false;
    /// Whether there are instructions that write past the caches.
    const STREAMS: bool = false;
    /// Sixteen `f64`.
    type D: Copy;
    /// What goes through a long loss together.
    type Chains: Chains<Self>;
    fn chains(self) -> Self::Chains;
    /// # Safety
    /// Sixteen floats can be read there, at any alignment.
    unsafe fn f_load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// Sixteen floats can be written there, at any alignment.
    unsafe fn f_store(self, p: *mut f32, x: Self::F);
    fn u_from_array(self, x: &[u32; LANES]) -> Self::U;
    /// The first `count` lanes.
    fn m_first(self, count: usize) -> Self::M;
    fn m_any(self, a: Self::M) -> bool;
    fn d_zero(self) -> Self::D;
    fn d_widen(self, x: Self::F) -> Self::D;
    fn d_add(self, a: Self::D, b: Self::D) -> Self::D;
    fn d_sub(self, a: Self::D, b: Self::D) -> Self::D;
    fn d_mul(self, a: Self::D, b: Self::D) -> Self::D;
    fn d_from_array(self, x: [f64; LANES]) -> Self::D;
    fn d_to_array(self, x: Self::D) -> [f64; LANES];
    fn d_narrow(self, x: Self::D) -> Self::F;
    fn bf16_widen(self, h: [u16; LANES]) -> Self::F;
    /// To nearest even.
    fn bf16_narrow(self, x: Self::F) -> [u16; LANES];
    fn f16_widen(self, h: [u16; LANES]) -> Self::F;
    /// To nearest even.
    fn f16_narrow(self, x: Self::F) -> [u16; LANES];
    /// `count` floats, then `pad`.
    ///
    /// # Safety
    /// So many floats can be read there, at any alignment; at most sixteen.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_load_part(self, p: *const f32, count: usize, pad: f32) -> Self::F {
        // SAFETY: the caller's promise, and an array.
        unsafe { self.f_load(outline::read_part(p, count, pad).as_ptr()) }
    }
    /// # Safety
    /// `count` floats can be written there, at any alignment; at most sixteen.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_store_part(self, p: *mut f32, count: usize, x: Self::F) {
        let mut part = [0.0; LANES];
        // SAFETY: our own array, and the caller's promise.
        unsafe {
            self.f_store(part.as_mut_ptr(), x);
            outline::write_part(p, count, &part);
        }
    }
    /// `count` halves of either kind, then zeros.
    ///
    /// # Safety
    /// So many can be read there; at most sixteen.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn h_load_part(self, p: *const u16, count: usize) -> [u16; LANES] {
        // SAFETY: the caller's promise.
        unsafe { outline::read_part(p, count, 0) }
    }
    /// # Safety
    /// `count` halves can be written there; at most sixteen.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn h_store_part(self, p: *mut u16, count: usize, x: [u16; LANES]) {
        // SAFETY: the caller's promise.
        unsafe { outline::write_part(p, count, &x) };
    }
    /// Elements `0, stride, .. 15 stride`.
    ///
    /// # Safety
    /// They can be read, and the last has an offset below 2^31.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_gather(self, p: *const f32, stride: i32) -> Self::F {
        // SAFETY: the caller's promise, and an array.
        unsafe { self.f_load(outline::gather(p, stride as usize, LANES).as_ptr()) }
    }
    /// # Safety
    /// Elements `0, stride, .. 15 stride` can be written, and the last has an offset below 2^31.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn f_scatter(self, p: *mut f32, stride: i32, x: Self::F) {
        let mut lanes = [0.0; LANES];
        // SAFETY: our own array, and the caller's promise.
        unsafe {
            self.f_store(lanes.as_mut_ptr(), x);
            outline::scatter(p, stride as usize, LANES, &lanes);
        }
    }
    /// Thirty-two halves of either kind, as the bits of sixteen floats.
    #[cfg_attr(optimized, inline(always))]
    fn h_line(self, halves: [[u16; LANES]; 2]) -> Self::F {
        // SAFETY: as many bytes.
        unsafe { self.f_load(halves.as_ptr().cast()) }
    }
    /// Writes a line past the caches: the last `quarters` quarters of `before`, then the first of `line`.
    ///
    /// # Safety
    /// Sixty-four bytes can be written there, the address is a multiple of as many, and `quarters` is less than four. There is
    /// [`STREAMS`](Self::STREAMS).
    #[cfg_attr(optimized, inline(always))]
    unsafe fn stream_line(self, _p: *mut u8, _quarters: usize, _before: Self::F, _line: Self::F) {
        unreachable!();
    }
    /// Asks for the cache line of an address, which need not exist.
    #[cfg_attr(optimized, inline(always))]
    fn prefetch<T>(self, _p: *const T) {}

    /// The same, no further than the second level of cache.
    #[cfg_attr(optimized, inline(always))]
    fn prefetch_later<T>(self, _p: *const T) {}

    /// Runs `task` in a function compiled for this instruction set, which is not inlined: the callers are many.
    fn run<K: Kernel>(self, task: K) -> K::Output;

    #[cfg_attr(optimized, inline(always))]
    fn lanes(self, x: &Lanes) -> F32s<Self> {
        // SAFETY: sixteen floats.
        F32s { v: unsafe { self.f_load(x.as_ptr()) }, s: self }
    }

    #[cfg_attr(optimized, inline(always))]
    fn wide_lanes(self, x: &[f64; LANES]) -> F64s<Self> {
        F64s { v: self.d_from_array(*x), s: self }
    }

    #[cfg_attr(optimized, inline(always))]
    fn bits_of(self, x: &[u32; LANES]) -> U32s<Self> {
        U32s { v: self.u_from_array(x), s: self }
    }

    #[cfg_attr(optimized, inline(always))]
    fn zero_wide(self) -> F64s<Self> {
        F64s { v: self.d_zero(), s: self }
    }

    /// True in the first `count` lanes; at most sixteen.
    #[cfg_attr(optimized, inline(always))]
    fn first(self, count: usize) -> Mask<Self> {
        Mask { v: self.m_first(count), s: self }
    }

    /// True in one lane; in none from sixteen on.
    #[cfg_attr(optimized, inline(always))]
    fn only(self, lane: usize) -> Mask<Self> {
        self.bits_of(&IOTA).eq(lane.min(LANES) as u32)
    }
}
