// A weighted sum of up to four element-wise losses of one input and target, `src/loss/combine`:
//
//     l = sum_j weight_j l_j        dl/dx = sum_j weight_j dl_j/dx        dl/dt likewise
//
// One launch, and the bytes of one loss. The logistic function of the input is computed once for all terms that are made of it.
//
// There are two ways, of the same bits. `combined.cu` has kernels of any sum: what the terms are is a number that all threads read. A
// thread evaluates one term at four elements before it asks which the next is. Where there is NVRTC a sum has kernels of its own,
// compiled when it is first called, that ask nothing: `src/cuda/sums.rs`.
#pragma once
#include "bce.cuh"
#include "hinge.cuh"
#include "huber.cuh"
#include "kl.cuh"
#include "log_cosh.cuh"
#include "mae.cuh"
#include "mse.cuh"
#include "poisson_nll.cuh"
#include "quantile.cuh"
#include "sigmoid_focal.cuh"
#include "soft_margin.cuh"

namespace {

using fl::Pack;

// Four elements, of which a pack has one or two.
template <class T> using Quad = fl::Few<T, 4>;

// The same in f32, with what each term has to know of them.
struct Four {
    float x[4], t[4], aux[4];
    fl::LogisticTail l[4];
};

template <uint32_t KIND> FL auto functor(float a, float b, float c) {
    if constexpr (KIND == FL_TERM_MSE) return fl::with_params<Mse>(MseParams{a});
    else if constexpr (KIND == FL_TERM_MAE) return Mae();
    else if constexpr (KIND == FL_TERM_HUBER) return fl::with_params<Huber>(HuberParams{a});
    else if constexpr (KIND == FL_TERM_SMOOTH_L1) return fl::with_params<SmoothL1>(SmoothL1Params{a, b});
    else if constexpr (KIND == FL_TERM_BCE) return fl::with_params<Bce>(BceParams{a, b});
    else if constexpr (KIND == FL_TERM_BCE_WITH_LOGITS) return fl::with_params<BceWithLogits>(BceWithLogitsParams{a, b});
    else if constexpr (KIND == FL_TERM_BCE_PLAIN) return fl::with_params<BceWithLogitsPlain>(BceWithLogitsParams{a, b});
    else if constexpr (KIND == FL_TERM_HINGE) return fl::with_params<Hinge>(HingeParams{a, b});
    else if constexpr (KIND == FL_TERM_SQUARED_HINGE) return fl::with_params<SquaredHinge>(HingeParams{a, b});
    else if constexpr (KIND == FL_TERM_KL_DIV) return ProbTarget();
    else if constexpr (KIND == FL_TERM_KL_DIV_LOG_TARGET) return LogTarget();
    else if constexpr (KIND == FL_TERM_KL_DIV_PROBS) return fl::with_params<KlDivProbs>(KlDivProbsParams{a});
    else if constexpr (KIND == FL_TERM_SIGMOID_FOCAL) return fl::with_params<SigmoidFocal>(SigmoidFocalParams{a, b, c});
    else if constexpr (KIND == FL_TERM_SIGMOID_FOCAL_ANY) return fl::with_params<SigmoidFocalAny>(SigmoidFocalParams{a, b, c});
    else if constexpr (KIND == FL_TERM_LOG_COSH) return LogCosh();
    else if constexpr (KIND == FL_TERM_QUANTILE) return fl::with_params<Quantile>(QuantileParams{a});
    else if constexpr (KIND == FL_TERM_POISSON_NLL) return fl::with_params<LogRate>(PoissonNllParams{a, uint32_t(__float_as_int(b))});
    else if constexpr (KIND == FL_TERM_POISSON_NLL_RATE) return fl::with_params<Rate>(PoissonNllParams{a, uint32_t(__float_as_int(b))});
    else if constexpr (KIND == FL_TERM_SOFT_MARGIN) return SoftMargin();
}

// The points of a quad, with the logistic function that has been computed, if it is made of that.
template <class F> FL void eval_four(const F& f, const Four& z, fl::Point (&q)[4]) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
        if constexpr (F::LOGISTIC) q[v] = f.eval_with(fl::Logit{z.x[v], z.l[v]}, z.x[v], z.t[v], z.aux[v]);
        else q[v] = f.eval(z.x[v], z.t[v], z.aux[v]);
    }
}

