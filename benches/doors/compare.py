#!/usr/bin/env python3
"""What a call costs through each door, as a record for the README: mean squared error with its gradient, of 2^20 elements of f32.

    cargo build --release -p doors -p fused-loss-capi
    pip install ./python                                 # or PYTHONPATH=python and FUSED_LOSS_LIBRARY=.../libfused_loss.so
    benches/doors/compare.py --json benches/results/DATE-doors-cpu.json

The doors of Rust and C are timed by the `doors` program beside the Rust call, Python's in this process beside the C call, which is
the Rust call but for tenths of a microsecond, as the first table shows. In every round each is called once.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/peers"))

import record  # noqa: E402


def compiled(program, n, rounds):
    lines = subprocess.run([program, str(n), str(rounds)], check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines[1:]:
        door, micros, over = line.split("\t")
        yield {"door": door, "us": float(micros), "over": float(over)}


def python(n, rounds):
    import fused_loss.functional as F
    import torch
    from fused_loss.library import ffi, handles, lib

    torch.set_num_threads(1)  # autograd's own work is little, and its threads would wait on ours
    input, target = (torch.arange(n) * step % 97 / 48.0 - 1.0 for step in (31, 17))
    grad, value = torch.empty(n), torch.empty(())
    call = ffi.new("fl_call*")
    lib.fl_call_init(call)
    call.target_kind = lib.FL_TARGET_DENSE
    for field, tensor in ((call.input, input), (call.target, target), (call.value, value), (call.grad_input, grad)):
        field.data, field.len = ffi.cast("void*", tensor.data_ptr()), tensor.numel()
    handle, leaf = handles.of(input.device), input.clone().requires_grad_()

    def c():
        assert lib.fl_mse(handle, ffi.NULL, call) == lib.FL_OK

    def forward():
        F.mse_loss(leaf, target)

    def both():
        leaf.grad = None
        F.mse_loss(leaf, target).backward()

    def torch_both():
        leaf.grad = None
        torch.nn.functional.mse_loss(leaf, target).backward()

    doors = {
        "C, from Python": c,
        "PyTorch, forward, which computes the gradient": forward,
        "PyTorch, forward and `backward()`": both,
        "PyTorch's own forward and `backward()`, one thread": torch_both,
    }
    times = {door: [] for door in doors}
    for turn in range(rounds + rounds // 10):
        for door, run in doors.items():
            started = time.perf_counter()
            run()
            times[door].append(time.perf_counter() - started)
    times = {door: took[rounds // 10 :] for door, took in times.items()}
    base = next(iter(times.values()))
    for door, took in times.items():
        over = statistics.median(t / b for t, b in zip(took, base))
        yield {"door": door, "us": round(statistics.median(took) * 1e6, 1), "over": round(over, 3)}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--elements", type=int, default=1 << 20)
    options.add_argument("--rounds", type=int, default=400)
    options.add_argument("--program", default=str(ROOT / "target/release/doors"), help="target/release/doors")
    options.add_argument("--json", help="where the record goes")
    options = options.parse_args()
    started = record.now_and_load()
    n, rounds = options.elements, options.rounds
    rows = [*compiled(options.program, n, rounds), *python(n, rounds)]
    for row in rows:
        print(f"{row['us']:8.1f} us  {row['over']:6.3f}  {row['door']}")
    if options.json:
        whole = {"started": started, "commit": record.commit(), "machine": record.machine(), "elements": n, "rounds": rounds, "rows": rows}
        pathlib.Path(options.json).write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
