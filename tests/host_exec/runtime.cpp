// The runtime behind shim.h. Compile it WITHOUT -fsanitize=thread (and with HOST_TSAN when the kernels have it).
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <mutex>
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
Thread* cur;

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
    Fiber* fibers; unsigned threads, live, waiting, epoch; unsigned warp_epoch[32];
    Tags* tags;
    std::vector<Var> vars; // its shared memory; the launch's dynamic part has the key nullptr
};

// Without optimisation, as the sanitizers have them, kernels have frames of up to 40 KiB.
static const size_t STACK = 128 << 10;
static std::vector<Fiber> F; // of the cluster that runs
static std::vector<Block> blocks;
static std::vector<unsigned> ready;
static char* stacks; static size_t nstacks;
static void* main_sp;
[[maybe_unused]] static void *main_tsan, *alloc_tsan;
[[maybe_unused]] static void* main_fake;
[[maybe_unused]] static const void* main_bottom;
[[maybe_unused]] static size_t main_size;
static Body body_; static void** args_;
static unsigned cluster_live, cluster_waiting, cluster_epoch;
static bool failed; static char msg[4096];
static uint64_t yields;
static std::vector<void*> kept;
static unsigned dyn_size; static char end_tag;
static thread_local uint64_t next_seed; static thread_local char last_error[sizeof msg]; // of the calling test thread
static uint64_t rng; static int policy;
static std::mutex mu;
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
static Block& my_block() { return blocks[cur->rank]; }

static void to_fiber(Fiber& f) {
    cur = &f;
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(&main_fake, f.stack, STACK);
#endif
#ifdef HOST_TSAN
    __tsan_switch_to_fiber(f.tsan, 1);
#endif
    host_switch(&main_sp, f.sp);
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
}
static void to_main([[maybe_unused]] bool dying) {
    Fiber& f = self();
#ifdef HOST_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &f.asan_fake, main_bottom, main_size);
#endif
#ifdef HOST_TSAN
    __tsan_switch_to_fiber(main_tsan, 1);
#endif
    host_switch(&f.sp, main_sp);
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(f.asan_fake, &main_bottom, &main_size);
#endif
}
[[noreturn]] void fail(const char* fmt, ...) {
    if (!failed) {
        const Fiber& f = self();
        int k = snprintf(msg, sizeof msg, "block (%u,%u,%u) thread (%u,%u,%u): ", f.bid.x, f.bid.y, f.bid.z, f.tid.x, f.tid.y, f.tid.z);
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(msg + k, sizeof msg - k, fmt, ap);
        va_end(ap);
    }
    failed = true;
    to_main(true);
    abort();
}
static void entry() {
#ifdef HOST_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
#endif
    body_(args_);
    Fiber& f = self();
    f.st = DONE;
    --my_block().live;
    --cluster_live;
    __tsan_release(&end_tag);
    to_main(true);
    abort();
}
static void wake(Fiber& f) { f.st = READY; ready.push_back(unsigned(&f - F.data())); }

