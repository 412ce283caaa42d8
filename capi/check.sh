#!/usr/bin/env bash
# Installs the C library into a folder, as a user would, and builds and runs the C programs of examples/c against it: with warnings as
# errors, as C and as C++, linked to the shared and to the static library, under AddressSanitizer and under valgrind. With the argument
# cuda it is the CUDA program, with the cuda.h of CUDA_HOME and the libcuda of CUDA_LIB.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
prefix=$target/capi
rm -rf "$prefix"
capi/install.sh "$prefix"
# For valgrind, which takes branches that LLVM has merged for a use of what is not there.
cargo build -p fused-loss-capi
install -D "$target/debug/libfused_loss.so" "$prefix/debug/$(basename "$(ls "$prefix"/lib/libfused_loss.so.*.*.*)" | sed 's/\.[0-9]*$//')"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib:${LD_LIBRARY_PATH:-}
flags="-O1 -g -Wall -Wextra -Wpedantic -Werror"
shared=$(pkg-config --cflags --libs fused_loss)
static="-I$prefix/include $prefix/lib/libfused_loss.a $(pkg-config --static --libs-only-l fused_loss | sed 's/-lfused_loss//')"
say() { printf '\n-- %s\n' "$*"; }

say "the header, alone, as C99, C11 and C++17"
for standard in c99 c11; do echo '#include <fused_loss.h>' | gcc $flags -std=$standard -x c -fsyntax-only -I "$prefix/include" -; done
echo '#include <fused_loss.h>' | g++ $flags -std=c++17 -x c++ -fsyntax-only -I "$prefix/include" -

run() {
    local name=$1 more=${2:-}
    say "$name.c, shared library"
    gcc $flags -std=c11 examples/c/$name.c $shared $more -lm -o "$prefix/$name"
    "$prefix/$name"
    say "$name.c, static library"
    gcc $flags -std=c11 examples/c/$name.c $static $more -o "$prefix/$name-static"
    "$prefix/$name-static"
    say "$name.c, AddressSanitizer"
    gcc $flags -std=c11 -fsanitize=address,undefined examples/c/$name.c $shared $more -lm -o "$prefix/$name-asan"
    ASAN_OPTIONS=detect_leaks=${LEAKS:-1} "$prefix/$name-asan"
    say "$name.c, valgrind"
    # Two threads: valgrind runs one at a time.
    RAYON_NUM_THREADS=2 LD_LIBRARY_PATH=$prefix/debug:$LD_LIBRARY_PATH valgrind --error-exitcode=9 --quiet "$prefix/$name"
}
if [ "${1:-cpu}" = cuda ]; then
    # What a driver keeps until the end is no leak of ours.
    LEAKS=0 run cuda "-I $CUDA_HOME/include -L ${CUDA_LIB:-/usr/lib} -lcuda"
else
    run cpu
    say "the README's program, by the README's command"
    .ci/block "From C, and C++" c > "$prefix/quick.c"
    (cd "$prefix" && cc quick.c $(pkg-config --cflags --libs fused_loss) -o quick && ./quick)
fi
