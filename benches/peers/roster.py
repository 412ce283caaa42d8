"""Who can compete where, how each is started, and with which settings."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# By device; the order is that of the tables.
PEERS = {
    "cpu": ["torch", "compile", "jax", "candle"],
    "cuda": ["torch", "compile", "liger", "quack", "quack-autograd", "candle"],
}
BUILT = ("fused-loss", "candle")


class Unavailable(Exception):
    pass


def command(name, device, own=None):
    """The command that starts a contender: `own` if given, else what is built or the script for it."""
    if own:
        return shlex.split(own)
    if name not in (*PEERS[device], "fused-loss"):
        raise Unavailable(f"it has no server for {device}")
    if name == "fused-loss":
        return [build(["-p", "throughput"], ROOT), "--serve", "--device", device]
    if name == "candle":
        features = ["--features", "cuda"] if device == "cuda" else []
        return [build(features, HERE / "candle"), device]
    script, *rest = {
        "torch": ["peer_torch.py", "eager", device],
        "compile": ["peer_torch.py", "compile", device],
        "jax": ["peer_jax.py"],
        "liger": ["peer_liger.py"],
        "quack": ["peer_quack.py", "dx"],
        "quack-autograd": ["peer_quack.py", "autograd"],
    }[name]
    return [sys.executable, str(HERE / script), *rest]


def build(arguments, folder):
    """Builds a package by cargo, in its folder, and returns its program."""
    cargo = ["cargo", "build", "--release", "--message-format=json-render-diagnostics", *arguments]
    try:
        built = subprocess.run(cargo, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise Unavailable(f"cargo: {error}") from None
    if built.returncode:
        lines = built.stderr.strip().splitlines()
        said = next((line for line in lines if line.startswith("error")), lines[-1] if lines else "")
        raise Unavailable(f"it does not build: {said}")
    programs = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    programs = [program for program in programs if program]
    if not programs:
        raise Unavailable("cargo built no program")
    return programs[-1]


def environment(name, options):
    """The same number of threads for all (they are also bound to as many processors), ..."""
    threads = str(options.threads)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,
        "NPROC": threads,  # XLA's thread pool
        "JAX_PLATFORMS": "cpu",
    }
    # ... and, for peers that allocate in every call, memory that stays with the process. Otherwise each call pays for
    # fresh pages, which take much of the time of PyTorch's cheap losses. fused-loss allocates nothing and gets no such help.
    if name != "fused-loss" and not options.fresh_pages:
        variables.update({
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
            "MALLOC_TOP_PAD_": str(1 << 26),
        })
    return variables
