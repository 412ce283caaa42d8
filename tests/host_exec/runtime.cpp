// The runtime behind shim.h. Compile it WITHOUT -fsanitize=thread (and with HOST_TSAN when the kernels have it).
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <vector>
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOST_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define HOST_ASAN 1
#endif
#ifdef HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HOST_MSAN
#include <sanitizer/msan_interface.h>
#endif
#ifdef HOST_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
#define __tsan_acquire(p) ((void)(p))
#define __tsan_release(p) ((void)(p))
#endif

namespace host {
struct U3 { unsigned x, y, z; };
struct Thread { U3 tid, bid, bdim, gdim; unsigned lane, rank, ranks; };
enum Op : int { SHFL_IDX, SHFL_UP, SHFL_DOWN, SHFL_XOR, BALLOT, SYNCWARP };
typedef void (*Body)(void** args);
__thread Thread* cur;

enum State { READY, AT_BARRIER, AT_CLUSTER_BARRIER, AT_WARP, DONE };
struct Fiber : Thread {
    void* sp;
    char* stack;
    State st;
    unsigned idx; // in the block
    int op, arg, width; unsigned mask, size; uint64_t val, res; // warp collective
    const char* file; int line;                                  // where it waits
    bool fenced; const void* last_atomic;
    void* tsan; void* asan_fake;
};
// What barriers synchronise on, for TSan: new for every block, or else blocks would be ordered through them.
struct Tags { uint64_t bar[2], warp[32][2], cluster[2]; };
struct Var { const void* key; void* mem; size_t size; };
struct Block {
    Fiber* fibers; unsigned threads, live, waiting, epoch;
    unsigned warp_epoch[32], warp_at[32], warp_done[32]; // of each warp: the lanes that wait at an operation, those that have exited
    Tags* tags;
    std::vector<Var> vars; // its shared memory; the launch's dynamic part has the key nullptr
};

// Without optimisation, as the sanitizers have them, kernels have frames of up to 40 KiB.
static const size_t STACK = 128 << 10;
// Of a launch, which the thread that asks for it carries out: several threads have several at a time.
struct Run {
    std::vector<Fiber> fibers; // of the cluster that runs
    std::vector<Block> blocks;
    std::vector<unsigned> ready, round;
    char* stacks = nullptr; size_t nstacks = 0;
    void* main_sp = nullptr;
    void *main_tsan = nullptr, *alloc_tsan = nullptr;
    void* main_fake = nullptr; const void* main_bottom = nullptr; size_t main_size = 0;
    Body body; void** args;
    unsigned cluster_live, cluster_waiting, cluster_epoch;
    bool failed; char msg[4096];
    uint64_t yields;
    std::vector<void*> kept;
    unsigned dyn_size; char end_tag;
    uint64_t rng; int policy;
    void drop_stacks() { if (stacks) munmap(stacks, nstacks * (STACK + 4096)); }
    ~Run() { drop_stacks(); }
};
static __thread Run* R __attribute__((tls_model("initial-exec"))); // this thread's
static __thread uint64_t next_seed; static __thread const char* last_error; // of the calling test thread
struct Ent { const char* name; Body body; };
static std::vector<Ent>& table() { static std::vector<Ent> t; return t; }
struct Register { Register(const char* name, Body body); };
Register::Register(const char* n, Body b) { table().push_back({n, b}); }

#if defined(__x86_64__)
asm(R"(
.text
.globl host_switch
.type host_switch,@function
host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch,.-host_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl host_switch
host_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "add a context switch for this architecture"
#endif
extern "C" void host_switch(void** save, void* to);

static Fiber& self() { return *static_cast<Fiber*>(cur); }
static Block& my_block() { return R->blocks[cur->rank]; }

static void to_fiber(Fiber& f) {
    cur = &f;
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(&R->main_fake, f.stack, STACK);
#endif
#ifdef HOST_TSAN
    __tsan_switch_to_fiber(f.tsan, 1);
#endif
    host_switch(&R->main_sp, f.sp);
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(R->main_fake, nullptr, nullptr);
#endif
}
static void to_main([[maybe_unused]] bool dying) {
    Fiber& f = self();
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &f.asan_fake, R->main_bottom, R->main_size);
#endif
#ifdef HOST_TSAN
    __tsan_switch_to_fiber(R->main_tsan, 1);
#endif
    host_switch(&f.sp, R->main_sp);
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(f.asan_fake, &R->main_bottom, &R->main_size);
#endif
}
[[noreturn]] void fail(const char* fmt, ...) {
    if (!R->failed) {
        const Fiber& f = self();
        int k = snprintf(R->msg, sizeof R->msg, "block (%u,%u,%u) thread (%u,%u,%u): ", f.bid.x, f.bid.y, f.bid.z, f.tid.x, f.tid.y, f.tid.z);
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(R->msg + k, sizeof R->msg - k, fmt, ap);
        va_end(ap);
    }
    R->failed = true;
    to_main(true);
    abort();
}
static void entry() {
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &R->main_bottom, &R->main_size);
#endif
    R->body(R->args);
    Fiber& f = self();
    f.st = DONE;
    Block& b = my_block();
    --b.live;
    b.warp_done[f.idx >> 5] |= 1u << f.lane;
    --R->cluster_live;
    __tsan_release(&R->end_tag);
    to_main(true);
    abort();
}
static void wake(Fiber& f) { f.st = READY; R->ready.push_back(unsigned(&f - R->fibers.data())); }

