// Negative log-likelihood under Gaussian distributions, `src/loss/gaussian_nll.rs`. With e = x - t, v = max(var, eps):
//
//     l = (ln v + e^2 / v) / 2        dl/dx = e / v = -dl/dt        dl/dvar = (1 - e^2 / v) / (2 v)
//
// A negative variance gives NaN.
#include "skeleton/elementwise.cuh"

struct GaussianNll : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    static constexpr bool THIRD = true;
    static constexpr bool GRAD_THIRD = true;
    GaussianNllParams p;

    FL fl::Point eval(float x, float t, float var) const {
        const float v = variance(var);
        const float e = x - t, pull = e / v;
        return {0.5f * (fl::ln(v) + e * pull) + p.constant, pull};
    }
    FL float grad_target(float x, float t, float var) const { return -eval(x, t, var).grad; }
    FL float grad_third(float x, float t, float var) const {
        const float v = variance(var), e = x - t;
        return 0.5f * (1.0f - e * (e / v)) / v;
    }

    FL float variance(float var) const {
        const float v = var < p.eps ? p.eps : var;
        return var < 0.0f ? fl::nan() : v;
    }
};

FL_ELEMENTWISE_OF_THREE(gaussian_nll, GaussianNll, GaussianNllParams)
