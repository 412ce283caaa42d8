// Dice, Jaccard, Tversky and generalised Dice, `src/loss/dice.rs`. With I = sum p t, P = sum p^k, T = sum t^k over a region:
//
//     l = 1 - (overlap I + smooth_nr) / (union_i I + union_p P + union_t T + smooth_dr)
//
// raised to gamma where that is not 1; or one such loss of all channels c of a sample, of their sums times w_c, which is 1 / T_c^2, 1 / T_c
// or 1 (generalised Dice). With s the fraction and D the denominator
//
//     dl/dp = (s (union_i t + k union_p p^(k - 1)) - overlap t) / D
//
// times w_c and the derivative of the activation: none, sigmoid, or softmax over the channels. With a softmax cross-entropy or its focal
// form may be computed beside it, with a sigmoid binary cross-entropy or its focal form, from the same activation,
// `src/loss/combine/regions.rs`.
#pragma once
#include "bce.cuh"
#include "sigmoid_focal.cuh"
#include "skeleton/region_channels.cuh"
#include "skeleton/region_softmax.cuh"

namespace fl {
template <class T> FL void none_sums(const LaunchArgs& a, const DiceParams& p) { channel_sums<T, false>(a, p, Alone()); }
template <class T> FL void none_grads(const LaunchArgs& a, const DiceParams& p) { channel_grads<T, false>(a, p, Alone()); }
template <class T> FL void sigmoid_sums(const LaunchArgs& a, const DiceParams& p) { channel_sums<T, true>(a, p, Alone()); }
template <class T> FL void sigmoid_grads(const LaunchArgs& a, const DiceParams& p) { channel_grads<T, true>(a, p, Alone()); }
template <class T> FL void alone_sums(const LaunchArgs& a, const DiceParams& p) { softmax_sums<T>(a, p, Alone()); }
template <class T> FL void alone_grads(const LaunchArgs& a, const DiceParams& p) { softmax_grads<T>(a, p, Alone()); }

FL BesideCrossEntropy beside_of(const LaunchArgs& a, const DiceCrossEntropyParams& p) {
    return {{p.weights[0], p.weights[1]}, p.smoothing, p.smoothing / float(a.classes), p.z_loss};
}
template <class T> FL void cross_entropy_sums(const LaunchArgs& a, const DiceCrossEntropyParams& p) {
    softmax_sums<T>(a, p.region, beside_of(a, p));
}
template <class T> FL void cross_entropy_grads(const LaunchArgs& a, const DiceCrossEntropyParams& p) {
    softmax_grads<T>(a, p.region, beside_of(a, p));
}

template <class T> FL void focal_sums(const LaunchArgs& a, const DiceFocalParams& p) {
    softmax_sums<T>(a, p.region, BesideFocal{{p.weights[0], p.weights[1]}, p.gamma});
}
template <class T> FL void focal_grads(const LaunchArgs& a, const DiceFocalParams& p) {
    softmax_grads<T>(a, p.region, BesideFocal{{p.weights[0], p.weights[1]}, p.gamma});
}

struct BesideLogits {
    static constexpr bool ANY = true, POSITIONS = false, LOGITS = true;
    float weights[2]; // of the region loss, and of this
    uint32_t kind;
    float a, b, c;

    // Does something with the functor.
    template <class Do> FL void with(Do body) const {
        switch (kind) {
            case FL_TERM_BCE_WITH_LOGITS: return body(with_params<BceWithLogits>(BceWithLogitsParams{a, b}));
            case FL_TERM_SIGMOID_FOCAL: return body(with_params<SigmoidFocal>(SigmoidFocalParams{a, b, c}));
            case FL_TERM_SIGMOID_FOCAL_ANY: return body(with_params<SigmoidFocalAny>(SigmoidFocalParams{a, b, c}));
        }
    }
};
FL BesideLogits beside_of(const DiceLogitsParams& p) { return {{p.weights[0], p.weights[1]}, p.kind, p.a, p.b, p.c}; }
template <class T> FL void logits_sums(const LaunchArgs& a, const DiceLogitsParams& p) { channel_sums<T, true>(a, p.region, beside_of(p)); }
template <class T> FL void logits_grads(const LaunchArgs& a, const DiceLogitsParams& p) { channel_grads<T, true>(a, p.region, beside_of(p)); }
} // namespace fl

#define REGION_KERNEL(name, body, dtype, T, Params, blocks)                                                                      \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, blocks) fl_region_##name##_##dtype(const LaunchArgs a, const Params p) { \
        fl::body<T>(a, p);                                                                                                       \
    }                                                                                                                            \
    KERNEL(fl_region_##name##_##dtype)
// With three blocks an SM, ptxas spills before sm_90.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SOFTMAX_BLOCKS 3
#else
#define SOFTMAX_BLOCKS 2
#endif
// The sums and the gradients, in every storage type; with so many blocks an SM.
#define REGION(name, sums, grads, Params, blocks_of_sums, blocks_of_grads)              \
    REGION_OF(name, sums, grads, f32, float, Params, blocks_of_sums, blocks_of_grads)   \
    REGION_OF(name, sums, grads, f16, fl::f16, Params, blocks_of_sums, blocks_of_grads) \
    REGION_OF(name, sums, grads, bf16, fl::bf16, Params, blocks_of_sums, blocks_of_grads)
#define REGION_OF(name, sums, grads, dtype, T, Params, blocks_of_sums, blocks_of_grads) \
    REGION_KERNEL(name##_sums, sums, dtype, T, Params, blocks_of_sums)                  \
    REGION_KERNEL(name##_grads, grads, dtype, T, Params, blocks_of_grads)
