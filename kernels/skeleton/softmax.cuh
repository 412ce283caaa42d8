// Softmax of a row: what cross-entropy, focal and distillation share.
#pragma once
#include "rowwise.cuh"

namespace fl {

// Exponentials of a row, e_k = exp(z_k - max), and their sum, kept in two parts: the number of elements with e_k = 1, the maximum
// above all, and the sum of the rest. Where one class has all the probability but 1e-9, f32 knows `rest` to seven digits and knows
// nothing of 1 + rest: the loss is ln(1 + rest), and the gradient of that class is -rest.
struct Softmax {
    float max, ones, rest;

    FL float sum() const { return ones + rest; }
    // Whether exponentials that are off by 1e-7 of their exponent are good enough for the logarithm of the sum: what is added to 1
    // is not small, so that it is made of large ones or of very many.
    FL bool forgives() const { return sum() >= 1.0f + 1.0f / 128.0f; }
    // Whether one class has more than half of the probability. Its exponential is 1, and no other is.
    FL bool one_class_leads() const { return sum() < 2.0f; }
    // The log-sum-exp less the maximum, never negative.
    FL float ln_sum() const { return (ones == 1.0f ? 0.0f : ln(ones)) + ln_1p(ratio(rest, ones)); } // most often there is no tie
    // 1 - p of a class whose exponential is e, without cancellation.
    FL float miss(float e) const {
        const float others = e == 1.0f ? ones - 1.0f + rest : ones + (rest - e);
        return ratio(others, sum());
    }
};

// The sum of exponentials under way.
struct Exponentials {
    float ones = 0.0f; // a count, exact in f32 for as many as a thread sees
    Sum rest;

    FL float add(float u) { return put(exp_neg(u)); }
    FL float put(float e) {
        if (e == 1.0f) ones += 1.0f;
        else rest.add(e);
        return e;
    }
    FL void flush() { rest.flush(); }
};

} // namespace fl
