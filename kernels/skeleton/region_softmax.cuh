// The region skeleton with a softmax over the channels: a block has a tile of positions with all their channels, a thread a few of them
// side by side, which it reads in one access. Up to four channels stay in its registers: memory is read once a launch, and a logit has
// one exponential. More are read again each time they are wanted, from the caches.
#pragma once
#include "region.cuh"

namespace fl {

// What a position adds to the denominator of a mean by weights: the class weight of its target, where targets are classes.
FL float weight_of_target(const Regions& r, int index) {
    if (!has_index(r.a) || r.a.class_weight == 0) return 1.0f;
    return index >= 0 ? r.channel_weight(index) : 0.0f;
}

// Cross-entropy beside the region loss: the formulas of `cross_entropy.cuh`.
struct BesideCrossEntropy {
    static constexpr bool ANY = true, POSITIONS = true, LOGITS = false;
    float weights[2]; // of the region loss, and of this
    float smoothing, each; // and what of the smoothing each class gets
    float z_loss;

    // What the target puts on a class whose own weight is w.
    FL float on(float w, float t) const { return w * fmaf(t, 1.0f - smoothing, each); }
    // What a position adds to the denominator of a mean.
    FL float share(const Regions& r, int index) const { return weight_of_target(r, index); }

    // Of a position.
    struct Loss {
        float value, mass, slope, top;
        float top_e; // the exponential of the class that leads; NaN where none does

        // For the logit of a class with this exponential, on which the target puts a.
        FL float grad(float e, float a) const { return e == top_e ? (mass - a) + top : fmaf(e, slope, -a); }
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
    FL float on(float, float t) const { return t; }
    // Its mean is over positions, whatever they weigh, but for the mean by weights.
    FL float share(const Regions& r, int index) const { return r.a.divide_by == FL_BY_WEIGHTS ? weight_of_target(r, index) : 1.0f; }

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

// A tile: positions from..to of sample n.
struct Tile {
    uint64_t n, from;
    int size;
    uint64_t element; // the first of channel 0
    bool aligned;     // all channels of all positions can be read and written V at a time

