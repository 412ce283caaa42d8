// The logarithm of the hyperbolic cosine of the error, `src/loss/log_cosh.rs`. With e = x - t:
//
//     l = ln cosh e        dl/dx = tanh e = -dl/dt
//
// as -ln(1 - tanh(e)^2) / 2 up to 1, and as |e| - ln 2 + ln(1 + exp(-2 |e|)) beyond.
#pragma once
#include "skeleton/elementwise.cuh"

struct LogCosh : fl::Pointwise {
    static constexpr int BLOCKS_16 = 3;
    static constexpr bool GRAD_TARGET = true;
    NoParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float e = x - t;
        const float a = fabsf(e), slope = fl::tanh(e);
        const bool near = a < 1.0f;
        const float far_out = fl::exp_neg(-2.0f * a);
        const float ln = fl::ln_1p(near ? -slope * slope : far_out);
        return {near ? -0.5f * ln : (a - 0.69314718f) + ln, slope};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};
