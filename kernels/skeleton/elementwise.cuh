// The element-wise skeleton: one pass over input and target, one gradient written, one number.
//
// A block computes `tile` consecutive elements, which n alone decides, and leaves one partial sum: the result has the same bits
// on every GPU. In a step of a block each thread has packs of 16 bytes in flight, all loaded before the first is used: four of each
// tensor of f32, with three blocks an SM; one of 16-bit numbers, with five or more, for those are bound by arithmetic, which more
// threads hide better than more bytes do. (H100, 2^28 bf16, share of the copy: BCE on logits 0.86 with two packs and three blocks,
// 0.96 with one pack and more; MSE 0.97 either way. f32 does not care.)
//
// Bytes: each input and target once, each gradient once; nothing else grows with n but 8 bytes a tile.
#pragma once
#include "call.cuh"
#include "math.cuh"

namespace fl {

// Value and gradient at one element.
struct Point {
    float value, grad;
};

// The usual properties of a functor.
struct Pointwise {
    static constexpr bool TARGET = true;       // it takes a target
    static constexpr bool GRAD_TARGET = false; // it has a gradient for the target
    static constexpr bool LOGISTIC = false;    // it has `eval_with`, which is given the logistic function of x, in place of `eval`
    static constexpr bool THIRD = false;       // it takes a third tensor, which is its `aux`
    static constexpr bool GRAD_THIRD = false;  // it has a gradient for that
    // Blocks an SM of the kernels of 16-bit numbers: as many as spill no registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    static constexpr int BLOCKS_16 = 5;
#else
    static constexpr int BLOCKS_16 = 4;
#endif
    FL void prepare(const LaunchArgs&) {}
    FL float grad_target(float, float, float) const { return 0.0f; }
    FL float grad_third(float, float, float) const { return 0.0f; }
};

// Value and gradient of a functor of either kind.
template <class F> FL Point point_of(const F& f, float x, float t, float aux) {
    if constexpr (F::LOGISTIC) return f.eval_with(logit(x), x, t, aux);
    else return f.eval(x, t, aux);
}

// A pack from any alignment, zeros from `end` on.
template <class T> FL Pack<T> load_slowly(const T* p, uint64_t k, uint64_t end) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; ++i) pack.v[i] = k + i < end ? p[k + i] : from_f32<T>(0.0f);
    return pack;
}

// A functor with its options.
template <class F, class P> FL F with_params(const P& p) {
    F f;
    f.p = p;
    return f;
}

// Adds or writes the gradients of a pack. The sum is of two rounded numbers, as on the CPU.
template <class T>
FL void put(const LaunchArgs& a, T* out, uint64_t k, uint64_t end, bool fast, float (&grad)[Pack<T>::N]) {
    constexpr int V = Pack<T>::N;
    if (fast) {
        if (a.flags & FL_ACCUMULATE) {
            float old[V];
            decode(load_stream(out + k), old);
#pragma unroll
            for (int i = 0; i < V; ++i) grad[i] = old[i] + grad[i];
        }
        store_stream(out + k, encode<T>(grad));
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (k + i < end) out[k + i] = from_f32<T>(a.flags & FL_ACCUMULATE ? to_f32(out[k + i]) + grad[i] : grad[i]);
        }
    }
}

// What a call may carry for each element besides input and target.
template <int V> struct Extras {
    float aux[V], weight[V], upstream[V];

    FL void load(const LaunchArgs& a, uint64_t k, uint64_t end) {
        uint64_t c = a.class_weight ? k - divide(k, a.classes) * a.classes : 0;
        uint64_t w = a.weight ? divide(k, a.each) : 0, left = (w + 1) * a.each - k;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const bool inside = k + i < end;
            aux[i] = a.class_weight && inside ? at<const float>(a.class_weight)[c] : 1.0f;
            weight[i] = a.weight && inside ? at<const float>(a.weight)[w] : 1.0f;
            upstream[i] = a.grad_outputs && inside ? at<const float>(a.grad_outputs)[k + i] : 1.0f;
            if (++c == a.classes) c = 0;
            if (--left == 0) ++w, left = a.each;
        }
    }
};

// Where the tensors are and what to do with them.
template <class T> struct Tensors {
    const T *input, *target;
    T *grad_input, *grad_target;
    const T* third;
    T* grad_third;
};

// Evaluates elements k.. of a pack, writes their gradients and returns the sum of their values. GENERAL: with weights, unreduced
// values and upstream gradients, accumulation, gradients for the target. `fast`: all are before `end`, and aligned.
template <class F, class T, bool GENERAL>
FL float evaluate(const LaunchArgs& a, const Tensors<T>& to, const F& f, float scale, const Pack<T>& x, const Pack<T>& t, uint64_t k,
                  uint64_t end, bool fast) {
    constexpr int V = Pack<T>::N;
    float xs[V], ts[V], grad[V], scales[V];
    decode(x, xs);
    if (F::TARGET) decode(t, ts);
    Extras<V> e;
    if (GENERAL) e.load(a, k, end);
    if (GENERAL && F::THIRD) decode(fast ? load_stream(to.third + k) : load_slowly(to.third, k, end), e.aux);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const Point p = point_of(f, xs[i], F::TARGET ? ts[i] : 0.0f, GENERAL ? e.aux[i] : 1.0f);
        const float value = GENERAL ? p.value * e.weight[i] : p.value;
        scales[i] = GENERAL ? e.weight[i] * scale * e.upstream[i] : scale;
        if (GENERAL && a.values && k + i < end) at<float>(a.values)[k + i] = value;
        grad[i] = p.grad * scales[i];
        sum += fast || k + i < end ? value : 0.0f;
    }
    if (GENERAL && F::GRAD_TARGET && to.grad_target) {
        float grad_t[V];
#pragma unroll
        for (int i = 0; i < V; ++i) grad_t[i] = f.grad_target(xs[i], ts[i], e.aux[i]) * scales[i];
        put(a, to.grad_target, k, end, fast, grad_t);
    }
    if (GENERAL && F::GRAD_THIRD && to.grad_third) {
        float grad_third[V];
#pragma unroll
        for (int i = 0; i < V; ++i) grad_third[i] = f.grad_third(xs[i], ts[i], e.aux[i]) * scales[i];
        put(a, to.grad_third, k, end, fast, grad_third);
    }
    if (to.grad_input) {
        if (!GENERAL && fast) store_stream(to.grad_input + k, encode<T>(grad));
        else put(a, to.grad_input, k, end, fast, grad);
    }
    return sum;
}

