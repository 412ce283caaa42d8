// What all skeletons do with a call: weights, denominators, the upstream gradient, the reduction.
#pragma once
#include "device.cuh"

namespace fl {

template <class T> FL T* at(uint64_t address) { return reinterpret_cast<T*>(address); }

FL Workspace* workspace(const LaunchArgs& a) { return at<Workspace>(a.workspace); }
FL double* chunk_sums(const LaunchArgs& a) { return reinterpret_cast<double*>(workspace(a) + 1); }
FL double* partial_sums(const LaunchArgs& a) { return chunk_sums(a) + FL_MAX_CHUNKS; }

// n / d, for n below 2^63. The compiler's own 64-bit division is a function call in the middle of a kernel, which makes it spill.
FL uint64_t divide(uint64_t n, uint64_t d) {
    if (((n | d) >> 32) == 0) return uint32_t(n) / uint32_t(d);
    const float inverse = __fdividef(1.0f, float(d));
    int64_t left = int64_t(n);
    uint64_t quotient = 0;
#pragma unroll
    for (int i = 0; i < 3; ++i) { // 22 bits each
        const int64_t step = int64_t(float(left) * inverse);
        quotient += step;
        left -= step * int64_t(d);
    }
    for (; left < 0; left += d) --quotient;
    for (; left >= int64_t(d); left -= d) ++quotient;
    return quotient;
}

// The weight of a loss.
FL float weight_of(const LaunchArgs& a, uint64_t loss) {
    if (a.weight == 0) return 1.0f;
    return at<const float>(a.weight)[a.each == 1 ? loss : divide(loss, a.each)];
}

// The class index of a row.
FL int64_t index_of(const LaunchArgs& a, uint64_t row) {
    switch (a.target_kind) {
        case FL_TARGET_I64: return at<const int64_t>(a.target)[row];
        case FL_TARGET_I32: return at<const int32_t>(a.target)[row];
        case FL_TARGET_U32: return at<const uint32_t>(a.target)[row];
        default: return at<const uint8_t>(a.target)[row];
    }
}

FL bool has_index(const LaunchArgs& a) { return a.target_kind >= FL_TARGET_I64; }
FL bool ignored(const LaunchArgs& a, int64_t index) { return (a.flags & FL_IGNORE) && index == a.ignore_index; }
FL bool is_class(const LaunchArgs& a, int64_t index) { return uint64_t(index) < a.classes; }

// Out of range: the host asks for the first such row when it likes. Never an assertion, which would kill the context.
FL void report_row(const LaunchArgs& a, uint64_t row) {
    atomicMax(reinterpret_cast<unsigned long long*>(&workspace(a)->error), static_cast<unsigned long long>(~row));
}

// What a thread has of the sum of item(i) over from <= i < to.
template <class Item> FL double part_of(uint64_t from, uint64_t to, Item item) {
    double sum = 0.0;
    for (uint64_t i = from + thread_index(); i < to; i += thread_count()) sum += item(i);
    return sum;
}

// The denominator that blocks find together, as a sum over i < items, of which part(from, to) is what a thread has of from <= i < to:
// every `thread_count`th. Few items each block adds up by itself: that is done before the first would have heard from another.
//
// Every gradient needs it, so it comes first, and still in this launch: blocks that start take parts of the sum until none is
// left, and the one that finishes the last part adds them up, in their order. Nobody waits for a block that has not started, so
// it works for any number of blocks on any machine. (`part` is written once: with its loops it is most of a small kernel.)
template <class Part> FL double denominator(const LaunchArgs& a, uint64_t items, Part part) {
    SHARED_VAR(uint32_t, dealt);
    SHARED_VAR(uint32_t, finishes);
    SHARED_VAR(double, result);
    Workspace* w = workspace(a);
    const bool alone = items <= FL_COUNTED_ALONE, leads = thread_index() == 0;
    uint64_t chunk = alone ? items : (items + FL_MAX_CHUNKS - 1) / FL_MAX_CHUNKS;
    if (!alone && chunk < FL_CHUNK_MIN) chunk = FL_CHUNK_MIN;
    const uint32_t chunks = alone ? 1 : uint32_t(divide(items + chunk - 1, chunk));
    for (;;) {
        uint32_t mine = 0;
        if (!alone) {
            __syncthreads(); // whoever still reads `dealt`
            if (leads) dealt = load_word(&w->ready) ? chunks : atomicAdd(&w->dealt, 1u);
            __syncthreads();
            mine = dealt;
            if (mine >= chunks) break;
        }
        const uint64_t start = mine * chunk, end = start + chunk < items ? start + chunk : items;
        const double sum = block_sum(part(start, end));
        if (alone) {
            if (blockIdx.x == 0 && leads) w->denominator = sum; // for the block that finishes last
            return sum;
        }
        if (leads) {
            chunk_sums(a)[mine] = sum;
            __threadfence();
            finishes = atomicAdd(&w->arrived, 1u) == chunks - 1;
            __threadfence();
        }
        __syncthreads();
        if (finishes) {
            double total = 0.0;
            for (uint32_t c = thread_index(); c < chunks; c += thread_count()) total += __ldcg(chunk_sums(a) + c);
            total = block_sum(total);
            if (leads) {
                w->denominator = total;
                __threadfence();
                atomicExch(&w->ready, 1u);
            }
        }
    }
    if (leads) {
        while (load_word(&w->ready) == 0) pause();
        __threadfence();
        result = __ldcg(&w->denominator);
    }
    __syncthreads();
    return result;
}

// What gradients are multiplied by, where the host or the caller knows the denominator.
FL float scale_of(const LaunchArgs& a) {
    float scale = a.scale;
    if (a.grad_scale) scale *= *at<const float>(a.grad_scale);
    if (a.divide_by == FL_BY_DEVICE) scale /= *at<const float>(a.divisor);
    return scale;
}

// Where the blocks may have to find it. All threads of a block call this.
template <class Part> FL float scale_of(const LaunchArgs& a, uint64_t items, Part part) {
    const float scale = scale_of(a);
    return a.divide_by < FL_BY_ROWS ? scale : scale / float(denominator(a, items, part));
}
// As the sum of item(i) over i < items.
template <class Item> FL float scale_of_items(const LaunchArgs& a, uint64_t items, Item item) {
    return scale_of(a, items, [&](uint64_t from, uint64_t to) { return part_of(from, to, item); });
}

// What the value is divided by, once `scale_of` has been called.
FL double denominator_of(const LaunchArgs& a) {
    if (a.divide_by == FL_BY_HOST) return a.denominator;
    return a.divide_by == FL_BY_DEVICE ? double(*at<const float>(a.divisor)) : __ldcg(&workspace(a)->denominator);
}

// Whether this is the block of the launch that finishes last. All threads of all blocks ask; what the first thread of each has
// written before, the last block sees.
FL bool is_last_block(const LaunchArgs& a) {
    SHARED_VAR(uint32_t, last);
    if (thread_index() == 0) {
        __threadfence();
        last = atomicInc(&workspace(a)->done, gridDim.x - 1) == gridDim.x - 1; // back to zero for the next launch
        __threadfence();
    }
    __syncthreads();
    return last;
}

// Adds up what the blocks of a launch found: `total` has N sums of the thread, and in the block that finishes last, for which alone
// this is true, those of the launch. There the partial sums, N arrays of as many as there are blocks, are added up in the order of
// the blocks. All threads of all blocks call this.
template <int N> FL bool sum_over_blocks(const LaunchArgs& a, double* partials, double (&total)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] = block_sum(total[i]);
    if (gridDim.x == 1) return true;
    if (thread_index() == 0) {
#pragma unroll
        for (int i = 0; i < N; ++i) partials[i * gridDim.x + blockIdx.x] = total[i];
    }
    if (!is_last_block(a)) return false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        total[i] = 0.0;
        for (unsigned b = thread_index(); b < gridDim.x; b += thread_count()) total[i] += __ldcg(partials + i * gridDim.x + b);
        total[i] = block_sum(total[i]);
    }
    return true;
}

