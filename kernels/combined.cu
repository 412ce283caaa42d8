// A weighted sum of up to four element-wise losses of one input and target, `src/loss/combine`:
//
//     l = sum_j weight_j l_j        dl/dx = sum_j weight_j dl_j/dx        dl/dt likewise
//
// No kernel for each combination: what the terms are is a number that all threads read. A thread evaluates one term at four elements
// before it asks which the next is, so that asking costs little. One launch, and the bytes of one loss. The logistic function of the
// input is computed once for all terms that are made of it.
#include "bce.cuh"
#include "hinge.cuh"
#include "huber.cuh"
#include "kl.cuh"
#include "mae.cuh"
#include "mse.cuh"
#include "sigmoid_focal.cuh"

namespace {

using fl::Pack;

// Four elements, of which a pack has one or two.
template <class T> struct alignas(4 * sizeof(T)) Quad {
    T v[4];
};

// What a thread has in flight, in shared memory: packs of the input, which become those of the gradient, and of the target. In
// registers the quads could not be looped over, and the code of every kind of term would be there for each of them.
template <class T> struct InFlight {
    static constexpr int V = Pack<T>::N, U = FL_IN_FLIGHT / V, QUADS = FL_IN_FLIGHT / 4, Q = V / 4;

    FL static Pack<T>& pack(int tensor, int u) { return reinterpret_cast<Pack<T>*>(fl::dynamic_shared())[(tensor * U + u) * FL_BLOCK + threadIdx.x]; }
    FL static Quad<T>& quad(int tensor, int i) { return reinterpret_cast<Quad<T>*>(&pack(tensor, i / Q))[i % Q]; }
};

// One of four numbers. By an index the compiler would copy the arguments to local memory.
template <class X> FL X pick(const X (&x)[4], unsigned j) {
    X y = x[0];
#pragma unroll
    for (unsigned i = 1; i < 4; ++i) y = i == j ? x[i] : y;
    return y;
}

struct Term {
    uint32_t kind;
    float weight, a, b, c;

    FL Term(const TermsParams& p, unsigned j)
        : kind(pick(p.kind, j)), weight(pick(p.weight, j)), a(pick(p.a, j)), b(pick(p.b, j)), c(pick(p.c, j)) {}

    // Does something with the functor.
    template <class Do> FL void with(Do body) const {
        switch (kind) {
            case FL_TERM_MSE: return body(fl::with_params<Mse>(MseParams{a}));
            case FL_TERM_MAE: return body(Mae());
            case FL_TERM_HUBER: return body(fl::with_params<Huber>(HuberParams{a}));
            case FL_TERM_SMOOTH_L1: return body(fl::with_params<SmoothL1>(SmoothL1Params{a, b}));
            case FL_TERM_BCE: return body(fl::with_params<Bce>(BceParams{a, b}));
            case FL_TERM_BCE_WITH_LOGITS: return body(fl::with_params<BceWithLogits>(BceWithLogitsParams{a, b}));
            case FL_TERM_HINGE: return body(fl::with_params<Hinge>(HingeParams{a, b}));
            case FL_TERM_SQUARED_HINGE: return body(fl::with_params<SquaredHinge>(HingeParams{a, b}));
            case FL_TERM_KL_DIV: return body(ProbTarget());
            case FL_TERM_KL_DIV_LOG_TARGET: return body(LogTarget());
            case FL_TERM_KL_DIV_PROBS: return body(fl::with_params<KlDivProbs>(KlDivProbsParams{a}));
            case FL_TERM_SIGMOID_FOCAL: return body(fl::with_params<SigmoidFocal>(SigmoidFocalParams{a, b, c}));
            case FL_TERM_SIGMOID_FOCAL_ANY: return body(fl::with_params<SigmoidFocalAny>(SigmoidFocalParams{a, b, c}));
        }
    }
};

// Terms of logarithms, which are in few sums: four of their elements at once would take more registers than there are.
template <class F> constexpr bool ONE_BY_ONE = false;
template <> constexpr bool ONE_BY_ONE<Bce> = true;
template <> constexpr bool ONE_BY_ONE<ProbTarget> = true;
template <> constexpr bool ONE_BY_ONE<LogTarget> = true;
template <> constexpr bool ONE_BY_ONE<KlDivProbs> = true;
template <> constexpr bool ONE_BY_ONE<SigmoidFocalAny> = true;

// The points of a quad, with the logistic function that has been computed, if it is made of that.
template <class F> FL void eval(const F& f, const fl::LogisticTail (&l)[4], const float (&x)[4], const float (&t)[4], const float (&aux)[4], fl::Point (&q)[4]) {
    if constexpr (ONE_BY_ONE<F>) {
#pragma unroll 1
        for (unsigned i = 0; i < 4; ++i) {
            const fl::Point p = f.eval(pick(x, i), pick(t, i), pick(aux, i));
#pragma unroll
            for (unsigned v = 0; v < 4; ++v) q[v].value = v == i ? p.value : q[v].value, q[v].grad = v == i ? p.grad : q[v].grad;
        }
    } else {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            if constexpr (F::LOGISTIC) q[v] = f.eval_with(fl::logistic(x[v], l[v]), x[v], t[v], aux[v]);
            else q[v] = f.eval(x[v], t[v], aux[v]);
        }
    }
}

