// The region skeleton: losses of sums over a region of an image, of which Dice is one. A region is a channel of a sample, or of the
// whole batch. Two launches: the sums, from which the block that finishes last makes values and slopes; and the gradients, which need
// them. The second runs through memory backwards, so that what the first read last is found in the L2 cache.
//
// Bytes: input and target twice, gradient once, less what the cache holds (with 50 MB of it, all of a second read below 40 MB).
//
// One launch would need a barrier across the grid, and with it all blocks at once on the machine, which a launch into a busy
// stream cannot promise.
#pragma once
#include "softmax.cuh"

namespace fl {

// The gradient of a region's loss is overlap t + size p^(k - 1) at every element.
struct Slopes {
    float overlap, size;
};

// I, P and T of a region: a sum of few in f32, emptied into f64.
struct RegionSums {
    float few[3] = {};
    double many[3] = {};

    FL void add(float p, float t, bool squared) {
        few[0] += p * t;
        few[1] += squared ? p * p : p;
        few[2] += squared ? t * t : t;
    }
    template <bool SQUARED, int N> FL void add(const float (&p)[N], const float (&t)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) add(p[i], t[i], SQUARED);
    }
    FL void flush() {
#pragma unroll
        for (int i = 0; i < 3; ++i) many[i] += double(few[i]), few[i] = 0.0f;
    }
};

// What is computed beside the region loss from the same activation: nothing; of a softmax cross-entropy; of a sigmoid a loss of each
// logit, which is `BesideLogits` in `region.cu`.
struct Alone {
    static constexpr bool ANY = false, CROSS_ENTROPY = false, LOGITS = false;
};
struct BesideCrossEntropy {
    static constexpr bool ANY = true, CROSS_ENTROPY = true, LOGITS = false;
    float weights[2]; // of the region loss, and of this
    float smoothing, z_loss;

    // The weight that the target puts on a class whose own weight is w.
    FL float weight(float w, float t, uint64_t classes) const { return w * (t * (1.0f - smoothing) + smoothing / float(classes)); }
};

// How a launch is dealt out.
struct Regions {
    const LaunchArgs& a;
    uint64_t samples, channels, tiles; // of a channel of a sample
    uint64_t counted;                  // channels with a loss
    bool softmax;
    bool weigh_all; // class weights are of all channels, not of those with a loss

    FL Regions(const LaunchArgs& a, bool softmax, bool weigh_all = false) : a(a), softmax(softmax), weigh_all(weigh_all) {
        channels = a.classes;
        samples = a.inner == 0 ? 0 : divide(a.elements, channels * a.inner);
        tiles = divide(a.inner + a.tile - 1, a.tile);
        counted = channels - background();
    }

    FL uint64_t background() const { return a.flags & FL_NO_BACKGROUND ? 1 : 0; }
    FL uint64_t blocks() const { return (softmax ? samples : samples * channels) * tiles; }
    // The partial sums of tile `tile` of channel c of sample n.
    FL double* sums(uint64_t n, uint64_t c, uint64_t tile) const {
        const uint64_t i = softmax ? (n * tiles + tile) * channels + c : (n * channels + c) * tiles + tile;
        return at<double>(a.scratch) + 3 * i;
    }
    FL Slopes* slopes() const { return reinterpret_cast<Slopes*>(at<double>(a.scratch) + 3 * (softmax ? blocks() * channels : blocks())); }
    FL uint64_t region(uint64_t n, uint64_t c) const { return (a.flags & FL_BATCH ? 0 : n * counted) + c - background(); }
    // Of a region, and of a channel.
    FL float class_weight(uint64_t region) const {
        const uint64_t c = region - divide(region, counted) * counted;
        return channel_weight(weigh_all ? c + background() : c);
    }
    FL float channel_weight(uint64_t c) const { return a.class_weight ? at<const float>(a.class_weight)[c] : 1.0f; }
    // What block b found of the loss beside, its cost and its share of the denominator; and what its gradients are multiplied by.
    FL double* beside(uint64_t b) const { return reinterpret_cast<double*>(slopes() + samples * channels) + 2 * b; }
    FL float* beside_scale() const { return reinterpret_cast<float*>(beside(blocks())); }
    // The target of class c at position i of sample n, of elements k.
    template <class T> FL float target(uint64_t n, uint64_t c, uint64_t i, uint64_t k) const {
        if (a.target_kind == FL_TARGET_DENSE) return to_f32(at<const T>(a.target)[k]);
        return index_of(a, n * a.inner + i) == int64_t(c) ? 1.0f : 0.0f;
    }
};

