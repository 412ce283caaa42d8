// Focal loss on logits with a sigmoid, `src/loss/focal.rs`. With p = sigmoid(x), m = p (1 - t) + (1 - p) t, L the binary
// cross-entropy and a = alpha_pos t + alpha_neg (1 - t):
//
//     l = a m^gamma L        dl/dx = a m^gamma ((p - t) + gamma (1 - 2t) p (1 - p) L / m)
//
// For hard targets m^gamma is exp(-gamma softplus(..)): no gamma makes a saturated prediction NaN.
#pragma once
#include "skeleton/elementwise.cuh"

// What both share: but for its sign, everything follows from |x| and from the weight w of the label that x speaks against.
struct Focal {
    float alpha, w, lean, m, bce;

    FL Focal(const SigmoidFocalParams& p, const fl::Logit& l, float t) {
        const float u = 1.0f - t;
        alpha = fmaf(p.alpha_pos, t, p.alpha_neg * u);
        w = l.weight(u, t);
        lean = fmaf(2.0f, w, -1.0f); // the derivative of m, but for a factor
        m = fmaf(-lean, l.tail.sigmoid, w);
        const float cost = fmaf(fabsf(l.x), w, l.tail.softplus);
        bce = w == 0.0f ? l.tail.softplus : cost; // a weight of zero leaves out an infinite |x|
    }
    // slope + bend * bce; where bend is 0, bce may be infinite.
    FL float pull(float slope, float bend) const {
        const float both = fmaf(bend, bce, slope);
        return bend == 0.0f ? slope : both;
    }
};

// gamma = 2, which nearly everybody uses: no power, no division by m.
struct SigmoidFocal : fl::Pointwise {
    static constexpr bool LOGISTIC = true;
    static constexpr int BLOCKS_16 = Pointwise::BLOCKS_16 - 1;
    SigmoidFocalParams p;

    FL fl::Point eval_with(const fl::Logit& l, float, float t, float) const {
        const Focal f(p, l, t);
        const float bend = f.lean * (2.0f * l.variance());
        const float a = f.alpha * f.m;
        return {a * (f.m * f.bce), l.with_sign(a * f.pull(f.m * (f.w - l.tail.sigmoid), bend))};
    }
};

// Any gamma.
struct SigmoidFocalAny : fl::Pointwise {
    static constexpr bool LOGISTIC = true;
    SigmoidFocalParams p;

    FL fl::Point eval_with(const fl::Logit& l, float, float t, float) const {
        const Focal f(p, l, t);
        // ln m and p (1 - p) / m, which for hard targets are known without dividing by an m that may have underflowed.
        const float tail = l.tail.sigmoid;
        const bool missed = f.w == 1.0f, hard = missed || f.w == 0.0f;
        const float other = missed ? l.tail.softplus : l.tail.softplus + fabsf(l.x);
        const float ln_m = hard ? -other : fl::ln(f.m);
        const float mixed = l.variance() / f.m, right = missed ? tail : 1.0f - tail;
        const float ratio = hard ? right : mixed;
        const float power = fl::exp(p.gamma * (ln_m < -3.4e38f ? -3.4e38f : ln_m)); // not zero times infinity; NaN stays
        const float pull = f.pull(f.w - tail, p.gamma * f.lean * ratio);
        return {f.alpha * fl::no_nan(power, f.bce), l.with_sign(f.alpha * power * pull)};
    }
};
