//! Elementary functions in `f32`, at most 2 ulp from the exact result on every instruction set.
//!
//! They are straight-line code: a condition picks between two computed values, the exponent is read and
//! made by integer arithmetic, and nothing divides but `sigmoid` and `tanh`, once each.
//!
//! The accuracy has to hold with and without fused multiply-add. That shapes the formulas: where a
//! polynomial corrects a leading term (`x + x * (x * q)`), that term is added last, so that only that
//! addition rounds at full size. Clamps keep NaN (`f32::max` would not).
//!
//! The polynomials are minimax fits: least squares on 3001 Chebyshev points against 120-bit values,
//! reweighted until the largest relative error of the whole function stops falling; then the
//! coefficients are rounded to `f32` lowest order first, refitting the others each time. One ulp is
//! at least 6e-8 relative. One degree less costs a factor of 7 to 40, which breaks the 2 ulp.
use super::simd::{F32s, Simd, U32s};
use core::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

/// (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2; exp within 3.1e-9.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_26, 0.008_368_671, 0.001_382_135_8];
/// (expm1(2 r) / 2 - r) / r^2 on |r| <= ln(2) / 4; expm1 within 2e-8, and within 5e-9 for r in
/// [-0.15, -0.08], weighted four times because `tanh` errs most there: from 2.08 to 1.99 ulp without FMA.
const EXP_M1_TWICE: [f32; 5] = [0.999_999_76, 0.666_662_34, 0.333_362_22, 0.133_837_31, 0.043_821_04];
/// (ln(1 + f) - f) / f^2 on 1 + f in [sqrt(1/2), sqrt(2)]; ln within 3.1e-8.
#[rustfmt::skip]
const LN: [f32; 8] = [
    -0.499_999_9, 0.333_339_48, -0.250_017_85, 0.199_621_56, -0.165_700_48, 0.149_168_2, -0.143_096_64,
    0.087_400_04,
];
/// (ln(1 + e) - e) / e^2 on e in [0, 1]; ln within 1.5e-8 (the fit: 5.3e-9). A random search over the last
/// bits, judged by all floats where `softplus` errs most, took it from 2.05 to 1.99 ulp without FMA.
#[rustfmt::skip]
const LN_1P_UNIT: [f32; 9] = [
    -0.499_999_3, 0.333_304_67, -0.249_580_22, 0.196_921_2, -0.153_449_9, 0.106_613_785, -0.057_460_394,
    0.020_088_356, -0.003_291_015,
];

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the float.
const ROUND: f32 = 12_582_912.0;
/// ln(2) = `LN2_HI` + `LN2_LO` (Cody-Waite). The first has ten bits: its products with exponents are
/// exact, with or without FMA, and so is their difference from the argument.
const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;
/// 2^23: one step of the exponent field.
const EXPONENT_ONE: f32 = 8_388_608.0;

/// An elementary function, or two of the same argument. NaN gives NaN in all of them.
pub(crate) trait Elementary {
    /// One that is alone is its own second.
    fn of<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>);
}

/// Makes methods of the functions below, by way of the instruction set, which may call them where others inline them.
macro_rules! elementary {
    ($($name:ident $type:ident: |$y:ident| $both:expr, |$all:ident| $mine:expr => $result:ty;)*) => {
        $(
            struct $type;
            impl Elementary for $type {
                #[cfg_attr(optimized, inline(always))]
                fn of<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>) {
                    let $y = $name(x);
                    $both
                }
            }
        )*
        impl<S: Simd> F32s<S> {
            $(
                #[doc = concat!("See [`", stringify!($name), "`].")]
                #[cfg_attr(optimized, inline(always))]
                pub(crate) fn $name(self) -> $result {
                    let $all = self.simd().function::<$type>(self);
                    $mine
                }
            )*
        }
    };
}
elementary! {
    exp Exp: |y| (y, y), |all| all.0 => Self;
    exp_neg ExpNeg: |y| (y, y), |all| all.0 => Self;
    ln Ln: |y| (y, y), |all| all.0 => Self;
    ln_1p Ln1p: |y| (y, y), |all| all.0 => Self;
    ln_and_ln_of_rest LnAndLnOfRest: |y| y, |all| all => (Self, Self);
    softplus Softplus: |y| (y, y), |all| all.0 => Self;
    logistic_tail LogisticTail: |y| y, |all| all => (Self, Self);
    tanh Tanh: |y| (y, y), |all| all.0 => Self;
}

