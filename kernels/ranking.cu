// Losses of two scores of which one should be higher: margin ranking, `src/loss/ranking.rs`, with y 1 where that is x and -1 where it is t,
// and direct preference optimisation, `src/loss/dpo.rs`, with h = (x - t) - r, r the reference's log-ratio:
//
//     margin_ranking:  l = max(0, margin - y (x - t))                                dl/dx = -y where positive, else 0
//     dpo_sigmoid:     l = preferred sp(-beta h) + flipped sp(beta h)                dl/dx = beta (flipped sigmoid(beta h) - preferred sigmoid(-beta h))
//     dpo_hinge:       l = max(0, 1 - beta h)                                        dl/dx = -beta where positive, else 0
//     dpo_ipo:         l = (h - target)^2                                            dl/dx = 2 (h - target)
//
// dl/dt = -dl/dx in all of them.
#include "skeleton/elementwise.cuh"

struct OfThree : fl::Pointwise {
    static constexpr bool GRAD_TARGET = true;
    static constexpr bool THIRD = true;
};

struct MarginRanking : OfThree {
    MarginRankingParams p;

    FL fl::Point eval(float x, float t, float y) const {
        const float gap = p.margin - y * (x - t);
        // Written so that NaN takes neither of the two numbers.
        const float inside = gap <= 0.0f ? 0.0f : gap;
        return {inside, gap > 0.0f ? -y : inside};
    }
    FL float grad_target(float x, float t, float y) const { return -eval(x, t, y).grad; }
};

struct DpoSigmoid : OfThree {
    DpoParams p;

    FL fl::Point eval(float x, float t, float r) const {
        const fl::Logistic l = fl::logistic(p.beta * ((x - t) - r));
        const float value = p.preferred * l.softplus_neg + fl::no_nan(p.flipped, l.softplus);
        return {value, p.beta * (p.flipped * l.sigmoid - p.preferred * l.sigmoid_neg)};
    }
    FL float grad_target(float x, float t, float r) const { return -eval(x, t, r).grad; }
};

struct DpoHinge : OfThree {
    DpoParams p;

    FL fl::Point eval(float x, float t, float r) const {
        const float gap = 1.0f - p.beta * ((x - t) - r);
        const float inside = gap <= 0.0f ? 0.0f : gap;
        return {inside, gap > 0.0f ? -p.beta : inside};
    }
    FL float grad_target(float x, float t, float r) const { return -eval(x, t, r).grad; }
};

struct DpoIpo : OfThree {
    DpoParams p;

    FL fl::Point eval(float x, float t, float r) const {
        const float e = ((x - t) - r) - p.target;
        return {e * e, 2.0f * e};
    }
    FL float grad_target(float x, float t, float r) const { return -eval(x, t, r).grad; }
};

FL_ELEMENTWISE_OF_THREE(margin_ranking, MarginRanking, MarginRankingParams)
FL_ELEMENTWISE_OF_THREE(dpo_sigmoid, DpoSigmoid, DpoParams)
FL_ELEMENTWISE_OF_THREE(dpo_hinge, DpoHinge, DpoParams)
FL_ELEMENTWISE_OF_THREE(dpo_ipo, DpoIpo, DpoParams)
