// Lovasz's hinge and Lovasz's softmax, `src/loss/lovasz.rs`. A region has errors e, of which some are of its foreground, F of them. With the
// errors in falling order, f and b of the foreground and of the others before one of them, the loss is
//
//     l = sum_i (e_i)+ g_i      g_i = 1 / (F + b) of the foreground, (F - f) / ((F + b + 1) (F + b)) of the others
//
// and dl/de_i = g_i where e_i > 0: g is what the Jaccard index of the errors so far grows by (in the form that does not cancel). Where
// there is no foreground, it is 1 for the first and 0 for all others.
//
//     hinge      e = 1 - x y        y = 1 or -1       a region is a channel
//     softmax    e = |[t = c] - p|  p = softmax(x)    a region is a channel, of which the foreground is where t = c
#include "skeleton/softmax.cuh"
#include "skeleton/sorted.cuh"

namespace fl {

// Where a region lies: a channel of a sample, or of the whole batch.
struct Channels {
    uint64_t samples, groups, len; // groups of regions; positions of a region

    FL Channels(const LaunchArgs& a) {
        samples = a.inner == 0 ? 0 : divide(a.elements, a.classes * a.inner);
        groups = a.flags & FL_BATCH ? 1 : samples;
        len = a.flags & FL_BATCH ? samples * a.inner : a.inner;
    }
    // The sample of position i of a group, and the position there.
    FL uint64_t sample(const LaunchArgs& a, uint64_t group, uint64_t i, uint64_t& position) const {
        const uint64_t n = a.flags & FL_BATCH ? divide(i, a.inner) : group;
        position = a.flags & FL_BATCH ? i - n * a.inner : i;
        return n;
    }
};

FL void put_error(const LaunchArgs& a, const Sorted& s, uint64_t at, uint64_t i, float error, bool foreground) {
    s.keys(a, 0)[at] = falling_key(is_nan(error) ? nan() : error); // NaN first of all
    s.items(a, 0)[at] = uint32_t(i) << 1 | uint32_t(foreground);
}

// A thread an element.
template <class T> FL void errors_of_hinge(const LaunchArgs& a, const SortParams& p) {
    const uint64_t at_all = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    if (at_all >= a.elements) return;
    const Sorted s(a, p.segments);
    const Channels c(a);
    const uint64_t segment = divide(at_all, s.len), i = at_all - segment * s.len, group = divide(segment, a.classes);
    uint64_t position;
    const uint64_t n = c.sample(a, group, i, position);
    const uint64_t k = (n * a.classes + (segment - group * a.classes)) * a.inner + position;
    const float x = to_f32(at<const T>(a.input)[k]), t = to_f32(at<const T>(a.target)[k]);
    put_error(a, s, at_all, i, 1.0f - x * (2.0f * t - 1.0f), t > 0.5f);
}

// The softmax of a position: classes are `inner` apart.
template <class T> struct ClassesAt {
    const T* x;
    uint64_t stride;
    float max, inv_sum;

    FL ClassesAt(const LaunchArgs& a, uint64_t n, uint64_t position) : x(at<const T>(a.input) + n * a.classes * a.inner + position), stride(a.inner) {
        max = -infinity();
        for (uint64_t c = 0; c < a.classes; ++c) max = larger(max, to_f32(x[c * stride]));
        float sum = 0.0f;
        for (uint64_t c = 0; c < a.classes; ++c) sum += exp_neg(to_f32(x[c * stride]) - max);
        inv_sum = ratio(1.0f, sum);
    }
    FL float p(uint64_t c) const { return exp_neg(to_f32(x[c * stride]) - max) * inv_sum; }
};

// A thread a position of a group.
template <class T> FL void errors_of_softmax(const LaunchArgs& a, const SortParams& p) {
    const uint64_t row = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    const Channels ch(a);
    if (row >= ch.samples * a.inner) return;
    const Sorted s(a, p.segments);
    const uint64_t group = divide(row, s.len), i = row - group * s.len;
    uint64_t position;
    const uint64_t n = ch.sample(a, group, i, position);
    const int64_t index = index_of(a, n * a.inner + position);
    const uint64_t first = group * a.classes * s.len + i;
    if (ignored(a, index)) {
        // After all others, where it changes nothing.
        for (uint64_t c = 0; c < a.classes; ++c) s.keys(a, 0)[first + c * s.len] = 0xffffffffu, s.items(a, 0)[first + c * s.len] = uint32_t(i) << 1;
        return;
    }
    const bool bad = !is_class(a, index);
    if (bad) report_row(a, n * a.inner + position);
    const float spoilt = bad ? nan() : 0.0f;
    const ClassesAt<T> y(a, n, position);
    for (uint64_t c = 0; c < a.classes; ++c) {
        const bool foreground = int64_t(c) == index;
        const float p_c = y.p(c);
        put_error(a, s, first + c * s.len, i, (foreground ? 1.0f - p_c : p_c) + spoilt, foreground);
    }
}

// What each element's error weighs, and the sum over each tile.
FL void lovasz_slopes(const LaunchArgs& a, const SortParams& p) {
    const Sorted s(a, p.segments);
    const SortTile t(s);
    const unsigned first = threadIdx.x * SORT_EACH;
    uint32_t keys[SORT_EACH], items[SORT_EACH], before = 0, all;
#pragma unroll
    for (unsigned j = 0; j < SORT_EACH; ++j) {
        const bool there = first + j < t.count;
        keys[j] = there ? s.keys(a, p.half)[t.first + first + j] : 0;
        items[j] = there ? s.items(a, p.half)[t.first + first + j] : 0;
        before += items[j] & 1u;
    }
    before = s.marked_before(a)[blockIdx.x] + scan_threads(before, all);
    const uint64_t foreground = s.marked(a)[t.segment];
    float few = 0.0f; // of a thread
#pragma unroll
    for (unsigned j = 0; j < SORT_EACH; ++j) {
        if (first + j >= t.count) continue;
        const bool marked = items[j] & 1u;
        const uint64_t others = t.tile * SORT_TILE + first + j - before, below = foreground + others;
        const float weight = marked       ? ratio(1.0f, float(below))
                             : below == 0 ? 1.0f
                                          : ratio(float(foreground - before), float(below)) * ratio(1.0f, float(below + 1));
        const float error = of_falling_key(keys[j]);
        // Positive, or no number; what is ignored is neither.
        const bool counts = keys[j] != 0xffffffffu && !(error <= 0.0f);
        if (counts) few += error * weight;
        s.slopes(a)[t.segment * s.len + (items[j] >> 1)] = counts ? (is_nan(error) ? error : weight) : 0.0f;
        before += marked;
    }
    const double value = block_sum(double(few));
    if (threadIdx.x == 0) s.of_tile(a)[blockIdx.x] = value;
}

// Values of regions, that of all, and what gradients of each are multiplied by. One block.
FL void lovasz_finish(const LaunchArgs& a, const SortParams& p) {
    const Sorted s(a, p.segments);
    const uint64_t groups = divide(p.segments, a.classes);
    const unsigned lane = threadIdx.x & 31;
    for (uint64_t r = threadIdx.x >> 5; r < s.segments; r += FL_BLOCK / 32) {
        double sum = 0.0;
        for (uint64_t tile = lane; tile < s.tiles; tile += 32) sum += s.of_tile(a)[r * s.tiles + tile];
        sum = warp_sum(sum);
        if (lane == 0) s.of_segment(a)[r] = p.present && s.marked(a)[r] == 0 && !is_nan(float(sum)) ? 0.0 : sum;
    }
    __syncthreads();
    const bool mean = a.flags & FL_OWN_MEANS;
    const float scale = scale_of(a);
    double total = 0.0;
    for (uint64_t g = threadIdx.x; g < groups; g += FL_BLOCK) {
        uint64_t present = 0;
        for (uint64_t c = 0; c < a.classes; ++c) present += !p.present || s.marked(a)[g * a.classes + c] != 0;
        const double share = !mean ? 1.0 : present == 0 ? 0.0 : 1.0 / (double(present) * double(groups));
        for (uint64_t c = 0; c < a.classes; ++c) {
            const uint64_t r = g * a.classes + c;
            const double value = s.of_segment(a)[r];
            const bool counts = !p.present || s.marked(a)[r] != 0;
            // Of a stray class NaN comes through, whatever is present.
            total += is_nan(float(value)) ? value : share * value;
            if (a.values) at<float>(a.values)[r] = float(value);
            s.scales(a)[r] = counts ? float(double(scale) * share) * (a.grad_outputs ? at<const float>(a.grad_outputs)[r] : 1.0f) : 0.0f;
        }
    }
    total = block_sum(total);
    if (a.value && threadIdx.x == 0) *at<float>(a.value) = float(!mean ? total / denominator_of(a) : groups == 0 ? double(nan()) : total);
}

template <class T> FL void put_grad(const LaunchArgs& a, uint64_t k, float g) {
    T* out = at<T>(a.grad_input) + k;
    *out = from_f32<T>(add_or_write(a, a.flags & FL_ACCUMULATE ? to_f32(*out) : 0.0f, g));
}

template <class T> FL void grads_of_hinge(const LaunchArgs& a, const SortParams& p) {
    const uint64_t k = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    if (k >= a.elements) return;
    const Sorted s(a, p.segments);
    const uint64_t row = divide(k, a.inner), n = divide(row, a.classes), c = row - n * a.classes, position = k - row * a.inner;
    const uint64_t segment = a.flags & FL_BATCH ? c : row, i = a.flags & FL_BATCH ? n * a.inner + position : position;
    const float y = 2.0f * to_f32(at<const T>(a.target)[k]) - 1.0f, slope = s.slopes(a)[segment * s.len + i];
    put_grad<T>(a, k, slope == 0.0f ? 0.0f : -y * slope * s.scales(a)[segment]);
}

template <class T> FL void grads_of_softmax(const LaunchArgs& a, const SortParams& p) {
    const uint64_t row = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    const Channels ch(a);
    if (row >= ch.samples * a.inner) return;
    const Sorted s(a, p.segments);
    const uint64_t n = divide(row, a.inner), position = row - n * a.inner;
    const int64_t index = index_of(a, row);
    const bool counts = is_class(a, index) && !ignored(a, index);
    const uint64_t group = a.flags & FL_BATCH ? 0 : n, i = a.flags & FL_BATCH ? row : position;
    auto slope = [&](uint64_t c) {
        const uint64_t r = group * a.classes + c;
        const float of_error = s.slopes(a)[r * s.len + i] * s.scales(a)[r];
        return int64_t(c) == index ? -of_error : of_error;
    };
    const ClassesAt<T> y(a, n, position);
    float mean = 0.0f;
    for (uint64_t c = 0; c < a.classes && counts; ++c) mean += y.p(c) * slope(c);
    for (uint64_t c = 0; c < a.classes; ++c) {
        const float g = counts ? y.p(c) * (slope(c) - mean) : 0.0f;
        put_grad<T>(a, (n * a.classes + c) * a.inner + position, g);
    }
}

} // namespace fl

