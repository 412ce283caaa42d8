// Focal loss on logits with a sigmoid, `src/loss/focal.rs`. With p = sigmoid(x), m = p (1 - t) + (1 - p) t, L the binary
// cross-entropy and a = alpha_pos t + alpha_neg (1 - t):
//
//     l = a m^gamma L        dl/dx = a m^gamma ((p - t) + gamma (1 - 2t) p (1 - p) L / m)
//
// For hard targets m^gamma is exp(-gamma softplus(..)): no gamma makes a saturated prediction NaN.
#pragma once
#include "skeleton/elementwise.cuh"

// What both share.
struct Focal {
    float u, alpha, m, bce, slope;
    fl::Logistic l;

    FL Focal(const SigmoidFocalParams& p, const fl::Logistic& l, float t) : l(l) {
        u = 1.0f - t;
        alpha = fmaf(p.alpha_pos, t, p.alpha_neg * u);
        m = fmaf(u, l.sigmoid, t * l.sigmoid_neg);
        bce = fl::no_nan(u, l.softplus) + fl::no_nan(t, l.softplus_neg);
        slope = fmaf(u, l.sigmoid, -(t * l.sigmoid_neg));
    }
};

// gamma = 2, which nearly everybody uses: no power, no division by m.
struct SigmoidFocal : fl::Pointwise {
    static constexpr bool LOGISTIC = true;
    static constexpr int BLOCKS_16 = Pointwise::BLOCKS_16 - 1;
    SigmoidFocalParams p;

    FL fl::Point eval(float x, float t, float aux) const { return eval_with(fl::logistic(x), x, t, aux); }
    FL fl::Point eval_with(const fl::Logistic& l, float, float t, float) const {
        const Focal f(p, l, t);
        const float bend = 2.0f * (f.u - t) * f.l.sigmoid * f.l.sigmoid_neg;
        const float a = f.alpha * f.m;
        return {a * fl::no_nan(f.m, f.bce), a * fmaf(f.m, f.slope, fl::no_nan(bend, f.bce))};
    }
};

// Any gamma.
struct SigmoidFocalAny : fl::Pointwise {
    static constexpr bool LOGISTIC = true;
    SigmoidFocalParams p;

    FL fl::Point eval(float x, float t, float aux) const { return eval_with(fl::logistic(x), x, t, aux); }
    FL fl::Point eval_with(const fl::Logistic& l, float, float t, float) const {
        const Focal f(p, l, t);
        // ln m and p (1 - p) / m, which for hard targets are known without dividing by an m that may have underflowed.
        float ln_m = fl::ln(f.m);
        ln_m = t == 0.0f ? -f.l.softplus_neg : ln_m;
        ln_m = t == 1.0f ? -f.l.softplus : ln_m;
        float ratio = f.l.sigmoid * f.l.sigmoid_neg / f.m;
        ratio = t == 0.0f ? f.l.sigmoid_neg : ratio;
        ratio = t == 1.0f ? f.l.sigmoid : ratio;
        const float power = fl::exp(fl::no_nan(p.gamma, ln_m));
        const float bend = p.gamma * (f.u - t) * ratio;
        return {f.alpha * fl::no_nan(power, f.bce), f.alpha * power * (f.slope + fl::no_nan(bend, f.bce))};
    }
};
