// The region skeleton without an activation or with a sigmoid, each channel by itself: a block has a tile of a channel.
#pragma once
#include "region.cuh"

namespace fl {

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
                            const Logit l = logit(y[v]);
                            const float value = f.eval_with(l, y[v], t[v], 1.0f).value;
                            few += inside(v) ? value : 0.0f;
                            y[v] = l.sigmoid();
                        }
                    });
                    cost += double(few);
                }
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if (SIGMOID && !Beside::LOGITS) y[v] = sigmoid_for<T>(y[v]);
                }
                if (!whole) {
#pragma unroll
                    for (int v = 0; v < V; ++v) y[v] = inside(v) ? y[v] : 0.0f;
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
        // The slope of the region's loss for what it sums up, x or its sigmoid.
        auto region = [&](int v, float y) { return slopes.overlap * t[v] + slopes.size * (p.squared ? y : 1.0f); };
        if constexpr (Beside::LOGITS) {
            const float scale = *r.beside_scale();
            b.with([&](const auto& f) {
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const Logit l = logit(x[v]);
                    g[v] = region(v, l.sigmoid()) * l.variance() + f.eval_with(l, x[v], t[v], 1.0f).grad * scale;
                }
            });
        } else if constexpr (SIGMOID) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const Logit l{x[v], {tail_for<T>(x[v]), 0.0f}};
                g[v] = region(v, l.sigmoid()) * l.variance();
            }
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v) g[v] = region(v, x[v]);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) g[v] = counts ? g[v] : 0.0f;
        put_pack(a, at<T>(a.grad_input) + k, from, to, i, whole, g);
    }, [] {});
}

} // namespace fl