#define LOVASZ_KERNEL(name, call)                                                                                             \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK) fl_lovasz_##name(const LaunchArgs a, const SortParams p) {         \
        using namespace fl;                                                                                                   \
        call;                                                                                                                 \
    }                                                                                                                         \
    KERNEL(fl_lovasz_##name)
LOVASZ_KERNEL(count_f32, sort_count(a, p))
LOVASZ_KERNEL(scan_f32, sort_scan(a, p))
LOVASZ_KERNEL(scatter_f32, sort_scatter(a, p))
LOVASZ_KERNEL(marks_f32, sort_marks(a, p))
LOVASZ_KERNEL(marks_before_f32, sort_marks_before(a, p))
LOVASZ_KERNEL(slopes_f32, lovasz_slopes(a, p))
LOVASZ_KERNEL(finish_f32, lovasz_finish(a, p))
#define LOVASZ(dtype, T)                                           \
    LOVASZ_KERNEL(hinge_errors_##dtype, errors_of_hinge<T>(a, p))     \
    LOVASZ_KERNEL(softmax_errors_##dtype, errors_of_softmax<T>(a, p)) \
    LOVASZ_KERNEL(hinge_grads_##dtype, grads_of_hinge<T>(a, p))       \
    LOVASZ_KERNEL(softmax_grads_##dtype, grads_of_softmax<T>(a, p))
LOVASZ(f32, float)
LOVASZ(f16, fl::f16)
LOVASZ(bf16, fl::bf16)
