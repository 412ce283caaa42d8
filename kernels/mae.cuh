// Mean absolute error, `src/loss/mae.rs`.
//
//     l = |x - t|        dl/dx = sign(x - t) = -dl/dt, 0 where they are equal
#pragma once
#include "skeleton/elementwise.cuh"

struct Mae : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    NoParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float e = x - t;
        return {fabsf(e), fl::sign(e)};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};
