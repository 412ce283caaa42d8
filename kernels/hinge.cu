// The kernels of `hinge.cuh`.
#include "hinge.cuh"

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