    template <int V> FL static Tile of(const Regions& r, uint64_t block) {
        const LaunchArgs& a = r.a;
        const uint64_t n = divide(block, r.tiles), from = (block - n * r.tiles) * a.tile;
        const bool aligned = a.inner % V == 0 && aligned16(at<void>(a.input)) && aligned16(at<void>(a.target)) && aligned16(at<void>(a.grad_input));
        return {n, from, r.tile_size(from), n * r.channels * a.inner + from, aligned};
    }
};

// A thread's V positions with the softmax of each, and the loss beside: the i-th of a tile and those after it. What lies beyond its end
// has probabilities and targets of zero.
//
// KEPT: how many channels are in registers at most; 0 is any number, which are read again. GRADS: in the second launch.
template <class T, class Beside, int KEPT, int V, bool GRADS> struct Positions {
    const Regions& r;
    const Tile& tile;
    int i, channels, count;
    bool whole; // all V are in the tile, and accesses are aligned
    int index[V]; // -1 where the target is no class
    float max[V], inv_sum[V];
    float x[KEPT + 1][V], t[KEPT + 1][V]; // exponentials and targets
    typename Beside::Loss loss[V];

    FL Positions(const Regions& r, const Beside& b, const Tile& tile, int i) : r(r), tile(tile), i(i), channels(int(r.channels)) {
        count = tile.size - i < V ? tile.size - i : V;
        whole = tile.aligned && count == V;
        const T* input = at<const T>(r.a.input);
        if (whole) {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) load_whole(input, c, x[c]);
        } else {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) load_slowly(input, c, x[c]);
        }
        load_index();
        if (r.a.target_kind != FL_TARGET_DENSE) {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) one_hot(c, t[c]);
        } else if (whole) {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) load_whole(at<const T>(r.a.target), c, t[c]);
        } else {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) load_slowly(at<const T>(r.a.target), c, t[c]);
        }
        look(b);
    }

    // Where channel c is. Past the last one: the first again, which is in the L1 cache by then.
    template <class P> FL P* place(P* tensor, int c) const {
        return tensor + tile.element + uint64_t(KEPT > 0 && c >= channels ? 0 : c) * r.a.inner + i;
    }
    FL void load_whole(const T* tensor, int c, float (&y)[V]) const {
        const Few<T, V> few = load_few<T, V>(place(tensor, c));
#pragma unroll
        for (int j = 0; j < V; ++j) y[j] = to_f32(few.v[j]);
    }
    FL void load_slowly(const T* tensor, int c, float (&y)[V]) const {
        const T* p = place(tensor, c);
#pragma unroll
        for (int j = 0; j < V; ++j) y[j] = j < count ? to_f32(p[j]) : 0.0f;
    }
    FL void load(const T* tensor, int c, float (&y)[V]) const {
        if (whole) load_whole(tensor, c, y);
        else load_slowly(tensor, c, y);
    }
    FL void one_hot(int c, float (&y)[V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) y[j] = index[j] == c ? 1.0f : 0.0f;
    }
    FL void load_targets(int c, float (&y)[V]) const {
        if (r.a.target_kind == FL_TARGET_DENSE) load(at<const T>(r.a.target), c, y);
        else one_hot(c, y);
    }

    FL uint64_t first() const { return tile.n * r.a.inner + tile.from + i; }
    template <class I> FL void load_index_as() {
        const I* p = at<const I>(r.a.target) + first();
        I of[V];
        if (whole) {
            const Few<I, V> few = load_few<I, V>(p);
#pragma unroll
            for (int j = 0; j < V; ++j) of[j] = few.v[j];
        } else {
#pragma unroll
            for (int j = 0; j < V; ++j) of[j] = j < count ? p[j] : I(0);
        }
#pragma unroll
        for (int j = 0; j < V; ++j) index[j] = j < count && is_class(r.a, of[j]) ? int(of[j]) : -1;
    }
    FL void load_index() {
        switch (r.a.target_kind) {
            case FL_TARGET_DENSE: break;
            case FL_TARGET_I64: load_index_as<int64_t>(); break;
            case FL_TARGET_I32: load_index_as<int32_t>(); break;
            case FL_TARGET_U32: load_index_as<uint32_t>(); break;
            default: load_index_as<uint8_t>();
        }
    }
    // Reports indices that are no class.
    FL void check() const {
        if (!has_index(r.a)) return;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j >= count || index[j] >= 0) continue;
            report_row(r.a, first() + j);
            atomicAdd(&workspace(r.a)->bad_target, 1u);
        }
    }

    // Gradients that are rounded to sixteen bits need no better.
    FL float exp_of(float u) const { return GRADS ? exp_neg_for<T>(u) : exp_neg(u); }

    // Hands each channel to body(c, x, t): what is kept, or the logits.
    template <class Body> FL void each_kept(Body body) {
        if constexpr (KEPT > 0) {
#pragma unroll
            for (int c = 0; c < KEPT; ++c) {
                if (c < channels) body(c, x[c], t[c]);
            }
        } else {
#pragma unroll 1
            for (int c = 0; c < channels; ++c) {
                load(at<const T>(r.a.input), c, x[0]);
                load_targets(c, t[0]);
                body(c, x[0], t[0]);
            }
        }
    }
    // Hands each channel to body(c, e, t), exponentials and targets.
    template <class Body> FL void each(Body body) {
        each_kept([&](int c, float(&e)[V], const float(&t)[V]) {
            if constexpr (KEPT == 0) {
#pragma unroll
                for (int j = 0; j < V; ++j) e[j] = exp_of(e[j] - max[j]);
            }
            body(c, e, t);
        });
    }

    // The softmax, and the losses beside; exponentials take the place of logits.
    FL void look(const Beside& b) {
        float ones[V] = {}, rest[V] = {}, mass[V] = {}, cost[V] = {}, alpha[V] = {};
#pragma unroll
        for (int j = 0; j < V; ++j) max[j] = -infinity();
#pragma unroll 1
        for (int c = 0; KEPT == 0 && c < channels; ++c) {
            load(at<const T>(r.a.input), c, x[0]);
#pragma unroll
            for (int j = 0; j < V; ++j) max[j] = larger(max[j], x[0][j]);
        }
#pragma unroll
        for (int c = 0; c < KEPT; ++c) {
#pragma unroll
            for (int j = 0; j < V; ++j) max[j] = larger(max[j], x[c][j]);
        }
        each_kept([&](int c, float(&x)[V], const float(&t)[V]) {
            const float w = Beside::POSITIONS ? r.channel_weight(c) : 1.0f;
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float u = x[j] - max[j], e = exp_of(u);
                x[j] = e;
                if constexpr (Beside::POSITIONS) {
                    const float one = e == 1.0f ? 1.0f : 0.0f, a = b.on(w, t[j]);
                    ones[j] += one, rest[j] += e - one;
                    mass[j] += a, alpha[j] += t[j] * w;
                    // Zero times minus infinity is a masked class that the target does not ask for.
                    cost[j] += a == 0.0f ? 0.0f : -a * u;
                } else {
                    rest[j] += e;
                }
            }
        });