// The value of a region with these sums, and its slopes.
FL double value_of(const DiceParams& p, const double (&sums)[3], double& overlap, double& size) {
    const double power = p.squared ? 2.0 : 1.0;
    const double nr = p.overlap * sums[0] + p.smooth_nr;
    const double dr = p.union_i * sums[0] + p.union_p * sums[1] + p.union_t * sums[2] + p.smooth_dr;
    const double score = nr / dr;
    // Focal: below zero and at zero, where for gamma < 1 the derivative has no end, value and slope are zero.
    double value = 1.0 - score, bend = 1.0;
    if (p.gamma != 1.0f) {
        const float miss = float(value);
        value = miss <= 0.0f ? 0.0f : powf(miss, p.gamma);
        bend = miss <= 0.0f ? 0.0f : p.gamma * powf(miss, p.gamma - 1.0f);
    }
    const double inv = bend / dr;
    overlap = (score * p.union_i - p.overlap) * inv;
    size = power * score * p.union_p * inv;
    return value;
}

// The sums of a region, by a warp that adds up its tiles in their order, in all its lanes.
FL void add_up(const LaunchArgs& a, const Regions& r, uint64_t region, double (&sums)[3]) {
    const uint64_t group = divide(region, r.counted), c = region - group * r.counted + r.background();
    const uint64_t from = a.flags & FL_BATCH ? 0 : group, to = a.flags & FL_BATCH ? r.samples : group + 1;
    for (uint64_t n = from; n < to && r.samples != 0; ++n) {
        for (uint64_t tile = threadIdx.x & 31; tile < r.tiles; tile += 32) {
#pragma unroll
            for (int i = 0; i < 3; ++i) sums[i] += __ldcg(r.sums(n, c, tile) + i);
        }
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) sums[i] = warp_sum(sums[i]);
}

// The sums of a group of regions that have one loss together, times their weights; by a warp, a lane a channel. The first tile of a region
// has its sums by then, of which the first makes room for the weight.
FL void sum_together(const LaunchArgs& a, const DiceParams& p, const Regions& r, uint64_t group, double (&all)[3]) {
    const uint64_t n = a.flags & FL_BATCH ? 0 : group, first = r.background() + (threadIdx.x & 31), end = r.samples == 0 ? 0 : r.channels;
    // A region without targets has the weight of the smallest that has some: none if there is none.
    double least = double(infinity());
#pragma unroll 1
    for (uint64_t c = first; c < end; c += 32) {
        const double t = fabs(r.sums(n, c, 0)[2]);
        if (t > 0.0 && t < least) least = t;
    }
#pragma unroll
    for (unsigned d = 16; d > 0; d >>= 1) least = fmin(least, __shfl_xor_sync(0xffffffffu, least, d));
#pragma unroll 1
    for (uint64_t c = first; c < end; c += 32) {
        double* sums = r.sums(n, c, 0);
        const double t = sums[2] == 0.0 ? least : sums[2];
        const double w = p.together == FL_WEIGH_UNIFORM ? 1.0 : 1.0 / (p.together == FL_WEIGH_SIMPLE ? t : t * t);
#pragma unroll
        for (int i = 0; i < 3; ++i) all[i] += w * sums[i];
        sums[0] = w;
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) all[i] = warp_sum(all[i]);
}

