#!/usr/bin/env bash
# Runs the tests that need a GPU without one: the CUDA host side on a driver that is pretended (libcuda.c), which executes the kernels
# that the tests compile for the host. Arguments go to cargo test, or after `run` to cargo run; without any it runs tests/gpu.rs. Others of use:
#   tests/pretend/run.sh -p throughput --test serve gpu
#   tests/pretend/run.sh --bench losses -- ^cuda/.*/4096
#   tests/pretend/run.sh --features head --test head --test parallel -- --test-threads 1 gpu
#   PRETEND_DEVICES=3 tests/pretend/run.sh run --features head --example ranks -- --gpus --check   # and with --data-parallel
set -euo pipefail
cd "$(dirname "$0")/../.."
# Absolute, for tests run in the folder of their package.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target/pretend NVCC="$PWD/tests/pretend/nvcc.sh" FUSED_LOSS_REQUIRE_NVCC=0
# Compiles the kernels for the host, as a test does first of all. (With the head's feature, as most of what is run here.)
cargo test --features head --test kernels_on_host -- --exact the_kernels_are_compiled_for_the_host
kernels=${FUSED_LOSS_HOST_EXEC:-$CARGO_TARGET_DIR/tmp}/host_exec_plain/libkernels.so
header=$(dirname "$(ls -t "$CARGO_TARGET_DIR"/debug/build/fused-loss-*/out/fused_loss_params.h | head -1)")
mkdir -p "$CARGO_TARGET_DIR/driver"
library() { # name, then the rest
    local to=$CARGO_TARGET_DIR/driver/$1
    "${CC:-cc}" -O1 -shared -fPIC -Wall -Wno-unused-parameter -Wl,-soname,"$1" -I "$header" "${@:2}" -o "$to"
}
library libcuda.so.1 tests/pretend/libcuda.c -ldl -lpthread
library libcublas.so.13 tests/pretend/libcublas.c -L "$CARGO_TARGET_DIR/driver" -l:libcuda.so.1
library libnccl.so.2 tests/pretend/libnccl.c -L "$CARGO_TARGET_DIR/driver" -l:libcuda.so.1 -lpthread
ln -sf libcuda.so.1 "$CARGO_TARGET_DIR/driver/libcuda.so"
export LD_LIBRARY_PATH="$CARGO_TARGET_DIR/driver" PRETEND_KERNELS="$kernels" FUSED_LOSS_REQUIRE_GPU=1
if [ $# -eq 0 ]; then set -- --features head --test gpu -- --test-threads 1; fi
if [ "$1" = run ]; then cargo "$@"; else cargo test "$@"; fi