template <class F> FL void slopes_four(const F& f, const Four& z, fl::Point (&q)[4]) {
#pragma unroll
    for (int v = 0; v < 4; ++v) q[v].grad = f.grad_target(z.x[v], z.t[v], z.aux[v]);
}

// Terms that the compiler knows.
template <uint32_t... KINDS> struct TheseTerms {
    static constexpr bool STAGED = false;
    static constexpr unsigned N = sizeof...(KINDS);
    const TermsParams& p;

    FL explicit TheseTerms(const TermsParams& p) : p(p) {}

    FL static constexpr bool logistic() {
        return ((KINDS == FL_TERM_BCE_WITH_LOGITS || KINDS == FL_TERM_BCE_PLAIN || KINDS == FL_TERM_SIGMOID_FOCAL || KINDS == FL_TERM_SIGMOID_FOCAL_ANY) || ...);
    }

    // Hands each term to take(j, weight, q): values and gradients, or, if SLOPES, gradients for the targets.
    template <bool SLOPES, unsigned J, uint32_t KIND, uint32_t... REST, class Take> FL void from(const Four& z, Take take) const {
        fl::Point q[4];
        const auto f = functor<KIND>(p.a[J], p.b[J], p.c[J]);
        if constexpr (SLOPES) slopes_four(f, z, q);
        else eval_four(f, z, q);
        take(J, p.weight[J], q);
        if constexpr (sizeof...(REST) > 0) from<SLOPES, J + 1, REST...>(z, take);
    }
    template <bool SLOPES, class Take> FL void each(const Four& z, Take take) const { from<SLOPES, 0, KINDS...>(z, take); }
};

// One of four numbers. By an index the compiler would copy the arguments to local memory.
template <class X> FL X pick(const X (&x)[4], unsigned j) {
    X y = x[0];
#pragma unroll
    for (unsigned i = 1; i < 4; ++i) y = i == j ? x[i] : y;
    return y;
}

// Terms that are numbers.
struct AnyTerms {
    static constexpr bool STAGED = true;
    static constexpr unsigned N = FL_MAX_TERMS;
    const TermsParams& p;

    FL explicit AnyTerms(const TermsParams& p) : p(p) {}

    FL bool logistic() const { return p.logistic != 0; }

    template <bool SLOPES, uint32_t KIND> FL void term(unsigned j, const Four& z, fl::Point (&q)[4]) const {
        const auto f = functor<KIND>(pick(p.a, j), pick(p.b, j), pick(p.c, j));
        if constexpr (SLOPES) {
            slopes_four(f, z, q);
        } else if constexpr (KIND == FL_TERM_BCE || KIND == FL_TERM_KL_DIV || KIND == FL_TERM_KL_DIV_LOG_TARGET
                             || KIND == FL_TERM_KL_DIV_PROBS || KIND == FL_TERM_SIGMOID_FOCAL_ANY || KIND == FL_TERM_LOG_COSH
                             || KIND == FL_TERM_POISSON_NLL || KIND == FL_TERM_POISSON_NLL_RATE || KIND == FL_TERM_SOFT_MARGIN) {
            // Terms of logarithms, which are in few sums: four of their elements at once would take more registers than there are.
#pragma unroll 1
            for (unsigned i = 0; i < 4; ++i) {
                const fl::Point one = fl::point_of(f, pick(z.x, i), pick(z.t, i), pick(z.aux, i));
#pragma unroll
                for (unsigned v = 0; v < 4; ++v) q[v].value = v == i ? one.value : q[v].value, q[v].grad = v == i ? one.grad : q[v].grad;
            }
        } else {
            eval_four(f, z, q);
        }
    }

