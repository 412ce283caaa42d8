#!/usr/bin/env bash
# Bundles the release test, bench and example programs into one folder, for a GPU machine that has a driver but no Rust:
#
#     tests/gpu_bundle.sh target/bundle        # here, with an nvcc
#     scp -r target/bundle gpu: && ssh gpu bundle/run.sh
#
# run.sh runs them, fails where there is no GPU, prints one verdict, and leaves everything they said in log.txt. With `run.sh sanitize`
# it runs the small tests under compute-sanitizer too, if that is there; with `run.sh bench` the benches, with `run.sh head` that of the
# head beside its parts, with `run.sh throughput` the throughput command, whose pictures and JSON go to throughput-out; with `run.sh nvrtc`
# the tests once more, by kernels that NVRTC compiles there (its own, or that of the Python environment that was active when this was
# bundled).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/bundle}
export FUSED_LOSS_REQUIRE_NVCC=1
mkdir -p "$out"

# The programs of `cargo ... --no-run`, one a line: the name, and where it is.
programs() { "$@" 2>&1 | tee /dev/stderr | sed -nE 's/^ *Executable .*\((.*)\)$/\1/p'; }

take() { # program, name
    cp "$1" "$out/$2"
    strip "$out/$2"
}
for test in gpu battery head parallel; do
    take "$(programs cargo test --release --features head --no-run --test $test | tail -1)" "$test"
done
# The CPU's tests of edge cases, golden values and determinism by kernels: calls go there in debug builds only.
take "$(programs cargo test --no-run --test by_kernels | tail -1)" by_kernels
take "$(programs cargo bench --features head --no-run --bench losses | tail -1)" losses
take "$(programs cargo bench --features head --no-run --bench head | tail -1)" head_bench
for example in train ranks; do
    cargo build --release --features head --example $example
    take "${CARGO_TARGET_DIR:-target}/release/examples/$example" $example
done
cargo build --release -p throughput --features head
take "${CARGO_TARGET_DIR:-target}/release/throughput" throughput
# NVRTC of an active Python environment, for the tests of what is compiled at run time. (110 MB; a GPU machine may have its own.)
nvrtc=$(find "${VIRTUAL_ENV:-/nowhere}" -name 'libnvrtc*.so.*' ! -name '*.alt.*' 2>/dev/null || true)
if [ -n "$nvrtc" ]; then
    mkdir -p "$out/nvrtc"
    echo "$nvrtc" | xargs -I{} cp {} "$out/nvrtc"
fi
{
    echo "commit $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ', changed since')"
    echo "built $(date -u +%Y-%m-%d)"
} > "$out/version.txt"

cat > "$out/run.sh" <<'RUN'
#!/usr/bin/env bash
set -uo pipefail
cd "$(dirname "$0")"
export FUSED_LOSS_REQUIRE_GPU=1
failed=() log=log.txt
run() { # name, command
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
    "$@" >> "$log" 2>&1 && echo ok || { echo FAILED && failed+=("$name"); }
}
{ cat version.txt && date -u && nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader; } 2>&1 | tee "$log"
run gpu ./gpu --test-threads 1
run battery ./battery
run by_kernels ./by_kernels --test-threads 1
# These want cuBLAS: with PyTorch's wheels, LD_LIBRARY_PATH names nvidia/*/lib.
run head ./head gpu --test-threads 1
# With one GPU the ranks of NCCL are skipped, and say so; those through the host's memory are not.
run parallel ./parallel gpu --test-threads 1
run train ./train --short --check --out train-out
for word in "$@"; do
    case $word in
        head) run head_bench ./head_bench cuda && tail -12 "$log" ;;
        bench) run bench ./losses --bench && grep -E 'GB/s|share' "$log" || true ;;
        throughput)
            mkdir -p throughput-out
            run throughput ./throughput --device cuda --scaling --out throughput-out --json throughput-out/gpu.json
            ;;
        nvrtc)
            export LD_LIBRARY_PATH=$PWD/nvrtc:${LD_LIBRARY_PATH:-} FUSED_LOSS_CACHE=$PWD/nvrtc-cache
            export FUSED_LOSS_NVRTC=1 FUSED_LOSS_REQUIRE_NVRTC=1
            run gpu-by-nvrtc ./gpu --test-threads 1
            run battery-by-nvrtc ./battery on_a_gpu
            run by-kernels-by-nvrtc ./by_kernels --test-threads 1
            unset FUSED_LOSS_NVRTC
            ;;
        sanitize)
            for tool in memcheck racecheck initcheck synccheck; do
                run "$tool" compute-sanitizer --tool $tool --error-exitcode 1 ./gpu --test-threads 1
            done
            ;;
        *) echo "unknown: $word" && exit 2 ;;
    esac
done
if [ ${#failed[@]} -eq 0 ]; then
    echo && echo "VERDICT: all passed"
else
    echo && echo "VERDICT: failed: ${failed[*]} (see $PWD/$log)" && exit 1
fi
RUN
chmod +x "$out/run.sh"
echo "bundled in $out: $(ls "$out" | tr '\n' ' ')"
