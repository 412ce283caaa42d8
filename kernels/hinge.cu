// Hinge and squared hinge, `src/loss/hinge.rs`. With y the label as -1 or 1:
//
//     hinge:          l = max(0, 1 - y x)          dl/dx = -y where y x < 1, else 0
//     squared hinge:  l = max(0, 1 - y x)^2        dl/dx = -2 y max(0, 1 - y x)
//
// Keras's rule, labels 0 and 1 if no label is anything else, takes a launch of `fl_keras_labels` first.
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

FL_ELEMENTWISE(hinge, Hinge, HingeParams)
FL_ELEMENTWISE(squared_hinge, SquaredHinge, HingeParams)

// Counts the labels that are neither 0 nor 1.
template <class T> FL void keras_labels(const LaunchArgs& a) {
    const uint64_t start = blockIdx.x * a.tile;
    const uint64_t end = start + a.tile < a.elements ? start + a.tile : a.elements;
    double strays = 0.0;
    for (uint64_t k = start + threadIdx.x; k < end; k += FL_BLOCK) {
        const float t = fl::to_f32(fl::at<const T>(a.target)[k]);
        if (t != 0.0f && t != 1.0f) strays = 1.0;
    }
    strays = fl::block_sum(strays);
    if (threadIdx.x == 0 && strays != 0.0) atomicAdd(&fl::workspace(a)->stray_labels, 1u);
}

#define KERAS_LABELS(dtype, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK) fl_keras_labels_##dtype(const LaunchArgs a, const NoParams) { \
        keras_labels<T>(a);                                                                                             \
    }                                                                                                                   \
    KERNEL(fl_keras_labels_##dtype)
KERAS_LABELS(f32, float)
KERAS_LABELS(f16, fl::f16)
KERAS_LABELS(bf16, fl::bf16)
