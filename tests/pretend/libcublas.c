// A cuBLAS that is none, for the pretended driver beside it: products in plain loops, on streams that can be captured. It knows the calls
// that this crate makes, and refuses more than the real one: factors on the host, no workspace, sizes that reach out of their memory.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { void* stream; int on_device, workspace; } Handle;
typedef struct {
    int a_transposed, b_transposed, m, n, k, a_type, lda, b_type, ldb, ldc;
    const float *alpha, *beta;
    const void *a, *b;
    void* c;
    int c_type;
} Product;
enum { OK = 0, NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15 };

int pretend_enqueue(int (*work)(const void*), const void* told, size_t bytes, void* stream);
int pretend_is_memory(uint64_t address, uint64_t bytes);

int cublasCreate_v2(Handle** handle) { return *handle = calloc(1, sizeof(Handle)), OK; }
int cublasDestroy_v2(Handle* handle) { return free(handle), OK; }
int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, handle->workspace = 0, OK; }
int cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t bytes) {
    if ((uint64_t)workspace % 256 || !pretend_is_memory((uint64_t)workspace, bytes) || bytes < 16384) return INVALID;
    return handle->workspace = 1, OK;
}
int cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->on_device = mode, OK; }

static int size_of(int type) { return type == 0 ? 4 : 2; }
static float at(const void* p, int type, size_t i) {
    uint32_t bits = ((const uint16_t*)p)[type == 0 ? 0 : i];
    float x;
    if (type == 0) return ((const float*)p)[i];
    if (type == 2) {
        _Float16 half;
        return memcpy(&half, &bits, 2), (float)half;
    }
    return bits <<= 16, memcpy(&x, &bits, 4), x;
}
static void put(void* p, int type, size_t i, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const _Float16 half = (_Float16)x;
    memcpy((char*)p + i * (type == 0 ? 4 : 2), type == 0 ? (void*)&x : type == 2 ? (void*)&half : (void*)&bits, type == 0 ? 4 : 2);
}
static int multiply(const void* told) {
    Product p;
    memcpy(&p, told, sizeof p);
    for (int column = 0; column < p.n; ++column) {
        for (int row = 0; row < p.m; ++row) {
            float sum = 0;
            for (int i = 0; i < p.k; ++i) {
                const float a = at(p.a, p.a_type, p.a_transposed ? i + (size_t)row * p.lda : row + (size_t)i * p.lda);
                const float b = at(p.b, p.b_type, p.b_transposed ? column + (size_t)i * p.ldb : i + (size_t)column * p.ldb);
                sum += a * b;
            }
            const size_t here = row + (size_t)column * p.ldc;
            put(p.c, p.c_type, here, *p.alpha * sum + (*p.beta == 0 ? 0 : *p.beta * at(p.c, p.c_type, here)));
        }
    }
    return 0;
}
// Whether a matrix of so many rows and columns is inside of its memory.
static int inside(const void* p, int bytes, int rows, int columns, int leading) {
    if (leading < (rows > 1 ? rows : 1)) return 0;
    return rows == 0 || columns == 0 || pretend_is_memory((uint64_t)p, ((uint64_t)(columns - 1) * leading + rows) * bytes);
}

int cublasGemmEx(Handle* handle, int a_transposed, int b_transposed, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                 const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int algorithm) {
    if (!handle) return NOT_INITIALIZED;
    if ((c_type != 0 && c_type != a_type) || a_type != b_type || (compute != 68 && compute != 77)) return NOT_SUPPORTED;
    if (!handle->on_device || !handle->workspace || m < 0 || n < 0 || k < 0) return INVALID;
    const int ok = inside(a, size_of(a_type), a_transposed ? k : m, a_transposed ? m : k, lda) &&
                   inside(b, size_of(b_type), b_transposed ? n : k, b_transposed ? k : n, ldb) && inside(c, size_of(c_type), m, n, ldc) &&
                   pretend_is_memory((uint64_t)alpha, 4) && pretend_is_memory((uint64_t)beta, 4);
    if (!ok) return INVALID;
    const Product p = {a_transposed, b_transposed, m, n, k, a_type, lda, b_type, ldb, ldc, alpha, beta, a, b, c, c_type};
    return pretend_enqueue(multiply, &p, sizeof p, handle->stream) ? 13 : OK;
}
