// An NCCL that is none, for the pretended driver beside it: ranks are threads of one process, and what they reduce is done when the last of
// them has come. It knows the calls that this crate makes. Ranks that come with different lengths or operations wait for ever, as they
// may with the real one.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 4, IN_PROGRESS = 7, MOST = 64 };
typedef struct { char bytes[128]; } Id;
typedef struct { float* data; size_t count; int op; } Brought;
typedef struct Group {
    struct Group* next;
    Id id;
    int size, joined, came;
    Brought brought[MOST];
} Group;
typedef struct { Group* group; int rank; } Comm;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Group* groups;
static int ids;

int pretend_is_memory(uint64_t address, uint64_t bytes);

int ncclGetUniqueId(Id* id) {
    pthread_mutex_lock(&lock);
    memset(id, 0x5a, sizeof *id), memcpy(id, &(int){++ids}, sizeof ids);
    pthread_mutex_unlock(&lock);
    return OK;
}
int ncclCommInitRankConfig(Comm** comm, int size, Id id, int rank, const Config* config) {
    if (size < 1 || size > MOST || rank < 0 || rank >= size || config->magic != 0xcafebeef || config->size < sizeof *config || config->blocking) {
        return INVALID;
    }
    pthread_mutex_lock(&lock);
    Group* g = groups;
    while (g && memcmp(&g->id, &id, sizeof id)) g = g->next;
    if (!g) {
        g = calloc(1, sizeof *g);
        g->next = groups, g->id = id, g->size = size, groups = g;
    }
    const int fits = g->size == size;
    g->joined += fits;
    *comm = malloc(sizeof **comm), **comm = (Comm){g, rank};
    pthread_mutex_unlock(&lock);
    return fits ? IN_PROGRESS : INVALID;
}
int ncclCommGetAsyncError(Comm* comm, int* status) {
    pthread_mutex_lock(&lock);
    const Group* g = comm->group;
    *status = g->joined < g->size || g->brought[comm->rank].data ? IN_PROGRESS : OK;
    pthread_mutex_unlock(&lock);
    return OK;
}
int ncclCommAbort(Comm* comm) {
    pthread_mutex_lock(&lock);
    Brought* own = &comm->group->brought[comm->rank];
    if (own->data) own->data = NULL, --comm->group->came;
    pthread_mutex_unlock(&lock);
    return free(comm), OK;
}
static void reduce(Group* g) {
    for (int r = 1; r < g->size; ++r) {
        if (g->brought[r].count != g->brought[0].count || g->brought[r].op != g->brought[0].op) return;
    }
    float* first = g->brought[0].data;
    for (size_t i = 0; i < g->brought[0].count; ++i) {
        for (int r = 1; r < g->size; ++r) {
            const float x = g->brought[r].data[i];
            first[i] = g->brought[0].op == 0 ? first[i] + x : x > first[i] ? x : first[i];
        }
    }
    for (int r = 1; r < g->size; ++r) memcpy(g->brought[r].data, first, g->brought[0].count * sizeof *first);
    memset(g->brought, 0, sizeof g->brought), g->came = 0;
}
int ncclAllReduce(const float* from, float* to, size_t count, int type, int op, Comm* comm, void* stream) {
    if (from != to || type != 7 || (op != 0 && op != 2) || !pretend_is_memory((uint64_t)to, count * sizeof *to)) return INVALID;
    pthread_mutex_lock(&lock);
    Group* g = comm->group;
    g->brought[comm->rank] = (Brought){to, count, op};
    if (++g->came == g->size) reduce(g);
    pthread_mutex_unlock(&lock);
    return IN_PROGRESS;
}