// And the slopes of each, from those of the group.
FL void put_together(const LaunchArgs& a, const Regions& r, uint64_t group, double overlap, double size, bool bad) {
    const uint64_t n = a.flags & FL_BATCH ? 0 : group, first = r.background() + (threadIdx.x & 31), end = r.samples == 0 ? 0 : r.channels;
#pragma unroll 1
    for (uint64_t c = first; c < end; c += 32) {
        const double w = r.sums(n, c, 0)[0];
        r.slopes()[r.region(n, c)] = bad ? Slopes{0.0f, 0.0f} : Slopes{float(overlap * w), float(size * w)};
    }
}

// What the block does that finishes last: a warp a region adds up its tiles.
template <class Beside> FL void finish_regions(const LaunchArgs& a, const DiceParams& p, const Regions& r, float scale, const Beside& b) {
    Workspace* w = workspace(a);
    __syncthreads(); // the sums of this block are written
    if (gridDim.x > 1 && !is_last_block(a)) return;
    const unsigned lane = threadIdx.x & 31, warps = FL_BLOCK / 32;
    const bool bad = a.target_kind >= FL_TARGET_I64 && load_word(&w->bad_target) != 0;
    double total = 0.0;
    const bool together = !Beside::ANY && p.together != 0;
    if (together) {
        for (uint64_t region = threadIdx.x >> 5; region < a.losses * r.counted && r.samples != 0; region += warps) {
            double sums[3] = {};
            add_up(a, r, region, sums);
            const uint64_t group = divide(region, r.counted), c = region - group * r.counted + r.background();
            __syncwarp(); // its tiles have been read, the first of them too
            if (lane < 3) r.sums(group, c, 0)[lane] = lane == 0 ? sums[0] : (lane == 1 ? sums[1] : sums[2]);
        }
        __syncthreads();
    }
    for (uint64_t loss = threadIdx.x >> 5; loss < a.losses; loss += warps) {
        const float weight = r.class_weight(loss) * weight_of(a, loss);
        const float above = a.grad_outputs ? at<const float>(a.grad_outputs)[loss] : 1.0f;
        double factor = double(scale) * double(weight) * double(above);
        if constexpr (Beside::ANY) factor *= double(b.weights[0]);
        double sums[3] = {}, overlap, size;
        if (together) sum_together(a, p, r, loss, sums);
        else add_up(a, r, loss, sums);
        double value = value_of(p, sums, overlap, size) * double(weight);
        overlap *= factor, size *= factor;
        if (bad) value = double(nan());
        if (together) put_together(a, r, loss, overlap, size, bad);
        else if (lane == 0) r.slopes()[loss] = bad ? Slopes{0.0f, 0.0f} : Slopes{float(overlap), float(size)};
        if (lane == 0) {
            if (a.values) at<float>(a.values)[loss] = float(value);
            total += value;
        }
    }
    total = block_sum(total);
    double cost = 0.0, count = 0.0;
    if constexpr (Beside::ANY) {
        for (uint64_t i = threadIdx.x; i < r.blocks(); i += FL_BLOCK) cost += __ldcg(r.beside(i)), count += __ldcg(r.beside(i) + 1);
        cost = block_sum(cost), count = block_sum(count);
    }
    if (threadIdx.x == 0) {
        const double denominator = denominator_of(a);
        double value = total / denominator;
        if constexpr (Beside::ANY) {
            const double of_rows = a.flags & FL_OWN_MEANS ? count : denominator;
            const double mean_cost = bad ? double(nan()) : cost / of_rows;
            *r.beside_scale() = bad ? 0.0f : float(double(scale) * denominator * double(b.weights[1]) / of_rows);
            if (a.terms) at<float>(a.terms)[0] = float(value), at<float>(a.terms)[1] = float(mean_cost);
            value = double(b.weights[0]) * value + double(b.weights[1]) * mean_cost;
        }
        if (a.value) *at<float>(a.value) = float(value);
        w->dealt = w->arrived = w->ready = w->bad_target = 0;
    }
}

