// Binary cross-entropy, `src/loss/bce.rs`: on probabilities (`bce.cuh`) and on logits. With p = pos_weight, sp = softplus:
//
//     l = (1 - t) sp(x) + p t sp(-x)        dl/dx = (1 - t) sigmoid(x) - p t sigmoid(-x)        dl/dt = p sp(-x) - sp(x)
//
// A sum of two terms of one sign, exact for any logit.
#include "bce.cuh"

struct BceWithLogits : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    BceWithLogitsParams p;

    FL fl::Point eval(float x, float t, float class_weight) const {
        t = t * (1.0f - p.smoothing) + 0.5f * p.smoothing;
        const float neg = 1.0f - t, pos = p.pos_weight * class_weight * t;
        const fl::Logistic l = fl::logistic(x);
        return {neg * l.softplus + pos * l.softplus_neg, neg * l.sigmoid - pos * l.sigmoid_neg};
    }
    FL float grad_target(float x, float, float class_weight) const {
        const fl::Logistic l = fl::logistic(x);
        return (1.0f - p.smoothing) * (p.pos_weight * class_weight * l.softplus_neg - l.softplus);
    }
};

FL_ELEMENTWISE(bce, Bce, BceParams)
FL_ELEMENTWISE(bce_with_logits, BceWithLogits, BceWithLogitsParams)