// What `fl::finish` is for one loss.
FL void finish_terms(const LaunchArgs& a, const TermsParams& p, double (&total)[FL_MAX_TERMS]) {
    if (a.value == 0 && a.terms == 0 && !fl::has_shared_work(a)) return;
    if (!fl::sum_over_blocks(a, fl::at<double>(a.scratch), total) || fl::thread_index() != 0) return;
    const double denominator = fl::denominator_of(a);
    double value = 0.0;
#pragma unroll
    for (unsigned j = 0; j < FL_MAX_TERMS; ++j) {
        if (j >= p.terms) continue;
        value += double(p.weight[j]) * total[j];
        if (a.terms) fl::at<float>(a.terms)[j] = float(total[j] / denominator);
    }
    if (a.value) *fl::at<float>(a.value) = float(value / denominator);
    if (fl::has_shared_work(a)) fl::clear_shared_work(a);
}

// What `fl::elementwise` is for one loss.
template <class T, bool GENERAL> FL void combined(const LaunchArgs& a, const TermsParams& p) {
    typedef InFlight<T> Own;
    constexpr int V = Own::V, U = Own::U, Q = Own::Q;
    constexpr uint64_t STEP = uint64_t(FL_BLOCK) * FL_IN_FLIGHT;
    const fl::Tensors<T> to = {fl::at<const T>(a.input), fl::at<const T>(a.target), fl::at<T>(a.grad_input), fl::at<T>(a.grad_target)};
    const float scale = GENERAL ? fl::scale_of(a, a.weight ? fl::divide(a.elements, a.each) : 0, [&](uint64_t i) {
        return double(fl::at<const float>(a.weight)[i]) * double(a.each);
    }) : fl::scale_of(a);
    const bool add = GENERAL && (a.flags & FL_ACCUMULATE);
    const bool aligned = fl::aligned16(to.input) && fl::aligned16(to.target) && fl::aligned16(to.grad_input);
    const uint64_t start = blockIdx.x * a.tile;
    const uint64_t end = start + a.tile < a.elements ? start + a.tile : a.elements;
    // Of each thread: registers are scarcer.
    SHARED_ARRAY(double, totals, FL_MAX_TERMS * FL_BLOCK);
#pragma unroll
    for (int m = 0; m < FL_MAX_TERMS; ++m) totals[m * FL_BLOCK + threadIdx.x] = 0.0;
    for (uint64_t base = start; base < end; base += STEP) {
        const bool fast = aligned && base + STEP <= end;
        const uint64_t first = base + threadIdx.x * V;
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const uint64_t k = first + u * FL_BLOCK * V;
            if (fast) {
                fl::copy_async(&Own::pack(0, u), to.input + k);
                fl::copy_async(&Own::pack(1, u), to.target + k);
            } else {
                Own::pack(0, u) = fl::load_slowly(to.input, k, end);
                Own::pack(1, u) = fl::load_slowly(to.target, k, end);
            }
        }
        fl::wait_for_copies();
        float sums[FL_MAX_TERMS] = {};
#pragma unroll 1
        for (int i = 0; i < Own::QUADS; ++i) {
            const uint64_t k = first + (i / Q) * FL_BLOCK * V + (i % Q) * 4;
            float x[4], t[4], value[4] = {}, grad[4] = {};
            fl::Extras<4> e;
            if (GENERAL) e.load(a, k, end);
            const Quad<T> x_quad = Own::quad(0, i), t_quad = Own::quad(1, i);
            float aux[4];
            fl::LogisticTail l[4] = {};
#pragma unroll
            for (int v = 0; v < 4; ++v) x[v] = fl::to_f32(x_quad.v[v]), t[v] = fl::to_f32(t_quad.v[v]), aux[v] = GENERAL ? e.aux[v] : 1.0f;
            if (p.logistic) {
#pragma unroll
                for (int v = 0; v < 4; ++v) l[v] = fl::logistic_tail(x[v]);
            }
#pragma unroll 1
            for (unsigned j = 0; j < p.terms; ++j) {
                const Term term(p, j);
                fl::Point q[4] = {};
                term.with([&](const auto& f) { eval(f, l, x, t, aux, q); });
                float sum = 0.0f;
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    const float y = GENERAL ? q[v].value * e.weight[v] : q[v].value;
                    sum += fast || k + v < end ? y : 0.0f;
                    if (GENERAL) value[v] += term.weight * y;
                    grad[v] += term.weight * q[v].grad;
                }
#pragma unroll
                for (unsigned m = 0; m < FL_MAX_TERMS; ++m) sums[m] += m == j ? sum : 0.0f;
            }
            if (GENERAL && to.grad_target) {
                float grad_t[4] = {};
#pragma unroll 1
                for (unsigned j = 0; j < p.terms; ++j) {
                    const Term term(p, j);
                    term.with([&](const auto& f) {
#pragma unroll
                        for (int v = 0; v < 4; ++v) grad_t[v] += term.weight * f.grad_target(x[v], t[v], aux[v]);
                    });
                }
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    T* out = to.grad_target + k + v;
                    const float g = grad_t[v] * (e.weight[v] * scale * e.upstream[v]);
                    if (k + v < end) *out = fl::from_f32<T>(add ? fl::to_f32(*out) + g : g);
                }
            }
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                grad[v] *= GENERAL ? e.weight[v] * scale * e.upstream[v] : scale;
                if (GENERAL && k + v < end) {
                    if (a.values) fl::at<float>(a.values)[k + v] = value[v];
                    if (add && to.grad_input) grad[v] = fl::to_f32(to.grad_input[k + v]) + grad[v];
                }
            }
            Quad<T> g;