impl<S: Simd> F32s<S> {
    /// 1 / (1 + e^-x).
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn sigmoid(self) -> Self {
        let (small, _) = self.logistic_tail();
        self.lt(0.0).pick(small, 1.0 - small)
    }
}

/// e^x over the whole range: right in denormals, infinite from 88.73, 1 at 0, at most 1 below 0.
#[cfg_attr(optimized, inline(always))]
fn exp<S: Simd>(x: F32s<S>) -> F32s<S> {
    // At 89 the result is infinite, and at -176 `first` below is 0: an exact 0 costs nothing,
    // while an underflow to 0 costs as much as a hundred multiplications.
    let x = x.at_least(-176.0).at_most(89.0);
    // 2^n may lie beyond the normal numbers: it is applied in two halves, each with half the bias.
    let (r, n) = exp_reduce(x, 254.0);
    let half = n.shr(1);
    let first = half.shl(23).to_float();
    r.mul_add(first, first) * (n - half).shl(23).to_float()
}

/// e^x for x <= 0, the cheapest form: below -87.68 the result, below 2^-126.5, is 0.
#[cfg_attr(optimized, inline(always))]
fn exp_neg<S: Simd>(x: F32s<S>) -> F32s<S> {
    // -88 rounds to 2^-127, which this makes 0.
    let (r, n) = exp_reduce(x.at_least(-88.0), 127.0);
    let scale = n.shl(23).to_float();
    r.mul_add(scale, scale)
}

/// The natural logarithm: -inf at 0, NaN below.
#[cfg_attr(optimized, inline(always))]
fn ln<S: Simd>(x: F32s<S>) -> F32s<S> {
    // Denormals become normal; negative numbers take the same way, to NaN in the end.
    let tiny = x.lt(f32::MIN_POSITIVE);
    let y = tiny.pick(x * EXPONENT_ONE, x);
    let e = ln_exponent(y);
    let f = (y.to_bits() - e).to_float() - 1.0;
    let steps = e.convert() - tiny.pick(23.0 * EXPONENT_ONE, 0.0);
    ln_edges(x, ln_reduced(f, steps))
}

/// ln(1 + x): -inf at -1, NaN below, x where x is tiny, and the sign of x always.
#[cfg_attr(optimized, inline(always))]
fn ln_1p<S: Simd>(x: F32s<S>) -> F32s<S> {
    // 1 + x = 2^e (1 + f). The rounded sum is good enough to choose e; then
    // f = x 2^-e + (2^-e - 1) has all the bits of x, and needs no correction by c / (1 + x).
    let u = 1.0 + x;
    let e = ln_exponent(u);
    // Four times 2^-e, because 2^-128 is not normal.
    let scale = (x.simd().bits(4.0f32.to_bits()) - e).to_float();
    let f = (x.to_bits() - e).to_float() + scale.mul_add(0.25, -1.0);
    let y = ln_edges(u, ln_reduced(f, e.convert()));
    // -0 has become 0 on the way.
    (y.to_bits() | (x.to_bits() & 0x8000_0000)).to_float()
}

/// `ln(x)` and `ln(1 - x)`, at most -100 where they are -inf, for x in `[0, 1]`; NaN elsewhere.
#[cfg_attr(optimized, inline(always))]
fn ln_and_ln_of_rest<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>) {
    // As in `ln`; but zero, of either sign, takes the same way as the denormals, to -104.
    let a = x.abs();
    let tiny = a.lt(f32::MIN_POSITIVE);
    let y = tiny.pick(a * EXPONENT_ONE, a);
    let e = ln_exponent(y);
    let ln = ln_reduced((y.to_bits() - e).to_float() - 1.0, e.convert().add_where(tiny, -23.0 * EXPONENT_ONE));
    // As in `ln_1p`.
    let u = 1.0 - x;
    let e = ln_exponent(u);
    let scale = (x.simd().bits(4.0f32.to_bits()) - e).to_float();
    let f = ((-x).to_bits() - e).to_float() + scale.mul_add(0.25, -1.0);
    let ln_rest = u.eq(0.0).pick(-104.0, ln_reduced(f, e.convert()));
    let possible = x.ge(0.0) & x.le(1.0);
    (possible.pick(ln, f32::NAN), possible.pick(ln_rest, f32::NAN))
}

/// ln(1 + e^x).
#[cfg_attr(optimized, inline(always))]
fn softplus<S: Simd>(x: F32s<S>) -> F32s<S> {
    // max(x, 0) + ln(1 + e^-|x|). Adding x to the finished logarithm would round twice at full size: the largest
    // goes last.
    let (e, small) = exp_of_minus_abs(x);
    let linear = x.gt(0.0).pick(x, 0.0);
    (small * polynomial(small, LN_1P_UNIT)).mul_add(small, linear) + e
}

