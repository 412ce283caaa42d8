// Just enough of cuda_fp16.h and cuda_bf16.h for a machine without NVIDIA's headers. Their conversions were compared on hundreds
// of millions of floats and all halves.
#pragma once
#include <stdint.h>
#include <string.h>

struct float2 { float x, y; };
struct __half { uint16_t x; };
struct __nv_bfloat16 { uint16_t x; };
struct alignas(4) __half2 { __half x, y; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

inline float __half2float(__half h) { _Float16 v; memcpy(&v, &h, 2); return float(v); }
inline __half __float2half_rn(float f) {
    if (f != f) return {0x7fff};
    const _Float16 v = _Float16(f);
    __half h;
    memcpy(&h, &v, 2);
    return h;
}
inline float __bfloat162float(__nv_bfloat16 b) {
    const uint32_t u = uint32_t(b.x) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    if (f != f) return {0x7fff};
    uint32_t u;
    memcpy(&u, &f, 4);
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }
