// A CUDA driver that is none: device memory is the host's, streams do everything at once, and kernels are those that the tests have
// compiled for the host (PRETEND_KERNELS names the library). It lets the whole host side run, from the probe to graphs, where there is
// no GPU. It knows the calls that this crate and cudarc make, and no others.
//
// It fails when a test wants it to (`pretend_fail`), and says how much memory is not given back (`pretend_live`).
//
// A captured stream refuses what a real one does: to wait for an event from outside, allocations, copies and waiting.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fused_loss_params.h"

typedef int R;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, UNSUPPORTED_PTX = 222, CAPTURING = 900, ISOLATION = 905 };

// What is declared in kernels and what is asked for at launch have 48 KiB together, unless more is allowed.
enum { SHARED = 44 << 10 };
typedef struct { char name[64]; uint32_t shared; } Function;
typedef struct {
    Function* f;
    uint32_t grid[3], block[3], cluster, shared;
    LaunchArgs args;
    uint32_t params[22]; // MOST_WORDS of src/cuda/kernel.rs
    int (*work)(const void*); // of another library, with what it is told
    char told[128];
} Launch;
typedef struct { size_t count; Launch launches[64]; } Graph;
typedef struct { int recorded, captured; struct timespec at; } Event;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void* captured_stream;
static Graph* captured;
static __thread void* context;
static int context_of_device;

// Faults, for tests: from the nth call of this function on, or of any if there is no name, calls fail with a code; once, or, as after an
// error that poisons a context, all calls of any function from then on.
static const char* fails;
static int fails_in, fails_with, fails_for_good, has_failed;
static R fault(const char* function) {
    pthread_mutex_lock(&lock);
    R code = OK;
    if (has_failed) code = fails_for_good ? fails_with : OK;
    else if (fails_in && (!*fails || !strcmp(fails, function)) && --fails_in == 0) has_failed = 1, code = fails_with;
    pthread_mutex_unlock(&lock);
    return code;
}
#define FAULTY { const R code_of_fault = fault(__func__); if (code_of_fault) return code_of_fault; }
void pretend_fail(const char* function, int nth, int code, int for_good) {
    static char name[64];
    pthread_mutex_lock(&lock);
    strncpy(name, function, 63);
    fails = name, fails_in = nth, fails_with = code, fails_for_good = for_good, has_failed = 0;
    pthread_mutex_unlock(&lock);
}
// Whether that has come to pass.
int pretend_failed(void) { return has_failed; }

static int setting(const char* name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

R cuInit(unsigned flags) { FAULTY return setting("PRETEND_DEVICES", 1) ? OK : 100; }
R cuDriverGetVersion(int* version) { FAULTY return *version = 12040, OK; }
R cuDeviceGetCount(int* n) { FAULTY return *n = setting("PRETEND_DEVICES", 1), OK; }
R cuDeviceGet(int* device, int ordinal) { FAULTY return *device = ordinal, OK; }
R cuDeviceGetName(char* name, int length, int device) { FAULTY return snprintf(name, length, "pretended"), OK; }
R cuDeviceGetAttribute(int* value, int attribute, int device) { FAULTY
    const int capability = setting("PRETEND_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 97 ? 227 << 10
             : attribute == 38 ? 1 << 20 /* L2 */ : attribute == 115;
    return OK;
}
R cuDevicePrimaryCtxRetain(void** c, int device) { FAULTY return *c = &context_of_device, OK; }
R cuDevicePrimaryCtxRelease_v2(int device) { FAULTY return OK; }
R cuCtxGetCurrent(void** c) { FAULTY return *c = context, OK; }
R cuCtxSetCurrent(void* c) { FAULTY return context = c, OK; }
R cuCtxSynchronize(void) { FAULTY return captured_stream ? CAPTURING : OK; }
R cuGetErrorName(R code, const char** name) { return *name = "pretended", OK; }
R cuGetErrorString(R code, const char** name) { return *name = "pretended", OK; }

// What has been handed out: streams, and memory.
typedef struct Known { struct Known* next; uint64_t start, bytes; } Known;
static Known* known;
static Known** find(uint64_t address) {
    Known** k = &known;
    while (*k && address - (*k)->start >= (*k)->bytes) k = &(*k)->next;
    return k;
}
static void* remember(void* start, size_t bytes) {
    pthread_mutex_lock(&lock);
    Known* k = malloc(sizeof *k);
    *k = (Known){known, (uint64_t)start, bytes}, known = k;
    pthread_mutex_unlock(&lock);
    return start;
}
static R forget(uint64_t start) {
    pthread_mutex_lock(&lock);
    Known** k = find(start);
    Known* found = *k;
    if (found) *k = found->next;
    pthread_mutex_unlock(&lock);
    free(found), free((void*)start);
    return found ? OK : INVALID;
}
// How much of it there is: memory, and streams of a byte each.
uint64_t pretend_live(void) {
    uint64_t bytes = 0;
    pthread_mutex_lock(&lock);
    for (const Known* k = known; k; k = k->next) bytes += k->bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}
static int is_known(uint64_t address) {
    pthread_mutex_lock(&lock);
    const int found = *find(address) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

// Memory.
R cuMemAlloc_v2(uint64_t* address, size_t bytes) { FAULTY
    if (captured_stream) return CAPTURING;
    if (bytes == 0) return INVALID;
    void* memory = bytes > (size_t)1 << 33 ? NULL : aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return NO_MEMORY;
    memset(memory, 0xff, bytes);
    return *address = (uint64_t)remember(memory, bytes), OK;
}
R cuPointerGetAttribute(int* value, int attribute, uint64_t address) { FAULTY
    if (attribute != 9 || !is_known(address)) return INVALID;  // 9: the device
    return *value = 0, OK;
}
R cuMemAllocAsync(uint64_t* address, size_t bytes, void* stream) { FAULTY return cuMemAlloc_v2(address, bytes); }
R cuMemFree_v2(uint64_t address) { FAULTY return forget(address); }
R cuMemFreeAsync(uint64_t address, void* stream) { FAULTY return cuMemFree_v2(address); }
R cuMemGetInfo_v2(size_t* free, size_t* total) { FAULTY return *free = *total = (size_t)1 << 33, OK; }
R cuMemsetD8_v2(uint64_t address, unsigned char value, size_t n) { FAULTY return memset((void*)address, value, n), OK; }
R cuMemsetD8Async(uint64_t address, unsigned char value, size_t n, void* stream) { FAULTY
    return stream == captured_stream && stream ? CAPTURING : cuMemsetD8_v2(address, value, n);
}
R cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void* stream) { FAULTY return memcpy((void*)to, from, n), OK; }
R cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void* stream) { FAULTY return memcpy(to, (void*)from, n), OK; }
R cuMemcpyDtoH_v2(void* to, uint64_t from, size_t n) { FAULTY return memcpy(to, (void*)from, n), OK; }
R cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void* stream) { FAULTY return memcpy((void*)to, (void*)from, n), OK; }

