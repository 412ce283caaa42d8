// Binary cross-entropy, `src/loss/bce.rs`: on probabilities, which the GAN terms have too,
//
//     l = -(t max(ln x, -100) + (1 - t) max(ln(1 - x), -100))
//     dl/dx = (x - t) / max(x (1 - x), 1e-12)        dl/dt = max(ln(1 - x), -100) - max(ln x, -100)
//
// With epsilon, x is clipped to [epsilon, 1 - epsilon] and has no gradient where it was. Without, an x outside [0, 1] gives NaN.
//
// And on logits. With p = pos_weight, sp = softplus:
//
//     l = (1 - t) sp(x) + p t sp(-x)        dl/dx = (1 - t) sigmoid(x) - p t sigmoid(-x)        dl/dt = p sp(-x) - sp(x)
//
// A sum of two terms of one sign, exact for any logit.
#pragma once
#include "skeleton/elementwise.cuh"

// What smoothing leaves on no and on yes. Either by itself: one less the other would have lost what little a small smoothing has put
// there, which costs more than all the rest where the prediction is sure.
struct Smoothed {
    float no, yes;
    FL Smoothed(float t, float smoothing)
        : no(fmaf(1.0f - t, 1.0f - smoothing, 0.5f * smoothing)), yes(fmaf(t, 1.0f - smoothing, 0.5f * smoothing)) {}
};

struct Bce : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    BceParams p;

    FL fl::Point eval(float x, float t, float) const {
        const Smoothed s(t, p.smoothing);
        const float c = clip(x);
        float ln_x, ln_1mx;
        logs(c, ln_x, ln_1mx);
        // 0 < epsilon: a clipped input has no gradient. 0 = epsilon: an impossible one has NaN.
        const float outside = p.epsilon > 0.0f && !fl::is_nan(x) ? 0.0f : fl::nan();
        const float variance = c * (1.0f - c);
        const float cost = -(s.yes * ln_x + s.no * ln_1mx);
        const float slope = (c - s.yes) / (variance < 1e-12f ? 1e-12f : variance);
        return {cost, x >= p.epsilon && x <= 1.0f - p.epsilon ? slope : outside};
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

struct BceWithLogits : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true, LOGISTIC = true;
    BceWithLogitsParams p;

    FL fl::Point eval_with(const fl::Logit& l, float, float t, float class_weight) const {
        const Smoothed s(t, p.smoothing);
        const float neg = s.no, pos = p.pos_weight * class_weight * s.yes;
        return {l.cost(neg, pos), l.slope(neg, pos)};
    }
    FL float grad_target(float x, float, float class_weight) const {
        const fl::Logistic l = fl::logistic(x);
        return (1.0f - p.smoothing) * (p.pos_weight * class_weight * l.softplus_neg - l.softplus);
    }
};

// The same without options and weights of classes: the weights of both softplus are 1 together, to the bit for targets in [0, 1].
struct BceWithLogitsPlain : fl::Pointwise {
    static constexpr bool LOGISTIC = true;
    BceWithLogitsParams p;

    FL fl::Point eval_with(const fl::Logit& l, float, float t, float) const {
        const float w = l.weight(1.0f - t, t);
        return {fmaf(fabsf(l.x), w, l.tail.softplus), l.with_sign(w - l.tail.sigmoid)};
    }
};
