"""The record of a run: what ran, where, when, and every time that was taken."""

import datetime
import json
import os
import platform
import subprocess
import sys

import tables
from roster import ROOT, environment


def now_and_load():
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "load": round(os.getloadavg()[0], 2)}


def output(*command):
    """What a command prints, or None."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine():
    def field(path, key):
        try:
            with open(path) as lines:
                return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
        except OSError:
            return None

    return {
        "processor": field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "gpu": output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
    }


def commit():
    head, changes = output("git", "rev-parse", "HEAD"), output("git", "status", "--porcelain")
    return f"{head} and changes" if head and changes else head


def write(options, started, contenders, rows):
    results = []
    for (loss, dtype, shape), by_name in rows:
        row = {"loss": loss, "dtype": dtype, "shape": list(shape), "contenders": {}}
        ours = by_name.get("fused-loss")
        for name, result in by_name.items():
            row["contenders"][name] = {"error": result.error} if result.error else {
                "median_ns": tables.time_ns(result),
                "times_fused_loss": tables.ratio(result, ours),
                "peak_bytes": result.peak_bytes,
                "ns": result.ns,  # by round
                **({"copy_ns": result.copy_ns, "bytes": result.bytes} if result.bytes else {}),
            }
        results.append(row)
    whole = {
        # At both ends: how many processes wanted to run in the last minute. At the start it should be near 0.
        "started": started,
        "finished": now_and_load(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "threads": options.threads,
        "rounds": options.rounds,
        "turns": options.turns,
        "fresh_pages": options.fresh_pages,
        "environment": {contender.name: environment(contender.name, options) for contender in contenders},
        "contenders": {contender.name: contender.hello for contender in contenders},
        "results": results,
    }
    with open(options.json, "w") as file:
        json.dump(whole, file, indent=1)
        file.write("\n")