static bool differ(const char* a, const char* b) { return a != b && strcmp(a, b); }

// Waits until all of `count` fibers from `first` are here, at this line.
static void rendezvous(State st, Fiber* first, unsigned count, unsigned live, unsigned& waiting, const char* what, const char* file, int line) {
    Fiber& f = self();
    f.file = file; f.line = line; f.st = st;
    for (unsigned i = 0; i < count; ++i)
        if (&first[i] != &f && first[i].st == st) {
            if (first[i].line != line || differ(first[i].file, file))
                fail("divergent %s: waits at %s:%d while thread %u waits at %s:%d", what, file, line, first[i].idx, first[i].file, first[i].line);
            break;
        }
    if (live != count) fail("%s at %s:%d, but %u threads have exited", what, file, line, count - live);
    if (++waiting == live) {
        waiting = 0;
        for (unsigned i = 0; i < count; ++i) wake(first[i]);
    }
    to_main(false);
}
void block_barrier(const char* file, int line) {
    Block& b = my_block();
    uint64_t* tag = &b.tags->bar[b.epoch & 1];
    __tsan_release(tag);
    if (b.waiting + 1 == b.live) ++b.epoch;
    rendezvous(AT_BARRIER, b.fibers, b.threads, b.live, b.waiting, "barrier", file, line);
    __tsan_acquire(tag);
}
void cluster_barrier(const char* file, int line) {
    uint64_t* tag = &R->blocks[0].tags->cluster[R->cluster_epoch & 1];
    __tsan_release(tag);
    if (R->cluster_waiting + 1 == R->cluster_live) ++R->cluster_epoch;
    rendezvous(AT_CLUSTER_BARRIER, R->fibers.data(), unsigned(R->fibers.size()), R->cluster_live, R->cluster_waiting, "cluster barrier", file, line);
    __tsan_acquire(tag);
}

