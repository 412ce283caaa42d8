// Mean squared error, `src/loss/mse.rs`.
//
//     l = factor (x - t)^2        dl/dx = 2 factor (x - t) = -dl/dt
#pragma once
#include "skeleton/elementwise.cuh"

struct Mse : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    MseParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float e = x - t;
        return {p.factor * (e * e), 2.0f * p.factor * e};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};