// Streams and events.
R cuStreamCreate(void** stream, unsigned flags) { FAULTY return *stream = remember(malloc(1), 1), OK; }
R cuStreamDestroy_v2(void* stream) { FAULTY return forget((uint64_t)stream); }
// A stream that is not ours is another GPU's.
R cuStreamGetCtx(void* stream, void** c) { FAULTY return *c = is_known((uint64_t)stream) ? &context_of_device : NULL, OK; }
R cuStreamSynchronize(void* stream) { FAULTY return stream && stream == captured_stream ? CAPTURING : OK; }
R cuStreamQuery(void* stream) { FAULTY return stream && stream == captured_stream ? CAPTURING : OK; }
R cuEventCreate(Event** event, unsigned flags) { FAULTY return *event = calloc(1, sizeof(Event)), OK; }
R cuEventDestroy_v2(Event* event) { FAULTY return free(event), OK; }
R cuEventRecord(Event* event, void* stream) { FAULTY
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return event->recorded = 1, event->captured = stream && stream == captured_stream, OK;
}
R cuEventSynchronize(Event* event) { FAULTY return OK; }
R cuEventElapsedTime(float* ms, Event* from, Event* to) { FAULTY
    if (!from->recorded || !to->recorded) return 400;
    return *ms = 1e3f * (to->at.tv_sec - from->at.tv_sec) + 1e-6f * (to->at.tv_nsec - from->at.tv_nsec), OK;
}
R cuEventElapsedTime_v2(float* ms, Event* from, Event* to) { FAULTY return cuEventElapsedTime(ms, from, to); }
R cuStreamWaitEvent(void* stream, Event* event, unsigned flags) { FAULTY
    const int inside = stream && stream == captured_stream;
    return event->recorded && inside != event->captured ? ISOLATION : OK;
}

// NVRTC asks a driver for tables of functions, and takes it ill if there are none. A table begins with its size.
R cuGetExportTable(const void** table, const void* id) { FAULTY
    static const uint64_t nothing[1] = {sizeof nothing};
    return *table = nothing, OK;
}