    template <bool SLOPES, class Take> FL void each(const Four& z, Take take) const {
#pragma unroll 1
        for (unsigned j = 0; j < p.terms; ++j) {
            fl::Point q[4] = {};
            switch (pick(p.kind, j)) {
                case FL_TERM_MSE: term<SLOPES, FL_TERM_MSE>(j, z, q); break;
                case FL_TERM_MAE: term<SLOPES, FL_TERM_MAE>(j, z, q); break;
                case FL_TERM_HUBER: term<SLOPES, FL_TERM_HUBER>(j, z, q); break;
                case FL_TERM_SMOOTH_L1: term<SLOPES, FL_TERM_SMOOTH_L1>(j, z, q); break;
                case FL_TERM_BCE: term<SLOPES, FL_TERM_BCE>(j, z, q); break;
                case FL_TERM_BCE_PLAIN: // of the same bits, for targets in [0, 1]
                case FL_TERM_BCE_WITH_LOGITS: term<SLOPES, FL_TERM_BCE_WITH_LOGITS>(j, z, q); break;
                case FL_TERM_HINGE: term<SLOPES, FL_TERM_HINGE>(j, z, q); break;
                case FL_TERM_SQUARED_HINGE: term<SLOPES, FL_TERM_SQUARED_HINGE>(j, z, q); break;
                case FL_TERM_KL_DIV: term<SLOPES, FL_TERM_KL_DIV>(j, z, q); break;
                case FL_TERM_KL_DIV_LOG_TARGET: term<SLOPES, FL_TERM_KL_DIV_LOG_TARGET>(j, z, q); break;
                case FL_TERM_KL_DIV_PROBS: term<SLOPES, FL_TERM_KL_DIV_PROBS>(j, z, q); break;
                case FL_TERM_SIGMOID_FOCAL: term<SLOPES, FL_TERM_SIGMOID_FOCAL>(j, z, q); break;
                case FL_TERM_SIGMOID_FOCAL_ANY: term<SLOPES, FL_TERM_SIGMOID_FOCAL_ANY>(j, z, q); break;
                case FL_TERM_LOG_COSH: term<SLOPES, FL_TERM_LOG_COSH>(j, z, q); break;
                case FL_TERM_QUANTILE: term<SLOPES, FL_TERM_QUANTILE>(j, z, q); break;
                case FL_TERM_POISSON_NLL: term<SLOPES, FL_TERM_POISSON_NLL>(j, z, q); break;
                case FL_TERM_POISSON_NLL_RATE: term<SLOPES, FL_TERM_POISSON_NLL_RATE>(j, z, q); break;
                case FL_TERM_SOFT_MARGIN: term<SLOPES, FL_TERM_SOFT_MARGIN>(j, z, q); break;
            }
            take(j, pick(p.weight, j), q);
        }
    }
};

// What `fl::evaluate` is for one loss: a quad, elements k.. of which those before `end` count. Adds to the sums of the terms.
template <class T, bool GENERAL, class Terms>
FL Quad<T> evaluate(const LaunchArgs& a, const fl::Tensors<T>& to, const Terms& terms, float scale, const Quad<T>& x_quad, const Quad<T>& t_quad,
                    uint64_t k, uint64_t end, bool fast, float (&sums)[Terms::N]) {
    Four z;
    float value[4] = {}, grad[4] = {};
    fl::Extras<4> e;
    if (GENERAL) e.load(a, k, end);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
        z.x[v] = fl::to_f32(x_quad.v[v]), z.t[v] = fl::to_f32(t_quad.v[v]), z.aux[v] = GENERAL ? e.aux[v] : 1.0f, z.l[v] = {};
    }
    if (terms.logistic()) {
#pragma unroll
        for (int v = 0; v < 4; ++v) z.l[v] = fl::logistic_tail(z.x[v]);
    }
    terms.template each<false>(z, [&](unsigned j, float weight, const fl::Point(&q)[4]) {
        float sum = 0.0f;
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float y = GENERAL ? q[v].value * e.weight[v] : q[v].value;
            sum += fast || k + v < end ? y : 0.0f;
            if (GENERAL) value[v] = fmaf(weight, y, value[v]);
            grad[v] = fmaf(weight, q[v].grad, grad[v]);
        }
#pragma unroll
        for (unsigned m = 0; m < Terms::N; ++m) sums[m] = m == j ? sums[m] + sum : sums[m];
    });
    const bool add = GENERAL && (a.flags & FL_ACCUMULATE);
    if (GENERAL && to.grad_target) {
        float grad_t[4] = {};
        terms.template each<true>(z, [&](unsigned, float weight, const fl::Point(&q)[4]) {
#pragma unroll
            for (int v = 0; v < 4; ++v) grad_t[v] = fmaf(weight, q[v].grad, grad_t[v]);
        });
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            T* out = to.grad_target + k + v;
            const float g = grad_t[v] * (e.weight[v] * scale * e.upstream[v]);
            if (k + v < end) *out = fl::from_f32<T>(add ? fl::to_f32(*out) + g : g);
        }
    }
    Quad<T> g;
