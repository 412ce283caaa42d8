// Relativistic average GAN, `src/loss/relativistic.rs`. With `high` the side that should be above the mean of `low`:
//
//     A = high - mean(low), B = low - mean(high)        l = (mean sp(-A) + mean sp(B)) / 2
//     dl/dhigh_i = -(sigmoid(-A_i) + mean sigmoid(B)) / (2 n_high)        dl/dlow_j = (sigmoid(B_j) + mean sigmoid(-A)) / (2 n_low)
//
// Three launches with the same arguments: the means, the value and the mean slopes, the gradients. Their blocks are first those of
// `high`, then those of `low`. Scratch: two means, two mean slopes, then two partial sums a block.
#include "skeleton/call.cuh"
#include "skeleton/math.cuh"

namespace fl {

// The side of a block, and which of its elements are the block's.
template <class T> struct Side {
    const T* input;
    T* grad;
    uint64_t n, from, to, first_block, blocks;
    int side;
    float sign;

    FL explicit Side(const LaunchArgs& a, uint64_t block) {
        const uint64_t of_high = divide(a.elements + a.tile - 1, a.tile);
        side = block >= of_high ? 1 : 0;
        sign = side ? 1.0f : -1.0f;
        input = at<const T>(side ? a.target : a.input);
        grad = at<T>(side ? a.grad_target : a.grad_input);
        n = side ? a.losses : a.elements;
        first_block = side ? of_high : 0;
        blocks = divide(n + a.tile - 1, a.tile);
        from = (block - first_block) * a.tile;
        to = from + a.tile < n ? from + a.tile : n;
    }
};

FL double* means(const LaunchArgs& a) { return at<double>(a.scratch); }
FL double* mean_slopes(const LaunchArgs& a) { return at<double>(a.scratch) + 2; }
FL double* partials(const LaunchArgs& a, uint64_t block) { return at<double>(a.scratch) + 4 + 2 * block; }

// A mean in two parts: subtracted one after the other they are exact even where logits are far from zero.
struct Shift {
    float high, low;
    FL explicit Shift(double mean) : high(float(mean)), low(float(mean - double(high))) {}
};

// Adds up the partial sums of both sides in the block that finishes last, and hands their means to body(which, high, low).
template <class T, class Body> FL void combine(const LaunchArgs& a, double (&sums)[2], Body body) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const double sum = block_sum(sums[i]);
        if (threadIdx.x == 0) partials(a, blockIdx.x)[i] = sum;
    }
    if (!is_last_block(a)) return;
    double mean[2][2];
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        const uint64_t n = side ? a.losses : a.elements, first = side ? divide(a.elements + a.tile - 1, a.tile) : 0;
        const uint64_t blocks = divide(n + a.tile - 1, a.tile);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            double sum = 0.0;
            for (uint64_t b = threadIdx.x; b < blocks; b += FL_BLOCK) sum += __ldcg(partials(a, first + b) + i);
            mean[side][i] = block_sum(sum) / double(n);
        }
    }
    if (threadIdx.x == 0) {
        body(0, mean[0][0], mean[1][0]);
        body(1, mean[0][1], mean[1][1]);
    }
}

// The sum of body(x) over the elements of the block.
template <class T, class Body> FL void each(const Side<T>& s, Body body) {
    for (uint64_t k = s.from + threadIdx.x; k < s.to; k += FL_BLOCK) body(k, to_f32(s.input[k]));
}

template <class T> FL void average_means(const LaunchArgs& a) {
    const Side<T> s(a, blockIdx.x);
    double sums[2] = {0.0, 0.0};
    float few = 0.0f;
    int count = 0;
    each(s, [&](uint64_t, float x) {
        few += x;
        if ((++count & 15) == 0) sums[0] += double(few), few = 0.0f;
    });
    sums[0] += double(few);
    combine<T>(a, sums, [&](int which, double high, double low) {
        if (which == 0) means(a)[0] = high, means(a)[1] = low;
    });
}

template <class T> FL void average_sums(const LaunchArgs& a) {
    const Side<T> s(a, blockIdx.x);
    const Shift shift(means(a)[1 - s.side]);
    double sums[2] = {0.0, 0.0};
    float few[2] = {0.0f, 0.0f};
    int count = 0;
    each(s, [&](uint64_t, float x) {
        const Logistic y = logistic(s.sign * ((x - shift.high) - shift.low));
        few[0] += y.softplus;
        few[1] += y.sigmoid;
        if ((++count & 15) == 0) sums[0] += double(few[0]), sums[1] += double(few[1]), few[0] = few[1] = 0.0f;
    });
    sums[0] += double(few[0]), sums[1] += double(few[1]);
    combine<T>(a, sums, [&](int which, double high, double low) {
        if (which == 0 && a.value) *at<float>(a.value) = float(0.5 * (high + low));
        if (which == 1) mean_slopes(a)[0] = high, mean_slopes(a)[1] = low;
    });
}

template <class T> FL void average_grads(const LaunchArgs& a) {
    const Side<T> s(a, blockIdx.x);
    const Shift shift(means(a)[1 - s.side]);
    const float other = float(mean_slopes(a)[1 - s.side]);
    const float scale = 0.5f * scale_of(a) * s.sign / float(s.n);
    each(s, [&](uint64_t k, float x) {
        const float g = scale * (sigmoid(s.sign * ((x - shift.high) - shift.low)) + other);
        s.grad[k] = from_f32<T>(a.flags & FL_ACCUMULATE ? to_f32(s.grad[k]) + g : g);
    });
}

} // namespace fl

#define AVERAGE_KERNEL(name, dtype, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2) fl_relativistic_average_##name##_##dtype(const LaunchArgs a, const NoParams) { \
        fl::average_##name<T>(a);                                                                                                    \
    }                                                                                                                                \
    KERNEL(fl_relativistic_average_##name##_##dtype)
#define AVERAGE(dtype, T)            \
    AVERAGE_KERNEL(means, dtype, T)  \
    AVERAGE_KERNEL(sums, dtype, T)   \
    AVERAGE_KERNEL(grads, dtype, T)
AVERAGE(f32, float)
AVERAGE(f16, fl::f16)
AVERAGE(bf16, fl::bf16)
