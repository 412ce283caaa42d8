//! Elementary functions, in `f32`.
use super::simd::Simd;
use core::f32::consts::{LN_2, LOG2_E};

const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;

const EXP: [f32; 7] = [1.0, 1.0, 0.4999999403953552, 0.1666652113199234, 0.04166825860738754, 0.00836867094039917, 0.0013821355532854795];
const EXP_M1: [f32; 5] = [0.4999999701976776, 0.1666654646396637, 0.04166744276881218, 0.008366253226995468, 0.0013869948452338576];
const LN_NEAR_1: [f32; 8] = [-0.49999991059303284, 0.33333948254585266, -0.25001785159111023, 0.1996215581893921, -0.1657005250453949, 0.14916831254959106, -0.14309605956077576, 0.08739861100912094];
const LN_1_TO_2: [f32; 8] = [-0.49999648332595825, 0.33321329951286316, -0.24857217073440552, 0.1915384829044342, -0.13754187524318695, 0.07920882850885391, -0.030068300664424896, 0.005365422461181879];

#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for k in (0..N - 1).rev() {
        sum = s.mul_add(sum, x, c[k]);
    }
    sum
}

#[inline(always)]
fn exp_reduced<S: Simd>(s: S, x: f32, bias: f32, scale: f32) -> (u32, f32) {
    let t = s.mul_add(x, LOG2_E, ROUND + bias);
    let n = t - (ROUND + bias);
    let r = s.mul_add(n, -LN2_LO, s.mul_add(n, -LN2_HI, x));
    (t.to_bits(), polynomial(s, r, EXP.map(|c| c * scale)))
}

#[inline(always)]
fn ln_reduced<S: Simd>(s: S, f: f32, k: f32) -> f32 {
    let r = s.mul_add(f * polynomial(s, f, LN_NEAR_1), f, f);
    s.mul_add(k, LN_2 / 8_388_608.0, r)
}

#[inline(always)]
fn ln_special(x: f32, r: f32) -> f32 {
    let edge = if x == 0.0 { f32::NEG_INFINITY } else { f32::NAN };
    let r = if x > 0.0 { r } else { edge };
    if x < f32::INFINITY { r } else { x }
}

pub(crate) trait Math: Simd {
    #[inline(always)]
    fn exp(self, x: f32) -> f32 {
        let x = if x < -104.0 { -104.0 } else { x };
        let x = if x > 89.0 { 89.0 } else { x };
        let (t, p) = exp_reduced(self, x, 254.0, 1.0);
        let half = t >> 1;
        p * f32::from_bits(half << 23) * f32::from_bits(t.wrapping_sub(half) << 23)
    }

    #[inline(always)]
    fn exp_neg(self, x: f32) -> f32 {
        let (t, p) = exp_reduced(self, x, 127.0 + 24.0, 1.0 / 16_777_216.0);
        let y = p * f32::from_bits(t << 23);
        if x < -104.0 { 0.0 } else { y }
    }

    #[inline(always)]
    fn ln(self, x: f32) -> f32 {
        let tiny = x < f32::MIN_POSITIVE;
        let y = if tiny { x * 8_388_608.0 } else { x };
        let bits = y.to_bits();
        let e = bits.wrapping_sub(core::f32::consts::FRAC_1_SQRT_2.to_bits()) & 0xff80_0000;
        let f = f32::from_bits(bits.wrapping_sub(e)) - 1.0;
        let k = e as i32 as f32 - if tiny { 23.0 * 8_388_608.0 } else { 0.0 };
        ln_special(x, ln_reduced(self, f, k))
    }

    #[inline(always)]
    fn ln_1p(self, x: f32) -> f32 {
        let u = 1.0 + x;
        let e = u.to_bits().wrapping_sub(core::f32::consts::FRAC_1_SQRT_2.to_bits()) & 0xff80_0000;
        let scale4 = f32::from_bits(4.0f32.to_bits().wrapping_sub(e));
        let f = f32::from_bits(x.to_bits().wrapping_sub(e)) + self.mul_add(scale4, 0.25, -1.0);
        let r = ln_special(u, ln_reduced(self, f, e as i32 as f32));
        f32::from_bits(r.to_bits() | x.to_bits() & 0x8000_0000)
    }

    #[inline(always)]
    fn sigmoid(self, x: f32) -> f32 {
        sigmoid_from(x, self.exp_neg(-x.abs()))
    }

    #[inline(always)]
    fn softplus(self, x: f32) -> f32 {
        softplus_from(self, x, self.exp_neg(-x.abs()))
    }

    #[inline(always)]
    fn sigmoid_softplus(self, x: f32) -> (f32, f32) {
        let e = self.exp_neg(-x.abs());
        (sigmoid_from(x, e), softplus_from(self, x, e))
    }

    #[inline(always)]
    fn tanh(self, x: f32) -> f32 {
        let a = x.abs();
        let a = if a > 10.0 { 10.0 } else { a };
        let t = self.mul_add(a, 2.0 * LOG2_E, ROUND + 127.0);
        let n = t - (ROUND + 127.0);
        let r = self.mul_add(n, -0.5 * LN2_LO, self.mul_add(n, -0.5 * LN2_HI, a));
        let c = EXP_M1;
        let q = polynomial(self, r, [2.0 * c[0], 4.0 * c[1], 8.0 * c[2], 16.0 * c[3], 32.0 * c[4]]);
        let q = self.mul_add(q * r, r, r);
        let scale = f32::from_bits(t.to_bits() << 23);
        let m = self.mul_add(q, scale, self.mul_add(scale, 0.5, -0.5));
        (m / (m + 1.0)).copysign(x)
    }
}

