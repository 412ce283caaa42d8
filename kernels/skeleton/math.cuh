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

// 2^y, 0 where that is not a normal number.
FL float exp2_neg(float y) {
#ifdef FUSED_LOSS_HOST
    const float e = exp2f(y);
    return e < 1.17549435e-38f ? 0.0f : e;
#else
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(y));
    return e;
#endif
}

// e^x for x <= 0, and up to 88, within 2 ulp; denormal results are 0, those beyond f32 infinity. The rounding of x log2(e), which grows
// with x, is put right afterwards.
FL float exp_neg(float x) {
    const float high = 1.4426950408889634f, low = 1.925963033500912e-8f;
    const float y = x * high;
    const float left = fmaf(x, low, -fmaf(-x, high, y)); // nvcc would make -y of another product
    const float e = exp2_neg(y);
    const float exact = fmaf(e, left * 0.6931471805599453f, e);
    return fabsf(y) < 127.0f ? exact : e; // at the infinities `left` is NaN, and e is right
}

// The same in two instructions, off by 1e-7 times max(1, -x), for gradients that are rounded to sixteen bits anyway.
FL float exp_neg_rough(float x) { return exp2_neg(x * 1.4426950408889634f); }
template <class T> FL float exp_neg_for(float x) { return sizeof(T) == 2 ? exp_neg_rough(x) : exp_neg(x); }

FL float exp(float x) { return expf(x); }
FL float ln(float x) { return logf(x); }
FL float ln_1p(float x) { return log1pf(x); }
FL float tanh(float x) { return tanhf(x); }

// The larger of two; NaN is passed over.
FL float larger(float a, float b) { return fmaxf(a, b); }

// 1 / x within an ulp, for x from 1 up.
FL float reciprocal(float x) {
#ifdef FUSED_LOSS_HOST
    return 1.0f / x;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

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

// e / (1 + e) as e - e * (e / (1 + e)): the rounding of the quotient counts less.
FL float small_sigmoid(float e) { return fmaf(-e, e * reciprocal(1.0f + e), e); }
FL float sigmoid(float x) {
    const float small = small_sigmoid(exp(-fabsf(x))), large = 1.0f - small;
    return x >= 0.0f ? large : small;
}

// The sigmoid by the shortest way, within 3 ulp; for inputs of sixteen bits as exact as `exp_neg_rough` is.
template <class T> FL float sigmoid_for(float x) { return reciprocal(1.0f + exp_neg_for<T>(-x)); }

// sigmoid(-|x|), likewise.
template <class T> FL float tail_for(float x) {
    const float e = exp_neg_for<T>(-fabsf(x));
    return sizeof(T) == 2 ? e * reciprocal(1.0f + e) : small_sigmoid(e);
}

// Sigmoid and softplus of a logit and of its negative, from one exponential: none of the four is the difference of two
// close numbers, however far out the logit is.
struct Logistic {
    float sigmoid, sigmoid_neg, softplus, softplus_neg;
};

// Sigmoid and softplus of -|x|, of which the four are made.
struct LogisticTail {
    float sigmoid, softplus;
};

FL LogisticTail logistic_tail(float x) {
    const float e = exp(-fabsf(x));
    return {small_sigmoid(e), fmaf(e * ln_1p_unit_poly(e), e, e)};
}

FL Logistic logistic(float x) {
    const LogisticTail tail = logistic_tail(x);
    const float large = 1.0f - tail.sigmoid;
    const bool positive = x >= 0.0f;
    Logistic y;
    y.sigmoid = positive ? large : tail.sigmoid;
    y.sigmoid_neg = positive ? tail.sigmoid : large;
    y.softplus = positive ? x + tail.softplus : tail.softplus;
    y.softplus_neg = positive ? tail.softplus : tail.softplus - x;
    return y;
}

FL float softplus(float x) { return logistic(x).softplus; }

// A logit as a loss sees it that weighs softplus(x) and softplus(-x): the loss is a function of |x| and of the weight of the larger of the
// two, and so is the size of its gradient. (As `Logistic` of `src/loss/mod.rs`. It spares four selections.)
struct Logit {
    float x;
    LogisticTail tail;

    FL float weight(float neg, float pos) const { return x <= 0.0f ? pos : neg; }
    // A derivative for |x| as one for x.
    FL float with_sign(float slope) const { return x <= 0.0f ? -slope : slope; }
    // neg softplus(x) + pos softplus(-x): binary cross-entropy that weighs negatives and positives so; and its derivative.
    FL float cost(float neg, float pos) const { return fmaf(fabsf(x), weight(neg, pos), (neg + pos) * tail.softplus); }
    FL float slope(float neg, float pos) const { return with_sign(fmaf(-(neg + pos), tail.sigmoid, weight(neg, pos))); }
    FL float sigmoid() const {
        const float large = 1.0f - tail.sigmoid;
        return x <= 0.0f ? tail.sigmoid : large;
    }
    FL float variance() const { return fmaf(-tail.sigmoid, tail.sigmoid, tail.sigmoid); }
};
FL Logit logit(float x) { return {x, logistic_tail(x)}; }

// -1, 0 or 1; NaN for NaN.
FL float sign(float e) {
    const float positive = e > 0.0f ? 1.0f : 0.0f;
    const float sign = e < 0.0f ? -1.0f : positive;
    return is_nan(e) ? e : sign;
}

// a / b within an ulp, for |b| below 2^126 and a quotient that is no denormal. The exact division is a function call where an operand
// is extreme, and a call where many registers live makes a kernel spill.
FL float ratio(float a, float b) {
    const float q = __fdividef(a, b), left = fmaf(-q, b, a), better = fmaf(left, __fdividef(1.0f, b), q);
    return fabsf(better) <= 3.4e38f ? better : q; // infinities and NaN are what they were
}

// a * b, where zero times infinity is zero.
FL float no_nan(float a, float b) {
    const float product = a * b;
    return a == 0.0f && fabsf(b) == infinity() ? 0.0f : product;
}

} // namespace fl