#pragma unroll
        for (int j = 0; j < V; ++j) {
            inv_sum[j] = j < count ? reciprocal(ones[j] + rest[j]) : 0.0f;
            if constexpr (Beside::POSITIONS) loss[j] = b.of(Softmax{max[j], ones[j], rest[j]}, mass[j], cost[j], alpha[j]);
        }
    }
};

// The sums of channels over a block: of threads in f32, emptied into f64.
struct BlockSums {
    static constexpr int AT_ONCE = 32, WARPS = FL_BLOCK / 32; // channels that one barrier is for
    double* out; // of the first channel
    bool first;  // nothing is there yet

    FL static float* of_warps() {
        SHARED_ARRAY(float, sums, 3 * AT_ONCE * WARPS);
        return sums;
    }
    // Takes in a channel, the k-th from the last `collect` on. All threads of a warp call this.
    FL void put(int k, const RegionFew& sums) const {
        const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            float sum = sums.few[s];
#pragma unroll
            for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            if (lane == 0) of_warps()[(3 * k + s) * WARPS + warp] = sum;
        }
    }
    // Adds up `count` channels from the `begin`-th on. All threads of the block call this.
    FL void collect(int begin, int count) const {
        __syncthreads();
        if (threadIdx.x < 3 * count) {
            double* const to = out + 3 * begin + threadIdx.x;
            double sum = first ? 0.0 : *to;
#pragma unroll
            for (int warp = 0; warp < WARPS; ++warp) sum += double(of_warps()[threadIdx.x * WARPS + warp]);
            *to = sum;
        }
        __syncthreads(); // before the next `put`
    }
};

template <class T, class Beside, int KEPT, int V> FL void sums_of_tile(const Regions& r, const DiceParams& p, const Beside& b) {
    constexpr int STEP = V * FL_BLOCK, STEPS = KEPT > 0 ? 4096 / STEP : 1; // between two sums over the block
    const LaunchArgs& a = r.a;
    const Tile tile = Tile::of<V>(r, blockIdx.x);
    const int background = int(r.background()), counted = int(r.counted);
    BlockSums of_block{at<double>(a.scratch) + 3 * (blockIdx.x * r.channels + background), true};
    double cost = 0.0, count = 0.0;
#pragma unroll 1
    for (int start = 0; start < tile.size; start += STEPS * STEP) {
        RegionFew few[KEPT + 1];
        float few_cost = 0.0f, few_count = 0.0f;
#pragma unroll 1
        for (int step = start; step < start + STEPS * STEP && step < tile.size; step += STEP) {
            Positions<T, Beside, KEPT, V, false> positions(r, b, tile, step + int(threadIdx.x) * V);
            positions.check();
            if constexpr (Beside::POSITIONS) {
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    if (j < positions.count) few_cost += positions.loss[j].value, few_count += b.share(r, positions.index[j]);
                }
            }
            positions.each([&](int c, const float(&e)[V], const float(&t)[V]) {
                if (c < background) return;
                float y[V];
#pragma unroll
                for (int j = 0; j < V; ++j) y[j] = e[j] * positions.inv_sum[j];
                RegionFew& sums = few[KEPT > 0 ? c : 0];
                if (KEPT == 0) sums = {};
                if (p.squared) sums.add<true>(y, t);
                else sums.add<false>(y, t);
                if (KEPT > 0) return;
                const int k = c - background, at = k % BlockSums::AT_ONCE;
                of_block.put(at, sums);
                if (at == BlockSums::AT_ONCE - 1 || k == counted - 1) of_block.collect(k - at, at + 1);
            });
        }
#pragma unroll
        for (int c = 0; c < KEPT; ++c) {
            if (c >= background && c < int(r.channels)) of_block.put(c - background, few[c]);
        }
        if (KEPT > 0) of_block.collect(0, counted);
        of_block.first = false;
        cost += double(few_cost), count += double(few_count);
    }
    if constexpr (Beside::POSITIONS) {
        cost = block_sum(cost), count = block_sum(count);
        if (threadIdx.x == 0) r.beside(blockIdx.x)[0] = cost, r.beside(blockIdx.x)[1] = count;
    }
}

