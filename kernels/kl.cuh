// Kullback-Leibler divergence of the target from an input of log-probabilities (`kl_div`), with targets of log-probabilities too
// (`kl_div_log_target`), and between probabilities (`kl_div_probs`), `src/loss/kl.rs`.
//
//     kl_div:             l = t (ln t - x)         dl/dx = -t          dl/dt = ln t + 1 - x
//     kl_div_log_target:  l = e^t (t - x)          dl/dx = -e^t        dl/dt = e^t (t - x + 1)
//     kl_div_probs:       l = p (ln p - ln q)      dl/dx = -p / q      dl/dt = ln p - ln q + 1, with q, p clipped to [epsilon, 1]
//
// A target probability of 0 counts for nothing, whatever the input is.
#pragma once
#include "skeleton/elementwise.cuh"

struct ProbTarget : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    NoParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float value = t * (fl::ln(t) - x);
        return {t == 0.0f ? 0.0f : value, t == 0.0f ? 0.0f : -t};
    }
    FL float grad_target(float x, float t, float) const {
        const float slope = fl::ln(t) + 1.0f - x;
        return t == 0.0f ? 0.0f : slope;
    }
};

struct LogTarget : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    NoParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float p = fl::exp(t);
        const float value = p * (t - x);
        return {p == 0.0f ? 0.0f : value, p == 0.0f ? 0.0f : -p};
    }
    FL float grad_target(float x, float t, float) const {
        const float p = fl::exp(t);
        const float slope = p * (t - x + 1.0f);
        return p == 0.0f ? 0.0f : slope;
    }
};

struct KlDivProbs : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    KlDivProbsParams p;

    FL fl::Point eval(float x, float t, float) const {
        const float q = clip(x), p = clip(t);
        const float slope = -p / q;
        return {p * (fl::ln(p) - fl::ln(q)), is_free(x) ? slope : 0.0f};
    }
    FL float grad_target(float x, float t, float) const {
        const float q = clip(x), p = clip(t);
        const float slope = fl::ln(p) - fl::ln(q) + 1.0f;
        return is_free(t) ? slope : 0.0f;
    }

    FL float clip(float x) const {
        const float low = x < p.epsilon ? p.epsilon : x;
        return low > 1.0f ? 1.0f : low;
    }
    // Not clipped.
    FL bool is_free(float x) const { return !(x < p.epsilon || x > 1.0f); }
};
