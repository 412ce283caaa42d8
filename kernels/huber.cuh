// Huber and smooth L1, `src/loss/huber.rs`. With e = x - t:
//
//     Huber:      l = e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2)        dl/dx = e clamped to [-delta, delta]
//     smooth L1:  l = e^2 / (2 beta) where |e| < beta, else |e| - beta / 2            dl/dx = e / beta there, else sign(e)
//
// dl/dt = -dl/dx. An infinite difference has an infinite value and a finite gradient.
#pragma once
#include "skeleton/elementwise.cuh"

struct Huber : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    HuberParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float delta = p.delta;
        const float e = x - t;
        const float a = fabsf(e);
        const float value = a > delta ? delta * (a - 0.5f * delta) : 0.5f * e * e;
        float grad = e > delta ? delta : e;
        grad = e < -delta ? -delta : grad;
        return {value, grad};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};

struct SmoothL1 : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    SmoothL1Params p;

    FL fl::Point eval(float x, float t, float) const {
        const float e = x - t;
        const float a = fabsf(e);
        // The product in this order does not underflow where its value does not.
        const float slope = e * p.inv_beta;
        const float value = a < p.beta ? 0.5f * e * slope : a - 0.5f * p.beta;
        const float grad = a < p.beta ? slope : fl::sign(e);
        return {value, grad};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};
