// Rows that a group of threads shares.
#pragma once
#include "row.cuh"

namespace fl {

// G is what gradients for the input are stored as; HEAVY: see `heavy`.
template <class T, class G = T, bool HEAVY = false> struct GroupRow : RowBase<T> {
    static constexpr bool SHARED = true; // by a group of threads
    static constexpr int V = Pack<T>::N, IN_FLIGHT = (HEAVY ? 8 : 16) / V;
    uint64_t base; // the element where the row begins
    int slot;      // where in shared memory its packs begin, and behind them those of the dense target and of the third tensor
    int lead;             // elements of the first pack that are before the row
    int from, mine, room; // packs of this block, and how many have room in shared memory
    unsigned lane, width, ranks, rank, phase;
    bool cached, backward;

    FL GroupRow(const LaunchArgs& a, bool of_three) : RowBase<T>(a) {
        lane = threadIdx.x, width = blockDim.x, ranks = cluster_ranks(), rank = cluster_rank(), phase = 0;
        cached = a.flags & FL_CACHED;
        room = int((a.classes * sizeof(T) + 31) / 16); // as in plan.rs
        room = (room + ranks - 1) / ranks;
        const int tensors = (this->is_dense() ? 2 : 1) + (of_three ? 1 : 0); // as in marshal.rs
        slot = int(threadIdx.y) * room * tensors;
    }

    // Made anew wherever they are used: registers are scarcer than additions.
    FL const T* input() const { return at<const T>(this->a.input) + base; }
    FL const T* dense() const { return at<const T>(this->a.target) + base; }
    FL G* grad() const { return at<G>(this->a.grad_input) + base; }
    FL T* grad_target() const { return at<T>(this->a.grad_target) + base; }
    FL const T* third() const { return at<const T>(this->a.third) + base; }
    FL T* grad_third() const { return at<T>(this->a.grad_third) + base; }
    FL Pack<T>* kept() const { return reinterpret_cast<Pack<T>*>(dynamic_shared()) + slot; }

    FL void begin(uint64_t row) {
        base = row * this->a.pitch;
        lead = (reinterpret_cast<uintptr_t>(input()) & 15) / sizeof(T);
        const int packs = (lead + this->classes + V - 1) / V;
        const int share = ranks == 1 ? packs : (packs + ranks - 1) / ranks;
        from = rank * share;
        mine = packs - from < share ? packs - from : share;
        backward = false;
    }

    // Rows side by side are fetched and written together; a group does that in its looks.
    FL void fetch(bool) {}
    FL void deliver() {}
    // Nor does it leave anything in place of what it keeps.
    FL bool can_replace() const { return false; }
    template <class Body, class Flush> FL void replace(Body, Flush) {}

    FL bool leads() const { return lane == 0 && rank == 0; }
    FL float at_class(int k) const { return to_f32(input()[k]); }

    // --- sums over the row; all threads of the group take part and get the same bits ---

    template <class X, int N, class Op> FL void reduce(X (&x)[N], Op op) {
        if (width == 32 && ranks == 1) {
            // What lanes have read before this, others may overwrite after it.
            __syncwarp();
            warp_reduce(x, op);
            return;
        }
        // Two sets of slots in turn: who is one barrier ahead does not write what others still read. Each lane fetches one of the
        // parts, and the same tree in every warp adds them up: there is one wait, and all have the same bits.
        SHARED_ARRAY(double, of_warp, 2 * 8 * 4); // a double can hold a float
        double* slots = of_warp + phase * 32;
        warp_reduce(x, op);
        if ((lane & 31) == 0) {
#pragma unroll
            for (int i = 0; i < N; ++i) slots[(lane >> 5) * 4 + i] = x[i];
        }
        __syncthreads();
        const unsigned warps = width >> 5;
#pragma unroll
        for (int i = 0; i < N; ++i) x[i] = X(slots[(lane & (warps - 1)) * 4 + i]);
        warp_reduce(x, op, warps);
        if (ranks > 1) {
            SHARED_ARRAY(double, of_block, 2 * 4);
            if (lane == 0) {
#pragma unroll
                for (int i = 0; i < N; ++i) of_block[phase * 4 + i] = x[i];
            }
            cluster_sync();
            const double* theirs = of_rank(of_block, lane & (ranks - 1)) + phase * 4;
#pragma unroll
            for (int i = 0; i < N; ++i) x[i] = X(theirs[i]);
            warp_reduce(x, op, ranks);
        }
        phase ^= 1;
    }

    // Over groups of `count` lanes, a power of two.
    template <class X, int N, class Op> FL static void warp_reduce(X (&x)[N], Op op, unsigned count = 32) {
#pragma unroll
        for (unsigned d = 16; d > 0; d >>= 1) {
            if (d >= count) continue;
#pragma unroll
            for (int i = 0; i < N; ++i) x[i] = op(x[i], __shfl_xor_sync(0xffffffffu, x[i], d));
        }
    }

    // Before threads end whose shared memory others may still read.
    FL void end() {
        if (ranks > 1) cluster_sync();
    }

    // --- packs ---

    FL int first_of(int pack) const { return (from + pack) * V - lead; }
    FL bool whole(int k) const { return k >= 0 && k + V <= this->classes; }
    FL bool inside(int k) const { return unsigned(k) < unsigned(this->classes); }

    // A pack from memory, `pad` beyond the ends of the row.
    FL Pack<T> fetch(const T* p, int k, float pad) const {
        if (whole(k) && aligned16(p + k)) return load_stream(p + k);
        Pack<T> x;
#pragma unroll
        for (int i = 0; i < V; ++i) x.v[i] = inside(k + i) ? p[k + i] : from_f32<T>(pad);
        return x;
    }

    // Whether the packs of a row of S begin where stores of a pack may.
    template <class S> FL bool straight(const S* p) const {
        return ((reinterpret_cast<uintptr_t>(p - lead)) & (V * sizeof(S) - 1)) == 0;
    }

    template <class S> FL void store(S* p, int k, float (&x)[V], bool straight) const {
        const bool add = this->a.flags & FL_ACCUMULATE;
        if (straight && whole(k)) {
            if constexpr (sizeof(S) < sizeof(T)) {
                store_few<S, 4>(p + k, x);
            } else {
                if (add) {
                    float old[V];
                    decode(load_stream(p + k), old);
#pragma unroll
                    for (int i = 0; i < V; ++i) x[i] = old[i] + x[i];
                }
                store_stream(p + k, encode<S>(x));
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; ++i) {
                if (inside(k + i)) p[k + i] = from_f32<S>(add ? to_f32(p[k + i]) + x[i] : x[i]);
            }
        }
    }

    // Brings the packs of this thread into shared memory, all of them in flight at once where the machine has the instruction.
    FL void keep(Pack<T>* to, const T* p, float pad) const {
        const bool straight = this->straight(p);
        const int step = int(width) * V;
        int k = first_of(lane);
        to += lane;
#pragma unroll 4
        for (int j = lane; j < mine; j += width, k += step, to += width) {
            if (straight && whole(k)) copy_async(to, p + k);
            else *to = fetch(p, k, pad);
        }
    }

    // Hands a pack to body(k, x, q, t).
    template <bool INPUT, int DENSE, bool THIRD, class Body>
    FL static void hand(int k, const Pack<T>& x, const Pack<T>& q, const Pack<T>& t, Body body) {
        float xs[V] = {}, qs[V] = {}, ts[V] = {};
        if (INPUT) decode(x, xs);
        if (DENSE != NONE) decode(q, qs);
        if (THIRD) decode(t, ts);
        body(k, xs, qs, ts);
    }

    // Hands the packs of this thread to body(k, x, q, t), some at a time, all loaded before the first is used; then `flush`. The kernels are
    // bound by the instructions that they issue, of which the loop over kept packs has as few as can be. (KEPT: the row may have been kept.)
    template <bool INPUT, int DENSE, bool THIRD, bool KEPT, class Body, class Flush> FL void packs(float pad, Body body, Flush flush) {
        constexpr bool BLIND = !INPUT && DENSE == NONE && !THIRD;
        if (!BLIND && !(KEPT && cached)) return packs_of_memory<INPUT, DENSE, THIRD>(pad, body, flush);
        constexpr int U = BLIND || HEAVY || DENSE != NONE || THIRD ? 1 : 2, BEFORE_THIRD = DENSE != NONE ? 2 : 1;
        const bool has_dense = this->template has_dense<DENSE>();
        const int step = int(width);
        const Pack<T>* from = BLIND ? nullptr : kept() + lane; // of a launch that keeps nothing there is no memory
        int j = lane, k = first_of(lane);
#pragma unroll 1
        for (; j + (U - 1) * step < mine; j += U * step, k += U * step * V, from += BLIND ? 0 : U * step) {
            Pack<T> x[U], q[U] = {}, t[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                if (INPUT) x[u] = load_kept(from + u * step);
                if (has_dense) q[u] = load_kept(from + room + u * step);
                if (THIRD) t[u] = load_kept(from + BEFORE_THIRD * room + u * step);
            }
#pragma unroll
            for (int u = 0; u < U; ++u) hand<INPUT, DENSE, THIRD>(k + u * step * V, x[u], q[u], t[u], body);
            flush();
        }
        if (U > 1 && j < mine) {
            Pack<T> x, q = {}, t;
            if (INPUT) x = load_kept(from);
            if (has_dense) q = load_kept(from + room);
            if (THIRD) t = load_kept(from + BEFORE_THIRD * room);
            hand<INPUT, DENSE, THIRD>(k, x, q, t, body);
            flush();
        }
    }

    template <bool INPUT, int DENSE, bool THIRD, class Body, class Flush> FL void packs_of_memory(float pad, Body body, Flush flush) {
        constexpr int TENSORS = (DENSE != NONE ? 2 : 1) + (THIRD ? 1 : 0), U = (IN_FLIGHT + TENSORS - 1) / TENSORS;
        const bool has_dense = this->template has_dense<DENSE>();
        const int step = int(width) * U, steps = (mine + step - 1) / step;
#pragma unroll 1
        for (int s = 0; s < steps; ++s) {
            const int first = (backward ? steps - 1 - s : s) * step + lane;
            Pack<T> x[U], q[U] = {}, t[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int j = first + u * int(width), k = first_of(j);
                if (j < mine) {
                    if (INPUT) x[u] = fetch(input(), k, pad);
                    if (has_dense) q[u] = fetch(dense(), k, pad);
                    if (THIRD) t[u] = fetch(third(), k, pad);
                }
            }
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int j = first + u * int(width);
                if (j < mine) hand<INPUT, DENSE, THIRD>(first_of(j), x[u], q[u], t[u], body);
            }
            flush();
        }
        backward = !backward;
    }

