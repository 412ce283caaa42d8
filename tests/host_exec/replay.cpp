// Repeats recorded launches (tests/kernels_on_host/trace.rs) in several orders of threads and blocks, with every buffer a heap
// block of its exact size, and compares what they leave to the last bit. Built with sanitizers.
//
//     kernels FILE ORDERS EVERY FIRST [ONLY]: every EVERY-th launch from the FIRST on, if its name contains ONLY
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "fused_loss_params.h"

extern "C" int fl_host_launch(const char*, const unsigned*, const unsigned*, unsigned, unsigned, void**);
extern "C" const char* fl_host_error();
extern "C" void fl_host_order(uint64_t);

struct Reader {
    FILE* file;
    uint64_t number() {
        uint64_t n = 0;
        if (fread(&n, 1, 8, file) != 8) exit(3);
        return n;
    }
    std::vector<char> blob() {
        std::vector<char> b(number());
        if (!b.empty() && fread(b.data(), 1, b.size(), file) != b.size()) exit(3);
        return b;
    }
};

struct Buffer {
    uint64_t argument, address, len;
    std::vector<char> content;
};

static std::vector<Buffer> buffers(Reader& r, uint64_t count) {
    std::vector<Buffer> all;
    for (uint64_t i = 0; i < count; ++i) {
        Buffer b;
        b.argument = r.number(), b.address = r.number(), b.len = r.number(), b.content = r.blob();
        b.content.resize(b.len); // recorded without the zeros at its end
        all.push_back(b);
    }
    return all;
}

// NaN has many bits, and compilers differ in which they keep.
static bool is_nan(const char* p, unsigned size, bool bf16) {
    if (size == 4) {
        uint32_t u;
        memcpy(&u, p, 4);
        return (u & 0x7fffffff) > 0x7f800000;
    }
    uint16_t u;
    memcpy(&u, p, 2);
    return (u & 0x7fff) > (bf16 ? 0x7f80 : 0x7c00);
}

static bool same(const char* got, const std::vector<char>& want, unsigned size, bool bf16) {
    for (size_t i = 0; i + size <= want.size(); i += size) {
        if (memcmp(got + i, &want[i], size) && !(is_nan(got + i, size, bf16) && is_nan(&want[i], size, bf16))) return false;
    }
    return true;
}

int main(int argc, char** argv) {
    if (argc < 5) return 2;
    Reader r = {fopen(argv[1], "rb")};
    if (!r.file) return 2;
    const unsigned orders = atoi(argv[2]), every = atoi(argv[3]), first = atoi(argv[4]);
    const char* only = argc > 5 ? argv[5] : "";
    unsigned index = 0, launches = 0, failures = 0;
    for (;; ++index) {
        int c = fgetc(r.file);
        if (c == EOF) break;
        ungetc(c, r.file);
        std::vector<char> name_bytes = r.blob();
        name_bytes.push_back('\0'); // no std::string, whose library MemorySanitizer does not see into
        const char* name = name_bytes.data();
        const unsigned grid = r.number(), bx = r.number(), by = r.number(), cluster = r.number(), shared = r.number();
        std::vector<char> args = r.blob(), params = r.blob();
        const uint64_t count = r.number();
        const std::vector<Buffer> before = buffers(r, count), after = buffers(r, count);
        if (index % every != first || !strstr(name, only)) continue;
        const bool bf16 = strstr(name, "_bf16");
        const unsigned size = strstr(name, "_f32") ? 4 : 2;
        for (unsigned order = 0; order < orders; ++order) {
            // As misaligned as they were; the input and the gradient may be one.
            std::vector<char*> base(count);
            std::vector<char> launch_args = args;
            for (uint64_t i = 0; i < count; ++i) {
                for (uint64_t j = 0; j < i && !base[i]; ++j) {
                    if (before[j].address == before[i].address && before[j].len) base[i] = base[j];
                }
                const uint64_t offset = before[i].address & 15;
                if (!base[i]) {
                    base[i] = static_cast<char*>(malloc(offset + before[i].len)) + offset;
                    if (before[i].len) memcpy(base[i], before[i].content.data(), before[i].len);
                }
                memcpy(&launch_args[8 * before[i].argument], &base[i], 8);
            }
            const unsigned G[3] = {grid, 1, 1}, B[3] = {bx, by, 1};
            void* pointers[2] = {launch_args.data(), params.data()};
            fl_host_order(order);
            ++launches;
            if (fl_host_launch(name, G, B, cluster, shared, pointers)) {
                printf("FAIL %s, launch %u, order %u: %s\n", name, index, order, fl_host_error());
                ++failures;
            } else {
                for (uint64_t i = 0; i < count; ++i) {
                    // Tensors are of the storage type; everything else is f32, or words that are never NaN.
                    const bool tensor = after[i].argument <= 1 || after[i].argument == 5 || after[i].argument == 6 || after[i].argument == 13 || after[i].argument == 14;
                    if (same(base[i], after[i].content, tensor ? size : 4, bf16)) continue;
                    printf("FAIL %s, launch %u, order %u: buffer %u differs\n", name, index, order, unsigned(after[i].argument));
                    ++failures;
                }
            }
            for (uint64_t i = 0; i < count; ++i) {
                bool shared_one = false;
                for (uint64_t j = 0; j < i; ++j) shared_one = shared_one || base[j] == base[i];
                if (!shared_one) free(base[i] - (before[i].address & 15));
            }
            if (failures > 8) return 1;
        }
    }
    printf("%u launches, %u failures\n", launches, failures);
    return failures != 0;
}
