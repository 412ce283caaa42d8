// The language-model head, `src/head`: what lies between the matrix products of linear cross-entropy. With x the tokens that count, W the
// weight and b the bias, a chunk of tokens goes through
//
//     z = s x W^T      cuBLAS, z in f32; the scale s is 1 but for InfoNCE
//     g = dl/d(z + b)  cross-entropy, g in the storage type
//     dx = s alpha g W,  dW += s alpha g^T x,  ds = alpha g W . x       cuBLAS, in f32
//     db += alpha sum g
//
// `rows` first lists the tokens that count, so that ignored ones are never multiplied, and finds the denominator; it is one block, for
// nothing else is there to do meanwhile. Nobody tells the host how many they are: rows of a chunk beyond the last are zeros that are
// ignored.
//
// g is not scaled by alpha, which in f16 would make zeros of it, but by a power of two that makes the largest possible gradient about
// 2^13 in f16, and by 1 in f32 and bf16.
#include "vocab.cuh"

namespace fl {

FL HeadState* head(const LaunchArgs& a) { return at<HeadState>(a.scratch); }
FL uint32_t* head_rows(const LaunchArgs& a) { return reinterpret_cast<uint32_t*>(head(a) + 1); }
FL int32_t* head_targets(const LaunchArgs& a, const HeadParams& p) { return reinterpret_cast<int32_t*>(head_rows(a) + p.room); }
FL float* head_weights(const LaunchArgs& a, const HeadParams& p) { return reinterpret_cast<float*>(head_targets(a, p) + p.room); }
FL float* head_losses(const LaunchArgs& a, const HeadParams& p) { return head_weights(a, p) + p.room; }
FL float* head_dots(const LaunchArgs& a, const HeadParams& p) { return head_losses(a, p) + p.room; }
FL float* head_values(const LaunchArgs& a, const HeadParams& p) { return head_dots(a, p) + p.room; }

static constexpr uint32_t NO_ROW = 0xffffffffu;

// Without targets a token is of the class of its number.
FL int64_t class_of(const LaunchArgs& a, uint64_t row) { return has_index(a) ? index_of(a, row) : int64_t(row); }

FL bool counts(const LaunchArgs& a, const HeadParams& p, uint64_t row) {
    const int64_t index = class_of(a, row);
    return !ignored(a, index) && uint64_t(index) < p.total;
}

// What a token adds to the denominator: of class weights, what those do that are of a class of this rank.
FL double head_share(const LaunchArgs& a, const HeadParams& p, uint64_t row) {
    const int64_t index = class_of(a, row);
    if (ignored(a, index)) return 0.0;
    double of_class = 1.0;
    if (a.divide_by != FL_BY_ROWS && a.class_weight && uint64_t(index) < p.total) {
        const uint64_t here = uint64_t(index) - p.first_class;
        of_class = here < a.classes ? double(at<const float>(a.class_weight)[here]) : 0.0;
    }
    return a.divide_by == FL_BY_WEIGHTS ? of_class * double(weight_of(a, row)) : of_class;
}

// Whether small gradients would become zeros.
template <class T> struct Narrow { static constexpr bool VALUE = false; };
template <> struct Narrow<f16> { static constexpr bool VALUE = true; };

// What makes gradients of up to `largest` fill f16 but for two bits.
FL float row_scale_of(float largest) {
    const int exponent = ((__float_as_int(largest) >> 23) & 255) - 127;
    if (!(largest > 0.0f) || exponent > 100 || exponent < -100) return 1.0f;
    return __int_as_float((13 - exponent + 127) << 23);
}

// What the value is divided by and products are multiplied by, from what the tokens add to the denominator. One thread.
FL void head_denominator(const LaunchArgs& a, double share) {
    HeadState* s = head(a);
    s->denominator = a.divide_by == FL_BY_HOST ? a.denominator : a.divide_by == FL_BY_DEVICE ? double(*at<const float>(a.divisor)) : share;
    const float scale = a.divide_by >= FL_BY_ROWS ? scale_of(a) / float(share) : scale_of(a);
    // Nothing to count is a mean of nothing, whose gradients are still zero.
    s->alpha = s->counted == 0 ? 0.0f : scale / s->row_scale;
    s->scaled_alpha = s->alpha * s->logit_scale;
}

// Lists the tokens that count, each thread those of a part, and finds the denominator.
template <class T> FL void head_rows_of(const LaunchArgs& a, const HeadParams& p) {
    SHARED_ARRAY(uint32_t, before, FL_BLOCK);
    SHARED_ARRAY(float, largest, FL_BLOCK * 2);
    SHARED_VAR(uint32_t, all);
    const unsigned t = threadIdx.x;
    const uint64_t each = divide(a.losses + FL_BLOCK - 1, FL_BLOCK), from = t * each < a.losses ? t * each : a.losses;
    const uint64_t to = from + each < a.losses ? from + each : a.losses;
    uint32_t count = 0;
    double share = 0.0, strays = 0.0;
    float of_token = 0.0f, of_class = a.class_weight ? 0.0f : 1.0f;
    for (uint64_t r = from; r < to; ++r) {
        share += head_share(a, p, r);
        if (counts(a, p, r)) {
            const float w = fabsf(weight_of(a, r));
            of_token = w > of_token ? w : of_token;
            ++count;
        } else if (!ignored(a, class_of(a, r))) {
            report_row(a, r);
            strays += 1.0;
        }
    }
    for (uint64_t k = t; a.class_weight && k < a.classes; k += FL_BLOCK) {
        const float w = fabsf(at<const float>(a.class_weight)[k]);
        of_class = w > of_class ? w : of_class;
    }
    before[t] = count, largest[t] = of_token, largest[FL_BLOCK + t] = of_class;
    share = block_sum(share), strays = block_sum(strays);
    if (t == 0) {
        HeadState* s = head(a);
        all = 0;
        for (unsigned i = 0; i < FL_BLOCK; ++i) {
            const uint32_t mine = before[i];
            before[i] = all, all += mine;
            of_token = largest[i] > of_token ? largest[i] : of_token;
            of_class = largest[FL_BLOCK + i] > of_class ? largest[FL_BLOCK + i] : of_class;
        }
        s->counted = all < p.room ? all : p.room;
        s->spoilt = strays != 0.0 || all > p.room;
        // The z-loss has no class weight; a log-sum-exp is rarely above 32, and eight times that still fits.
        of_class = of_class > 64.0f * p.z_loss ? of_class : 64.0f * p.z_loss;
        s->row_scale = Narrow<T>::VALUE ? row_scale_of(of_token * of_class) : 1.0f;
        s->one = 1.0f, s->zero = 0.0f, s->share = float(share);
        s->logit_scale = a.third ? p.logit_scale * *at<const float>(a.third) : p.logit_scale;
        if (!p.apart) head_denominator(a, share);
    }
    __syncthreads();
    uint32_t place = before[t];
    for (uint64_t r = from; r < to; ++r) {
        if (!counts(a, p, r)) continue;
        if (place < p.room) {
            head_rows(a)[place] = uint32_t(r);
            head_targets(a, p)[place] = place_of_class(a, p.first_class, class_of(a, r));
            head_weights(a, p)[place] = weight_of(a, r);
        } else if (place == p.room) {
            report_row(a, r | uint64_t(1) << FL_TOO_MANY);
        }
        ++place;
    }
    for (uint64_t i = uint64_t(all) + t; i < p.room; i += FL_BLOCK) {
        head_rows(a)[i] = NO_ROW, head_targets(a, p)[i] = NOWHERE, head_weights(a, p)[i] = 0.0f;
    }
}

// The inputs of a chunk, one block a row. In this and the next two a row is as long as `pitch`.
template <class T> FL void head_gather(const LaunchArgs& a, const HeadParams& p) {
    constexpr int V = Pack<T>::N;
    const uint32_t row = head_rows(a)[p.first + blockIdx.x];
    const T* from = at<const T>(a.input) + (row == NO_ROW ? 0 : row * a.pitch);
    T* to = at<T>(a.grad_input) + blockIdx.x * a.pitch;
    uint64_t k = threadIdx.x;
    if (aligned16(from) && aligned16(to)) {
        Pack<T> zeros;
#pragma unroll
        for (int i = 0; i < V; ++i) zeros.v[i] = from_f32<T>(0.0f);
        const uint64_t packs = a.pitch / V;
        for (; k < packs; k += FL_BLOCK) store_stream(to + k * V, row == NO_ROW ? zeros : load_stream(from + k * V));
        k = packs * V + threadIdx.x;
    }
    for (; k < a.pitch; k += FL_BLOCK) to[k] = row == NO_ROW ? from_f32<T>(0.0f) : from[k];
}

// What a chunk gives its tokens: their input gradients, stored as G, their losses, and their part of the gradient of the scale, for
// which `third` has the input. One block a row.
template <class T, class G> FL void head_scatter(const LaunchArgs& a, const HeadParams& p) {
    const uint32_t place = p.first + blockIdx.x, row = head_rows(a)[place];
    if (row == NO_ROW) return;
    if (a.values && threadIdx.x == 0) at<float>(a.values)[row] = head_losses(a, p)[place];
    const float* from = at<const float>(a.input) + blockIdx.x * a.pitch;
    if (a.grad_third) {
        const T* x = at<const T>(a.third) + row * a.pitch;
        float few = 0.0f; // of a thread
        for (uint64_t k = threadIdx.x; k < a.pitch; k += FL_BLOCK) few += from[k] * to_f32(x[k]);
        const double dot = block_sum(double(few));
        if (threadIdx.x == 0) head_dots(a, p)[place] = float(dot);
    }
    if (a.grad_input == 0) return;
    const float scale = head(a)->logit_scale;
    G* to = at<G>(a.grad_input) + row * a.pitch;
    for (uint64_t k = threadIdx.x; k < a.pitch; k += FL_BLOCK) to[k] = from_f32<G>(add_or_write(a, to_f32(to[k]), scale * from[k]));
}

// The gradient of the scale: one block.
FL void head_scale(const LaunchArgs& a, const HeadParams& p) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < head(a)->counted; i += FL_BLOCK) sum += double(head_dots(a, p)[i]);
    sum = block_sum(sum);
    float* to = at<float>(a.grad_third);
    if (threadIdx.x == 0) *to = add_or_write(a, *to, float(sum));
}

