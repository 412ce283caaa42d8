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

// I, P and T of a part of a region, in f32.
struct RegionFew {
    float few[3] = {};

    FL void add(float p, float t, bool squared) {
        few[0] += p * t;
        few[1] += squared ? p * p : p;
        few[2] += squared ? t * t : t;
    }
    template <bool SQUARED, int N> FL void add(const float (&p)[N], const float (&t)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) add(p[i], t[i], SQUARED);
    }
};

// Of all of it: such sums, emptied into f64.
struct RegionSums : RegionFew {
    double many[3] = {};

    FL void flush() {
#pragma unroll
        for (int i = 0; i < 3; ++i) many[i] += double(few[i]), few[i] = 0.0f;
    }
};

// What is computed beside the region loss from the same activation: nothing; of a softmax a loss of each position, in
// `region_softmax.cuh`; of a sigmoid a loss of each logit, which is `BesideLogits` in `dice.cuh`.
struct Alone {
    static constexpr bool ANY = false, POSITIONS = false, LOGITS = false;
    struct Loss {};
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
    // Positions of the tile that begins at `from`.
    FL int tile_size(uint64_t from) const { return int(a.tile < a.inner - from ? a.tile : a.inner - from); }
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
#pragma unroll 4
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
    return scale_of_items(a, a.losses, [&](uint64_t region) { return double(r.class_weight(region)) * double(weight_of(a, region)); });
}

} // namespace fl
