// Elementary functions in f32, at most 2 ulp off, NaN for NaN. `sigmoid_softplus` is that of `src/cpu/math.rs`, polynomial and
// all; where the machine has a good instruction or library function, that is used instead.
//
// nvcc is told not to contract products and sums (`--fmad=false`): a loss rounds like its Rust twin, and the variants of a kernel
// like each other. `fmaf` is written where it is wanted.
#pragma once
#include "device.cuh"

namespace fl {

FL float infinity() { return __int_as_float(0x7f800000); }
FL float nan() { return __int_as_float(0x7fc00000); }
FL bool is_nan(float x) { return x != x; }

// e^x for x <= 0: three instructions. Off by 1e-7 times max(1, -x): right where it is near 1, and where it is far from that it
// is a small part of the sum it goes into. Denormal results are 0.
FL float exp_neg(float x) {
    const float y = x * 1.4426950408889634f;
#ifdef FUSED_LOSS_HOST
    const float e = exp2f(y);
    return e < 1.17549435e-38f ? 0.0f : e;
#else
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(y));
    return e;
#endif
}

FL float exp(float x) { return expf(x); }
FL float ln(float x) { return logf(x); }
FL float ln_1p(float x) { return log1pf(x); }
FL float tanh(float x) { return tanhf(x); }

// ln(1 + e) = e + e^2 p(e) for e in [0, 1], within 1.5e-8: the polynomial of `src/cpu/math.rs`.
FL float ln_1p_unit_poly(float e) {
    float p = -0.003291015f;
    p = fmaf(p, e, 0.020088356f);
    p = fmaf(p, e, -0.057460394f);
    p = fmaf(p, e, 0.106613785f);
    p = fmaf(p, e, -0.1534499f);
    p = fmaf(p, e, 0.1969212f);
    p = fmaf(p, e, -0.24958022f);
    p = fmaf(p, e, 0.33330467f);
    return fmaf(p, e, -0.4999993f);
}

// Sigmoid and softplus of a logit and of its negative, from one exponential: none of the four is the difference of two
// close numbers, however far out the logit is.
struct Logistic {
    float sigmoid, sigmoid_neg, softplus, softplus_neg;
};

FL Logistic logistic(float x) {
    const float e = exp(-fabsf(x));
    // e / (1 + e) as e - e * (e / (1 + e)): the rounding of the quotient counts less.
    const float small = fmaf(-e, __fdividef(e, 1.0f + e), e);
    const float large = 1.0f - small;
    const float l = fmaf(e * ln_1p_unit_poly(e), e, e);
    const bool positive = x >= 0.0f;
    Logistic y;
    y.sigmoid = positive ? large : small;
    y.sigmoid_neg = positive ? small : large;
    y.softplus = positive ? x + l : l;
    y.softplus_neg = positive ? l : l - x;
    return y;
}

// -1, 0 or 1; NaN for NaN.
FL float sign(float e) {
    const float positive = e > 0.0f ? 1.0f : 0.0f;
    const float sign = e < 0.0f ? -1.0f : positive;
    return is_nan(e) ? e : sign;
}

// a * b, where zero times infinity is zero.
FL float no_nan(float a, float b) {
    const float product = a * b;
    return a == 0.0f && fabsf(b) == infinity() ? 0.0f : product;
}

} // namespace fl
