//! Elementary functions for the formulas of [`Custom`](crate::Custom) losses.
//!
//! They are those of the crate's own losses: at most 2 ulp off over all of f32, NaN for NaN, and without a branch or a call, so that a
//! loop over elements becomes vectors. (The standard library's `exp` or `ln` are a call for each element.)
//! Kernels have them by the same names, as `fl::exp` and so on.
//!
//! ```
//! use fused_loss::math;
//! assert!((math::softplus(0.0) - 0.693_147_2).abs() < 1e-6);
//! assert_eq!(math::sigmoid(0.0), 0.5);
//! ```

use crate::cpu::simd::{One, Simd};

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[cfg_attr(optimized, inline(always))]
        pub fn $name(x: f32) -> f32 {
            One.splat(x).$name().raw()
        }
    )*};
}
functions! {
    /// `e^x`, over the whole range.
    exp;
    /// The natural logarithm; minus infinity at 0, NaN below.
    ln;
    /// `ln(1 + x)`, exact for small `x`.
    ln_1p;
    /// The hyperbolic tangent.
    tanh;
    /// `1 / (1 + e^-x)`
    sigmoid;
    /// `ln(1 + e^x)`, without overflow.
    softplus;
}

/// What the logistic function has to do with, at one `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logistic {
    /// `1 / (1 + e^-x)`
    pub sigmoid: f32,
    /// The same of `-x`: `1 - sigmoid`, without cancellation.
    pub sigmoid_neg: f32,
    /// `ln(1 + e^x)`
    pub softplus: f32,
    /// The same of `-x`.
    pub softplus_neg: f32,
}

/// Sigmoid and softplus of `x` and of `-x`, from one exponential.
#[cfg_attr(optimized, inline(always))]
pub fn logistic(x: f32) -> Logistic {
    let (small, soft) = One.splat(x).logistic_tail();
    let (small, soft, positive) = (small.raw(), soft.raw(), x > 0.0);
    let (more, larger) = (soft + x.abs(), 1.0 - small);
    let (sigmoid, sigmoid_neg) = if positive { (larger, small) } else { (small, larger) };
    let (softplus, softplus_neg) = if positive { (more, soft) } else { (soft, more) };
    Logistic { sigmoid, sigmoid_neg, softplus, softplus_neg }
}

/// -1, 0 or 1: the derivative of the absolute value, with 0 at its kink. NaN for NaN.
#[cfg_attr(optimized, inline(always))]
pub fn sign(x: f32) -> f32 {
    let positive = if x > 0.0 { 1.0 } else { 0.0 };
    let sign = if x < 0.0 { -1.0 } else { positive };
    if x.is_nan() { x } else { sign }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    type Function = (&'static str, fn(f32) -> f32, fn(f64) -> f64);
    const ALL: [Function; 10] = [
        ("exp", exp, f64::exp),
        ("ln", ln, f64::ln),
        ("ln_1p", ln_1p, f64::ln_1p),
        ("tanh", tanh, f64::tanh),
        ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ("softplus", softplus, soft),
        ("logistic sigmoid", |x| logistic(x).sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ("logistic sigmoid_neg", |x| logistic(x).sigmoid_neg, |x| 1.0 / (1.0 + x.exp())),
        ("logistic softplus", |x| logistic(x).softplus, soft),
        ("logistic softplus_neg", |x| logistic(x).softplus_neg, |x| soft(-x)),
    ];

    /// The bound itself is checked for every float in `src/cpu/math.rs`; here, that these are those functions.
    #[test]
    fn within_two_ulp() {
        for (name, function, reference) in ALL {
            for x in (0..=u32::MAX).step_by(100_003).map(f32::from_bits) {
                let (got, want) = (function(x), reference(x.into()));
                if x.is_nan() {
                    assert!(got.is_nan(), "{name}({x:e})");
                    continue;
                }
                let ulp = f64::from((want as f32).abs().next_up() - (want as f32).abs());
                let same = got.is_nan() && want.is_nan() || got == want as f32;
                assert!(same || (f64::from(got) - want).abs() <= 2.0 * ulp, "{name}({x:e}) = {got:e}, not {want:e}");
            }
        }
        assert_eq!([-2.0, -0.0, 0.0, 3.0].map(sign), [-1.0, 0.0, 0.0, 1.0]);
        assert!(sign(f32::NAN).is_nan());
    }
}