#pragma unroll
            for (int v = 0; v < 4; v += 2) fl::encode2(g.v + v, grad[v], grad[v + 1]);
            Own::quad(0, i) = g;
        }
#pragma unroll
        for (int m = 0; m < FL_MAX_TERMS; ++m) totals[m * FL_BLOCK + threadIdx.x] += double(sums[m]);
        if (to.grad_input == nullptr) continue;
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const uint64_t k = first + u * FL_BLOCK * V;
            const Pack<T> g = Own::pack(0, u);
            if (fast) {
                fl::store_stream(to.grad_input + k, g);
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if (k + v < end) to.grad_input[k + v] = g.v[v];
                }
            }
        }
    }
    double total[FL_MAX_TERMS];
#pragma unroll
    for (int m = 0; m < FL_MAX_TERMS; ++m) total[m] = totals[m * FL_BLOCK + threadIdx.x];
    finish_terms(a, p, total);
}

} // namespace

#define COMBINED(dtype, T)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2) fl_combined_##dtype(const LaunchArgs a, const TermsParams p) {         \
        combined<T, false>(a, p);                                                                                                     \
    }                                                                                                                                 \
    KERNEL(fl_combined_##dtype)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2) fl_combined_general_##dtype(const LaunchArgs a, const TermsParams p) { \
        combined<T, true>(a, p);                                                                                                      \
    }                                                                                                                                 \
    KERNEL(fl_combined_general_##dtype)
COMBINED(f32, float)
COMBINED(f16, fl::f16)
COMBINED(bf16, fl::bf16)