// Packs of each tensor that a thread has in flight.
template <class F, class T> FL constexpr int in_flight() { return sizeof(T) == 2 ? (F::TARGET ? 1 : 2) : 4; }

template <class F, class T, bool GENERAL> FL void elementwise(const LaunchArgs& a, F f) {
    constexpr int V = Pack<T>::N, U = in_flight<F, T>();
    constexpr uint64_t STEP = uint64_t(FL_BLOCK) * V * U;
    f.prepare(a);
    const Tensors<T> to = {at<const T>(a.input), at<const T>(a.target), at<T>(a.grad_input), at<T>(a.grad_target),
                           at<const T>(a.third), at<T>(a.grad_third)};
    const float scale = GENERAL ? scale_of_items(a, a.weight ? divide(a.elements, a.each) : 0, [&](uint64_t i) {
        return double(at<const float>(a.weight)[i]) * double(a.each);
    }) : scale_of(a);
    const bool aligned = aligned16(to.input) && (!F::TARGET || aligned16(to.target)) && aligned16(to.grad_input)
                         && (!GENERAL || aligned16(to.grad_target))
                         && (!F::THIRD || (aligned16(to.third) && aligned16(to.grad_third)));
    const uint64_t start = blockIdx.x * a.tile;
    const uint64_t end = start + a.tile < a.elements ? start + a.tile : a.elements;
    double total = 0.0;
    for (uint64_t base = start; base < end; base += STEP) {
        const bool fast = aligned && base + STEP <= end;
        const uint64_t k = base + threadIdx.x * V;
        // The same order of additions whichever way the elements come.
        float sum = 0.0f;
        if (!GENERAL && fast) { // never of a loss of three tensors
            Pack<T> x[U], t[U];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                x[u] = load_stream(to.input + k + u * FL_BLOCK * V);
                if (F::TARGET) t[u] = load_stream(to.target + k + u * FL_BLOCK * V);
            }
#pragma unroll
            for (int u = 0; u < U; ++u) sum += evaluate<F, T, false>(a, to, f, scale, x[u], t[u], k + u * FL_BLOCK * V, end, true);
        } else {
#pragma unroll 1
            for (int u = 0; u < U; ++u) {
                const uint64_t ku = k + u * FL_BLOCK * V;
                Pack<T> x, t;
                if (fast) {
                    x = load_stream(to.input + ku);
                    if (F::TARGET) t = load_stream(to.target + ku);
                } else {
                    x = load_slowly(to.input, ku, end);
                    if (F::TARGET) t = load_slowly(to.target, ku, end);
                }
                sum += evaluate<F, T, GENERAL>(a, to, f, scale, x, t, ku, end, fast);
            }
        }
        total += double(sum);
    }
    finish(a, total);
}

} // namespace fl

// Without the second number of the launch bounds ptxas aims at more blocks an SM than there is use for, and spills.
//
// fl_<name>_<dtype> for calls with input, target, gradient and scale alone; fl_<name>_general_<dtype> for all others, and for losses of
// three tensors always.
#define FL_ELEMENTWISE(name, F, P)      \
    FL_ELEMENTWISE_USUAL(name, F, P)    \
    FL_ELEMENTWISE_OF_THREE(name, F, P)
#define FL_ELEMENTWISE_USUAL(name, F, P)                      \
    FL_ELEMENTWISE_OF(name, F, P, f32, float, 3)              \
    FL_ELEMENTWISE_OF(name, F, P, f16, fl::f16, F::BLOCKS_16) \
    FL_ELEMENTWISE_OF(name, F, P, bf16, fl::bf16, F::BLOCKS_16)
#define FL_ELEMENTWISE_OF(name, F, P, dtype, T, blocks)                                                                  \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, blocks) fl_##name##_##dtype(const LaunchArgs a, const P p) {    \
        fl::elementwise<F, T, false>(a, fl::with_params<F>(p));                                                                      \
    }                                                                                                                   \
    KERNEL(fl_##name##_##dtype)
#define FL_ELEMENTWISE_OF_THREE(name, F, P)           \
    FL_ELEMENTWISE_GENERAL(name, F, P, f32, float)    \
    FL_ELEMENTWISE_GENERAL(name, F, P, f16, fl::f16)  \
    FL_ELEMENTWISE_GENERAL(name, F, P, bf16, fl::bf16)
#define FL_ELEMENTWISE_GENERAL(name, F, P, dtype, T)                                                                     \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2) fl_##name##_general_##dtype(const LaunchArgs a, const P p) { \
        fl::elementwise<F, T, true>(a, fl::with_params<F>(p));                                                                       \
    }                                                                                                                   \
    KERNEL(fl_##name##_general_##dtype)
