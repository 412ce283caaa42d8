// What a kernel needs of CUDA C++, on the host: one fiber per CUDA thread, the blocks of a cluster together, clusters one after
// another. `runtime.cpp` is behind it. Included by `kernels/skeleton/device.cuh` when FUSED_LOSS_HOST is defined.
//
// Every collective is a rendezvous that checks what a GPU does not: that all who are named arrive, at the same line.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#include "half.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Shared memory: every block gets fresh heap memory, all NaN, for each declaration.
#define SHARED_ARRAY(T, name, n) T(&name)[n] = *static_cast<T(*)[n]>(HOST_SHARED(T[n]))
#define SHARED_VAR(T, name) T& name = *static_cast<T*>(HOST_SHARED(T))
#define HOST_SHARED(T) (([]() -> void* { static char key; return host::shared(&key, sizeof(T)); })())

namespace host {
struct U3 { unsigned x, y, z; };
struct Thread { // what kernels may look at; the runtime's own state follows it in runtime.cpp
    U3 tid, bid, bdim, gdim;
    unsigned lane, rank, ranks;
};
// (`__thread`, for C++'s own asks at every use whether it has been made.)
extern __thread Thread* cur __attribute__((tls_model("initial-exec")));
enum Op : int { SHFL_IDX, SHFL_UP, SHFL_DOWN, SHFL_XOR, BALLOT, SYNCWARP };
uint64_t warp_op(Op op, unsigned mask, uint64_t val, unsigned size, int arg, int width, const char* file, int line);
void block_barrier(const char* file, int line);
void cluster_barrier(const char* file, int line);
void* shared(const void* key, size_t size);
void* dynamic_shared();
void* of_rank(void* mine, unsigned rank);
void fence();
void yield();
void pre_atomic(const void* p);
void post_atomic(const void* p);
[[noreturn]] void fail(const char* fmt, ...);

inline void check_align(const void* p, unsigned align) {
    if (reinterpret_cast<uintptr_t>(p) & (align - 1)) fail("misaligned %u-byte access at %p", align, p);
}

template <class T> T shuffle(const char* f, int l, Op op, unsigned mask, T v, int arg, int width = 32) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffle type");
    uint64_t b = 0, r;
    memcpy(&b, &v, sizeof v);
    r = warp_op(op, mask, b, sizeof v, arg, width, f, l);
    T o;
    memcpy(&o, &r, sizeof o);
    return o;
}

template <class T, class F> T rmw(T* p, F f) { // relaxed, as CUDA's atomics are
    check_align(p, sizeof(T));
    pre_atomic(p);
    T old, neu;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do neu = f(old);
    while (!__atomic_compare_exchange(p, &old, &neu, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    post_atomic(p);
    return old;
}

// Kernels register themselves, to be launched by name with an array of argument pointers, as cuLaunchKernel takes it.
typedef void (*Body)(void** args);
struct Register { Register(const char* name, Body body); };
template <class... A, size_t... I> void call(void (*k)(A...), void** p, std::index_sequence<I...>) {
    k(*static_cast<std::remove_const_t<std::remove_reference_t<A>>*>(p[I])...);
}
template <auto K> struct Kernel;
template <class... A, void (*K)(A...)> struct Kernel<K> {
    static void body(void** p) { call(K, p, std::index_sequence_for<A...>()); }
};
} // namespace host
#define KERNEL(name) static host::Register register_##name(#name, &host::Kernel<&name>::body);

#define threadIdx (host::cur->tid)
#define blockIdx (host::cur->bid)
#define blockDim (host::cur->bdim)
#define gridDim (host::cur->gdim)

#define __syncthreads() host::block_barrier(__FILE__, __LINE__)
#define __shfl_sync(...) host::shuffle(__FILE__, __LINE__, host::SHFL_IDX, __VA_ARGS__)
#define __shfl_up_sync(...) host::shuffle(__FILE__, __LINE__, host::SHFL_UP, __VA_ARGS__)
#define __shfl_xor_sync(...) host::shuffle(__FILE__, __LINE__, host::SHFL_XOR, __VA_ARGS__)
#define __ballot_sync(m, p) unsigned(host::warp_op(host::BALLOT, m, (p) != 0, 1, 0, 32, __FILE__, __LINE__))
#define __syncwarp() host::warp_op(host::SYNCWARP, 0xffffffffu, 0, 0, 0, 32, __FILE__, __LINE__)
#define __threadfence() host::fence()

template <class T> inline T atomicAdd(T* p, std::common_type_t<T> v) { return host::rmw(p, [=](T o) { return T(o + v); }); }
template <class T> inline T atomicMax(T* p, std::common_type_t<T> v) { return host::rmw(p, [=](T o) { return o > v ? o : v; }); }
template <class T> inline T atomicExch(T* p, std::common_type_t<T> v) { return host::rmw(p, [=](T) { return v; }); }
inline unsigned atomicInc(unsigned* p, unsigned v) { return host::rmw(p, [=](unsigned o) { return o >= v ? 0u : o + 1; }); }

template <class T> inline T host_load(const T* p) { host::check_align(p, alignof(T)); return *p; }
template <class T> inline void host_store(T* p, T v) { host::check_align(p, alignof(T)); *p = v; }
template <class T> inline T __ldcg(const T* p) { return host_load(p); }
#define __fdividef(a, b) ((a) / (b))
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float __int_as_float(int x) { float f; memcpy(&f, &x, 4); return f; }
inline int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