// Waits until all of `count` fibers from `first` are here, at this line.
static void rendezvous(State st, Fiber* first, unsigned count, unsigned live, unsigned& waiting, const char* what, const char* file, int line) {
    Fiber& f = self();
    f.file = file; f.line = line; f.st = st;
    for (unsigned i = 0; i < count; ++i)
        if (&first[i] != &f && first[i].st == st) {
            if (first[i].line != line || strcmp(first[i].file, file))
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
    uint64_t* tag = &blocks[0].tags->cluster[cluster_epoch & 1];
    __tsan_release(tag);
    if (cluster_waiting + 1 == cluster_live) ++cluster_epoch;
    rendezvous(AT_CLUSTER_BARRIER, F.data(), unsigned(F.size()), cluster_live, cluster_waiting, "cluster barrier", file, line);
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
    bool all = true;
    for (unsigned l = 0; l < n; ++l) if (mask >> l & 1) {
        if (W[l].st == DONE) fail("%s:%d: mask %08x names lane %u, which has exited", file, line, mask, l);
        if (W[l].st != AT_WARP) all = false;
    }
    if (all) {
        for (unsigned l = 0; l < n; ++l) if (mask >> l & 1) {
            Fiber& o = W[l];
            if (o.op != f.op || o.mask != mask || o.size != size || o.line != line || strcmp(o.file, file))
                fail("divergent warp operation: lane %u is at %s:%d (mask %08x), lane %u at %s:%d (mask %08x)", f.lane, file, line, mask, l, o.file, o.line, o.mask);
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
                case BALLOT: for (unsigned k = 0; k < n; ++k) if (mask >> k & 1) o.res |= uint64_t(W[k].val & 1) << k; break;
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
        __tsan_switch_to_fiber(alloc_tsan, 1);
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
void* dynamic_shared() { return dyn_size ? shared(nullptr, dyn_size) : nullptr; }
void* of_rank(void* mine, unsigned rank) {
    if (rank >= blocks.size()) fail("rank %u of a cluster of %zu", rank, blocks.size());
    for (auto& v : my_block().vars) {
        char* base = static_cast<char*>(v.mem);
        if (mine >= base && mine < base + v.size)
            return static_cast<char*>(shared_of(blocks[rank], v.key, v.size)) + (static_cast<char*>(mine) - base);
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
    if (++yields > 1000000) fail("waits for ever");
    wake(self());
    to_main(false);
}
void pre_atomic(const void* p) { if (self().fenced) __tsan_release(const_cast<void*>(p)); }
void post_atomic(const void* p) { self().last_atomic = p; }

static uint64_t rnd() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }
static void release(std::vector<Var>& vars) {
    for (auto& v : vars) {
#ifdef HOST_ASAN
        __asan_unpoison_memory_region(v.mem, (v.size + 15) & ~size_t(15));
#endif
#ifdef HOST_TSAN
        kept.push_back(v.mem); // freed when the launch has ended: a free here would be reported as a race
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
    for (auto& f : F) { ++c[f.st]; if (!s[f.st]) s[f.st] = &f; }
    int k = snprintf(msg, sizeof msg, "block (%u,%u,%u): deadlock: %u threads exited", F[0].bid.x, F[0].bid.y, F[0].bid.z, c[DONE]);
    const char* names[] = {"", "a barrier", "a cluster barrier", "a warp operation"};
    for (int st : {AT_BARRIER, AT_CLUSTER_BARRIER, AT_WARP})
        if (s[st]) k += snprintf(msg + k, sizeof msg - k, ", %u at %s (first: thread %u, %s:%d)", c[st], names[st], s[st]->idx, s[st]->file, s[st]->line);
    failed = true;
}
// Runs the blocks first..first + ranks, which share a cluster.
static void run_cluster(uint64_t first, unsigned ranks, unsigned nt, U3 bdim, U3 gdim) {
    ready.clear();
    ready.reserve(ranks * nt);
    cluster_live = ranks * nt; cluster_waiting = 0; cluster_epoch = 0;
#ifdef HOST_TSAN
    // A block must not be ordered after the one before it, so memory that the runtime reuses has to look new.
    for (unsigned i = 0; i < ranks * nt; ++i) mmap(stacks + i * (STACK + 4096) + 4096, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
    for (unsigned r = 0; r < ranks; ++r) {
        Block& b = blocks[r];
        b.fibers = F.data() + r * nt; b.threads = b.live = nt; b.waiting = b.epoch = 0;
        memset(b.warp_epoch, 0, sizeof b.warp_epoch);
        b.tags = static_cast<Tags*>(calloc(1, sizeof(Tags)));
        kept.push_back(b.tags);
        uint64_t i = first + r;
        U3 bid = {unsigned(i % gdim.x), unsigned(i / gdim.x % gdim.y), unsigned(i / gdim.x / gdim.y)};
        for (unsigned t = 0; t < nt; ++t) start(b.fibers[t], t, r, ranks, bid, bdim, gdim, stacks + (r * nt + t) * (STACK + 4096) + 4096);
    }
    // Round by round: everything that is ready runs until it waits, in an order that the policy picks.
    static std::vector<unsigned> round;
    round.clear();
    round.reserve(ranks * nt);
    while (cluster_live && !failed) {
        round.swap(ready);
        ready.clear();
        if (round.empty()) { report_deadlock(); break; }
        if (policy == 1) std::reverse(round.begin(), round.end());
        else if (policy > 1) for (size_t i = round.size() - 1; i > 0; --i) std::swap(round[i], round[rnd() % (i + 1)]);
        for (unsigned i : round) {
            to_fiber(F[i]);
            if (failed) break;
        }
    }
#ifdef HOST_TSAN
    for (auto& f : F) __tsan_destroy_fiber(f.tsan);
#endif
    for (auto& b : blocks) release(b.vars);
}
static int run(U3 grid, U3 block, unsigned ranks, unsigned smem, Body body, void** args) {
    std::lock_guard<std::mutex> g(mu);
    unsigned nt = block.x * block.y * block.z;
    msg[0] = last_error[0] = 0; failed = false; yields = 0;
    policy = next_seed > 1 ? 2 : int(next_seed);
    rng = next_seed * 0x9E3779B97F4A7C15ull | 1;
    if (nt == 0 || nt > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || smem > 227 * 1024 || ranks == 0 || ranks > 16 || grid.x % ranks) {
        snprintf(last_error, sizeof last_error, "invalid launch: grid (%u,%u,%u) block (%u,%u,%u) cluster %u shared %u", grid.x, grid.y, grid.z, block.x, block.y, block.z, ranks, smem);
        return 1;
    }
    if (nstacks < ranks * nt) {
        if (stacks) munmap(stacks, nstacks * (STACK + 4096));
        nstacks = ranks * nt;
        stacks = static_cast<char*>(mmap(nullptr, nstacks * (STACK + 4096), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        for (unsigned i = 0; i < nstacks; ++i) mprotect(stacks + i * (STACK + 4096), 4096, PROT_NONE);
    }
    body_ = body; args_ = args;
    dyn_size = smem;
    F.clear();
    F.resize(ranks * nt);
    blocks.resize(ranks);
    for (auto& b : blocks) b.vars.reserve(64);
#ifdef HOST_TSAN
    main_tsan = __tsan_get_current_fiber();
    if (!alloc_tsan) alloc_tsan = __tsan_create_fiber(0);
#endif
    uint64_t nc = uint64_t(grid.x) * grid.y * grid.z / ranks;
    std::vector<uint64_t> order;
    if (policy > 1) {
        order.resize(nc);
        for (uint64_t i = 0; i < nc; ++i) order[i] = i;
        for (uint64_t i = nc - 1; i > 0; --i) std::swap(order[i], order[rnd() % (i + 1)]);
    }
    for (uint64_t k = 0; k < nc && !failed; ++k) {
        uint64_t c = !order.empty() ? order[k] : policy == 1 ? nc - 1 - k : k;
        run_cluster(c * ranks, ranks, nt, block, grid);
    }
    __tsan_acquire(&end_tag);
    for (void* p : kept) free(p);
    kept.clear();
    strcpy(last_error, msg);
    return failed ? 2 : 0;
}
} // namespace host

// C interface. 0 is success, otherwise fl_host_error() says what went wrong.
extern "C" int fl_host_launch(const char* name, const unsigned grid[3], const unsigned block[3], unsigned cluster, unsigned shared, void** args) {
    for (auto& e : host::table())
        if (!strcmp(e.name, name)) return host::run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, cluster, shared, e.body, args);
    snprintf(host::last_error, sizeof host::last_error, "no kernel %s", name);
    return 3;
}
extern "C" const char* fl_host_error() { return host::last_error; }
// Of the launches of this thread: 0 ascending, 1 descending, otherwise a seed for random block and thread orders.
extern "C" void fl_host_order(uint64_t seed) { host::next_seed = seed; }
// The i-th kernel, or null.
extern "C" const char* fl_host_kernel(unsigned i) { return i < host::table().size() ? host::table()[i].name : nullptr; }