// Gradients and losses of the tokens that do not count. One block a token.
template <class T> FL void head_rest(const LaunchArgs& a, const HeadParams& p) {
    const uint64_t row = blockIdx.x;
    if (counts(a, p, row)) return;
    if (a.values && threadIdx.x == 0) at<float>(a.values)[row] = ignored(a, class_of(a, row)) ? 0.0f : nan();
    if (a.grad_input == 0 || (a.flags & FL_ACCUMULATE)) return;
    T* to = at<T>(a.grad_input) + row * a.pitch;
    for (uint64_t k = threadIdx.x; k < a.pitch; k += FL_BLOCK) to[k] = from_f32<T>(0.0f);
}

// The bias gradient of a chunk: a thread a class. Few rows at a time, so that many do not drown in the sum of those before them.
template <class T> FL void head_bias(const LaunchArgs& a) {
    const uint64_t k = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    if (k >= a.classes) return;
    const T* g = at<const T>(a.input) + k;
    float sum = 0.0f;
    for (uint64_t block = 0; block < a.losses; block += 16) {
        float few = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; ++i) few += block + i < a.losses ? to_f32(g[(block + i) * a.pitch]) : 0.0f;
        sum += few;
    }
    float* to = at<float>(a.grad_input) + k;
    *to = add_or_write(a, *to, sum * head(a)->alpha);
}

