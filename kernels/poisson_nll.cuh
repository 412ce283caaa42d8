// Negative log-likelihood of counts t under a Poisson distribution, `src/loss/poisson_nll.rs`. The input is the logarithm of the rate, or
// (`_rate`) the rate:
//
//     poisson_nll:       l = exp(x) - t x             dl/dx = exp(x) - t
//     poisson_nll_rate:  l = x - t ln(x + eps)        dl/dx = 1 - t / (x + eps)
//
// With `full` the value has t ln t - t + ln(2 pi t) / 2 for t > 1 as well. A count of 0 has no second term, whatever that is.
#pragma once
#include "skeleton/elementwise.cuh"

struct Poisson : fl::Pointwise {
    static constexpr int BLOCKS_16 = 3;
    PoissonNllParams p;

    // The term of the target alone.
    FL float of_target(float t) const {
        if (p.full == 0 || !(t > 1.0f)) return 0.0f;
        const float ln = fl::ln(t);
        return (t * ln - t) + 0.5f * (ln + 1.8378770664f);
    }
};

struct LogRate : Poisson {
    FL fl::Point eval(float x, float t, float) const {
        const float rate = fl::exp(x);
        const float seen = t == 0.0f ? 0.0f : t * x;
        return {(rate - seen) + of_target(t), rate - t};
    }
};

struct Rate : Poisson {
    FL fl::Point eval(float x, float t, float) const {
        const float rate = x + p.eps;
        const bool none = t == 0.0f && rate >= 0.0f;
        const float seen = t * fl::ln(rate), share = t / rate;
        return {(x - (none ? 0.0f : seen)) + of_target(t), 1.0f - (none ? 0.0f : share)};
    }
};
