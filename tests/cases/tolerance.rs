//! How exact the crate has to be, and each exception with its reason.

use fused_loss::Element;

/// The largest error of a value, as a share of what it is measured against: the sum of the absolute
/// losses, which for losses that are never negative is the value itself.
pub const VALUE: f64 = 1e-6;

/// The largest error of a gradient before it is rounded to the storage type, as a share of the largest
/// gradient of its row (row-wise losses) or tensor (all others).
pub const GRADIENT: f64 = 1e-6;

/// Below this, in units of what comes from above, f32 itself ends: errors are not measured against less.
const UNDERFLOW: f64 = 1e-31;

/// Where f32 arithmetic cannot do that, because a small result is what is left of larger numbers.
pub struct Exception {
    /// What the name of the case starts with,
    pub case: &'static str,
    /// and which option it has.
    pub option: &'static str,
    /// A loss smaller than this has its error measured against this,
    pub value: f64,
    /// and so has the largest gradient, in units of what comes from above (for a region, of what comes
    /// from above to each of its elements on average).
    pub gradient: f64,
    pub reason: &'static str,
}

macro_rules! exceptions {
    ($list:ident: $($case:literal with $option:literal: value $value:literal, gradient $gradient:literal, $reason:literal;)*) => {
        pub const $list: &[Exception] = &[
            $(Exception { case: $case, option: $option, value: $value, gradient: $gradient, reason: $reason },)*
        ];
    };
}
exceptions! { DRAWN:
    "sigmoid_focal" with "any gamma": value 0.1, gradient 0.1,
        "as that of gamma=3.5";
    "softmax_focal" with "drawn": value 0.05, gradient 0.05,
        "likewise: m^gamma |ln m| gamma is 0.4 at most, of which f32 knows seven digits";
    "distillation" with "+true": value 30.0, gradient 30.0,
        "as those of the table, times T^2 of up to 100 for logits that T has divided";
    "combined_rows" with "drawn": value 30.0, gradient 30.0,
        "as distillation";
    "dice" with "smooth ": value 0.5, gradient 2.0,
        "as those of the table, of a few pixels, where the roundings of products do not average out";
}
// Those of the table.
exceptions! { EXCEPTIONS:
    "kl_div" with "": value 0.25, gradient 0.25,
        "ln t - x, a difference of numbers up to 8 that may be almost equal";
    "combined_rows" with "": value 3.0, gradient 4.0,
        "as distillation and cross-entropy";
    "combined" with "kl": value 0.25, gradient 0.25,
        "as KL divergence";
    "combined" with "poisson": value 8.0, gradient 8.0,
        "as the Poisson likelihood";
    "combined" with "four distances": value 1.0, gradient 1.0,
        "a difference of terms that may be almost equal";
    "custom" with "logistic": value 1e-6, gradient 0.25,
        "sigmoid(x) - t as its user wrote it, a difference of numbers up to 1 that may be almost equal";
    "poisson_nll" with "": value 8.0, gradient 8.0,
        "exp(x) - t x, a difference of numbers up to 30 that may be almost equal; its gradient likewise";
    "gaussian_nll" with "": value 1.0, gradient 1.0,
        "ln v + e^2 / v, a difference where v is below 1; for the variance 1 - e^2 / v, likewise";
    "relativistic_pair" with "": value 1e-6, gradient 1e-6,
        "x - t is rounded, by 1e-6 where it is 32, and softplus of minus that is an exponential";
    "sigmoid_focal" with "gamma=3.5": value 0.1, gradient 0.1,
        "m^gamma is exp(gamma ln m), with gamma times the relative error of m, and of ln m where m is small";
    "cross_entropy_probs" with "": value 0.25, gradient 2.0,
        "the logarithm of a normalised probability, rounded, that may be almost 1; a gradient B - a / q";
    "cross_entropy" with "softcap": value 16.0, gradient 4.0,
        "a difference of two bent logits, each rounded, by 1e-6 where it is 30, after a tanh that is right to 2 ulp";
    "cross_entropy" with "dense": value 1e-6, gradient 0.25,
        "p - q, a difference of numbers up to 1 that may be almost equal";
    "cross_entropy" with "z_loss": value 1e-6, gradient 0.5,
        "p - a + 2 z lse p, likewise";
    "cross_entropy" with "smoothing": value 1e-6, gradient 0.5,
        "p - a, likewise";
    "cross_entropy" with "": value 1e-6, gradient 1e-6,
        "z - max is rounded, by 1e-6 where it is 32, and a row this sure is made of its exponentials";
    "softmax_focal" with "": value 1e-3, gradient 1e-3,
        "m^gamma |ln m| of m = exp(z - max), whose relative error, of a difference rounded, counts 1 + gamma times";
    "margin_ranking" with "": value 4.0, gradient 1.0,
        "margin - y (x - t), what is left of numbers up to 64";
    "dpo" with "": value 4.0, gradient 4.0,
        "h, what is left of numbers up to 64";
    "jsd" with "": value 1.0, gradient 8.0,
        "as distillation: differences of logarithms of up to 64";
    "box_iou" with "": value 0.25, gradient 0.25,
        "areas, what is left of products of differences; slopes of opposite sign that meet at an edge";
    "cosine_embedding" with "": value 1.0, gradient 2.0,
        "1 - cos, and of one length t - cos x, what is left of numbers up to 2 of rows that point the same way";
    "triplet_margin" with "": value 8.0, gradient 2.0,
        "margin + d_p - d_n, what is left of distances up to 200; unit vectors that may be almost equal";
    "multi_margin" with "": value 0.1, gradient 0.1,
        "margin - x_t + x_k, what is left of numbers up to 32";
    "distillation" with "": value 3.0, gradient 8.0,
        "p - q as for cross-entropy; for the teacher q times a gap of up to 64 between two logits, of which the value is the sum";
    "dice" with "softmax": value 1.0, gradient 4.0,
        "as below, of probabilities that are exponentials of differences rounded by 1e-6, squared, and a few pixels in a region";
    "dice" with "": value 0.25, gradient 2.0,
        "1 - fraction; a gradient that where the activation saturates is a difference of slopes";
    "generalised_dice" with "": value 0.25, gradient 4.0,
        "as Dice; with a softmax a difference of slopes";
    "tversky" with "": value 0.25, gradient 4.0,
        "as Dice; with a softmax a difference of slopes, each of which may be some times as large";
}

/// The least, of the first exception that fits, that errors of a case are measured against: `(value, gradient)`.
pub fn floors(case: &str) -> (f64, f64) {
    let found = DRAWN.iter().chain(EXCEPTIONS).find(|e| case.starts_with(e.case) && case.contains(e.option));
    found.map_or((UNDERFLOW, UNDERFLOW), |e| (e.value.max(UNDERFLOW), e.gradient.max(UNDERFLOW)))
}

/// Half the distance between neighbours at `x` in the storage type, its subnormals included: what one
/// rounding to nearest may change.
pub fn half_ulp<T: Element>(x: f64) -> f64 {
    let (digits, lowest) = match T::NAME {
        "float16" => (10, -14),
        "bfloat16" => (7, -126),
        _ => (23, -126),
    };
    let exponent = if x == 0.0 { lowest } else { (x.abs().log2().floor() as i32).max(lowest) };
    2f64.powi(exponent - digits - 1)
}

/// The smallest magnitude that rounds to infinity in the storage type.
pub fn overflow<T: Element>() -> f64 {
    match T::NAME {
        "float16" => 65520.0,
        _ => 2f64.powi(128) * (1.0 - 2f64.powi(-9)),
    }
}
