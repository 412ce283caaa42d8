// Quantile (pinball) loss, `src/loss/quantile.rs`. With e = x - t:
//
//     l = -q e where e < 0, else (1 - q) e        dl/dx = -q or 1 - q, 0 where e = 0; dl/dt = -dl/dx
#pragma once
#include "skeleton/elementwise.cuh"

struct Quantile : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    QuantileParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float low = -p.quantile, high = 1.0f - p.quantile;
        const float e = x - t;
        // Where they are equal, or NaN, the gradient is the error.
        const float below = e < 0.0f ? low : e;
        return {e > 0.0f ? high * e : low * e, e > 0.0f ? high : below};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};
