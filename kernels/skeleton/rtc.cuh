// What NVRTC lacks: it compiles from memory and knows no header of C or of CUDA. Just enough of stdint.h, cuda_fp16.h and
// cuda_bf16.h, instruction by instruction as those have it, so that a machine with nothing but NVRTC can compile the kernels.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef size_t uintptr_t;

struct __half { uint16_t x; };
struct __nv_bfloat16 { uint16_t x; };
struct alignas(4) __half2 { __half x, y; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

__device__ __forceinline__ float __half2float(__half h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.x));
    return f;
}
__device__ __forceinline__ __half __float2half_rn(float f) {
    __half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.x) : "f"(f));
    return h;
}
__device__ __forceinline__ float __bfloat162float(__nv_bfloat16 b) {
    float f;
#if __CUDA_ARCH__ >= 900
    asm("cvt.f32.bf16 %0, %1;" : "=f"(f) : "h"(b.x));
#else
    asm("mov.b32 %0, {0, %1};" : "=f"(f) : "h"(b.x));
#endif
    return f;
}
__device__ __forceinline__ __nv_bfloat16 __float2bfloat16_rn(float f) {
    __nv_bfloat16 b;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b.x) : "f"(f));
#else
    const uint32_t u = __float_as_uint(f);
    b.x = f != f ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
    return b;
}
__device__ __forceinline__ __half2 __floats2half2_rn(float a, float b) {
    __half2 h;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(reinterpret_cast<uint32_t&>(h)) : "f"(a), "f"(b));
#else
    h.x = __float2half_rn(a), h.y = __float2half_rn(b);
#endif
    return h;
}
__device__ __forceinline__ __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
    __nv_bfloat162 h;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(reinterpret_cast<uint32_t&>(h)) : "f"(a), "f"(b));
#else
    h.x = __float2bfloat16_rn(a), h.y = __float2bfloat16_rn(b);
#endif
    return h;
}
