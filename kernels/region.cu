// Dice, Jaccard and Tversky, `src/loss/dice.rs`. With I = sum p t, P = sum p^k, T = sum t^k over a region:
//
//     l = 1 - (overlap I + smooth_nr) / (union_i I + union_p P + union_t T + smooth_dr)
//
// raised to gamma where that is not 1. With s the fraction and D the denominator dl/dp = (s (union_i t + k union_p p^(k - 1)) - overlap t) / D, times the derivative of the
// activation: none, sigmoid, or softmax over the channels.
#include "skeleton/region.cuh"

#define REGION_KERNEL(name, dtype, ...)                                                                                         \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 3) fl_region_##name##_##dtype(const LaunchArgs a, const DiceParams p) { \
        fl::__VA_ARGS__(a, p);                                                                                                  \
    }                                                                                                                           \
    KERNEL(fl_region_##name##_##dtype)
#define REGION(dtype, T)                                        \
    REGION_KERNEL(none_sums, dtype, channel_sums<T, false>)     \
    REGION_KERNEL(none_grads, dtype, channel_grads<T, false>)   \
    REGION_KERNEL(sigmoid_sums, dtype, channel_sums<T, true>)   \
    REGION_KERNEL(sigmoid_grads, dtype, channel_grads<T, true>) \
    REGION_KERNEL(softmax_sums, dtype, softmax_sums<T>)         \
    REGION_KERNEL(softmax_grads, dtype, softmax_grads<T>)
REGION(f32, float)
REGION(f16, fl::f16)
REGION(bf16, fl::bf16)
