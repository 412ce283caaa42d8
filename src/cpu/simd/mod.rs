//! Sixteen floats at a time, on the instruction set of the machine, chosen once at run time.
//!
//! A loss is written as maths over [`F32s`], [`F64s`], [`U32s`] and [`Mask`], which read like scalars and are
//! generic over the instruction set [`Simd`]. The skeletons run it inside a function compiled for one. The
//! operations are explicit vector instructions and nothing is left for LLVM to find: given loops over lanes, its
//! vectoriser made vectors of two out of sixteen as often as not.
//!
//! All of it must be inlined into the function that is compiled for the instruction set, so that it takes on its
//! instructions; hence `inline(always)` on everything, where the build is optimised.

mod half;
mod instructions;
mod one;
pub(crate) mod outline;
mod pair;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use instructions::IOTA;
use instructions::zip_map;
pub(crate) use instructions::{Machine, Simd};
pub(crate) use one::One;
pub(crate) use pair::{Chains, Pair};
#[cfg(not(target_arch = "x86_64"))]
use portable::Baseline;
pub(crate) use vector::{F32s, F64s, Mask, Operand, U32s};
#[cfg(target_arch = "x86_64")]
use x86::Baseline;

/// Elements handled together: one AVX-512 register, two AVX ones, four SSE or NEON ones.
pub(crate) const LANES: usize = 16;

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
    #[cfg_attr(optimized, inline(always))]
    fn count(self) -> usize {
        LANES
    }
}

impl Span for Part {
    const WHOLE: bool = false;
    #[cfg_attr(optimized, inline(always))]
    fn count(self) -> usize {
        self.0
    }
}

/// Sixteen `f32` values in memory.
pub(crate) type Lanes = [f32; LANES];

/// Work that is compiled once for every instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[cfg_attr(optimized, inline(always))]`, so that it takes on the instruction set of its caller.
    fn run<S: Machine>(self, simd: S) -> Self::Output;
}

/// The instruction set in use.
#[derive(Clone, Copy)]
pub(crate) enum Isa {
    Baseline(Baseline),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    /// Plain Rust: what the others are compared with.
    #[cfg(all(test, target_arch = "x86_64"))]
    #[cfg_attr(miri, allow(dead_code))]
    Portable(portable::Baseline),
}

impl Isa {
    /// The widest instruction set of this machine.
    pub(crate) fn detect() -> Self {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
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
            #[cfg(all(test, target_arch = "x86_64"))]
            Isa::Portable(_) => "portable",
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
            #[cfg(all(test, target_arch = "x86_64"))]
            Isa::Portable(s) => s.run(task),
        }
    }

    /// Has this thread, whose calls are too small for others, use this set.
    #[cfg(test)]
    pub(crate) fn on<R>(self, task: impl FnOnce() -> R) -> R {
        FORCED.set(Some(self));
        let result = task();
        FORCED.set(None);
        result
    }

    /// The one in plain Rust, which on machines without another is the baseline.
    #[cfg(test)]
    #[cfg_attr(miri, allow(dead_code))]
    pub(crate) fn portable() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Isa::Portable(portable::Baseline(()));
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Baseline(Baseline(()))
    }
}

#[cfg(test)]
thread_local! {
    /// The set that a test has chosen.
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// What `task` returns on every instruction set of this machine, and on the one in plain Rust.
#[cfg(test)]
pub(crate) fn on_every_set<K: Kernel + Copy>(task: K) -> Vec<(&'static str, K::Output)> {
    let mut all: Vec<_> = Isa::available().iter().map(|isa| (isa.name(), isa.run(task))).collect();
    all.push(("portable", task.run(portable::Baseline(()))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::half::{bf16, f16};

    #[test]
    fn every_half_widens_and_narrows_as_the_half_crate_does_it() {
        #[derive(Clone, Copy)]
        struct Check;
        impl Kernel for Check {
            type Output = ();
            #[cfg_attr(optimized, inline(always))]
            fn run<S: Machine>(self, s: S) {
                for base in (0..=u16::MAX).step_by(LANES) {
                    let h: [u16; LANES] = core::array::from_fn(|l| base + l as u16);
                    let wide = s.wrap(s.f16_widen(h));
                    let (wide, back) = (wide.to_array(), s.f16_narrow(wide.raw()));
                    let (h, back) = (h.map(f16::from_bits), back.map(f16::from_bits));
                    for l in 0..LANES {
                        let want = h[l].to_f32();
                        assert!(wide[l].to_bits() == want.to_bits() || wide[l].is_nan() && want.is_nan());
                        assert!(back[l].to_bits() == h[l].to_bits() || back[l].is_nan() && h[l].is_nan());
                    }
                }
            }
        }
        on_every_set(Check);
    }

    #[test]
    fn the_sign_of_zero_is_zero_and_of_nan_is_nan() {
        #[derive(Clone, Copy)]
        struct Check;
        impl Kernel for Check {
            type Output = ();
            #[cfg_attr(optimized, inline(always))]
            fn run<S: Machine>(self, s: S) {
                let (tiny, huge) = (f32::from_bits(1), f32::MAX);
                let x = [0.0, 1.0, tiny, huge, f32::INFINITY, f32::NAN, 0.5, f32::MIN_POSITIVE];
                let x: Lanes = core::array::from_fn(|l| if l < 8 { x[l] } else { -x[l - 8] });
                for (x, got) in x.into_iter().zip(s.lanes(&x).sign().to_array()) {
                    let want = if x == 0.0 || x.is_nan() { x } else { x.signum() };
                    assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{x:e}: {got}");
                }
            }
        }
        on_every_set(Check);
    }

    #[test]
    fn floats_round_to_half_and_bfloat_to_nearest_even() {
        #[derive(Clone, Copy)]
        struct Check;
        impl Kernel for Check {
            type Output = ();
            #[cfg_attr(optimized, inline(always))]
            fn run<S: Machine>(self, s: S) {
                for base in (0..=u32::MAX - 4096 * 16).step_by(4096 * 16 - 77) {
                    let x: Lanes = core::array::from_fn(|l| f32::from_bits(base + 4099 * l as u32));
                    let half = s.f16_narrow(s.lanes(&x).raw()).map(f16::from_bits);
                    let brain = s.bf16_narrow(s.lanes(&x).raw()).map(bf16::from_bits);
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
        on_every_set(Check);
    }
}
