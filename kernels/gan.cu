// The terms of the GAN losses, `src/loss/gan.rs`: one read, one write, for the label is a constant.
//
//     logistic:     l = sign ((1 - label) sp(x) + label sp(-x))     dl/dx = sign ((1 - label) sigmoid(x) - label sigmoid(-x))
//     square:       l = (x - label)^2                               dl/dx = 2 (x - label)
//     linear:       l = sign x                                      dl/dx = sign
//     hinge:        l = max(0, 1 - sign x)                          dl/dx = -sign where sign x < 1, else 0
//     probability:  binary cross-entropy of the probability x and the label
//
// and relativistic pairing, `src/loss/relativistic.rs`: l = sp(x - t), dl/dx = sigmoid(x - t) = -dl/dt.
#include "bce.cuh"

struct Term : fl::Pointwise {
    static constexpr bool TARGET = false;
    static constexpr int BLOCKS_16 = 4; // two packs of one tensor are in flight
    GanTermParams p;
};

struct GanLogistic : Term {
    FL fl::Point eval(float x, float, float) const {
        const float neg = p.sign * (1.0f - p.label), pos = p.sign * p.label;
        const fl::Logit l = fl::logit(x);
        return {l.cost(neg, pos), l.slope(neg, pos)};
    }
};

struct GanSquare : Term {
    FL fl::Point eval(float x, float, float) const {
        const float e = x - p.label;
        return {e * e, 2.0f * e};
    }
};

struct GanLinear : Term {
    FL fl::Point eval(float x, float, float) const { return {p.sign * x, p.sign}; }
};

struct GanHinge : Term {
    FL fl::Point eval(float x, float, float) const {
        const float gap = 1.0f - p.sign * x;
        const float inside = gap <= 0.0f ? 0.0f : gap;
        return {inside, gap > 0.0f ? -p.sign : inside};
    }
};

struct GanProbability : Term {
    FL fl::Point eval(float x, float, float aux) const { return fl::with_params<Bce>(BceParams{0.0f, 0.0f}).eval(x, p.label, aux); }
};

struct RelativisticPair : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    NoParams p;

    FL fl::Point eval(float x, float t, float) const {
        const fl::Logistic l = fl::logistic(x - t);
        return {l.softplus, l.sigmoid};
    }
    FL float grad_target(float x, float t, float aux) const { return -eval(x, t, aux).grad; }
};

FL_ELEMENTWISE(gan_logistic, GanLogistic, GanTermParams)
FL_ELEMENTWISE(gan_square, GanSquare, GanTermParams)
FL_ELEMENTWISE(gan_linear, GanLinear, GanTermParams)
FL_ELEMENTWISE(gan_hinge, GanHinge, GanTermParams)
FL_ELEMENTWISE(gan_probability, GanProbability, GanTermParams)
FL_ELEMENTWISE(relativistic_pair, RelativisticPair, NoParams)