template <class T, class Beside> FL void softmax_sums(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::POSITIONS);
    if (blockIdx.x < r.blocks()) {
        if (r.channels <= 4) sums_of_tile<T, Beside, 4, Beside::POSITIONS ? 2 : 4>(r, p, b);
        else sums_of_tile<T, Beside, 0, 4>(r, p, b);
    }
    finish_regions(a, p, r, scale_of_regions(a, r), b);
}

template <class T, class Beside, int KEPT, int V> FL void grads_of_tile(const Regions& r, const DiceParams& p, const Beside& b) {
    const LaunchArgs& a = r.a;
    const Tile tile = Tile::of<V>(r, r.blocks() - 1 - blockIdx.x);
    const int background = int(r.background());
    const bool add = a.flags & FL_ACCUMULATE;
    const Slopes* of_sample = r.slopes() + r.region(tile.n, background) - background;
    Slopes slopes[KEPT + 1];
#pragma unroll
    for (int c = 0; c < KEPT; ++c) slopes[c] = c >= background && c < int(r.channels) ? of_sample[c] : Slopes{0.0f, 0.0f};
    float scale = 0.0f;
    if constexpr (Beside::POSITIONS) scale = *r.beside_scale();
    // dl/dp of channel c
    auto slope = [&](int c, float y, float t) {
        if (c < background) return 0.0f;
        const Slopes s = KEPT > 0 ? slopes[KEPT > 0 ? c : 0] : of_sample[c];
        return fmaf(s.overlap, t, p.squared ? s.size * y : s.size);
    };
#pragma unroll 1
    for (int i = int(threadIdx.x) * V; i < tile.size; i += V * FL_BLOCK) {
        Positions<T, Beside, KEPT, V, true> positions(r, b, tile, i);
        float mean[V] = {};
        positions.each([&](int c, const float(&e)[V], const float(&t)[V]) {
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float y = e[j] * positions.inv_sum[j];
                mean[j] = fmaf(slope(c, y, t[j]), y, mean[j]);
            }
        });
        T* grad = at<T>(a.grad_input);
        positions.each([&](int c, const float(&e)[V], const float(&t)[V]) {
            const float w = Beside::POSITIONS ? r.channel_weight(c) : 1.0f;
            float g[V];
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float y = e[j] * positions.inv_sum[j];
                g[j] = y * (slope(c, y, t[j]) - mean[j]);
                if constexpr (Beside::POSITIONS) g[j] = fmaf(positions.loss[j].grad(e[j], b.on(w, t[j])), scale, g[j]);
            }
            T* out = positions.place(grad, c);
            if (add) {
                float old[V];
                positions.load(grad, c, old);
#pragma unroll
                for (int j = 0; j < V; ++j) g[j] = old[j] + g[j];
            }
            if (positions.whole) return store_few<T, V>(out, g);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j < positions.count) out[j] = from_f32<T>(g[j]);
            }
        });
    }
}

template <class T, class Beside> FL void softmax_grads(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    const Regions r(a, true, Beside::POSITIONS);
    if (blockIdx.x >= r.blocks()) return;
    if (r.channels <= 4) grads_of_tile<T, Beside, 4, Beside::POSITIONS ? 2 : 4>(r, p, b);
    else grads_of_tile<T, Beside, 0, 4>(r, p, b);
}

} // namespace fl
