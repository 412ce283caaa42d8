// Rows of one thread.
//
// The rows of a warp lie side by side, class after class. Where they may be read as packs of 16 bytes the lanes fetch them together into
// shared memory, every class in flight at once, and gradients go back the same way: a number at a time, few loads are in flight, and the
// addresses cost as much as the loss. Elsewhere a lane fetches and writes its own row.
#pragma once
#include "row.cuh"

namespace fl {

template <class T, class G = T, bool HEAVY = false> struct ColumnRow : RowBase<T> {
    static constexpr bool SHARED = false;
    static constexpr int U = 4, WARP = 32, V = Pack<T>::N;
    uint64_t base, stride;
    int slot;   // where in shared memory the row of this thread begins, class after class, each of them WARP numbers further
    int beside; // from a tensor to the next
    bool cached;
    bool straight; // whether rows can be packs
    bool packed;   // whether those of this warp are, now
    bool held;     // whether they have been fetched
    bool staged;   // whether gradients for the input wait in shared memory

    FL ColumnRow(const LaunchArgs& a, bool of_three) : RowBase<T>(a) {
        cached = a.flags & FL_CACHED;
        stride = a.inner;
        beside = WARP * this->classes;
        const int tensors = (this->is_dense() ? 2 : 1) + (of_three ? 1 : 0); // as in marshal.rs
        slot = int(threadIdx.x / WARP) * beside * tensors + lane();
        const uint64_t begins = a.input | (this->is_dense() ? a.target : 0) | a.grad_input;
        straight = cached && !of_three && (begins & 15) == 0 && ((stride | a.pitch) & (V - 1)) == 0;
        packed = held = staged = false;
    }

    FL static int lane() { return int(threadIdx.x % WARP); }
    FL const T* input() const { return at<const T>(this->a.input) + base; }
    FL const T* dense() const { return at<const T>(this->a.target) + base; }
    FL G* grad() const { return at<G>(this->a.grad_input) + base; }
    FL T* grad_target() const { return at<T>(this->a.grad_target) + base; }
    FL const T* third() const { return at<const T>(this->a.third) + base; }
    FL T* grad_third() const { return at<T>(this->a.grad_third) + base; }
    FL T* kept() const { return reinterpret_cast<T*>(dynamic_shared()) + slot; }

    FL void begin(uint64_t row) {
        const uint64_t sample = stride == 1 ? row : divide(row, stride), place = row - sample * stride;
        base = sample * this->a.pitch + place;
        // The same in all lanes: there is a row for each of them, and all are of one sample.
        const uint64_t first = place - lane();
        packed = straight && place >= uint64_t(lane()) && first + WARP <= stride && row - lane() + WARP <= this->a.losses;
        held = false;
        staged = packed && sizeof(G) == sizeof(T) && this->wants_grad() && !(this->a.flags & FL_ACCUMULATE);
    }

    // --- rows of a warp as packs; all lanes take part ---

    // Hands body(pack, at) the packs of this lane, of the rows of the warp: which in shared memory, and where of a tensor at whose
    // `first` number the first row begins.
    template <class X, class Body> FL void packs_of_warp(X* first, Body body) const {
        constexpr int OF_CLASS = WARP / V; // packs
        const int packs = this->classes * OF_CLASS;
        const uint64_t step = V * stride; // a pack of each lane are so many classes
        X* at = first + (lane() / OF_CLASS * stride + lane() % OF_CLASS * V);
#pragma unroll 1
        for (int pack = lane(); pack < packs; pack += U * WARP) {
            // Asked for each: a loop for what is left over would be longer than all of this.
#pragma unroll
            for (int u = 0; u < U; ++u, at += step) {
                if (pack + u * WARP < packs) body(pack + u * WARP, at);
            }
        }
    }
    FL static Pack<T>* packs_at(T* first) { return reinterpret_cast<Pack<T>*>(first - lane()); }

    // Before a row is looked at, unless no row of the warp will be.
    FL void fetch(bool looks) {
        if (!packed || !__ballot_sync(0xffffffffu, looks)) return;
        held = true;
        __syncwarp(); // whoever still reads the last rows
        fetch(packs_at(kept()), input() - lane());
        if (this->is_dense()) fetch(packs_at(kept() + beside), dense() - lane());
        wait_for_copies();
        __syncwarp();
    }
    FL void fetch(Pack<T>* to, const T* from) const { // `from` the first row of the warp
        packs_of_warp(from, [&](int pack, const T* at) { copy_async(to + pack, at); });
    }

    // After gradients have been said for all of them.
    FL void deliver() {
        if (!staged) return;
        __syncwarp();
        const Pack<T>* from = packs_at(kept());
        packs_of_warp(reinterpret_cast<T*>(grad()) - lane(), [&](int pack, T* at) { store_stream(at, load_kept(from + pack)); });
        __syncwarp(); // before the next gradients
    }

    FL bool leads() const { return true; }
    FL float at_class(int k) const { return to_f32(held ? kept()[k * WARP] : input()[uint64_t(k) * stride]); }
    template <class X, int N, class Op> FL void reduce(X (&)[N], Op) {}
    FL void end() {}

    // --- classes, some at a time, all loaded before the first is used ---

    // Hands body(k, xs, qs, ts) COUNT classes from k on, from wherever they are.
    template <int COUNT, bool INPUT, int DENSE, bool THIRD, bool KEPT, class Body>
    FL void some_classes(int k, const T* input, const T* dense, const T* third, Body body) const {
        const uint64_t step = KEPT ? WARP : stride;
        const bool has_dense = this->template has_dense<DENSE>();
        T x[COUNT], q[COUNT] = {}, t[COUNT];
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT) x[u] = input[u * step];
            if (has_dense) q[u] = dense[u * step];
            if (THIRD) t[u] = third[u * step];
        }
        float xs[COUNT] = {}, qs[COUNT] = {}, ts[COUNT] = {};
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT) xs[u] = to_f32(x[u]);
            if (DENSE != NONE) qs[u] = to_f32(q[u]);
            if (THIRD) ts[u] = to_f32(t[u]);
        }
        body(k, xs, qs, ts);
    }

    template <bool INPUT, int DENSE, bool THIRD, bool KEPT, class Body, class Flush> FL void classes_of(Body body, Flush flush) {
        constexpr int STEP = !HEAVY ? U : KEPT ? 1 : 2;
        const int classes = this->classes;
        const uint64_t step = KEPT ? WARP : stride;
        // Where there is no tensor there is no address to add to.
        const T* input = INPUT ? (KEPT ? kept() : this->input()) : nullptr;
        const T* dense = DENSE != NONE ? (KEPT ? kept() + beside : this->dense()) : nullptr;
        const T* third = THIRD ? (KEPT ? kept() + (DENSE != NONE ? 2 : 1) * beside : this->third()) : nullptr;
        int k = 0;
#pragma unroll 1
        for (; k + STEP <= classes; k += STEP) {
            some_classes<STEP, INPUT, DENSE, THIRD, KEPT>(k, input, dense, third, body);
            if (INPUT) input += STEP * step;
            if (DENSE != NONE) dense += STEP * step;
            if (THIRD) third += STEP * step;
            flush();
        }
        if constexpr (STEP > 1) {
#pragma unroll 1
            for (; k < classes; ++k) {
                some_classes<1, INPUT, DENSE, THIRD, KEPT>(k, input, dense, third, body);
                if (INPUT) input += step;
                if (DENSE != NONE) dense += step;
                if (THIRD) third += step;
            }
            flush();
        }
    }

    // Brings a row of this thread alone into shared memory.
    FL void keep(T* to, const T* from) const {
        // Asked for each: what is left over would come one by one.
#pragma unroll 1
        for (int k = 0; k < this->classes; k += 2 * U, from += 2 * U * stride, to += 2 * U * WARP) {
            T x[2 * U];
#pragma unroll
            for (int u = 0; u < 2 * U; ++u) {
                if (k + u < this->classes) x[u] = from[u * stride];
            }
#pragma unroll
            for (int u = 0; u < 2 * U; ++u) {
                if (k + u < this->classes) to[u * WARP] = x[u];
            }
        }
    }

    // --- looks ---

    // Brings the row onto the chip, if it has room there and its warp has not fetched it.
    template <int DENSE, bool THIRD> FL void keep_row(float) {
        static_assert(DENSE != PERHAPS || !THIRD, "where the third tensor is kept");
        if (!cached || held) return;
        keep(kept(), input());
        if (this->template has_dense<DENSE>()) keep(kept() + beside, dense());
        if (THIRD) keep(kept() + (DENSE != NONE ? 2 : 1) * beside, third());
    }

    template <int DENSE, bool THIRD, class Body, class Flush> FL void look(float, Body body, Flush flush) {
        auto each = [&](int k, const auto& x, const auto& q, const auto& t) {
#pragma unroll
            for (int u = 0; u < int(sizeof(x) / sizeof(float)); ++u) hand_element<THIRD>(body, k + u, x[u], q[u], t[u]);
        };
        if (cached) classes_of<true, DENSE, THIRD, true>(each, flush);
        else classes_of<true, DENSE, THIRD, false>(each, flush);
    }

    // Another look, which leaves body(k, x) in place of x for those that follow: of f32 that is kept.
    FL bool can_replace() const { return sizeof(T) == sizeof(float) && cached; }
    template <class Body, class Flush> FL void replace(Body body, Flush flush) {
        T* to = kept();
        classes_of<true, NONE, false, true>([&](int k, const auto& x, const auto&, const auto&) {
            constexpr int COUNT = sizeof(x) / sizeof(float);
            float y[COUNT];
#pragma unroll
            for (int u = 0; u < COUNT; ++u) y[u] = body(k + u, x[u]);
#pragma unroll
            for (int u = 0; u < COUNT; ++u) to[u * WARP] = from_f32<T>(y[u]);
            to += COUNT * WARP;
        }, flush);
    }

    template <bool INPUT, int DENSE, bool THIRD, bool KEPT, class S, class Special, class Body>
    FL void write(S* out, float, int except, Special special, Body body) {
        const float there = special();
        constexpr bool BLIND = !INPUT && DENSE == NONE && !THIRD;
        if constexpr (sizeof(S) == sizeof(T) && KEPT) {
            // Gradients take the places of the logits, of which they are the last look.
            if (staged && reinterpret_cast<uint64_t>(out) == reinterpret_cast<uint64_t>(grad())) {
                S* to = reinterpret_cast<S*>(kept());
                classes_of<INPUT, DENSE, THIRD, true>([&](int k, const auto& x, const auto& q, const auto& t) {
                    constexpr int COUNT = sizeof(x) / sizeof(float);
                    float g[COUNT];
#pragma unroll
                    for (int u = 0; u < COUNT; ++u) g[u] = hand_element<THIRD>(body, k + u, x[u], q[u], t[u]);
#pragma unroll
                    for (int u = 0; u < COUNT; ++u) to[u * WARP] = from_f32<S>(g[u]);
                    to += COUNT * WARP;
                }, [] {});
                if (unsigned(except) < unsigned(this->classes)) reinterpret_cast<S*>(kept())[except * WARP] = from_f32<S>(there);
                return;
            }
        }
        const bool add = this->a.flags & FL_ACCUMULATE;
        S* to = out;
        auto put = [&](int k, const auto& x, const auto& q, const auto& t) {
            constexpr int COUNT = sizeof(x) / sizeof(float);
            float g[COUNT];
#pragma unroll
            for (int u = 0; u < COUNT; ++u) g[u] = k + u == except ? there : hand_element<THIRD>(body, k + u, x[u], q[u], t[u]);
            // A branch: what is there is not read where nothing is added to it.
            if (add) {
#pragma unroll
                for (int u = 0; u < COUNT; ++u) g[u] = to_f32(to[u * stride]) + g[u];
            }
#pragma unroll
            for (int u = 0; u < COUNT; ++u) to[u * stride] = from_f32<S>(g[u]);
            to += COUNT * stride;
        };
        if (!BLIND && KEPT && cached) classes_of<INPUT, DENSE, THIRD, true>(put, [] {});
        else classes_of<INPUT, DENSE, THIRD, false>(put, [] {});
    }
};

} // namespace fl