#pragma unroll
    for (int v = 0; v < 4; ++v) {
        grad[v] *= GENERAL ? e.weight[v] * scale * e.upstream[v] : scale;
        if (GENERAL && k + v < end) {
            if (a.values) fl::at<float>(a.values)[k + v] = value[v];
            if (add && to.grad_input) grad[v] = fl::to_f32(to.grad_input[k + v]) + grad[v];
        }
    }
#pragma unroll
    for (int v = 0; v < 4; v += 2) fl::encode2(g.v + v, grad[v], grad[v + 1]);
    return g;
}

template <class T> FL void put(T* out, uint64_t k, uint64_t end, bool fast, const Pack<T>& g) {
    if (out == nullptr) return;
    if (fast) {
        fl::store_stream(out + k, g);
    } else {
#pragma unroll
        for (int v = 0; v < Pack<T>::N; ++v) {
            if (k + v < end) out[k + v] = g.v[v];
        }
    }
}

// The packs of a step that a thread has in flight: in shared memory, or four at once of f32 and one of 16-bit numbers in registers, as
// in the element-wise skeleton. A pack of the input becomes that of the gradient.
template <class T> struct Step {
    static constexpr int V = Pack<T>::N, U = FL_IN_FLIGHT / V, Q = V / 4, AT_ONCE = sizeof(T) == 2 ? 1 : U;

    FL static Pack<T>& staged(int tensor, int u) { return reinterpret_cast<Pack<T>*>(fl::dynamic_shared())[(tensor * U + u) * FL_BLOCK + threadIdx.x]; }
    FL static Quad<T>& quad(Pack<T>& pack, int q) { return reinterpret_cast<Quad<T>*>(&pack)[q]; }
    FL static const Quad<T>& quad(const Pack<T>& pack, int q) { return reinterpret_cast<const Quad<T>*>(&pack)[q]; }
};

template <class T, bool GENERAL, class Terms>
FL void staged_step(const LaunchArgs& a, const fl::Tensors<T>& to, const Terms& terms, float scale, uint64_t first, uint64_t end, bool fast, float (&sums)[Terms::N]) {
    typedef Step<T> S;
#pragma unroll
    for (int u = 0; u < S::U; ++u) {
        const uint64_t k = first + u * FL_BLOCK * S::V;
        if (fast) {
            fl::copy_async(&S::staged(0, u), to.input + k);
            fl::copy_async(&S::staged(1, u), to.target + k);
        } else {
            S::staged(0, u) = fl::load_slowly(to.input, k, end);
            S::staged(1, u) = fl::load_slowly(to.target, k, end);
        }
    }
    fl::wait_for_copies();
    // A loop: the code of every kind of term would be there for each of them.
#pragma unroll 1
    for (int i = 0; i < S::U * S::Q; ++i) {
        const int u = i / S::Q, q = i % S::Q;
        Quad<T>& x = S::quad(S::staged(0, u), q);
        x = evaluate<T, GENERAL>(a, to, terms, scale, x, S::quad(S::staged(1, u), q), first + u * FL_BLOCK * S::V + q * 4, end, fast, sums);
    }
#pragma unroll
    for (int u = 0; u < S::U; ++u) put(to.grad_input, first + u * FL_BLOCK * S::V, end, fast, S::staged(0, u));
}

