// Binary cross-entropy on probabilities, which the GAN terms have too.
//
//     l = -(t max(ln x, -100) + (1 - t) max(ln(1 - x), -100))
//     dl/dx = (x - t) / max(x (1 - x), 1e-12)        dl/dt = max(ln(1 - x), -100) - max(ln x, -100)
//
// With epsilon, x is clipped to [epsilon, 1 - epsilon] and has no gradient where it was. Without, an x outside [0, 1] gives NaN.
#pragma once
#include "skeleton/elementwise.cuh"

struct Bce : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    BceParams p;

    FL fl::Point eval(float x, float t, float) const {
        t = t * (1.0f - p.smoothing) + 0.5f * p.smoothing;
        const float c = clip(x);
        float ln_x, ln_1mx;
        logs(c, ln_x, ln_1mx);
        // 0 < epsilon: a clipped input has no gradient. 0 = epsilon: an impossible one has NaN.
        const float outside = p.epsilon > 0.0f && !fl::is_nan(x) ? 0.0f : fl::nan();
        const float variance = c * (1.0f - c);
        const float slope = (c - t) / (variance < 1e-12f ? 1e-12f : variance);
        return {-(t * ln_x + (1.0f - t) * ln_1mx), x >= p.epsilon && x <= 1.0f - p.epsilon ? slope : outside};
    }
    FL float grad_target(float x, float, float) const {
        float ln_x, ln_1mx;
        logs(clip(x), ln_x, ln_1mx);
        return (1.0f - p.smoothing) * (ln_1mx - ln_x);
    }

    // With epsilon = 0 an impossible input must stay one, and its logarithm NaN.
    FL float clip(float x) const {
        const float low = x < p.epsilon && p.epsilon > 0.0f ? p.epsilon : x;
        return x > 1.0f - p.epsilon && p.epsilon > 0.0f ? 1.0f - p.epsilon : low;
    }
    FL static void logs(float x, float& ln_x, float& ln_1mx) {
        ln_x = fl::ln(x), ln_1mx = fl::ln_1p(-x);
        ln_x = ln_x < -100.0f ? -100.0f : ln_x;
        ln_1mx = ln_1mx < -100.0f ? -100.0f : ln_1mx;
    }
};