uint64_t warp_op(Op op, unsigned mask, uint64_t val, unsigned size, int arg, int width, const char* file, int line) {
    Fiber& f = self();
    Block& b = my_block();
    Fiber* W = b.fibers + (f.idx & ~31u);
    unsigned w = f.idx >> 5, n = std::min(32u, b.threads - (f.idx & ~31u));
    if (!(mask >> f.lane & 1)) fail("%s:%d: the mask %08x of a warp operation lacks the calling lane %u", file, line, mask, f.lane);
    if (width < 1 || width > 32 || (width & (width - 1))) fail("%s:%d: shuffle width %d", file, line, width);
    f.op = op; f.mask = mask; f.val = val; f.size = size; f.arg = arg; f.width = width; f.file = file; f.line = line; f.st = AT_WARP;
    uint64_t* tag = &b.tags->warp[w][b.warp_epoch[w] & 1];
    if (op == SYNCWARP) __tsan_release(tag); // shuffles and votes order no memory
    if (n < 32) mask &= (1u << n) - 1;
    if (unsigned gone = mask & b.warp_done[w]) fail("%s:%d: mask %08x names lane %u, which has exited", file, line, f.mask, unsigned(__builtin_ctz(gone)));
    b.warp_at[w] |= 1u << f.lane;
    if ((mask & ~b.warp_at[w]) == 0) {
        b.warp_at[w] &= ~mask;
        uint64_t votes = 0;
        for (unsigned l = 0; l < n; ++l) if (mask >> l & 1) {
            Fiber& o = W[l];
            votes |= uint64_t(o.val & 1) << l;
            if (o.op != f.op || o.mask != f.mask || o.size != size || o.line != line || differ(o.file, file))
                fail("divergent warp operation: lane %u is at %s:%d (mask %08x), lane %u at %s:%d (mask %08x)", f.lane, file, line, f.mask, l, o.file, o.line, o.mask);
        }
        for (unsigned l = 0; l < n; ++l) if (mask >> l & 1) {
            Fiber& o = W[l];
            int seg = int(l) & ~(o.width - 1), src = int(l);
            o.res = 0;
            switch (op) {
                case SHFL_IDX: src = seg | (o.arg & (o.width - 1)); break;
                case SHFL_UP: src = int(l) - o.arg; if (src < seg) src = int(l); break;
                case SHFL_DOWN: src = int(l) + o.arg; if (src >= seg + o.width) src = int(l); break;
                case SHFL_XOR: src = int(l) ^ o.arg; if (src >= seg + o.width) src = int(l); break;
                case BALLOT: o.res = votes; break;
                case SYNCWARP: break;
            }
            if (op <= SHFL_XOR) {
                if (unsigned(src) >= n || !(mask >> src & 1)) fail("%s:%d: lane %u reads lane %d, which takes no part (mask %08x)", file, line, l, src, mask);
                o.res = W[src].val;
            }
        }
        ++b.warp_epoch[w];
        for (unsigned l = 0; l < n; ++l) if (mask >> l & 1) wake(W[l]);
    }
    to_main(false);
    if (op == SYNCWARP) __tsan_acquire(tag);
    return f.res;
}
static void* fresh(size_t n) {
    size_t whole = (n + 15) & ~size_t(15);
    void* p = aligned_alloc(16, whole);
    memset(p, 0xff, whole); // a NaN in every float format
#ifdef HOST_ASAN
    if (n != whole) __asan_poison_memory_region(static_cast<char*>(p) + n, whole - n);
#endif
#ifdef HOST_MSAN
    __msan_allocated_memory(p, n);
#endif
    return p;
}
static void* shared_of(Block& b, const void* key, size_t size) {
    Var* r = nullptr;
    for (auto& v : b.vars) if (v.key == key) r = &v;
    if (!r) {
        if (b.vars.size() == b.vars.capacity()) fail("too many shared variables");
#ifdef HOST_TSAN // a "thread" without history allocates, so that this orders nothing else
        __tsan_switch_to_fiber(R->alloc_tsan, 1);
#endif
        b.vars.push_back({key, fresh(size), size});
        r = &b.vars.back();
        __tsan_release(r);
#ifdef HOST_TSAN
        __tsan_switch_to_fiber(self().tsan, 1);
#endif
    }
    __tsan_acquire(r);
    return r->mem;
}
void* shared(const void* key, size_t size) { return shared_of(my_block(), key, size); }
void* dynamic_shared() { return R->dyn_size ? shared(nullptr, R->dyn_size) : nullptr; }
void* of_rank(void* mine, unsigned rank) {
    if (rank >= R->blocks.size()) fail("rank %u of a cluster of %zu", rank, R->blocks.size());
    for (auto& v : my_block().vars) {
        char* base = static_cast<char*>(v.mem);
        if (mine >= base && mine < base + v.size)
            return static_cast<char*>(shared_of(R->blocks[rank], v.key, v.size)) + (static_cast<char*>(mine) - base);
    }
    fail("not shared memory of this block");
}
// Fence-fence synchronisation through a relaxed atomic, as the memory model has it: a fence before the atomic releases, a fence
// after it (by the same thread) acquires.
void fence() {
    Fiber& f = self();
    f.fenced = true;
    if (f.last_atomic) __tsan_acquire(const_cast<void*>(f.last_atomic));
}
// Lets others run: the blocks of a cluster may wait for each other's words.
void yield() {
    if (++R->yields > 1000000) fail("waits for ever");
    wake(self());
    to_main(false);
}
void pre_atomic(const void* p) { if (self().fenced) __tsan_release(const_cast<void*>(p)); }
void post_atomic(const void* p) { self().last_atomic = p; }