// The value: one thread.
FL void head_value(const LaunchArgs& a, const HeadParams& p) {
    if (threadIdx.x != 0) return;
    const HeadState* s = head(a);
    double total = 0.0;
    for (uint32_t c = 0; c < p.chunks; ++c) total += double(head_values(a, p)[c]);
    const double value = s->spoilt ? double(nan()) : p.part * (total / s->denominator);
    *at<float>(a.value) = float(p.adds ? *at<float>(a.value) + value : value);
}

} // namespace fl

#define HEAD_KERNEL(name, dtype, call)                                                                                       \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, 2) fl_head_##name##_##dtype(const LaunchArgs a, const HeadParams p) { \
        using namespace fl;                                                                                                  \
        call;                                                                                                                \
    }                                                                                                                        \
    KERNEL(fl_head_##name##_##dtype)
#define HEAD(dtype, T)                                        \
    HEAD_KERNEL(rows, dtype, head_rows_of<T>(a, p))           \
    HEAD_KERNEL(apart, dtype, if (threadIdx.x == 0) head_denominator(a, double(head(a)->share))) \
    HEAD_KERNEL(gather, dtype, head_gather<T>(a, p))          \
    HEAD_KERNEL(scatter, dtype, (head_scatter<T, T>(a, p)))   \
    HEAD_KERNEL(scatter_wide, dtype, (head_scatter<T, float>(a, p))) \
    HEAD_KERNEL(scale, dtype, head_scale(a, p))               \
    HEAD_KERNEL(rest, dtype, head_rest<T>(a, p))                 \
    HEAD_KERNEL(bias, dtype, head_bias<T>(a))                 \
    HEAD_KERNEL(value, dtype, head_value(a, p))
HEAD(f32, float)
HEAD(f16, fl::f16)
HEAD(bf16, fl::bf16)
