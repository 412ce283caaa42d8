// Rows of one thread.
#pragma once
#include "row.cuh"

namespace fl {

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
        const int beside = KEPT || KEEP ? this->classes * int(blockDim.x) : 0, before_third = DENSE ? 2 * beside : beside;
        T x[COUNT], q[COUNT], t[COUNT];
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT) x[u] = KEPT ? kept[u * int(blockDim.x)] : input[u * stride];
            if (DENSE) q[u] = KEPT ? kept[beside + u * int(blockDim.x)] : dense[u * stride];
            if (THIRD) t[u] = KEPT ? kept[before_third + u * int(blockDim.x)] : third[u * stride];
        }
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            if (INPUT && KEEP) kept[u * int(blockDim.x)] = x[u];
            if (DENSE && KEEP) kept[beside + u * int(blockDim.x)] = q[u];
            if (THIRD && KEEP) kept[before_third + u * int(blockDim.x)] = t[u];
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

} // namespace fl