static uint64_t rnd() { R->rng ^= R->rng << 13; R->rng ^= R->rng >> 7; R->rng ^= R->rng << 17; return R->rng; }
static void release(std::vector<Var>& vars) {
    for (auto& v : vars) {
#ifdef HOST_ASAN
        __asan_unpoison_memory_region(v.mem, (v.size + 15) & ~size_t(15));
#endif
#ifdef HOST_TSAN
        R->kept.push_back(v.mem); // freed when the launch has ended: a free here would be reported as a race
#else
        free(v.mem);
#endif
    }
    vars.clear();
}
static void start(Fiber& f, unsigned i, unsigned rank, unsigned ranks, U3 bid, U3 bdim, U3 gdim, char* stack) {
    // Field by field: a copy of the whole would be memcpy, whose writes TSan sees and takes for races with kernels that look.
    f.st = READY; f.fenced = false; f.last_atomic = nullptr; f.tsan = f.asan_fake = nullptr;
    f.tid = {i % bdim.x, i / bdim.x % bdim.y, i / (bdim.x * bdim.y)};
    f.bid = bid; f.bdim = bdim; f.gdim = gdim; f.lane = i & 31; f.idx = i; f.rank = rank; f.ranks = ranks;
    f.stack = stack;
#ifdef HOST_ASAN
    __asan_unpoison_memory_region(f.stack, STACK);
#endif
#ifdef HOST_TSAN
    f.tsan = __tsan_create_fiber(0);
#endif
    void** sp = reinterpret_cast<void**>(f.stack + STACK) - 1;
#if defined(__x86_64__)
    *sp-- = nullptr; // stands for entry's return address, and aligns the stack as after a call
    *sp = reinterpret_cast<void*>(&entry);
    sp -= 6;
    for (int k = 0; k < 6; ++k) sp[k] = nullptr;
#else
    sp = sp + 1 - 20;
    for (int k = 0; k < 20; ++k) sp[k] = nullptr;
    sp[11] = reinterpret_cast<void*>(&entry);
#endif
    f.sp = sp;
    wake(f);
}
static void report_deadlock() {
    unsigned c[5] = {};
    const Fiber* s[5] = {};
    for (auto& f : R->fibers) { ++c[f.st]; if (!s[f.st]) s[f.st] = &f; }
    int k = snprintf(R->msg, sizeof R->msg, "block (%u,%u,%u): deadlock: %u threads exited", R->fibers[0].bid.x, R->fibers[0].bid.y, R->fibers[0].bid.z, c[DONE]);
    const char* names[] = {"", "a barrier", "a cluster barrier", "a warp operation"};
    for (int st : {AT_BARRIER, AT_CLUSTER_BARRIER, AT_WARP})
        if (s[st]) k += snprintf(R->msg + k, sizeof R->msg - k, ", %u at %s (first: thread %u, %s:%d)", c[st], names[st], s[st]->idx, s[st]->file, s[st]->line);
    R->failed = true;
}
// Runs the blocks first..first + ranks, which share a cluster.
static void run_cluster(uint64_t first, unsigned ranks, unsigned nt, U3 bdim, U3 gdim) {
    R->ready.clear();
    R->ready.reserve(ranks * nt);
    R->cluster_live = ranks * nt; R->cluster_waiting = 0; R->cluster_epoch = 0;
#ifdef HOST_TSAN
    // A block must not be ordered after the one before it, so memory that the runtime reuses has to look new.
    for (unsigned i = 0; i < ranks * nt; ++i) mmap(R->stacks + i * (STACK + 4096) + 4096, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
    for (unsigned r = 0; r < ranks; ++r) {
        Block& b = R->blocks[r];
        b.fibers = R->fibers.data() + r * nt; b.threads = b.live = nt; b.waiting = b.epoch = 0;
        for (auto warp : {b.warp_epoch, b.warp_at, b.warp_done}) memset(warp, 0, sizeof b.warp_epoch);
        b.tags = static_cast<Tags*>(calloc(1, sizeof(Tags)));
        R->kept.push_back(b.tags);
        uint64_t i = first + r;
        U3 bid = {unsigned(i % gdim.x), unsigned(i / gdim.x % gdim.y), unsigned(i / gdim.x / gdim.y)};
        for (unsigned t = 0; t < nt; ++t) start(b.fibers[t], t, r, ranks, bid, bdim, gdim, R->stacks + (r * nt + t) * (STACK + 4096) + 4096);
    }
    // Round by round: everything that is ready runs until it waits, in an order that the policy picks.
    auto& round = R->round;
    round.clear();
    round.reserve(ranks * nt);
    while (R->cluster_live && !R->failed) {
        round.swap(R->ready);
        R->ready.clear();
        if (round.empty()) { report_deadlock(); break; }
        if (R->policy == 1) std::reverse(round.begin(), round.end());
        else if (R->policy > 1) for (size_t i = round.size() - 1; i > 0; --i) std::swap(round[i], round[rnd() % (i + 1)]);
        for (unsigned i : round) {
            to_fiber(R->fibers[i]);
            if (R->failed) break;
        }
    }
#ifdef HOST_TSAN
    for (auto& f : R->fibers) __tsan_destroy_fiber(f.tsan);
#endif
    for (auto& b : R->blocks) release(b.vars);
}
static int run(U3 grid, U3 block, unsigned ranks, unsigned smem, Body body, void** args) {
    // (In a library that is loaded later there is little room for what belongs to a thread.)
    static thread_local std::unique_ptr<Run> mine(new Run);
    R = mine.get();
    unsigned nt = block.x * block.y * block.z;
    R->msg[0] = 0; last_error = R->msg; R->failed = false; R->yields = 0;
    R->policy = next_seed > 1 ? 2 : int(next_seed);
    R->rng = next_seed * 0x9E3779B97F4A7C15ull | 1;
    if (nt == 0 || nt > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || smem > 227 * 1024 || ranks == 0 || ranks > 16 || grid.x % ranks) {
        snprintf(R->msg, sizeof R->msg, "invalid launch: grid (%u,%u,%u) block (%u,%u,%u) cluster %u shared %u", grid.x, grid.y, grid.z, block.x, block.y, block.z, ranks, smem);
        return 1;
    }
    if (R->nstacks < ranks * nt) {
        R->drop_stacks();
        R->nstacks = ranks * nt;
        R->stacks = static_cast<char*>(mmap(nullptr, R->nstacks * (STACK + 4096), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        for (unsigned i = 0; i < R->nstacks; ++i) mprotect(R->stacks + i * (STACK + 4096), 4096, PROT_NONE);
    }
    R->body = body; R->args = args;
    R->dyn_size = smem;
    R->fibers.clear();
    R->fibers.resize(ranks * nt);
    R->blocks.resize(ranks);
    for (auto& b : R->blocks) b.vars.reserve(64);
#ifdef HOST_TSAN
    R->main_tsan = __tsan_get_current_fiber();
    if (!R->alloc_tsan) R->alloc_tsan = __tsan_create_fiber(0);
#endif
    uint64_t nc = uint64_t(grid.x) * grid.y * grid.z / ranks;
    std::vector<uint64_t> order;
    if (R->policy > 1) {
        order.resize(nc);
        for (uint64_t i = 0; i < nc; ++i) order[i] = i;
        for (uint64_t i = nc - 1; i > 0; --i) std::swap(order[i], order[rnd() % (i + 1)]);
    }
    for (uint64_t k = 0; k < nc && !R->failed; ++k) {
        uint64_t c = !order.empty() ? order[k] : R->policy == 1 ? nc - 1 - k : k;
        run_cluster(c * ranks, ranks, nt, block, grid);
    }
    __tsan_acquire(&R->end_tag);
    for (void* p : R->kept) free(p);
    R->kept.clear();
    return R->failed ? 2 : 0;
}
} // namespace host

// C interface. 0 is success, otherwise fl_host_error() says what went wrong.
extern "C" int fl_host_launch(const char* name, const unsigned grid[3], const unsigned block[3], unsigned cluster, unsigned shared, void** args) {
    for (auto& e : host::table())
        if (!strcmp(e.name, name)) return host::run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, cluster, shared, e.body, args);
    host::last_error = "there is no kernel of this name";
    return 3;
}
extern "C" const char* fl_host_error() { return host::last_error; }
// Of the launches of this thread: 0 ascending, 1 descending, otherwise a seed for random block and thread orders.
extern "C" void fl_host_order(uint64_t seed) { host::next_seed = seed; }
// The i-th kernel, or null.
extern "C" const char* fl_host_kernel(unsigned i) { return i < host::table().size() ? host::table()[i].name : nullptr; }
