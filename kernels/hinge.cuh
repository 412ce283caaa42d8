// Hinge and squared hinge, `src/loss/hinge.rs`. With y the label as -1 or 1:
//
//     hinge:          l = max(0, 1 - y x)          dl/dx = -y where y x < 1, else 0
//     squared hinge:  l = max(0, 1 - y x)^2        dl/dx = -2 y max(0, 1 - y x)
//
// Keras's rule, labels 0 and 1 if no label is anything else, takes a launch of `fl_keras_labels` (`hinge.cu`) first.
#pragma once
#include "skeleton/elementwise.cuh"

struct Labels : fl::Pointwise {
    HingeParams p;

    FL void prepare(const LaunchArgs& a) {
        if ((a.flags & FL_KERAS_LABELS) == 0) return;
        const bool zero_one = fl::load_word(&fl::workspace(a)->stray_labels) == 0;
        p.label_scale = zero_one ? 2.0f : 1.0f;
        p.label_offset = zero_one ? -1.0f : 0.0f;
    }
    FL float label(float t) const { return p.label_scale * t + p.label_offset; }
};

struct Hinge : Labels {
    FL fl::Point eval(float x, float t, float) const {
        const float y = label(t);
        const float gap = 1.0f - y * x;
        // Written so that NaN takes neither of the two numbers.
        const float inside = gap <= 0.0f ? 0.0f : gap;
        return {inside, gap > 0.0f ? -y : inside};
    }
};

struct SquaredHinge : Labels {
    FL fl::Point eval(float x, float t, float) const {
        const float y = label(t);
        const float gap = 1.0f - y * x;
        const float inside = gap <= 0.0f ? 0.0f : gap;
        return {inside * inside, -2.0f * y * inside};
    }
};