    // --- looks ---

    // Brings the row onto the chip, if it has room there.
    template <int DENSE, bool THIRD> FL void keep_row(float pad) {
        static_assert(DENSE != PERHAPS || !THIRD, "where the third tensor is kept");
        if (!cached) return;
        keep(kept(), input(), pad);
        if (this->template has_dense<DENSE>()) keep(kept() + room, dense(), pad);
        if (THIRD) keep(kept() + (DENSE != NONE ? 2 : 1) * room, third(), pad);
        wait_for_copies();
    }

    template <int DENSE, bool THIRD, class Body, class Flush> FL void look(float pad, Body body, Flush flush) {
        packs<true, DENSE, THIRD, true>(pad, [&](int k, const float(&x)[V], const float(&q)[V], const float(&t)[V]) {
#pragma unroll
            for (int i = 0; i < V; ++i) hand_element<THIRD>(body, k + i, x[i], q[i], t[i]);
        }, flush);
    }

    // Writes the gradients that body(k, x, q) says, to `out`, but special() for class `except`, if that is one.
    template <bool INPUT, int DENSE, bool THIRD, bool KEPT, class S, class Special, class Body>
    FL void write(S* out, float pad, int except, Special special, Body body) {
        const bool straight = this->straight(out);
        packs<INPUT, DENSE, THIRD, KEPT>(pad, [&](int k, const float(&x)[V], const float(&q)[V], const float(&t)[V]) {
            float g[V];
#pragma unroll
            for (int i = 0; i < V; ++i) g[i] = hand_element<THIRD>(body, k + i, x[i], q[i], t[i]);
            if (unsigned(except - k) < V) {
                const float there = special();
#pragma unroll
                for (int i = 0; i < V; ++i) g[i] = k + i == except ? there : g[i];
            }
            store(out, k, g, straight);
        }, [] {});
    }
};

} // namespace fl