impl<S: Simd> Math for S {}

#[inline(always)]
fn sigmoid_from(x: f32, e: f32) -> f32 {
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

#[inline(always)]
fn softplus_from<S: Simd>(s: S, x: f32, e: f32) -> f32 {
    let ln = s.mul_add(e * polynomial(s, e, LN_1_TO_2), e, e);
    ln + if x > 0.0 { x } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel, LANES, Lanes};
    use rayon::prelude::*;

    const NAMES: [&str; 9] =
        ["exp", "exp_neg", "ln", "ln_1p", "sigmoid", "softplus", "tanh", "sigmoid of both", "softplus of both"];
    type Values = [Lanes; NAMES.len()];

    struct Eval<'a>(&'a [Lanes], &'a mut [Values]);
    impl Kernel for Eval<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for (x, out) in self.0.iter().zip(self.1) {
                for l in 0..LANES {
                    out[0][l] = s.exp(x[l]);
                }
                for l in 0..LANES {
                    out[1][l] = s.exp_neg(if x[l] > 0.0 { -x[l] } else { x[l] });
                }
                for l in 0..LANES {
                    out[2][l] = s.ln(x[l]);
                }
                for l in 0..LANES {
                    out[3][l] = s.ln_1p(x[l]);
                }
                for l in 0..LANES {
                    out[4][l] = s.sigmoid(x[l]);
                }
                for l in 0..LANES {
                    out[5][l] = s.softplus(x[l]);
                }
                for l in 0..LANES {
                    out[6][l] = s.tanh(x[l]);
                }
                for l in 0..LANES {
                    (out[7][l], out[8][l]) = s.sigmoid_softplus(x[l]);
                }
            }
        }
    }

    fn reference(x: f32) -> [f64; NAMES.len()] {
        let x = f64::from(x);
        let e = (-x.abs()).exp();
        let sigmoid = if x < 0.0 { e } else { 1.0 } / (1.0 + e);
        let softplus = e.ln_1p() + if x > 0.0 { x } else { 0.0 };
        let exp = if x > 0.0 { x.exp() } else { e };
        [exp, e, x.ln(), x.ln_1p(), sigmoid, softplus, x.tanh(), sigmoid, softplus]
    }

    /// The distance in units of the spacing of `f32` at `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        const TOP: f64 = 2.0 * (1u128 << 127) as f64;
        if got.is_nan() || want.is_nan() {
            return if got.is_nan() && want.is_nan() { 0.0 } else { f64::INFINITY };
        }
        let want = want.clamp(-TOP, TOP);
        let exponent = (want.to_bits() >> 52 & 0x7ff).max(1023 - 126);
        (f64::from(got).clamp(-TOP, TOP) - want).abs() * f64::from_bits((2046 + 23 - exponent) << 52)
    }

    /// The largest error of every function on every instruction set, over bit patterns `step` apart,
    /// and where it is.
    fn worst(step: usize) -> Vec<[(f64, f32); NAMES.len()]> {
        const CHUNK: usize = 1024;
        let isas = Isa::available();
        let count = (1usize << 32).div_ceil(step);
        let zero = || vec![[(-1.0, 0.0); NAMES.len()]; isas.len()];
        let max = |mut a: Vec<[(f64, f32); NAMES.len()]>, b: Vec<[(f64, f32); NAMES.len()]>| {
            for (a, b) in a.iter_mut().flatten().zip(b.iter().flatten()) {
                *a = if b.0 > a.0 { *b } else { *a };
            }
            a
        };
        let chunk = |c: usize| {
            let x: Vec<Lanes> = (0..CHUNK / LANES)
                .map(|i| core::array::from_fn(|l| f32::from_bits(((c * CHUNK + i * LANES + l) * step) as u32)))
                .collect();
            let want: Vec<_> = x.as_flattened().iter().map(|&x| reference(x)).collect();
            let mut got = vec![[[0.0; LANES]; NAMES.len()]; x.len()];
            let mut worst = zero();
            for (isa, worst) in isas.iter().zip(&mut worst) {
                isa.run(Eval(&x, &mut got));
                for (i, want) in want.iter().enumerate() {
                    for (k, worst) in worst.iter_mut().enumerate() {
                        let error = ulps(got[i / LANES][k][i % LANES], want[k]);
                        if error > worst.0 {
                            *worst = (error, x[i / LANES][i % LANES]);
                        }
                    }
                }
            }
            worst
        };
        (0..count.div_ceil(CHUNK)).into_par_iter().map(chunk).reduce(zero, max)
    }

    fn check(step: usize) {
        for (isa, worst) in Isa::available().iter().zip(worst(step)) {
            for (name, (error, x)) in NAMES.iter().zip(worst) {
                println!("{:9} {name:16} {error:.3} ulp at {x:e}", isa.name());
            }
            for (name, (error, x)) in NAMES.iter().zip(worst) {
                assert!(error <= 2.0 || std::env::var("NOASSERT").is_ok(), "{} {name}({x:e}): {error} ulp", isa.name());
            }
        }
    }

    #[test]
    fn within_two_ulp_on_a_sample() {
        check(1009);
    }

    #[test]
    #[ignore = "four billion values: run in release mode"]
    fn within_two_ulp_everywhere() {
        check(1);
    }
}