// Whether blocks have worked together on what `clear_shared_work` leaves zero for the next launch.
FL bool has_shared_work(const LaunchArgs& a) { return a.divide_by >= FL_BY_ROWS || (a.flags & FL_KERAS_LABELS); }
FL void clear_shared_work(const LaunchArgs& a) {
    Workspace* w = workspace(a);
    w->dealt = w->arrived = w->ready = w->stray_labels = 0;
}

// Adds up what the blocks of a launch found and writes the value. All threads of all blocks call this, last of all; `total` is
// the sum of the thread.
FL void finish(const LaunchArgs& a, double total) {
    if (a.value == 0 && !has_shared_work(a)) return;
    double sums[1] = {total};
    if (!sum_over_blocks(a, partial_sums(a), sums) || thread_index() != 0) return;
    if (a.value) *at<float>(a.value) = float(sums[0] / denominator_of(a));
    if (has_shared_work(a)) clear_shared_work(a);
}

// The same of a sum of losses: the value, and behind it those of its terms.
template <int N> FL void finish_terms(const LaunchArgs& a, double (&total)[N]) {
    if (a.value == 0 && a.terms == 0 && !has_shared_work(a)) return;
    if (!sum_over_blocks(a, at<double>(a.scratch), total) || thread_index() != 0) return;
    const double denominator = denominator_of(a);
    if (a.value) *at<float>(a.value) = float(total[0] / denominator);
#pragma unroll
    for (int i = 1; i < N; ++i) {
        if (a.terms) at<float>(a.terms)[i - 1] = float(total[i] / denominator);
    }
    if (has_shared_work(a)) clear_shared_work(a);
}

} // namespace fl
