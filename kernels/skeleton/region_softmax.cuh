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

// What a position adds to the denominator of a mean by weights: the class weight of its target, where targets are classes.
FL double weight_of_target(const Regions& r, uint64_t position) {
    if (!has_index(r.a) || r.a.class_weight == 0) return 1.0;
    const int64_t index = index_of(r.a, position);
    return is_class(r.a, index) ? double(r.channel_weight(uint64_t(index))) : 0.0;
}

// Cross-entropy beside the region loss: the formulas of `cross_entropy.cu`.
struct BesideCrossEntropy {
    static constexpr bool ANY = true, POSITIONS = true, LOGITS = false;
    float weights[2]; // of the region loss, and of this
    float smoothing, z_loss;

    // What the target puts on a class whose own weight is w.
    FL float on(float w, float t, uint64_t classes) const { return w * (t * (1.0f - smoothing) + smoothing / float(classes)); }
    // What a position adds to the denominator of a mean.
    FL double share(const Regions& r, uint64_t position) const { return weight_of_target(r, position); }

    // Of a position.
    struct Loss {
        float value, mass, slope, top;
        float top_e; // the exponential of the class that leads; NaN where none does

        // For the logit of a class with this exponential, on which the target puts a.
        FL float grad(float e, float a) const { return e == top_e ? (mass - a) + top : e * slope - a; }
    };
    // From what is put on all classes, and the logits less their maximum weighed by it; `alpha` has no part in it.
    FL Loss of(const Softmax& s, float mass, float cost, float) const {
        const float ln_sum = s.ln_sum(), lse = s.max + ln_sum, miss = s.miss(1.0f);
        const float pull = z_loss == 0.0f ? 0.0f : 2.0f * z_loss * lse;
        Loss out = {mass * ln_sum + cost, mass, (mass + pull) * ratio(1.0f, s.sum()), pull * (1.0f - miss) - mass * miss, nan()};
        if (z_loss != 0.0f) out.value += z_loss * lse * lse;
        if (s.one_class_leads()) out.top_e = 1.0f;
        return out;
    }
};

// Focal loss beside it: the formulas of `softmax_focal.cu`.
struct BesideFocal {
    static constexpr bool ANY = true, POSITIONS = true, LOGITS = false;
    float weights[2]; // of the region loss, and of this
    float gamma;

    // Its weight is not the class's but the whole loss's.
    FL float on(float, float t, uint64_t) const { return t; }
    // Its mean is over positions, whatever they weigh, but for the mean by weights.
    FL double share(const Regions& r, uint64_t position) const { return r.a.divide_by == FL_BY_WEIGHTS ? weight_of_target(r, position) : 1.0; }

    struct Loss {
        float value, each, at_target;

        FL float grad(float e, float t) const { return t == 1.0f ? at_target : e * each; }
    };
    // `alpha` is the class weight of the target.
    FL Loss of(const Softmax& s, float, float cost, float alpha) const {
        const float e_t = exp_neg(-cost), nll = s.ln_sum() + cost, miss = s.miss(e_t), p_t = ratio(e_t, s.sum());
        const float power = gamma == 0.0f ? 1.0f : powf(miss, gamma);
        // -ln p / (1 - p), which tends to 1 where both vanish, and p ln p, which tends to 0.
        const float bend = p_t == 0.0f ? 0.0f : gamma * p_t * (miss == 0.0f ? 1.0f : nll / miss);
        const float slope = alpha * power * (1.0f + bend);
        return {alpha * (power == 0.0f ? 0.0f : power * nll), ratio(slope, s.sum()), -slope * miss};
    }
};

// The losses of a thread's positions.
template <class T, class Beside> struct PositionLosses {
    typename Beside::Loss at[POSITIONS];

    FL PositionLosses(const Regions& r, const Beside& b, const PositionSoftmax<T>& softmax, uint64_t n, uint64_t i, uint64_t to) {
        float ones[POSITIONS] = {}, rest[POSITIONS] = {}, mass[POSITIONS] = {}, cost[POSITIONS] = {}, alpha[POSITIONS] = {};
#pragma unroll 1
        for (uint64_t c = 0; c < r.channels; ++c) {
            const float w = r.channel_weight(c);
#pragma unroll
            for (int j = 0; j < POSITIONS; ++j) {
                const uint64_t at_j = i + j * FL_BLOCK, k = (n * r.channels + c) * r.a.inner + at_j;
                if (at_j >= to) continue;
                const float u = to_f32(fl::at<const T>(r.a.input)[k]) - softmax.max[j];
                const float e = exp_neg(u), one = e == 1.0f ? 1.0f : 0.0f;
                ones[j] += one, rest[j] += e - one;
                const float t = r.target<T>(n, c, at_j, k), a = b.on(w, t, r.channels);
                mass[j] += a, alpha[j] += t * w;
                // Zero times minus infinity is a masked class that the target does not ask for.
                cost[j] += a == 0.0f ? 0.0f : -a * u;
            }
        }
#pragma unroll
        for (int j = 0; j < POSITIONS; ++j) at[j] = b.of(Softmax{softmax.max[j], ones[j], rest[j]}, mass[j], cost[j], alpha[j]);
    }
};

template <class T, class Beside> FL void softmax_sums(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::POSITIONS);
    const float scale = scale_of_regions(a, r);
    if (blockIdx.x < r.blocks()) {
        const uint64_t n = divide(blockIdx.x, r.tiles), tile = blockIdx.x - n * r.tiles;
        const uint64_t from = tile * a.tile, to = from + a.tile < a.inner ? from + a.tile : a.inner;
        check_targets(a, n, from, to);
        double cost = 0.0, count = 0.0;
        for (uint64_t step = from; step < to; step += POSITIONS * FL_BLOCK) {
            const uint64_t i = step + threadIdx.x;
            const PositionSoftmax<T> softmax(a, n, i, to);
            if constexpr (Beside::POSITIONS) {
                const PositionLosses<T, Beside> losses(r, b, softmax, n, i, to);
#pragma unroll
                for (int j = 0; j < POSITIONS; ++j) {
                    const uint64_t at_j = i + j * FL_BLOCK;
                    if (at_j < to) cost += double(losses.at[j].value), count += b.share(r, n * a.inner + at_j);
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
        if constexpr (Beside::POSITIONS) {
            cost = block_sum(cost), count = block_sum(count);
            if (threadIdx.x == 0) r.beside(blockIdx.x)[0] = cost, r.beside(blockIdx.x)[1] = count;
        }
    }
    finish_regions(a, p, r, scale, b);
}

template <class T, class Beside> FL void softmax_grads(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::POSITIONS);
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
        if constexpr (Beside::POSITIONS) {
            const PositionLosses<T, Beside> losses(r, b, softmax, n, i, to);
            const float scale = *r.beside_scale();
            put([&](float g, uint64_t c, int j, float e, float t) {
                return g + losses.at[j].grad(e, b.on(r.channel_weight(c), t, r.channels)) * scale;
            });
        } else {
            put([](float g, uint64_t, int, float, float) { return g; });
        }
    }
}

} // namespace fl
