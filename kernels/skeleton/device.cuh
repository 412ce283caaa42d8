// The small layer between the kernels and the machine. Whatever exists only on a GPU stands here, or in its twin
// `tests/host_exec/shim.h`, with which the host compiler builds the same kernels to execute them without one.
//
// Who takes part, and where the result is valid:
//
// | function | takes part | result |
// |---|---|---|
// | `load_stream`, `store_stream`, `decode`, `encode` | a thread | there |
// | `warp_sum` | all 32 threads of a warp | in all of them, the same bits |
// | `block_sum` | all threads of a block | in all of them, the same bits |
// | `cluster_sync` | all threads of all blocks of a cluster | |
#pragma once

#ifdef FUSED_LOSS_HOST
#include <stdint.h>
#include "shim.h"
#else
#ifdef __CUDACC_RTC__
#include "rtc.cuh"
#else
#include <stdint.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#define SHARED_ARRAY(T, name, n) __shared__ T name[n]
#define SHARED_VAR(T, name) __shared__ T name
#define KERNEL(name)
#endif
#include "fused_loss_params.h"

// GCC and clang make what is forced inline part of its caller; so does nvcc.
#define FL __device__ __forceinline__

namespace fl {

typedef __half f16;
typedef __nv_bfloat16 bf16;

// --- storage: sixteen bytes of it are a Pack ---

template <class T> struct alignas(16) Pack {
    static constexpr int N = 16 / sizeof(T);
    T v[N];
};

FL float to_f32(float x) { return x; }
FL float to_f32(f16 x) { return __half2float(x); }
FL float to_f32(bf16 x) { return __bfloat162float(x); }
template <class T> FL T from_f32(float x);
template <> FL float from_f32<float>(float x) { return x; }
template <> FL f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> FL bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

template <class T> FL void decode(const Pack<T>& p, float (&x)[Pack<T>::N]) {
#pragma unroll
    for (int i = 0; i < Pack<T>::N; ++i) x[i] = to_f32(p.v[i]);
}

// Two at a time: one instruction makes two 16-bit numbers where the machine has it.
FL void encode2(float* out, float a, float b) { out[0] = a, out[1] = b; }
FL void encode2(f16* out, float a, float b) { *reinterpret_cast<__half2*>(out) = __floats2half2_rn(a, b); }
FL void encode2(bf16* out, float a, float b) { *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(a, b); }

template <class T> FL Pack<T> encode(const float (&x)[Pack<T>::N]) {
    Pack<T> p;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i += 2) encode2(p.v + i, x[i], x[i + 1]);
    return p;
}

FL bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// --- global memory, sixteen bytes at a time ---

// Read once. Neither `.nc`, for the gradient may overwrite the input in place, nor a hint to the caches: with `L1::no_allocate` or
// `.cs` the lines that others left in the L2 cache stay there, and a kernel that comes after another one has 0.87 of the copy where
// it has 0.97 without (H200, MSE of 2^28 f32, L2 full of a memset; store `.cs` or not is all one then). Volatile, so that loads are
// issued together, before anything waits for the first of them.
template <class T> FL Pack<T> load_stream(const T* p) {
#ifdef FUSED_LOSS_HOST
    return host_load(reinterpret_cast<const Pack<T>*>(p));
#else
    union { uint32_t w[4]; Pack<T> pack; } u;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(u.w[0]), "=r"(u.w[1]), "=r"(u.w[2]), "=r"(u.w[3]) : "l"(p));
    return u.pack;
#endif
}

// Without a hint: see above.
template <class T> FL void store_stream(T* p, Pack<T> pack) {
#ifdef FUSED_LOSS_HOST
    host_store(reinterpret_cast<Pack<T>*>(p), pack);
#else
    union { Pack<T> pack; uint32_t w[4]; } u;
    u.pack = pack;
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "l"(p), "r"(u.w[0]), "r"(u.w[1]), "r"(u.w[2]), "r"(u.w[3]) : "memory");
#endif
}

// V numbers side by side, at their own alignment up to 16 bytes.
template <class T, int V> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Few {
    T v[V];
};

// In as few accesses as that takes; see `load_stream`.
template <class T, int V> FL Few<T, V> load_few(const T* p) {
#ifdef FUSED_LOSS_HOST
    return host_load(reinterpret_cast<const Few<T, V>*>(p));
#else
    constexpr int BYTES = sizeof(Few<T, V>), WORDS = BYTES < 4 ? 1 : BYTES / 4;
    union { uint32_t w[WORDS]; uint16_t half; Few<T, V> few; } u;
    if constexpr (BYTES == 2) {
        asm volatile("ld.global.u16 %0, [%1];" : "=h"(u.half) : "l"(p));
    } else if constexpr (BYTES == 4) {
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(u.w[0]) : "l"(p));
    } else if constexpr (BYTES == 8) {
        asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(u.w[0]), "=r"(u.w[1]) : "l"(p));
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(u.w[i]), "=r"(u.w[i + 1]), "=r"(u.w[i + 2]), "=r"(u.w[i + 3]) : "l"(p + i * V / WORDS));
        }
    }
    return u.few;
