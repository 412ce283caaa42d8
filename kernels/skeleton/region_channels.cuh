// The region skeleton without an activation or with a sigmoid, each channel by itself: a block has a tile of a channel.
#pragma once
#include "region.cuh"

namespace fl {

// A tile of a channel of a sample: `size` elements from `begin` on, which are positions from `from` on.
struct Piece {
    uint64_t n, c, tile, from, begin;
    int size;

    FL Piece(const Regions& r, uint64_t block) {
        const uint64_t segment = divide(block, r.tiles);
        tile = block - segment * r.tiles, n = divide(segment, r.channels), c = segment - n * r.channels;
        from = tile * r.a.tile, begin = segment * r.a.inner + from;
        size = r.tile_size(from);
    }
    FL bool inside(int k) const { return unsigned(k) < unsigned(size); }
    FL bool whole(int k, int count) const { return k >= 0 && k + count <= size; }
};

// Hands a piece to body(k, whole, x, t), a pack and its targets at a time: k is where in the piece it begins, before it too, and `whole`
// says that all of it lies there; then `flush`.
//
// A thread has one pack at a time: with more, fewer threads fit an SM, and that costs more (H200, bf16: 1.6 times the time with two packs).
// Where dense targets lie as the input does, the next pack and its targets are on their way meanwhile: behind a branch for each,
// the targets would wait for the input, and half of the time nothing would be under way.
template <class T, class Body, class Flush> FL void packs_of(const Regions& r, const Piece& piece, Body body, Flush flush) {
    constexpr int V = Pack<T>::N;
    const T *input = at<const T>(r.a.input) + piece.begin, *dense = at<const T>(r.a.target) + piece.begin;
    const int lead = int((reinterpret_cast<uintptr_t>(input) & 15) / sizeof(T));
    // Packs begin where memory does; those at the ends are not whole.
    int k = int(threadIdx.x) * V - lead;
    bool early = false; // the first pack, left for later
    if (r.a.target_kind == FL_TARGET_DENSE && aligned16(dense - lead)) {
        early = k < 0;
        if (early) k += FL_BLOCK * V;
        Pack<T> x, q;
        if (k + V <= piece.size) x = load_stream(input + k), q = load_stream(dense + k);
#pragma unroll 1
        while (k + V <= piece.size) {
            const Pack<T> pack = x, targets = q;
            const int here = k;
            k += FL_BLOCK * V;
            if (k + V <= piece.size) x = load_stream(input + k), q = load_stream(dense + k);
            float t[V];
            decode(targets, t);
            body(here, true, pack, t);
            flush();
        }
    }
#pragma unroll 1
    while (early || k < piece.size) {
        const int here = early ? -lead : k;
        if (!early) k += FL_BLOCK * V;
        early = false;
        const bool whole = piece.whole(here, V);
        Pack<T> x;
        float t[V];
        if (whole) {
            x = load_stream(input + here);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v) x.v[v] = piece.inside(here + v) ? input[here + v] : from_f32<T>(0.0f);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int at = here + v;
            t[v] = piece.inside(at) ? r.target<T>(piece.n, piece.c, piece.from + at, piece.begin + at) : 0.0f;
        }
        body(here, whole, x, t);
        flush();
    }
}

template <class T, bool SIGMOID, class Beside> FL void channel_sums(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    constexpr int V = Pack<T>::N;
    const Regions r(a, false);
    if (blockIdx.x < r.blocks()) {
        const Piece piece(r, blockIdx.x);
        if (piece.c == 0) check_targets(a, piece.n, piece.from, piece.from + piece.size);
        RegionSums sums;
        double cost = 0.0;
        if (piece.c >= r.background()) {
            packs_of<T>(r, piece, [&](int k, bool whole, const Pack<T>& pack, const float(&t)[V]) {
                float y[V], few = 0.0f;
                decode(pack, y);
                auto inside = [&](int v) { return whole || piece.inside(k + v); };
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
            if (threadIdx.x == 0) r.sums(piece.n, piece.c, piece.tile)[i] = sum;
        }
        if constexpr (Beside::LOGITS) {
            cost = block_sum(cost);
            if (threadIdx.x == 0) r.beside(blockIdx.x)[0] = cost, r.beside(blockIdx.x)[1] = piece.c >= r.background() ? double(piece.size) : 0.0;
        }
    }
    finish_regions(a, p, r, scale_of_regions(a, r), b);
}

// Writes gradients of the pack at k of a piece that `out` begins with.
template <class T> FL void put_pack(const LaunchArgs& a, T* out, const Piece& piece, int k, bool whole, float (&g)[Pack<T>::N]) {
    constexpr int V = Pack<T>::N;
    const bool add = a.flags & FL_ACCUMULATE;
    out += k;
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
        if (piece.inside(k + v)) out[v] = from_f32<T>(add ? to_f32(out[v]) + g[v] : g[v]);
    }
}

template <class T, bool SIGMOID, class Beside> FL void channel_grads(const LaunchArgs& a, const DiceParams& p, const Beside& b) {
    constexpr int V = Pack<T>::N;
    const Regions r(a, false);
    if (blockIdx.x >= r.blocks()) return;
    const Piece piece(r, r.blocks() - 1 - blockIdx.x); // what was read last, first
    // The gradient of a background that is left out is zero, whatever it holds.
    const bool counts = piece.c >= r.background();
    const Slopes slopes = counts ? r.slopes()[r.region(piece.n, piece.c)] : Slopes{0.0f, 0.0f};
    T* grad = at<T>(a.grad_input) + piece.begin;
    packs_of<T>(r, piece, [&](int k, bool whole, const Pack<T>& pack, const float(&t)[V]) {
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
        put_pack(a, grad, piece, k, whole, g);
    }, [] {});
}

} // namespace fl