// Reports indices of positions from..to of sample n that are no class.
FL void check_targets(const LaunchArgs& a, uint64_t n, uint64_t from, uint64_t to) {
    if (!has_index(a)) return;
    for (uint64_t i = from + threadIdx.x; i < to; i += FL_BLOCK) {
        if (is_class(a, index_of(a, n * a.inner + i))) continue;
        report_row(a, n * a.inner + i);
        atomicAdd(&workspace(a)->bad_target, 1u);
    }
}

FL float scale_of_regions(const LaunchArgs& a, const Regions& r) {
    return scale_of(a, a.losses, [&](uint64_t region) { return double(r.class_weight(region)) * double(weight_of(a, region)); });
}

// --- no activation, or a sigmoid: a block has a tile of a channel ---

template <class T> FL void load_targets(const Regions& r, uint64_t n, uint64_t c, uint64_t base, int64_t i, bool whole, uint64_t from, uint64_t to, float (&t)[Pack<T>::N]) {
    constexpr int V = Pack<T>::N;
    const T* dense = at<const T>(r.a.target) + base + i;
    if (r.a.target_kind == FL_TARGET_DENSE && whole && aligned16(dense)) {
        decode(load_stream(dense), t);
        return;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
        const bool inside = i + v >= int64_t(from) && i + v < int64_t(to);
        t[v] = inside ? r.target<T>(n, c, uint64_t(i + v), base + uint64_t(i + v)) : 0.0f;
    }
}

// Hands a tile of channel c of sample n, positions from..to, to body(k, i, whole, x, t), a pack and its targets at a time: k is its
// first element, i its first position, and `whole` says that all of it lies in the tile; then `flush`. One
// pack at a time: with more, fewer threads fit an SM, and that costs more (H200, bf16: 1.6 times the time with two packs).
template <class T, class Body, class Flush> FL void tile_of_channel(const Regions& r, uint64_t n, uint64_t c, uint64_t from, uint64_t to, Body body, Flush flush) {
    constexpr int V = Pack<T>::N;
    const T* input = at<const T>(r.a.input);
    const uint64_t base = (n * r.channels + c) * r.a.inner;
    const int lead = int((reinterpret_cast<uintptr_t>(input + base + from) & 15) / sizeof(T));
    // Packs begin where memory does; those at the ends are not whole.
    const int64_t packs = (int64_t(to - from) + lead + V - 1) / V;
    for (int64_t j = threadIdx.x; j < packs; j += FL_BLOCK) {
        const int64_t i = int64_t(from) + j * V - lead;
        const bool whole = i >= int64_t(from) && i + V <= int64_t(to);
        Pack<T> x;
        float t[V];
        if (whole) {
            x = load_stream(input + base + i);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const bool inside = i + v >= int64_t(from) && i + v < int64_t(to);
                x.v[v] = inside ? input[base + i + v] : from_f32<T>(0.0f);
            }
        }
        load_targets<T>(r, n, c, base, i, whole, from, to, t);
        body(int64_t(base) + i, i, whole, x, t);
        flush();
    }
}

template <class T, bool SIGMOID, class Beside> FL void channel_sums(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    constexpr int V = Pack<T>::N;
    const Regions r(a, false);
    const float scale = scale_of_regions(a, r);
    if (blockIdx.x < r.blocks()) {
        const uint64_t segment = divide(blockIdx.x, r.tiles), tile = blockIdx.x - segment * r.tiles;
        const uint64_t n = divide(segment, r.channels), c = segment - n * r.channels;
        const uint64_t from = tile * a.tile, to = from + a.tile < a.inner ? from + a.tile : a.inner;
        if (c == 0) check_targets(a, n, from, to);
        RegionSums sums;
        double cost = 0.0;
        if (c >= r.background()) {
            tile_of_channel<T>(r, n, c, from, to, [&](int64_t, int64_t i, bool whole, const Pack<T>& pack, const float(&t)[V]) {
                float y[V], few = 0.0f;
                decode(pack, y);
                auto inside = [&](int v) { return whole || (i + v >= int64_t(from) && i + v < int64_t(to)); };
                if constexpr (Beside::LOGITS) {
                    b.with([&](const auto& f) {
#pragma unroll
                        for (int v = 0; v < V; ++v) {
                            const Logistic l = logistic(y[v]);
                            const float value = f.eval_with(l, y[v], t[v], 1.0f).value;
                            few += inside(v) ? value : 0.0f;
                            y[v] = l.sigmoid;
                        }
                    });
                    cost += double(few);
                }
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if (SIGMOID && !Beside::LOGITS) y[v] = sigmoid(y[v]);
                    if (!inside(v)) y[v] = 0.0f;
                }
                if (p.squared) sums.add<true>(y, t);
                else sums.add<false>(y, t);
            }, [&] { sums.flush(); });
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const double sum = block_sum(sums.many[i]);
            if (threadIdx.x == 0) r.sums(n, c, tile)[i] = sum;
        }
        if constexpr (Beside::LOGITS) {
            cost = block_sum(cost);
            if (threadIdx.x == 0) r.beside(blockIdx.x)[0] = cost, r.beside(blockIdx.x)[1] = c >= r.background() ? double(to - from) : 0.0;
        }
    }
    finish_regions(a, p, r, scale, b);
}

