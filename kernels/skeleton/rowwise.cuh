// The row-wise skeleton: losses that look at all classes of a row before they know any gradient.
//
// A loss is written once, as looks at a row: `first`, `again` as often as it likes, `put`. Two kinds of rows run it:
//
// * GroupRow: the classes lie side by side, and a warp, a block, or a cluster of blocks shares them, in packs of 16 bytes. The first
//   look keeps the row in shared memory (each thread its own packs, so that no barrier is needed), later looks find it there: one
//   read and one write of memory for rows of up to 227 KiB, and eight times that on Hopper. Where a row does not fit it is read
//   again, in the reverse order of the last look, so that what was read last is found in the L2 cache.
// * ColumnRow: rows lie side by side, as in (N, C, spatial), or have few classes: a thread has a row to itself, kept likewise.
//
// Bytes: input (and dense target) once, gradient once, as long as rows are kept.
#pragma once
#include "call.cuh"
#include "math.cuh"

namespace fl {

// What else the softmax of a row tells.
struct Reported {
    float log_prob, entropy, lse;
    int argmax; // -1 if there is none
};

// Whether a functor fills it in, by a member that the others do not have.
template <class F> FL constexpr auto reports(int) -> decltype(F::REPORTS) { return F::REPORTS; }
template <class F> FL constexpr bool reports(long) { return false; }

// Whether the third tensor of a functor has a number for each element, said likewise.
template <class F> FL constexpr auto of_three(int) -> decltype(F::THIRD) { return F::THIRD; }
template <class F> FL constexpr bool of_three(long) { return false; }

// Hands an element to a body, with that of the third tensor if it takes one.
template <bool THIRD, class Body> FL auto hand_element(Body& body, int k, float x, float q, float t) {
    if constexpr (THIRD) return body(k, x, q, t);
    else return body(k, x, q);
}

FL void put_report(const LaunchArgs& a, uint64_t row, const Reported& r, int index) {
    if (a.log_prob) at<float>(a.log_prob)[row] = r.log_prob;
    if (a.entropy) at<float>(a.entropy)[row] = r.entropy;
    if (a.lse) at<float>(a.lse)[row] = r.lse;
    if (a.hit) at<float>(a.hit)[row] = r.argmax >= 0 && r.argmax == index ? 1.0f : 0.0f;
    if (a.argmax) at<int64_t>(a.argmax)[row] = r.argmax;
}

// What both kinds of rows know.
template <class T> struct RowBase {
    typedef T Storage;
    const LaunchArgs& a;
    int classes; // 32 bits: within a row. Where a row begins is 64.
    int index;   // the target's class, -1 if it has none
    uint64_t number; // which row it is
    float scale;   // what every gradient is multiplied by
    Reported reported; // of a functor that reports

    FL explicit RowBase(const LaunchArgs& a) : a(a), classes(int(a.classes)), index(-1), number(0), scale(0.0f) {}

    FL bool is_dense() const { return a.target_kind == FL_TARGET_DENSE; }
    FL bool wants_grad() const { return a.grad_input != 0; }
    FL bool wants_grad_target() const { return a.grad_target != 0; }
    FL bool wants_grad_third() const { return a.grad_third != 0; }
    // What the third tensor has for the row, of a loss whose third has a number a row.
    FL float label() const { return to_f32(at<const T>(a.third)[number]); }
    // 1 without weights, 0 past the last class.
    FL float class_weight(int k) const {
        if (unsigned(k) >= unsigned(classes)) return 0.0f;
        return a.class_weight ? at<const float>(a.class_weight)[k] : 1.0f;
    }
};

FL float add_or_write(const LaunchArgs& a, float old, float grad) { return a.flags & FL_ACCUMULATE ? old + grad : grad; }

// --- rows that a group of threads shares ---

// G is what gradients for the input are stored as.
template <class T, class G = T> struct GroupRow : RowBase<T> {
    static constexpr bool SHARED = true; // by a group of threads
    static constexpr int V = Pack<T>::N, IN_FLIGHT = 16 / V;
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
        const int tensors = (this->is_dense() ? 2 : 1) + (of_three ? 1 : 0);
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
                store_stream4(p + k, x);
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
    template <bool INPUT, bool DENSE, bool THIRD, class Body>
    FL static void hand(int k, const Pack<T>& x, const Pack<T>& q, const Pack<T>& t, Body body) {
        float xs[V] = {}, qs[V] = {}, ts[V] = {};
        if (INPUT) decode(x, xs);
        if (DENSE) decode(q, qs);
        if (THIRD) decode(t, ts);
        body(k, xs, qs, ts);
    }

    // Hands the packs of this thread to body(k, x, q, t), some at a time, all loaded before the first is used; then `flush`. The kernels are
    // bound by the instructions that they issue, of which the loop over kept packs has as few as can be.
    template <bool INPUT, bool DENSE, bool THIRD, class Body, class Flush> FL void packs(float pad, Body body, Flush flush) {
        if (!cached) return packs_of_memory<INPUT, DENSE, THIRD>(pad, body, flush);
        constexpr int U = DENSE ? 1 : 2;
        const int step = int(width);
        const Pack<T>* from = kept() + lane;
        int j = lane, k = first_of(lane);
#pragma unroll 1
        for (; j + (U - 1) * step < mine; j += U * step, k += U * step * V, from += U * step) {
            Pack<T> x[U], q[U], t[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                if (INPUT) x[u] = load_kept(from + u * step);
                if (DENSE) q[u] = load_kept(from + room + u * step);
                if (THIRD) t[u] = load_kept(from + 2 * room + u * step);
            }
#pragma unroll
            for (int u = 0; u < U; ++u) hand<INPUT, DENSE, THIRD>(k + u * step * V, x[u], q[u], t[u], body);
            flush();
        }
        if (U > 1 && j < mine) {
            Pack<T> x, q, t;
            if (INPUT) x = load_kept(from);
            if (DENSE) q = load_kept(from + room);
            if (THIRD) t = load_kept(from + 2 * room);
            hand<INPUT, DENSE, THIRD>(k, x, q, t, body);
            flush();
        }
    }

    template <bool INPUT, bool DENSE, bool THIRD, class Body, class Flush> FL void packs_of_memory(float pad, Body body, Flush flush) {
        constexpr int U = THIRD ? (IN_FLIGHT + 2) / 3 : (DENSE ? (IN_FLIGHT + 1) / 2 : IN_FLIGHT);
        const int step = int(width) * U, steps = (mine + step - 1) / step;
#pragma unroll 1
        for (int s = 0; s < steps; ++s) {
            const int first = (backward ? steps - 1 - s : s) * step + lane;
            Pack<T> x[U], q[U], t[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int j = first + u * int(width), k = first_of(j);
                if (j < mine) {
                    if (INPUT) x[u] = fetch(input(), k, pad);
                    if (DENSE) q[u] = fetch(dense(), k, pad);
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

    template <bool FIRST, bool DENSE, bool THIRD, class Body, class Flush> FL void look(float pad, Body body, Flush flush) {
        if (FIRST && cached) {
            keep(kept(), input(), pad);
            if (DENSE) keep(kept() + room, dense(), pad);
            if (THIRD) keep(kept() + 2 * room, third(), pad);
            wait_for_copies();
        }
        packs<true, DENSE, THIRD>(pad, [&](int k, const float(&x)[V], const float(&q)[V], const float(&t)[V]) {
#pragma unroll
            for (int i = 0; i < V; ++i) hand_element<THIRD>(body, k + i, x[i], q[i], t[i]);
        }, flush);
    }

    // Writes the gradients that body(k, x, q) says, to `out`, but special() for class `except`, if that is one.
    template <bool INPUT, bool DENSE, bool THIRD, class S, class Special, class Body>
    FL void write(S* out, float pad, int except, Special special, Body body) {
        const bool straight = this->straight(out);
        packs<INPUT, DENSE, THIRD>(pad, [&](int k, const float(&x)[V], const float(&q)[V], const float(&t)[V]) {
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

// --- rows of one thread ---

template <class T, class G = T> struct ColumnRow : RowBase<T> {
    static constexpr bool SHARED = false;
    static constexpr int U = 4;
    uint64_t base, stride;
    bool cached;

    FL ColumnRow(const LaunchArgs& a, bool) : RowBase<T>(a) {
        cached = a.flags & FL_CACHED;
        stride = a.inner;
    }

    FL const T* input() const { return at<const T>(this->a.input) + base; }
    FL const T* dense() const { return at<const T>(this->a.target) + base; }
    FL G* grad() const { return at<G>(this->a.grad_input) + base; }
    FL T* grad_target() const { return at<T>(this->a.grad_target) + base; }
    FL const T* third() const { return at<const T>(this->a.third) + base; }
    FL T* grad_third() const { return at<T>(this->a.grad_third) + base; }
    FL T* kept() const { return reinterpret_cast<T*>(dynamic_shared()) + threadIdx.x; }

    FL void begin(uint64_t row) {
        const uint64_t sample = stride == 1 ? row : divide(row, stride);
        base = sample * this->a.pitch + (row - sample * stride);
    }

    FL bool leads() const { return true; }
    FL float at_class(int k) const { return to_f32(input()[uint64_t(k) * stride]); }
    template <class X, int N, class Op> FL void reduce(X (&)[N], Op) {}
    FL void end() {}

    // Hands `count` classes from `first` on to body(k, x, q, t).
    template <int COUNT, bool INPUT, bool DENSE, bool THIRD, bool KEPT, bool KEEP, class Body>
    FL void some_classes(int first, const T* input, const T* dense, const T* third, T* kept, Body body) {
        const int beside = KEPT || KEEP ? this->classes * int(blockDim.x) : 0;
        T x[COUNT], q[COUNT], t[COUNT];
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT) x[u] = KEPT ? kept[u * int(blockDim.x)] : input[u * stride];
            if (DENSE) q[u] = KEPT ? kept[beside + u * int(blockDim.x)] : dense[u * stride];
            if (THIRD) t[u] = KEPT ? kept[2 * beside + u * int(blockDim.x)] : third[u * stride];
        }
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT && KEEP) kept[u * int(blockDim.x)] = x[u];
            if (DENSE && KEEP) kept[beside + u * int(blockDim.x)] = q[u];
            if (THIRD && KEEP) kept[2 * beside + u * int(blockDim.x)] = t[u];
            body(first + u, INPUT ? to_f32(x[u]) : 0.0f, DENSE ? to_f32(q[u]) : 0.0f, THIRD ? to_f32(t[u]) : 0.0f);
        }
    }

    template <bool INPUT, bool DENSE, bool THIRD, bool KEPT, bool KEEP, class Body, class Flush> FL void classes_of(Body body, Flush flush) {
        const int classes = this->classes;
        // Where there is no tensor there is no address to add to.
        const T *input = INPUT ? this->input() : nullptr, *dense = DENSE ? this->dense() : nullptr, *third = THIRD ? this->third() : nullptr;
        T* kept = KEPT || KEEP ? this->kept() : nullptr;
        int k = 0;
#pragma unroll 1
        for (; k + U <= classes; k += U) {
            some_classes<U, INPUT, DENSE, THIRD, KEPT, KEEP>(k, input, dense, third, kept, body);
            if (INPUT) input += U * stride;
            if (DENSE) dense += U * stride;
            if (THIRD) third += U * stride;
            if (KEPT || KEEP) kept += U * int(blockDim.x);
            flush();
        }
#pragma unroll 1
        for (; k < classes; ++k) {
            some_classes<1, INPUT, DENSE, THIRD, KEPT, KEEP>(k, input, dense, third, kept, body);
            if (INPUT) input += stride;
            if (DENSE) dense += stride;
            if (THIRD) third += stride;
            if (KEPT || KEEP) kept += blockDim.x;
        }
        flush();
    }

    template <bool FIRST, bool DENSE, bool THIRD, class Body, class Flush> FL void look(float, Body body, Flush flush) {
        auto one = [&](int k, float x, float q, float t) { hand_element<THIRD>(body, k, x, q, t); };
        if (!cached) classes_of<true, DENSE, THIRD, false, false>(one, flush);
        else classes_of<true, DENSE, THIRD, !FIRST, FIRST>(one, flush);
    }

    template <bool INPUT, bool DENSE, bool THIRD, class S, class Special, class Body>
    FL void write(S* out, float, int except, Special special, Body body) {
        const float there = special();
        const bool add = this->a.flags & FL_ACCUMULATE;
        S* to = out;
        auto put = [&](int k, float x, float q, float t) {
            const float g = k == except ? there : hand_element<THIRD>(body, k, x, q, t);
            // A branch: what is there is not read where nothing is added to it.
            if (add) *to = from_f32<S>(to_f32(*to) + g);
            else *to = from_f32<S>(g);
            to += stride;
        };
        if (!cached) classes_of<INPUT, DENSE, THIRD, false, false>(put, [] {});
        else classes_of<INPUT, DENSE, THIRD, true, false>(put, [] {});
    }
};

// --- what losses say ---

// The first look, which also keeps the row; `pad` is what lies beyond its ends.
template <bool DENSE = false, class Row, class Body> FL void first(Row& row, float pad, Body body) {
    row.template look<true, DENSE, false>(pad, body, [] {});
}
template <bool DENSE = false, class Row, class Body, class Flush> FL void first(Row& row, float pad, Body body, Flush flush) {
    row.template look<true, DENSE, false>(pad, body, flush);
}
// Another look. `flush` is called every few classes, to empty sums in f32 into larger ones.
template <bool DENSE = false, class Row, class Body, class Flush> FL void again(Row& row, float pad, Body body, Flush flush) {
    row.template look<false, DENSE, false>(pad, body, flush);
}
struct Zero {
    FL float operator()() const { return 0.0f; }
};
// Writes gradients for the input, special() for one class.
template <bool DENSE = false, class Row, class Body, class Special = Zero>
FL void put(Row& row, float pad, Body body, int except = -1, Special special = {}) {
    row.template write<true, DENSE, false>(row.grad(), pad, except, special, body);
}
// The same without looking at the row.
template <class Row, class Body, class Special = Zero> FL void put_blindly(Row& row, Body body, int except = -1, Special special = {}) {
    row.template write<false, false, false>(row.grad(), 0.0f, except, special, [&](int k, float, float) { return body(k); });
}
// Writes gradients for dense targets.
template <class Row, class Body> FL void put_target(Row& row, float pad, Body body) {
    row.template write<true, true, false>(row.grad_target(), pad, -1, Zero(), body);
}

// The first look of a loss of three tensors, at body(k, x, q, t), with zeros beyond the ends of the row; and gradients for one of the three.
template <class Row, class Body, class Flush> FL void first_of_three(Row& row, Body body, Flush flush) {
    row.template look<true, true, true>(0.0f, body, flush);
}
template <class Row, class T, class Body> FL void put_of_three(Row& row, T* out, Body body) {
    row.template write<true, true, true>(out, 0.0f, -1, Zero(), body);
}

struct Add {
    template <class X> FL X operator()(X a, X b) const { return a + b; }
};
struct Larger { // NaN is passed over
    FL float operator()(float a, float b) const { return larger(a, b); }
};
struct Smaller {
    FL int operator()(int a, int b) const { return b < a ? b : a; }
};
template <class X, int N, class Row> FL void sum_up(Row& row, X (&x)[N]) { row.reduce(x, Add()); }
template <class Row> FL float largest(Row& row, float x) {
    float v[1] = {x};
    row.reduce(v, Larger());
    return v[0];
}

// A sum of few numbers in f32, emptied into a sum of many in f64.
struct Sum {
    float few = 0.0f;
    double many = 0.0;
    FL void add(float x) { few += x; }
    FL void flush() { many += double(few), few = 0.0f; }
};

// What a row adds to the denominator.
FL double share_of(const LaunchArgs& a, uint64_t r) {
    if (!has_index(a)) return double(weight_of(a, r));
    const int64_t index = index_of(a, r);
    if (ignored(a, index)) return 0.0;
    const bool weighs = a.divide_by != FL_BY_ROWS && a.class_weight && is_class(a, index);
    const double of_class = weighs ? double(at<const float>(a.class_weight)[index]) : 1.0;
    return a.divide_by == FL_BY_WEIGHTS ? of_class * double(weight_of(a, r)) : of_class;
}

// Runs a loss over the rows of a block, or of a cluster. `first` and `step`: which of its tile are those of the group.
template <class F, class T, class Row> FL void rows(const LaunchArgs& a, const F& f, uint64_t tile, unsigned first, unsigned step) {
    // Rows that are not ignored are counted most often, and counted fast.
    const float scale = a.divide_by == FL_BY_ROWS
        ? scale_of(a) / float(denominator<8>(a, a.losses, [&](uint64_t r) { return ignored(a, index_of(a, r)) ? 0.0 : 1.0; }))
        : scale_of(a, a.losses, [&](uint64_t r) { return share_of(a, r); });
    const uint64_t start = tile * a.tile, end = start + a.tile < a.losses ? start + a.tile : a.losses;
    double total = 0.0;
    Row row(a, of_three<F>(0));
    // The index of the next row is fetched while a row is at work.
    const bool indexed = has_index(a);
    int64_t next = indexed && start + first < end ? index_of(a, start + first) : -1;
#pragma unroll 1
    for (uint64_t r = start + first; r < end; r += step) {
        row.begin(r);
        row.number = r;
        const float weight = weight_of(a, r);
        row.scale = scale * weight;
        if (a.grad_outputs) row.scale *= at<const float>(a.grad_outputs)[r];
        float value = 0.0f;
        if (reports<F>(0)) row.reported = {0.0f, 0.0f, 0.0f, -1};
        const int64_t index = next;
        if (indexed && r + step < end) next = index_of(a, r + step);
        const bool skip = indexed && ignored(a, index), bad = indexed && !skip && !is_class(a, index);
        row.index = int(index);
        if (skip || bad) {
            // Exactly zero, whatever the row holds.
            if (row.wants_grad()) put_blindly(row, [](int) { return 0.0f; });
            if (bad) {
                value = nan();
                if (row.leads()) report_row(a, r);
            }
        } else {
            value = f.row(row) * weight;
        }
        if (row.leads()) {
            if (reports<F>(0)) put_report(a, r, row.reported, row.index);
            total += double(value);
            if (a.values) at<float>(a.values)[r] = value;
        }
    }
    row.end();
    finish(a, total);
}

template <class F, class T, class G = T> FL void group_rows(const LaunchArgs& a, const F& f) {
    rows<F, T, GroupRow<T, G>>(a, f, blockIdx.x / cluster_ranks(), threadIdx.y, blockDim.y);
}
template <class F, class T, class G = T> FL void column_rows(const LaunchArgs& a, const F& f) {
    rows<F, T, ColumnRow<T, G>>(a, f, blockIdx.x, threadIdx.x, blockDim.x);
}

} // namespace fl

// fl_<name>_<dtype>: a group of threads a row; fl_<name>_columns_<dtype>: a thread a row. LIGHT: three blocks of a group kernel fit an
// SM, of 80 registers a thread.
#define FL_ROWWISE(name, F, P) FL_ROWWISE_ALL(name, F, P, 2)
#define FL_ROWWISE_LIGHT(name, F, P) FL_ROWWISE_ALL(name, F, P, 3)
#define FL_ROWWISE_ALL(name, F, P, blocks)                    \
    FL_ROWWISE_TO(name, F, P, f32, float, float, blocks)      \
    FL_ROWWISE_TO(name, F, P, f16, fl::f16, fl::f16, blocks)  \
    FL_ROWWISE_TO(name, F, P, bf16, fl::bf16, fl::bf16, blocks)
// With the gradient of T stored as G.
#define FL_ROWWISE_TO(name, F, P, dtype, T, G, blocks)                                                                             \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, blocks) fl_##name##_##dtype(const LaunchArgs a, const P p) {           \
        fl::group_rows<F, T, G>(a, F{p});                                                                                         \
    }                                                                                                                             \
    KERNEL(fl_##name##_##dtype)                                                                                                   \
    FL_COLUMNS_TO(name, F, P, dtype, T, G)
#define FL_COLUMNS_TO(name, F, P, dtype, T, G)                                                                                     \
    extern "C" __global__ void __launch_bounds__(FL_COLUMN_BLOCK, 4) fl_##name##_columns_##dtype(const LaunchArgs a, const P p) { \
        fl::column_rows<F, T, G>(a, F{p});                                                                                        \
    }                                                                                                                             \
    KERNEL(fl_##name##_columns_##dtype)
// Of rows that are always short.
#define FL_ROWWISE_COLUMNS(name, F, P)                 \
    FL_COLUMNS_TO(name, F, P, f32, float, float)       \
    FL_COLUMNS_TO(name, F, P, f16, fl::f16, fl::f16)   \
    FL_COLUMNS_TO(name, F, P, bf16, fl::bf16, fl::bf16)
