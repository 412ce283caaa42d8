"""What is printed: a block for each problem as soon as it is done, and the tables at the end."""

import statistics
import sys

import cases


def title(problem):
    loss, dtype, shape = problem
    return f"{loss.split('[')[0]} {dtype} {size(loss, shape)}"


def size(loss, shape):
    if cases.family(loss) == "elements" and shape[0] & (shape[0] - 1) == 0:
        return f"2^{shape[0].bit_length() - 1}"
    return "x".join(f"2^{n.bit_length() - 1}" if n >= 1 << 20 and n & (n - 1) == 0 else str(n) for n in shape)


def status(text):
    """On a terminal, a line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


def note(text):
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(text, flush=True)


def time_ns(result):
    """The median of all turns, or None."""
    turns = [ns for round_ns in result.ns for ns in round_ns]
    return statistics.median(turns) if turns and not result.error else None


def ratio(result, ours):
    """How many times as long as fused-loss: the median over rounds, whose two times were taken one after the other, so
    that a machine that slows down slows both."""
    if ours is None or time_ns(result) is None or time_ns(ours) is None:
        return None
    return statistics.median(statistics.median(t) / statistics.median(o) for t, o in zip(result.ns, ours.ns))


def milliseconds(ns):
    ms = ns * 1e-6
    return f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms" if ms >= 0.1 else f"{ms * 1000:.1f} us"


def memory(peak_bytes):
    """In MiB; what a few pages of chance make is 0."""
    return f"{peak_bytes / (1 << 20):.1f} MiB" if peak_bytes < 10 << 20 else f"{peak_bytes / (1 << 20):.0f} MiB"


def live(problem, results):
    note(f"\n{title(problem)}")
    for name, result in results.items():
        if result.error:
            print(f"  {name:14} error: {result.error}")
            continue
        times = ratio(result, results.get("fused-loss"))
        peak = "-" if result.peak_bytes is None else f"+ {memory(result.peak_bytes)}"
        times = "" if times is None or name == "fused-loss" else f"{times:.2f}x"
        print(f"  {name:14} {milliseconds(time_ns(result)):>10} {times:>8} {peak:>14}", flush=True)


def markdown(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def final(rows, names):
    header = ["loss", "dtype", "size", *names]
    times, peaks = [], []
    for (loss, dtype, shape), results in rows:
        first = [loss.split("[")[0], dtype, size(loss, shape)]
        ours = results.get("fused-loss")
        cells = []
        for name in names:
            result = results[name]
            if result.error or time_ns(result) is None:
                cells.append("-")
                continue
            compared = ratio(result, ours) if name != "fused-loss" else None
            cells.append(milliseconds(time_ns(result)) + (f" ({compared:.1f}x)" if compared else ""))
        times.append(first + cells)
        peaks.append(first + [cell_of_memory(results[name]) for name in names])
    print("\nTime of forward + backward (in brackets: how many times fused-loss's)\n")
    markdown(header, times)
    print("\nMemory that one call takes at its peak, above inputs and gradient\n")
    markdown(header, peaks)


    errors = {}
    for (loss, dtype, _), results in rows:
        for name, result in results.items():
            if result.error:
                errors.setdefault((name, result.error), []).append(f"{loss.split('[')[0]} {dtype}")
    for (name, error), where in errors.items():
        print(f"\n{name}, {', '.join(dict.fromkeys(where))}: {error}", end="")
    print(flush=True)


def cell_of_memory(result):
    return "-" if result.error or result.peak_bytes is None else memory(result.peak_bytes)
