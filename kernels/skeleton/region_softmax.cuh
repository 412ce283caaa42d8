// The region skeleton with a softmax over the channels: a block has a tile of positions with all their channels, a thread POSITIONS of
// them.
#pragma once
#include "region.cuh"

namespace fl {

constexpr int POSITIONS = 4;

// Maximum and inverse sum of the exponentials of a thread's positions.
template <class T> struct PositionSoftmax {
    float max[POSITIONS], inv_sum[POSITIONS];

    FL PositionSoftmax(const LaunchArgs& a, uint64_t sample, uint64_t i, uint64_t to) {
        const T* x = at<const T>(a.input) + sample * a.classes * a.inner + i;
        float sum[POSITIONS];
#pragma unroll
        for (int j = 0; j < POSITIONS; ++j) max[j] = -infinity(), sum[j] = 0.0f;
        for (uint64_t c = 0; c < a.classes; ++c) {
#pragma unroll
            for (int j = 0; j < POSITIONS; ++j) {
                if (i + j * FL_BLOCK >= to) continue;
                const float z = to_f32(x[c * a.inner + j * FL_BLOCK]);
                max[j] = larger(max[j], z);
            }
        }
        for (uint64_t c = 0; c < a.classes; ++c) {
#pragma unroll
            for (int j = 0; j < POSITIONS; ++j) {
                if (i + j * FL_BLOCK < to) sum[j] += exp_neg(to_f32(x[c * a.inner + j * FL_BLOCK]) - max[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < POSITIONS; ++j) inv_sum[j] = 1.0f / sum[j];
    }

    FL float at_logit(int j, float z) const { return exp_neg(z - max[j]) * inv_sum[j]; }
};

// Cross-entropy of a thread's positions: the formulas of `cross_entropy.cu`.
template <class T> struct PositionCrossEntropy {
    float value[POSITIONS], mass[POSITIONS], slope[POSITIONS], top[POSITIONS];
    float top_e[POSITIONS]; // the exponential of the class that leads; NaN where none does

    FL PositionCrossEntropy(const Regions& r, const BesideCrossEntropy& p, const PositionSoftmax<T>& softmax, uint64_t n, uint64_t i, uint64_t to) {
        float ones[POSITIONS] = {}, rest[POSITIONS] = {}, cost[POSITIONS] = {};
#pragma unroll
        for (int j = 0; j < POSITIONS; ++j) mass[j] = 0.0f;
#pragma unroll 1
        for (uint64_t c = 0; c < r.channels; ++c) {
            const float w = r.channel_weight(c);
#pragma unroll
            for (int j = 0; j < POSITIONS; ++j) {
                const uint64_t at_j = i + j * FL_BLOCK, k = (n * r.channels + c) * r.a.inner + at_j;
                if (at_j >= to) continue;
                const float u = to_f32(at<const T>(r.a.input)[k]) - softmax.max[j];
                const float e = exp_neg(u), one = e == 1.0f ? 1.0f : 0.0f;
                ones[j] += one, rest[j] += e - one;
                const float a = p.weight(w, r.target<T>(n, c, at_j, k), r.channels);
                mass[j] += a;
                // Zero times minus infinity is a masked class that the target does not ask for.
                cost[j] += a == 0.0f ? 0.0f : -a * u;
            }
        }
#pragma unroll
        for (int j = 0; j < POSITIONS; ++j) {
            const Softmax s = {softmax.max[j], ones[j], rest[j]};
            const float ln_sum = s.ln_sum(), lse = s.max + ln_sum, miss = s.miss(1.0f);
            const float pull = p.z_loss == 0.0f ? 0.0f : 2.0f * p.z_loss * lse;
            value[j] = mass[j] * ln_sum + cost[j];
            if (p.z_loss != 0.0f) value[j] += p.z_loss * lse * lse;
            slope[j] = (mass[j] + pull) * ratio(1.0f, s.sum());
            top[j] = pull * (1.0f - miss) - mass[j] * miss;
            top_e[j] = s.one_class_leads() ? 1.0f : nan();
        }
    }

    // For the logit of a class with this exponential, on which the target puts a.
    FL float grad(int j, float e, float a) const { return e == top_e[j] ? (mass[j] - a) + top[j] : e * slope[j] - a; }
};

// What a position adds to the denominator of a mean: 1, or the class weight of its target.
FL double share(const Regions& r, uint64_t position) {
    if (!has_index(r.a) || r.a.class_weight == 0) return 1.0;
    const int64_t index = index_of(r.a, position);
    return is_class(r.a, index) ? double(r.channel_weight(uint64_t(index))) : 0.0;
}

template <class T, class Beside> FL void softmax_sums(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::CROSS_ENTROPY);
    const float scale = scale_of_regions(a, r);
    if (blockIdx.x < r.blocks()) {
        const uint64_t n = divide(blockIdx.x, r.tiles), tile = blockIdx.x - n * r.tiles;
        const uint64_t from = tile * a.tile, to = from + a.tile < a.inner ? from + a.tile : a.inner;
        check_targets(a, n, from, to);
        double cost = 0.0, count = 0.0;
        for (uint64_t step = from; step < to; step += POSITIONS * FL_BLOCK) {
            const uint64_t i = step + threadIdx.x;
            const PositionSoftmax<T> softmax(a, n, i, to);
            if constexpr (Beside::CROSS_ENTROPY) {
                const PositionCrossEntropy<T> row(r, b, softmax, n, i, to);
#pragma unroll
                for (int j = 0; j < POSITIONS; ++j) {
                    const uint64_t at_j = i + j * FL_BLOCK;
                    if (at_j < to) cost += double(row.value[j]), count += share(r, n * a.inner + at_j);
                }
            }
            for (uint64_t c = r.background(); c < r.channels; ++c) {
                const uint64_t base = (n * r.channels + c) * a.inner;
                RegionSums sums;
#pragma unroll
                for (int j = 0; j < POSITIONS; ++j) {
                    const uint64_t at_j = i + j * FL_BLOCK, k = base + at_j;
                    if (at_j < to) sums.add(softmax.at_logit(j, to_f32(at<const T>(a.input)[k])), r.target<T>(n, c, at_j, k), p.squared != 0);
                }
                sums.flush();
#pragma unroll
                for (int s = 0; s < 3; ++s) {
                    const double sum = block_sum(sums.many[s]);
                    double* out = r.sums(n, c, tile) + s;
                    if (threadIdx.x == 0) *out = step == from ? sum : *out + sum;
                }
            }
        }
        if constexpr (Beside::CROSS_ENTROPY) {
            cost = block_sum(cost), count = block_sum(count);
            if (threadIdx.x == 0) r.beside(blockIdx.x)[0] = cost, r.beside(blockIdx.x)[1] = count;
        }
    }
    finish_regions(a, p, r, scale, b);
}

template <class T, class Beside> FL void softmax_grads(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::CROSS_ENTROPY);
    if (blockIdx.x >= r.blocks()) return;
    const uint64_t block = r.blocks() - 1 - blockIdx.x;
    const uint64_t n = divide(block, r.tiles), tile = block - n * r.tiles;
    const uint64_t from = tile * a.tile, to = from + a.tile < a.inner ? from + a.tile : a.inner;
    // dl/dp of channel c
    auto slope = [&](uint64_t c, float y, float t) {
        if (c < r.background()) return 0.0f;
        const Slopes s = r.slopes()[r.region(n, c)];
        return s.overlap * t + s.size * (p.squared ? y : 1.0f);
    };
    for (uint64_t step = from; step < to; step += POSITIONS * FL_BLOCK) {
        const uint64_t i = step + threadIdx.x;
        const PositionSoftmax<T> softmax(a, n, i, to);
        float mean[POSITIONS] = {};
        for (uint64_t c = 0; c < r.channels; ++c) {
#pragma unroll
            for (int j = 0; j < POSITIONS; ++j) {
                const uint64_t at_j = i + j * FL_BLOCK, k = (n * r.channels + c) * a.inner + at_j;
                if (at_j >= to) continue;
                const float y = softmax.at_logit(j, to_f32(at<const T>(a.input)[k]));
                mean[j] += slope(c, y, r.target<T>(n, c, at_j, k)) * y;
            }
        }
        // Writes gradients; `more` is that of class c at position j, of exponential e and target t.
        auto put = [&](auto more) {
            for (uint64_t c = 0; c < r.channels; ++c) {
#pragma unroll
                for (int j = 0; j < POSITIONS; ++j) {
                    const uint64_t at_j = i + j * FL_BLOCK, k = (n * r.channels + c) * a.inner + at_j;
                    if (at_j >= to) continue;
                    const float e = exp_neg(to_f32(at<const T>(a.input)[k]) - softmax.max[j]), y = e * softmax.inv_sum[j];
                    const float t = r.target<T>(n, c, at_j, k);
                    const float g = more(y * (slope(c, y, t) - mean[j]), c, j, e, t);
                    T* out = at<T>(a.grad_input) + k;
                    *out = from_f32<T>(a.flags & FL_ACCUMULATE ? to_f32(*out) + g : g);
                }
            }
        };
        if constexpr (Beside::CROSS_ENTROPY) {
            const PositionCrossEntropy<T> row(r, b, softmax, n, i, to);
            const float scale = *r.beside_scale();
            put([&](float g, uint64_t c, int j, float e, float t) {
                return g + row.grad(j, e, b.weight(r.channel_weight(c), t, r.channels)) * scale;
            });
        } else {
            put([](float g, uint64_t, int, float, float) { return g; });
        }
    }
}

} // namespace fl
