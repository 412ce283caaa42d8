// The sorted skeleton: losses of what lies above and below each element of a region, of which Lovasz's are two. A segment is the elements of
// a region, as keys and what they are the keys of; launches sort the keys of all segments, each by itself.
//
// A radix sort from the lowest byte up, stable, in four passes of three launches: `count` how often each byte is in each tile of a segment,
// `scan` where those of a tile go, `scatter` them there, in the order that a sort within the tile has given them. So it is the same on every
// GPU, and there is no room that has to be asked for: a pass moves keys and items from one half of the scratch memory to the other.
//
// Bytes an element: 20 a pass, four passes.
#pragma once
#include "call.cuh"

namespace fl {

// A tile: each thread has so many elements that follow one another.
constexpr unsigned SORT_EACH = 8, SORT_TILE = SORT_EACH * FL_BLOCK, DIGITS = 256;

// The sum of x over the threads before this one, and that over all.
FL uint32_t scan_threads(uint32_t x, uint32_t& total) {
    SHARED_ARRAY(uint32_t, of_warp, FL_BLOCK / 32);
    const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t sum = x;
#pragma unroll
    for (unsigned d = 1; d < 32; d <<= 1) {
        const uint32_t before = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += before;
    }
    __syncthreads(); // whoever still reads the last ones
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    uint32_t before = 0;
    total = 0;
#pragma unroll
    for (unsigned w = 0; w < FL_BLOCK / 32; ++w) {
        if (w == warp) before = total;
        total += of_warp[w];
    }
    return before + sum - x;
}

// What all launches of a sort know: where everything is, and how the segments are dealt out.
struct Sorted {
    uint64_t segments, len, tiles;

    FL Sorted(const LaunchArgs& a, uint64_t segments) : segments(segments) {
        len = segments == 0 ? 0 : divide(a.elements, segments);
        tiles = divide(len + SORT_TILE - 1, SORT_TILE);
    }

    // A number for each tile, and for each segment; then two halves of keys and items, and a number for each element.
    FL double* of_tile(const LaunchArgs& a) const { return at<double>(a.scratch); }
    FL double* of_segment(const LaunchArgs& a) const { return of_tile(a) + segments * tiles; }
    FL float* scales(const LaunchArgs& a) const { return reinterpret_cast<float*>(of_segment(a) + segments); }
    FL uint32_t* marked(const LaunchArgs& a) const { return reinterpret_cast<uint32_t*>(scales(a) + segments); } // of each segment
    FL uint32_t* marked_before(const LaunchArgs& a) const { return marked(a) + segments; } // of each tile
    FL uint32_t* counts(const LaunchArgs& a) const { return marked_before(a) + segments * tiles; }
    FL uint32_t* keys(const LaunchArgs& a, unsigned half) const { return counts(a) + segments * tiles * DIGITS + 2 * half * a.elements; }
    FL uint32_t* items(const LaunchArgs& a, unsigned half) const { return keys(a, half) + a.elements; }
    FL float* slopes(const LaunchArgs& a) const { return reinterpret_cast<float*>(keys(a, 2)); }
};

// The tile of a block.
struct SortTile {
    uint64_t segment, tile, first; // the first element, among all
    unsigned count;