/// `sigmoid(-|x|)` and `ln(1 + e^-|x|)`, from one exponential. The other half of the axis is
/// `1 - sigmoid` and `|x| + ln(..)`.
#[cfg_attr(optimized, inline(always))]
fn logistic_tail<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>) {
    let (e, small) = exp_of_minus_abs(x);
    // e / (1 + e) as e - e * (e / (1 + e)), which makes the roundings of the sum and of the quotient count
    // less: without it, it is 2.2 ulp off.
    let sigmoid = (-e).mul_add(small.over(1.0 + small), e);
    // A polynomial in e itself converges as fast as one after the reduction of `ln`.
    let softplus = (small * polynomial(small, LN_1P_UNIT)).mul_add(small, e);
    (sigmoid, softplus)
}

/// The hyperbolic tangent.
#[cfg_attr(optimized, inline(always))]
fn tanh<S: Simd>(x: F32s<S>) -> F32s<S> {
    // tanh(a) = m / (1 + m) with m = expm1(2 a) / 2, for a = |x|. From a = 9.02 on it is 1.
    let a = x.abs().at_most(10.0);
    // 2 a = n ln(2) + 2 r; then m = 2^n expm1(2 r) / 2 + (2^n - 1) / 2.
    let t = a.mul_add(2.0 * LOG2_E, ROUND + 127.0);
    let n = t - (ROUND + 127.0);
    // One constant will do: it is exact enough for n <= 2, and the larger m, the less it matters.
    let r = n.mul_add(-0.5 * LN_2, a);
    let em1 = (r * polynomial(r, EXP_M1_TWICE)).mul_add(r, r);
    let scale = t.to_bits().shl(23).to_float();
    let m = em1.mul_add(scale, scale.mul_add(0.5, -0.5));
    // Dividing directly is 2.4 ulp off where m is small, from the rounding of 1 + m. Instead:
    // m / (1 + m) = m - m^2 / (1 + m) up to 1, and = 1 - 1 / (1 + m) beyond.
    let top = m.at_most(1.0);
    (-top).mul_add(top.over(1.0 + m), top).copysign(x)
}

/// e = exp(-|x|), with denormals; and the same or, where 1 + e rounds to 1, zero, which spares products so small that
/// they are slow.
#[cfg_attr(optimized, inline(always))]
fn exp_of_minus_abs<S: Simd>(x: F32s<S>) -> (F32s<S>, F32s<S>) {
    // 2^(n + 24) is normal for all results, and 0 where they are, n = -151.
    let (r, n) = exp_reduce((-x.abs()).at_least(-104.5), 127.0 + 24.0);
    let scale = n.shl(23).to_float();
    let e = r.mul_add(scale, scale) * (1.0 / 16_777_216.0);
    (e, e.ge(1.0 / 1_073_741_824.0).pick(e, 0.0))
}

/// c\[0\] + c\[1\] x + c\[2\] x^2 + ..., by Horner's rule.
#[cfg_attr(optimized, inline(always))]
fn polynomial<S: Simd, const N: usize>(x: F32s<S>, c: [f32; N]) -> F32s<S> {
    let mut sum = x.simd().splat(c[N - 1]);
    for k in (0..N - 1).rev() {
        sum = sum.mul_add(x, c[k]);
    }
    sum
}

/// `(expm1(r), n + bias)` where x = n ln(2) + r and |r| <= ln(2) / 2; the integer has other bits set
/// above its lowest nine.
#[cfg_attr(optimized, inline(always))]
fn exp_reduce<S: Simd>(x: F32s<S>, bias: f32) -> (F32s<S>, U32s<S>) {
    let t = x.mul_add(LOG2_E, ROUND + bias);
    let n = t - (ROUND + bias);
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    ((r * polynomial(r, EXP)).mul_add(r, r), t.to_bits())
}

/// The exponent e, still in its field, for which x 2^-e lies in [sqrt(1/2), sqrt(2)).
#[cfg_attr(optimized, inline(always))]
fn ln_exponent<S: Simd>(x: F32s<S>) -> U32s<S> {
    (x.to_bits() - FRAC_1_SQRT_2.to_bits()) & 0xff80_0000
}

