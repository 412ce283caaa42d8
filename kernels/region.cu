// Dice, Jaccard, Tversky and generalised Dice, `src/loss/dice.rs`. With I = sum p t, P = sum p^k, T = sum t^k over a region:
//
//     l = 1 - (overlap I + smooth_nr) / (union_i I + union_p P + union_t T + smooth_dr)
//
// raised to gamma where that is not 1; or one such loss of all channels c of a sample, of their sums times w_c, which is 1 / T_c^2, 1 / T_c
// or 1 (generalised Dice). With s the fraction and D the denominator
//
//     dl/dp = (s (union_i t + k union_p p^(k - 1)) - overlap t) / D
//
// times w_c and the derivative of the activation: none, sigmoid, or softmax over the channels. With the latter cross-entropy may be computed
// beside it from the same softmax, `src/loss/combine/regions.rs`.
#include "skeleton/region.cuh"

namespace fl {
template <class T> FL void alone_sums(const LaunchArgs& a, const DiceParams& p) { softmax_sums<T>(a, p, Alone()); }
template <class T> FL void alone_grads(const LaunchArgs& a, const DiceParams& p) { softmax_grads<T>(a, p, Alone()); }
FL BesideCrossEntropy beside_of(const DiceCrossEntropyParams& p) { return {{p.weights[0], p.weights[1]}, p.smoothing, p.z_loss}; }
} // namespace fl

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
    REGION_KERNEL(softmax_sums, dtype, alone_sums<T>)           \
    REGION_KERNEL(softmax_grads, dtype, alone_grads<T>)
REGION(f32, float)
REGION(f16, fl::f16)
REGION(bf16, fl::bf16)

#define CROSS_ENTROPY_KERNEL(which, dtype, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2)                                                                   \
        fl_region_cross_entropy_##which##_##dtype(const LaunchArgs a, const DiceCrossEntropyParams p) {                         \
        fl::softmax_##which<T>(a, p.region, fl::beside_of(p));                                                          \
    }                                                                                                                           \
    KERNEL(fl_region_cross_entropy_##which##_##dtype)
#define CROSS_ENTROPY(dtype, T)            \
    CROSS_ENTROPY_KERNEL(sums, dtype, T)   \
    CROSS_ENTROPY_KERNEL(grads, dtype, T)
CROSS_ENTROPY(f32, float)
CROSS_ENTROPY(f16, fl::f16)
CROSS_ENTROPY(bf16, fl::bf16)