// Kernels.
static void* kernels(void) {
    static void* library;
    pthread_mutex_lock(&lock);
    if (!library) library = dlopen(getenv("PRETEND_KERNELS"), RTLD_NOW);
    pthread_mutex_unlock(&lock);
    if (!library) fprintf(stderr, "%s\n", dlerror()), exit(1);
    return library;
}
R cuModuleLoadData(void** module, const char* image) { FAULTY
    if (captured_stream) return CAPTURING;
    if (setting("PRETEND_OLD", 0) && image[0] != 0x7f) return UNSUPPORTED_PTX; // machine code it takes
    return *module = malloc(1), OK;
}
R cuModuleUnload(void* module) { FAULTY return free(module), OK; }
R cuModuleGetFunction(Function** function, void* module, const char* name) { FAULTY
    typedef const char* (*HostKernel)(uint32_t);
    const HostKernel kernel = (HostKernel)dlsym(kernels(), "fl_host_kernel");
    uint32_t i = 0;
    while (kernel(i) && strcmp(kernel(i), name)) ++i;
    if (!kernel(i)) return NOT_FOUND; // a sum's own, of which the host has but some
    *function = calloc(1, sizeof(Function));
    (*function)->shared = SHARED;
    return strncpy((*function)->name, name, 63), OK;
}
R cuFuncSetAttribute(Function* function, int attribute, int value) { FAULTY
    return attribute == 8 && value <= 224 << 10 ? (function->shared = value, OK) : INVALID;
}

static R run(Launch* l) {
    typedef int (*HostLaunch)(const char*, const uint32_t*, const uint32_t*, uint32_t, uint32_t, void**);
    if (l->work) return l->work(l->told) ? 719 : OK;
    if (l->shared > l->f->shared) return INVALID;
    void* args[2] = {&l->args, l->params};
    const HostLaunch launch = (HostLaunch)dlsym(kernels(), "fl_host_launch");
    pthread_mutex_lock(&lock);
    const R code = launch(l->f->name, l->grid, l->block, l->cluster, l->shared, args) ? 719 : OK;
    pthread_mutex_unlock(&lock);
    return code;
}
static R put(Launch launch, void* stream) {
    if (!stream || stream != captured_stream) return run(&launch);
    if (captured->count == 64) return NO_MEMORY;
    return captured->launches[captured->count++] = launch, OK;
}
static R enqueue(Launch launch, void* stream, void** args) {
    memcpy(&launch.args, args[0], sizeof launch.args);
    memcpy(launch.params, args[1], sizeof launch.params);
    return put(launch, stream);
}
// For libcublas.c: work on a stream, and whether all of this is memory that has been handed out.
R pretend_enqueue(int (*work)(const void*), const void* told, size_t bytes, void* stream) {
    Launch launch = {.work = work};
    if (bytes > sizeof launch.told) return INVALID;
    return memcpy(launch.told, told, bytes), put(launch, stream);
}
int pretend_is_memory(uint64_t address, uint64_t bytes) {
    pthread_mutex_lock(&lock);
    const Known* k = *find(address);
    const int found = k && address + bytes <= k->start + k->bytes;
    pthread_mutex_unlock(&lock);
    return found || bytes == 0;
}
R cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                 void** args, void** extra) { FAULTY
    return enqueue((Launch){.f = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}, .cluster = 1, .shared = shared}, stream, args);
}
typedef struct { uint32_t id, pad; uint32_t value[16]; } Attribute;
typedef struct { uint32_t grid[3], block[3], shared; void* stream; Attribute* attributes; uint32_t count; } Config;
R cuLaunchKernelEx(const Config* c, Function* f, void** args, void** extra) { FAULTY
    if (c->count != 1 || c->attributes->id != 4) return INVALID;
    Launch launch = {.f = f, .cluster = c->attributes->value[0], .shared = c->shared};
    memcpy(launch.grid, c->grid, sizeof launch.grid);
    memcpy(launch.block, c->block, sizeof launch.block);
    return enqueue(launch, c->stream, args);
}

typedef struct { uint64_t address; uint32_t value; size_t n; } Filled;
static int fill(const void* told) {
    const Filled* f = told;
    for (size_t i = 0; i < f->n; ++i) ((uint32_t*)f->address)[i] = f->value;
    return 0;
}
R cuMemsetD32Async(uint64_t address, unsigned value, size_t n, void* stream) { FAULTY
    if (!pretend_is_memory(address, 4 * n)) return INVALID;
    return pretend_enqueue(fill, &(Filled){address, value, n}, sizeof(Filled), stream);
}

// Graphs.
R cuStreamIsCapturing(void* stream, int* status) { FAULTY return *status = stream && stream == captured_stream, OK; }
R cuStreamBeginCapture_v2(void* stream, int mode) { FAULTY
    captured_stream = stream;
    return captured = calloc(1, sizeof(Graph)), OK;
}
R cuStreamEndCapture(void* stream, Graph** graph) { FAULTY
    captured_stream = NULL;
    return *graph = captured, OK;
}
R cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long flags) { FAULTY return *executable = graph, OK; }
R cuGraphLaunch(Graph* graph, void* stream) { FAULTY
    R code = OK;
    for (size_t i = 0; i < graph->count && code == OK; ++i) code = run(&graph->launches[i]);
    return code;
}
R cuGraphExecDestroy(Graph* graph) { FAULTY return OK; }
R cuGraphDestroy(Graph* graph) { FAULTY return free(graph), OK; }