template <class T, bool GENERAL, class Terms, int PACKS>
FL void packs(const LaunchArgs& a, const fl::Tensors<T>& to, const Terms& terms, float scale, uint64_t first, uint64_t end, bool fast, float (&sums)[Terms::N]) {
    typedef Step<T> S;
    Pack<T> x[PACKS], t[PACKS];
#pragma unroll
    for (int u = 0; u < PACKS; ++u) {
        const uint64_t k = first + u * FL_BLOCK * S::V;
        x[u] = fast ? fl::load_stream(to.input + k) : fl::load_slowly(to.input, k, end);
        t[u] = fast ? fl::load_stream(to.target + k) : fl::load_slowly(to.target, k, end);
    }
#pragma unroll
    for (int u = 0; u < PACKS; ++u) {
        const uint64_t k = first + u * FL_BLOCK * S::V;
        Pack<T> g;
#pragma unroll
        for (int q = 0; q < S::Q; ++q)
            S::quad(g, q) = evaluate<T, GENERAL>(a, to, terms, scale, S::quad(x[u], q), S::quad(t[u], q), k + q * 4, end, fast, sums);
        put(to.grad_input, k, end, fast, g);
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
template <class T, bool GENERAL, class Terms> FL void combined(const LaunchArgs& a, const TermsParams& p) {
    typedef Step<T> S;
    constexpr uint64_t STEP = uint64_t(FL_BLOCK) * FL_IN_FLIGHT;
    const Terms terms(p);
    const fl::Tensors<T> to = {fl::at<const T>(a.input), fl::at<const T>(a.target), fl::at<T>(a.grad_input), fl::at<T>(a.grad_target)};
    const float scale = GENERAL ? fl::scale_of_items(a, a.weight ? fl::divide(a.elements, a.each) : 0, [&](uint64_t i) {
        return double(fl::at<const float>(a.weight)[i]) * double(a.each);
    }) : fl::scale_of(a);
    const bool aligned = fl::aligned16(to.input) && fl::aligned16(to.target) && fl::aligned16(to.grad_input);
    const uint64_t start = blockIdx.x * a.tile;
    const uint64_t end = start + a.tile < a.elements ? start + a.tile : a.elements;
    // Of each thread: registers are scarcer.
    SHARED_ARRAY(double, totals, FL_MAX_TERMS * FL_BLOCK);
#pragma unroll
    for (int m = 0; m < FL_MAX_TERMS; ++m) totals[m * FL_BLOCK + threadIdx.x] = 0.0;
    for (uint64_t base = start; base < end; base += STEP) {
        const bool fast = aligned && base + STEP <= end;
        const uint64_t first = base + threadIdx.x * S::V;
        // The same order of additions whichever way the elements come.
        float sums[Terms::N] = {};
        if (Terms::STAGED) {
            staged_step<T, GENERAL>(a, to, terms, scale, first, end, fast, sums);
        } else if (!GENERAL && fast) {
#pragma unroll 1
            for (int u = 0; u < S::U; u += S::AT_ONCE)
                packs<T, false, Terms, S::AT_ONCE>(a, to, terms, scale, first + u * FL_BLOCK * S::V, end, true, sums);
        } else {
#pragma unroll 1
            for (int u = 0; u < S::U; ++u) packs<T, GENERAL, Terms, 1>(a, to, terms, scale, first + u * FL_BLOCK * S::V, end, fast, sums);
        }
#pragma unroll
        for (int m = 0; m < int(Terms::N); ++m) totals[m * FL_BLOCK + threadIdx.x] += double(sums[m]);
    }
    double total[FL_MAX_TERMS];
#pragma unroll
    for (int m = 0; m < FL_MAX_TERMS; ++m) total[m] = totals[m * FL_BLOCK + threadIdx.x];
    finish_terms(a, p, total);
}

} // namespace

#define COMBINED(name, T, GENERAL, Terms, blocks)                                                                           \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, blocks) fl_##name(const LaunchArgs a, const TermsParams p) { \
        combined<T, GENERAL, Terms>(a, p);                                                                            \
    }                                                                                                                 \
    KERNEL(fl_##name)
