// The row-wise skeleton: losses that look at all classes of a row before they know any gradient.
//
// A loss is written once, as looks at a row: `first`, `again` as often as it likes, `put`. Two kinds of rows run it:
//
// * GroupRow: the classes lie side by side, and a warp, a block, or a cluster of blocks shares them, in packs of 16 bytes. The first
//   look keeps the row in shared memory (each thread its own packs, so that no barrier is needed), later looks find it there: one
//   read and one write of memory for rows of up to 227 KiB, and eight times that on Hopper. Where a row does not fit it is read
//   again, in the reverse order of the last look, so that what was read last is found in the L2 cache.
// * ColumnRow: rows lie side by side, as in (N, C, spatial), or have few classes: a thread has a row to itself, kept likewise, and the
//   threads of a warp fetch and write theirs together.
//
// Bytes: input (and dense target) once, gradient once, as long as rows are kept.
#pragma once
#include "group_row.cuh"
#include "column_row.cuh"

namespace fl {

// Brings a row onto the chip for the looks that follow; `pad` is what lies beyond its ends.
template <int DENSE = NONE, class Row> FL void keep(Row& row, float pad) { row.template keep_row<DENSE, false>(pad); }
// A look. `flush` is called every few classes, to empty sums in f32 into larger ones.
template <int DENSE = NONE, class Row, class Body, class Flush> FL void again(Row& row, float pad, Body body, Flush flush) {
    row.template look<DENSE, false>(pad, body, flush);
}
// The first look, which also keeps the row.
template <int DENSE = NONE, class Row, class Body, class Flush> FL void first(Row& row, float pad, Body body, Flush flush) {
    keep<DENSE>(row, pad);
    again<DENSE>(row, pad, body, flush);
}
template <int DENSE = NONE, class Row, class Body> FL void first(Row& row, float pad, Body body) { first<DENSE>(row, pad, body, [] {}); }
// Writes gradients for the input, special() for one class.
struct Zero {
    FL float operator()() const { return 0.0f; }
};
template <int DENSE = NONE, class Row, class Body, class Special = Zero>
FL void put(Row& row, float pad, Body body, int except = -1, Special special = {}) {
    row.template write<true, DENSE, false, true>(row.grad(), pad, except, special, body);
}
// The same of a row that has not been looked at before, so that nothing of it has been kept: of a launch without FL_CACHED.
template <class Row, class Body> FL void put_of_memory(Row& row, Body body) {
    row.template write<true, NONE, false, false>(row.grad(), -infinity(), -1, Zero(), body);
}
// The same without looking at the row.
template <class Row, class Body, class Special = Zero> FL void put_blindly(Row& row, Body body, int except = -1, Special special = {}) {
    row.template write<false, NONE, false, true>(row.grad(), 0.0f, except, special, [&](int k, float, float) { return body(k); });
}
// Writes gradients for dense targets.
template <class Row, class Body> FL void put_target(Row& row, float pad, Body body) {
    row.template write<true, ALL, false, true>(row.grad_target(), pad, -1, Zero(), body);
}

// The first look of a loss of three tensors, at body(k, x, q, t), with zeros beyond the ends of the row; and gradients for one of the three.
template <class Row, class Body, class Flush> FL void first_of_three(Row& row, Body body, Flush flush) {
    row.template keep_row<ALL, true>(0.0f);
    row.template look<ALL, true>(0.0f, body, flush);
}
template <class Row, class T, class Body> FL void put_of_three(Row& row, T* out, Body body) {
    row.template write<true, ALL, true, true>(out, 0.0f, -1, Zero(), body);
}

// Looks at the input and a third tensor beside a class, at body(k, x, q, t); `pad` is what lies beyond the ends of both.
template <class Row, class Body> FL void first_of_two(Row& row, float pad, Body body) {
    row.template keep_row<NONE, true>(pad);
    row.template look<NONE, true>(pad, body, [] {});
}
template <class Row, class Body, class Flush> FL void again_of_two(Row& row, float pad, Body body, Flush flush) {
    row.template look<NONE, true>(pad, body, flush);
}
template <class Row, class Body> FL void put_of_two(Row& row, float pad, Body body) {
    row.template write<true, NONE, true, true>(row.grad(), pad, -1, Zero(), body);
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

// How many of a thread's rows, from <= r < to, are not ignored: eight indices in flight. The switch is outside, for a load behind a branch
// waits for the one before it.
template <class I> FL double counted_of(const LaunchArgs& a, uint64_t from, uint64_t to) {
    constexpr int U = 8;
    const I* index = at<const I>(a.target);
    const uint64_t step = thread_count();
    uint32_t count = 0;
    uint64_t r = from + thread_index();
    for (; r + (U - 1) * step < to; r += U * step) {
        I x[U];
#pragma unroll
        for (int u = 0; u < U; ++u) x[u] = index[r + u * step];
#pragma unroll
        for (int u = 0; u < U; ++u) count += ignored(a, int64_t(x[u])) ? 0 : 1;
    }
    for (; r < to; r += step) count += ignored(a, int64_t(index[r])) ? 0 : 1;
    return double(count);
}
FL double counted(const LaunchArgs& a, uint64_t from, uint64_t to) {
    switch (a.target_kind) {
        case FL_TARGET_I64: return counted_of<int64_t>(a, from, to);
        case FL_TARGET_I32: return counted_of<int32_t>(a, from, to);
        case FL_TARGET_U32: return counted_of<uint32_t>(a, from, to);
        default: return counted_of<uint8_t>(a, from, to);
    }
}

// Runs a loss over rows: those of a thread or of a group of threads are every `step`th from `start` on, before `end`.
template <class F, class T, class Row> FL void rows(const LaunchArgs& a, const F& f, uint64_t start, uint64_t end, uint64_t step) {
    // Rows that are not ignored are counted most often, and counted fast.
    const float scale = scale_of(a, a.losses, [&](uint64_t from, uint64_t to) {
        return a.divide_by == FL_BY_ROWS ? counted(a, from, to) : part_of(from, to, [&](uint64_t r) { return share_of(a, r); });
    });
    // The value, and behind it those of the terms of a sum.
    constexpr int TERMS = terms_of<F>(0);
    double total[1 + TERMS] = {};
    Row row(a, of_three<F>(0));
    // The index of the next row is fetched while a row is at work.
    const bool indexed = has_index(a);
    int64_t next = indexed && start < end ? index_of(a, start) : -1;
#pragma unroll 1
    for (uint64_t r = start; r < end; r += step) {
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
        if (looks<F>(0)) row.fetch(!skip && !bad);
        if (skip || bad) {
            // Exactly zero, whatever the row holds.
            if (row.wants_grad()) put_blindly(row, [](int) { return 0.0f; });
            if (bad) {
                value = nan();
#pragma unroll
                for (int i = 0; i < TERMS; ++i) total[1 + i] = double(value);
                if (row.leads()) report_row(a, r);
            }
        } else {
            value = f.row(row) * weight;
#pragma unroll
            for (int i = 0; i < TERMS; ++i) total[1 + i] += row.leads() ? double(row.terms[i] * weight) : 0.0;
        }
        row.deliver();
        if (row.leads()) {
            if (reports<F>(0)) put_report(a, r, row.reported, row.index);
            total[0] += double(value);
            if (a.values) at<float>(a.values)[r] = value;
        }
    }
    row.end();
    if constexpr (TERMS == 0) finish(a, total[0]);
    else finish_terms(a, total);
}

template <class F, class T, class G = T> FL void group_rows(const LaunchArgs& a, const F& f) {
    const uint64_t start = blockIdx.x / cluster_ranks() * a.tile, end = start + a.tile < a.losses ? start + a.tile : a.losses;
    rows<F, T, GroupRow<T, G, heavy<F>(0)>>(a, f, start + threadIdx.y, end, blockDim.y);
}
template <class F, class T, class G = T> FL void column_rows(const LaunchArgs& a, const F& f) {
    // Blocks in turn: those that run at the same time are neighbours, in every class. With a tile for each they would be spread over
    // samples, at short pieces of very many pages.
    const uint64_t width = blockDim.x;
    rows<F, T, ColumnRow<T, G, heavy<F>(0)>>(a, f, blockIdx.x * width + threadIdx.x, a.losses, gridDim.x * width);
}

} // namespace fl

// fl_<name>_<dtype>: a group of threads a row; fl_<name>_columns_<dtype>: a thread a row. LIGHT: three blocks of a group kernel fit an
// SM, of 80 registers a thread; and eight of the other instead of six, of 64.
#define FL_ROWWISE(name, F, P) FL_ROWWISE_ALL(name, F, P, 2)
#define FL_ROWWISE_LIGHT(name, F, P) FL_ROWWISE_ALL(name, F, P, 3)
#define FL_ROWWISE_ALL(name, F, P, blocks)                    \
    FL_ROWWISE_TO(name, F, P, f32, float, float, blocks)      \
    FL_ROWWISE_TO(name, F, P, f16, fl::f16, fl::f16, blocks)  \
    FL_ROWWISE_TO(name, F, P, bf16, fl::bf16, fl::bf16, blocks)
// With the gradient of T stored as G.
#define FL_ROWWISE_TO(name, F, P, dtype, T, G, blocks) \
    FL_GROUP_TO(name, F, P, dtype, T, G, blocks)       \
    FL_COLUMNS_TO(name, F, P, dtype, T, G, (blocks) > 2 ? 8 : 6)
#define FL_GROUP_TO(name, F, P, dtype, T, G, blocks)                                                                              \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK, blocks) fl_##name##_##dtype(const LaunchArgs a, const P p) {           \
        fl::group_rows<F, T, G>(a, F{p});                                                                                         \
    }                                                                                                                             \
    KERNEL(fl_##name##_##dtype)
#define FL_COLUMNS_TO(name, F, P, dtype, T, G, blocks)                                                                                  \
    extern "C" __global__ void __launch_bounds__(FL_COLUMN_BLOCK, blocks) fl_##name##_columns_##dtype(const LaunchArgs a, const P p) { \
        fl::column_rows<F, T, G>(a, F{p});                                                                                             \
    }                                                                                                                                  \
    KERNEL(fl_##name##_columns_##dtype)
// Of rows that are always short.
#define FL_ROWWISE_COLUMNS(name, F, P)                    \
    FL_COLUMNS_TO(name, F, P, f32, float, float, 6)       \
    FL_COLUMNS_TO(name, F, P, f16, fl::f16, fl::f16, 6)   \
    FL_COLUMNS_TO(name, F, P, bf16, fl::bf16, fl::bf16, 6)