    FL SortTile(const Sorted& s) {
        segment = divide(blockIdx.x, s.tiles), tile = blockIdx.x - segment * s.tiles;
        const uint64_t from = tile * SORT_TILE, left = s.len - from;
        first = segment * s.len + from;
        count = left < SORT_TILE ? unsigned(left) : SORT_TILE;
    }
};

// In order of what they are the keys of: numbers that grow are keys that fall.
FL uint32_t falling_key(float x) {
    const uint32_t bits = uint32_t(__float_as_int(x));
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}
FL float of_falling_key(uint32_t key) { return __int_as_float(int(key & 0x80000000u ? key : ~key & 0x7fffffffu)); }

FL void sort_count(const LaunchArgs& a, const SortParams& p) {
    SHARED_ARRAY(uint32_t, found, DIGITS);
    const Sorted s(a, p.segments);
    const SortTile t(s);
    found[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t* keys = s.keys(a, p.half) + t.first;
    for (unsigned i = threadIdx.x; i < t.count; i += FL_BLOCK) atomicAdd(&found[keys[i] >> p.shift & 255u], 1u);
    __syncthreads();
    s.counts(a)[(t.segment * DIGITS + threadIdx.x) * s.tiles + t.tile] = found[threadIdx.x];
}

// A block a segment.
FL void sort_scan(const LaunchArgs& a, const SortParams& p) {
    const Sorted s(a, p.segments);
    uint32_t* counts = s.counts(a) + uint64_t(blockIdx.x) * DIGITS * s.tiles;
    uint32_t before = 0;
    for (uint64_t from = 0; from < DIGITS * s.tiles; from += SORT_TILE) {
        uint32_t here[SORT_EACH], sum = 0, total;
        const uint64_t first = from + threadIdx.x * SORT_EACH;
#pragma unroll
        for (unsigned j = 0; j < SORT_EACH; ++j) {
            here[j] = first + j < DIGITS * s.tiles ? counts[first + j] : 0;
            sum += here[j];
        }
        sum = before + scan_threads(sum, total);
#pragma unroll
        for (unsigned j = 0; j < SORT_EACH; ++j) {
            if (first + j < DIGITS * s.tiles) counts[first + j] = sum;
            sum += here[j];
        }
        before += total;
    }
}

FL void sort_scatter(const LaunchArgs& a, const SortParams& p) {
    SHARED_ARRAY(uint32_t, keys, SORT_TILE);
    SHARED_ARRAY(uint32_t, items, SORT_TILE);
    SHARED_ARRAY(uint32_t, starts, DIGITS);
    const Sorted s(a, p.segments);
    const SortTile t(s);
    const unsigned first = threadIdx.x * SORT_EACH;
    for (unsigned i = threadIdx.x; i < SORT_TILE; i += FL_BLOCK) {
        // What is past the end is last of all, and stays there.
        keys[i] = i < t.count ? s.keys(a, p.half)[t.first + i] : 0xffffffffu;
        items[i] = i < t.count ? s.items(a, p.half)[t.first + i] : 0;
    }
    // Bit after bit: those with a zero, then those with a one.
#pragma unroll 1
    for (unsigned bit = p.shift; bit < p.shift + 8; ++bit) {
        __syncthreads();
        uint32_t key[SORT_EACH], item[SORT_EACH], zeros = 0, all_zeros;
#pragma unroll
        for (unsigned j = 0; j < SORT_EACH; ++j) {
            key[j] = keys[first + j], item[j] = items[first + j];
            zeros += ~key[j] >> bit & 1u;
        }
        zeros = scan_threads(zeros, all_zeros);
#pragma unroll
        for (unsigned j = 0; j < SORT_EACH; ++j) {
            const bool one = key[j] >> bit & 1u;
            const uint32_t to = one ? all_zeros + (first + j - zeros) : zeros;
            keys[to] = key[j], items[to] = item[j];
            zeros += !one;
        }
    }
    __syncthreads();
#pragma unroll
    for (unsigned j = 0; j < SORT_EACH; ++j) {
        const unsigned i = first + j, digit = keys[i] >> p.shift & 255u;
        if (i == 0 || (keys[i - 1] >> p.shift & 255u) != digit) starts[digit] = i;
    }
    __syncthreads();
    const uint32_t* counts = s.counts(a) + t.segment * DIGITS * s.tiles;
    for (unsigned i = threadIdx.x; i < t.count; i += FL_BLOCK) {
        const unsigned digit = keys[i] >> p.shift & 255u;
        const uint64_t to = t.segment * s.len + counts[digit * s.tiles + t.tile] + (i - starts[digit]);
        s.keys(a, p.half ^ 1)[to] = keys[i], s.items(a, p.half ^ 1)[to] = items[i];
    }
}

// How many items of each tile are odd.
FL void sort_marks(const LaunchArgs& a, const SortParams& p) {
    const Sorted s(a, p.segments);
    const SortTile t(s);
    uint32_t odd = 0, all;
    for (unsigned i = threadIdx.x; i < t.count; i += FL_BLOCK) odd += s.items(a, p.half)[t.first + i] & 1u;
    scan_threads(odd, all);
    if (threadIdx.x == 0) s.marked_before(a)[blockIdx.x] = all;
}

// And how many before it in its segment, and in all of that: a block a segment.
FL void sort_marks_before(const LaunchArgs& a, const SortParams& p) {
    const Sorted s(a, p.segments);
    uint32_t* marked = s.marked_before(a) + blockIdx.x * s.tiles;
    uint32_t before = 0;
    for (uint64_t from = 0; from < s.tiles; from += FL_BLOCK) {
        const uint64_t tile = from + threadIdx.x;
        uint32_t total;
        const uint32_t here = tile < s.tiles ? marked[tile] : 0, sum = scan_threads(here, total);
        if (tile < s.tiles) marked[tile] = before + sum;
        before += total;
    }
    if (threadIdx.x == 0) s.marked(a)[blockIdx.x] = before;
}

} // namespace fl