template <class T> FL void put_pack(const LaunchArgs& a, T* out, uint64_t from, uint64_t to, int64_t i, bool whole, float (&g)[Pack<T>::N]) {
    constexpr int V = Pack<T>::N;
    const bool add = a.flags & FL_ACCUMULATE;
    if (whole && aligned16(out)) {
        if (add) {
            float old[V];
            decode(load_stream(out), old);
#pragma unroll
            for (int v = 0; v < V; ++v) g[v] = old[v] + g[v];
        }
        store_stream(out, encode<T>(g));
        return;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
        if (i + v >= int64_t(from) && i + v < int64_t(to)) out[v] = from_f32<T>(add ? to_f32(out[v]) + g[v] : g[v]);
    }
}

template <class T, bool SIGMOID, class Beside> FL void channel_grads(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    constexpr int V = Pack<T>::N;
    const Regions r(a, false);
    if (blockIdx.x >= r.blocks()) return;
    const uint64_t block = r.blocks() - 1 - blockIdx.x; // what was read last, first
    const uint64_t segment = divide(block, r.tiles), tile = block - segment * r.tiles;
    const uint64_t n = divide(segment, r.channels), c = segment - n * r.channels;
    const uint64_t from = tile * a.tile, to = from + a.tile < a.inner ? from + a.tile : a.inner;
    // The gradient of a background that is left out is zero, whatever it holds.
    const bool counts = c >= r.background();
    const Slopes slopes = counts ? r.slopes()[r.region(n, c)] : Slopes{0.0f, 0.0f};
    tile_of_channel<T>(r, n, c, from, to, [&](int64_t k, int64_t i, bool whole, const Pack<T>& pack, const float(&t)[V]) {
        float x[V], g[V];
        decode(pack, x);
        if constexpr (Beside::LOGITS) {
            const float scale = *r.beside_scale();
            b.with([&](const auto& f) {
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const Logistic l = logistic(x[v]);
                    const float slope = slopes.overlap * t[v] + slopes.size * (p.squared ? l.sigmoid : 1.0f);
                    g[v] = slope * (l.sigmoid * l.sigmoid_neg) + f.eval_with(l, x[v], t[v], 1.0f).grad * scale;
                }
            });
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
            if (Beside::LOGITS) {
            } else if (SIGMOID) {
                const Sigmoids y = sigmoids(x[v]);
                const float slope = slopes.overlap * t[v] + slopes.size * (p.squared ? y.sigmoid : 1.0f);
                g[v] = slope * (y.sigmoid * y.sigmoid_neg);
            } else {
                g[v] = slopes.overlap * t[v] + slopes.size * (p.squared ? x[v] : 1.0f);
            }
            if (!counts) g[v] = 0.0f;
        }
        put_pack(a, at<T>(a.grad_input) + k, from, to, i, whole, g);
    }, [] {});
}

// --- softmax: a block has a tile of positions with all their channels, a thread POSITIONS of them ---

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