/// ln(1 + f) + e ln(2), where e is counted in steps of the exponent field.
#[cfg_attr(optimized, inline(always))]
fn ln_reduced<S: Simd>(f: F32s<S>, steps: F32s<S>) -> F32s<S> {
    let y = (f * polynomial(f, LN)).mul_add(f, f);
    steps.mul_add(LN_2 / EXPONENT_ONE, y)
}

/// ln(x), given `y` where 0 < x < inf.
#[cfg_attr(optimized, inline(always))]
fn ln_edges<S: Simd>(x: F32s<S>, y: F32s<S>) -> F32s<S> {
    let edge = x.eq(0.0).pick(f32::NEG_INFINITY, f32::NAN);
    let y = x.gt(0.0).pick(y, edge);
    x.lt(f32::INFINITY).pick(y, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Machine, on_every_set};
    use rayon::prelude::*;

    const NAMES: [&str; 7] = ["exp", "exp_neg", "ln", "ln_1p", "sigmoid", "softplus", "tanh"];
    const COUNT: usize = NAMES.len();
    const CHUNK: usize = 64 * LANES;

    /// All functions of sixteen values; `exp_neg` of their negative magnitudes.
    #[cfg_attr(optimized, inline(always))]
    fn functions<S: Machine>(s: S, x: &Lanes) -> [Lanes; COUNT] {
        let x = s.lanes(x);
        [
            x.exp().to_array(),
            (-x.abs()).exp_neg().to_array(),
            x.ln().to_array(),
            x.ln_1p().to_array(),
            x.sigmoid().to_array(),
            x.softplus().to_array(),
            x.tanh().to_array(),
        ]
    }

    /// The same in `f64`, by the standard library.
    fn reference(x: f32) -> [f64; COUNT] {
        let x = f64::from(x);
        let e = (-x.abs()).exp();
        let exp = if x > 0.0 { x.exp() } else { e };
        let sigmoid = if x < 0.0 { e } else { 1.0 } / (1.0 + e);
        let softplus = e.ln_1p() + if x > 0.0 { x } else { 0.0 };
        [exp, e, x.ln(), x.ln_1p(), sigmoid, softplus, x.tanh()]
    }

    /// Sixteen values with their references, and the reciprocal of the spacing of `f32` there.
    struct Case {
        x: Lanes,
        want: [[f64; LANES]; COUNT],
        per_ulp: [[f64; LANES]; COUNT],
    }

    fn case(x: Lanes) -> Case {
        let mut case = Case { x, want: [[0.0; LANES]; COUNT], per_ulp: [[0.0; LANES]; COUNT] };
        for (l, &x) in x.iter().enumerate() {
            for (k, want) in reference(x).into_iter().enumerate() {
                // What rounds to infinity is infinite.
                case.want[k][l] = if (want as f32).is_infinite() { f64::from(want as f32) } else { want };
                // The spacing is 2^(exponent - 23), with an exponent not below that of the denormals;
                // what `exp_neg` may flush to 0 counts as one.
                let exponent = (want.to_bits() >> 52 & 0x7ff).max(1023 - 126);
                let flushed = k == 1 && want < f64::from(f32::MIN_POSITIVE);
                let spacing = if flushed { exponent } else { exponent - 23 };
                case.per_ulp[k][l] = f64::from_bits((2 * 1023 - spacing) << 52);
            }
        }
        case
    }

    /// The error of each function in ulp, the largest over all cases.
    #[derive(Clone, Copy)]
    struct Errors<'a>(&'a [Case]);
    impl Kernel for Errors<'_> {
        type Output = [f64; COUNT];
        #[cfg_attr(optimized, inline(always))]
        fn run<S: Machine>(self, s: S) -> [f64; COUNT] {
            let mut worst = [[0.0f64; LANES]; COUNT];
            for case in self.0 {
                let got = functions(s, &case.x);
                for k in 0..COUNT {
                    for l in 0..LANES {
                        let (got, want) = (f64::from(got[k][l]), case.want[k][l]);
                        let error = if got == want { 0.0 } else { (got - want).abs() * case.per_ulp[k][l] };
                        let error = if got.is_nan() != want.is_nan() { f64::INFINITY } else { error };
                        worst[k][l] = if error > worst[k][l] { error } else { worst[k][l] };
                    }
                }
            }
            worst.map(|w| w.into_iter().fold(0.0, f64::max))
        }
    }

    /// Checks bit patterns that are `step` apart; all of them on the machine's own instruction sets alone, for the
    /// one in plain Rust computes what the baseline does, and slowly.
    fn check(step: usize) {
        let own = if step == 1 { Isa::available().len() } else { usize::MAX };
        let sets: Vec<_> = on_every_set(Errors(&[])).into_iter().map(|(name, _)| name).take(own).collect();
        let worst_of = |chunk: usize| {
            let x = |i, l| f32::from_bits(((chunk * CHUNK + i * LANES + l) * step) as u32);
            let cases: Vec<_> = (0..CHUNK / LANES).map(|i| case(core::array::from_fn(|l| x(i, l)))).collect();
            let errors: Vec<_> = match step {
                1 => Isa::available().iter().flat_map(|isa| isa.run(Errors(&cases))).collect(),
                _ => on_every_set(Errors(&cases)).into_iter().flat_map(|(_, e)| e).collect(),
            };
            errors.into_iter().map(|error| (error, chunk)).collect::<Vec<_>>()
        };
        let chunks = (0..(1usize << 32).div_ceil(step * CHUNK)).into_par_iter().map(worst_of);
        let larger = |(a, b): ((f64, usize), _)| if a < b { b } else { a };
        let worst = chunks.reduce_with(|a, b| a.into_iter().zip(b).map(larger).collect()).unwrap();
        for (i, (error, chunk)) in worst.iter().enumerate() {
            let (set, name) = (sets[i / COUNT], NAMES[i % COUNT]);
            let near = f32::from_bits((chunk * CHUNK * step) as u32);
            println!("{set:9} {name:9} {error:.3} ulp, near {near:e}");
        }
        assert!(worst.iter().all(|w| w.0 <= 2.0), "more than 2 ulp, see above");
    }

    #[test]
    fn within_two_ulp_on_a_sample() {
        check(if cfg!(debug_assertions) { 10_007 } else { 1009 });
    }

    #[test]
    #[ignore = "four billion values: run in release mode"]
    fn within_two_ulp_everywhere() {
        check(1);
    }

    /// All functions of one value.
    #[derive(Clone, Copy)]
    struct Call(f32);
    impl Kernel for Call {
        type Output = [f32; COUNT];
        #[cfg_attr(optimized, inline(always))]
        fn run<S: Machine>(self, s: S) -> [f32; COUNT] {
            functions(s, &[self.0; LANES]).map(|lanes| lanes[0])
        }
    }

    #[test]
    fn special_values_and_bounds() {
        const INF: f32 = f32::INFINITY;
        const NAN: f32 = f32::NAN;
        #[rustfmt::skip]
        let table = [ // exp, exp_neg of the negative magnitude, ln, ln_1p, sigmoid, softplus, tanh
            (0.0,      [1.0, 1.0, -INF, 0.0, 0.5, LN_2, 0.0]),
            (-0.0,     [1.0, 1.0, -INF, -0.0, 0.5, LN_2, -0.0]),
            (-1e-45,   [1.0, 1.0, NAN, -1e-45, 0.5, LN_2, -1e-45]),
            (1e-30,    [1.0, 1.0, -69.077_55, 1e-30, 0.5, LN_2, 1e-30]),
            (INF,      [INF, 0.0, INF, INF, 1.0, INF, 1.0]),
            (-INF,     [0.0, 0.0, NAN, NAN, 0.0, 0.0, -1.0]),
            (f32::MAX, [INF, 0.0, 88.722_84, 88.722_84, 1.0, f32::MAX, 1.0]),
            (f32::MIN, [0.0, 0.0, NAN, NAN, 0.0, 0.0, -1.0]),
            (NAN,      [NAN; COUNT]),
            (-NAN,     [NAN; COUNT]),
        ];
        for (x, want) in &table {
            for (set, got) in on_every_set(Call(*x)) {
                for (k, (got, want)) in got.iter().zip(want).enumerate() {
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(same, "{set} {}({x:e}) = {got:e}, not {want:e}", NAMES[k]);
                }
            }
        }
        for ((set, pole), (_, beyond)) in on_every_set(Call(-1.0)).into_iter().zip(on_every_set(Call(-1.000_000_1))) {
            assert!(pole[3] == -INF && beyond[3].is_nan(), "{set} ln_1p at and below -1");
        }
        for x in (0x8000_0000..0xff80_0000u32).step_by(100_003).map(f32::from_bits) {
            for ((set, [exp, exp_neg, ..]), (_, [.., sigmoid, _, tanh])) in
                on_every_set(Call(x)).into_iter().zip(on_every_set(Call(-x)))
            {
                assert!(exp.max(exp_neg).max(sigmoid).max(tanh) <= 1.0, "{set} at {x:e}");
            }
        }
    }
}