#endif
}

template <class T, int V> FL void store_few(T* p, const float (&x)[V]) {
    Few<T, V> few;
#pragma unroll
    for (int j = 0; j < V; j += 2) encode2(few.v + j, x[j], x[j + 1]);
#ifdef FUSED_LOSS_HOST
    host_store(reinterpret_cast<Few<T, V>*>(p), few);
#else
    union { uint32_t w[sizeof(few) / 4]; Few<T, V> few; } u;
    u.few = few;
    if constexpr (sizeof(few) == 4) {
        asm volatile("st.global.u32 [%0], %1;" :: "l"(p), "r"(u.w[0]) : "memory");
    } else if constexpr (sizeof(few) == 8) {
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" :: "l"(p), "r"(u.w[0]), "r"(u.w[1]) : "memory");
    } else {
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                     :: "l"(p), "r"(u.w[0]), "r"(u.w[1]), "r"(u.w[2]), "r"(u.w[3]) : "memory");
    }
#endif
}

// A pack from shared memory in one access: left to itself the compiler reads 16-bit numbers one by one.
template <class T> FL Pack<T> load_kept(const Pack<T>* p) {
    union { uint4 words; Pack<T> pack; } u;
    u.words = *reinterpret_cast<const uint4*>(p);
    return u.pack;
}

// From global to shared memory, past the registers: as many bytes in flight as a row has. The thread that copied may look after
// `wait_for_copies`.
template <class T> FL void copy_async(Pack<T>* to, const T* from) {
#if !defined(FUSED_LOSS_HOST) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from) : "memory");
#else
    *to = load_stream(from);
#endif
}
FL void wait_for_copies() {
#if !defined(FUSED_LOSS_HOST) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// --- threads ---

FL unsigned thread_index() { return threadIdx.y * blockDim.x + threadIdx.x; }
FL unsigned thread_count() { return blockDim.x * blockDim.y; }

FL double warp_sum(double x) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

// The threads of a block are a multiple of 32.
FL double block_sum(double x) {
    SHARED_ARRAY(double, of_warp, 32);
    const unsigned lane = thread_index() & 31, warp = thread_index() >> 5, warps = thread_count() >> 5;
    x = warp_sum(x);
    __syncthreads(); // whoever still reads the last sum
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? of_warp[lane] : 0.0);
}

// --- clusters: blocks that see each other's shared memory, from compute capability 9.0 on; one block elsewhere ---

#ifdef FUSED_LOSS_HOST
FL unsigned cluster_rank() { return host::cur->rank; }
FL unsigned cluster_ranks() { return host::cur->ranks; }
#define cluster_sync() host::cluster_barrier(__FILE__, __LINE__)
template <class T> FL const T* of_rank(T* mine, unsigned rank) { return static_cast<const T*>(host::of_rank(mine, rank)); }
FL uint4* dynamic_shared() { return static_cast<uint4*>(host::dynamic_shared()); }
#else
extern __shared__ uint4 fl_dynamic_shared[];
FL uint4* dynamic_shared() { return fl_dynamic_shared; }
#if __CUDA_ARCH__ >= 900
FL unsigned cluster_rank() {
    unsigned r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
FL unsigned cluster_ranks() {
    unsigned r;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
    return r;
}
FL void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same variable of another block of the cluster.
template <class T> FL const T* of_rank(T* mine, unsigned rank) {
    uint64_t address;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(mine), "r"(rank));
    return reinterpret_cast<const T*>(address);
}
#else
FL unsigned cluster_rank() { return 0; }
FL unsigned cluster_ranks() { return 1; }
FL void cluster_sync() {}
template <class T> FL const T* of_rank(T* mine, unsigned) { return mine; }
#endif
#endif

// --- words that blocks talk through ---

// Relaxed and past the L1 cache; a fence after it makes visible what was written before the other's fence.
FL uint32_t load_word(uint32_t* p) {
#ifdef FUSED_LOSS_HOST
    return atomicAdd(p, 0u);
#else
    return *reinterpret_cast<volatile uint32_t*>(p);
#endif
}

FL void pause() {
#ifdef FUSED_LOSS_HOST
    host::yield();
#else
    __nanosleep(64);
#endif
}

} // namespace fl
