#!/usr/bin/env python3
"""Remakes the tables of the README from the records of `cargo run --release -p throughput -- --json FILE` and of
`benches/peers/compare.py --json FILE`, and of `benches/doors/compare.py --json FILE`.

    benches/readme.py                     # from the records that the README names
    benches/readme.py throughput FILE     # that one from another record, which the README names from then on
    benches/readme.py peers FILE
    benches/readme.py doors FILE
    benches/readme.py sums FILE,FILE,...  # every loss, of several machines
    benches/readme.py gpu FILE            # the throughput of a GPU
    benches/readme.py --check             # fails if the README is not what its records give
"""

import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

# The share of the copy that each row should have, in f32.
GOALS = {
    ("mse", "16777216"): 0.90,
    ("mae", "16777216"): 0.90,
    ("huber[delta=1]", "16777216"): 0.90,
    ("hinge[signed]", "16777216"): 0.90,
    ("bce", "16777216"): 0.85,
    ("bce_with_logits", "16777216"): 0.85,
    ("sigmoid_focal[gamma=2+alpha+hard]", "16777216"): 0.80,
    ("kl_div", "16777216"): 0.85,
    ("gan[NonSaturating+generator]", "16777216"): 0.80,
    ("dice[sigmoid]", "4x4x1048576"): 0.50,
    ("cross_entropy", "16384x1000"): 0.70,
    ("cross_entropy", "2048x8192"): 0.80,
    ("cross_entropy", "512x32768"): 0.80,
    ("cross_entropy", "128x131072"): 0.80,
}


def size(shape):
    """Powers of two from a million on as such."""
    power = lambda n: f"2^{n.bit_length() - 1}" if n >= 1 << 20 and n & (n - 1) == 0 else str(n)
    return "x".join(map(power, shape))


def table(name):
    record = json.loads((ROOT / name).read_text())
    rows = {(r["loss"], "x".join(map(str, r["shape"])), r["dtype"]): r for r in record["rows"]}
    lines = [
        "| loss (forward + backward) | size | GB/s, f32 | share of the copy, f32 | goal | f16 | bf16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for (loss, shape), goal in GOALS.items():
        if (loss, shape, "f32") not in rows:
            sys.exit(f"{name} has no row of {loss} {shape} f32")
        row = rows[loss, shape, "f32"]
        half = [rows.get((loss, shape, dtype)) for dtype in ("f16", "bf16")]
        shares = " | ".join(f"{r['share']:.2f}" if r else "-" for r in half)
        lines.append(
            f"| `{loss}` | {size(row['shape'])} | {row['gbs']:.1f} | {row['share']:.2f} | {goal:.2f} | {shares} |"
        )
    commit = f", commit {record['commit']}" if record["commit"] else ""
    lines += ["", f"Measured on {record['date']}{commit}: {record['machine']}, {record['device']}."]
    return "\n".join(lines)


def gpu(name):
    record = json.loads((ROOT / name).read_text())
    rows = {}
    for row in record["rows"]:
        rows.setdefault((row["loss"], tuple(row["shape"])), {})[row["dtype"]] = row
    lines = [
        "| loss (forward + backward) | size | f32 | f16 | bf16 | launches |",
        "|---|---|---|---|---|---|",
    ]
    cell = lambda row: f"{row['gbs']:.0f} GB/s, {row['share']:.2f}" if row else "-"
    for (loss, shape), kinds in rows.items():
        shares = " | ".join(cell(kinds.get(dtype)) for dtype in ("f32", "f16", "bf16"))
        lines.append(f"| `{loss}` | {size(shape)} | {shares} | {next(iter(kinds.values()))['launches']} |")
    if record.get("in_graph"):
        lines += ["", "| a call inside a CUDA graph, f32 | size | time | over a kernel that does nothing |", "|---|---|---|---|"]
    for row in record.get("in_graph", []):
        us = [row["ns"] / 1e3, (row["ns"] - row["empty_ns"]) / 1e3]
        lines.append(f"| `{row['loss']}` | {size(row['shape'])} | {us[0]:.1f} us | {us[1]:.1f} us |")
    commit = f", commit {record['commit']}" if record["commit"] else ""
    lines += ["", f"Measured on {record['date']}{commit}: {record['machine']}."]
    return "\n".join(lines)


def peers(name):
    record = json.loads((ROOT / name).read_text())
    others = [c for c in record["contenders"] if c != "fused-loss"]
    label = lambda c: f"{record['contenders'][c]['program']} {record['contenders'][c]['version'].split('+')[0]}"
    lines = [
        "| loss, f32 | size | fused-loss | " + " | ".join(map(label, others)) + " |",
        "|---|---|---|" + "---|" * len(others),
    ]
    for row in record["results"]:
        if row["dtype"] != "f32":
            continue
        times = {c: r["median_ns"] * 1e-6 for c, r in row["contenders"].items() if "median_ns" in r}
        memory = {c: (r.get("peak_bytes") or 0) >> 20 for c, r in row["contenders"].items()}
        cell = lambda c: f"{times[c]:.0f} ms, {times[c] / times['fused-loss']:.1f}x" if c in times else "-"
        cells = [cell(c) + (f", {memory[c]} MiB" if memory.get(c) else "") for c in others]
        lines.append(f"| `{row['loss'].split('[')[0]}` | {size(row['shape'])} | {times['fused-loss']:.1f} ms | {' | '.join(cells)} |")
    started, machine = record["started"], record["machine"]["processor"]
    date, commit = started["date"][:16].replace("T", " "), record["commit"][:7]
    lines += ["", f"Measured on {date} UTC, commit {commit}: {machine}, {record['threads']} threads, medians of {record['rounds']} rounds."]
    return "\n".join(lines)


def doors(name):
    record = json.loads((ROOT / name).read_text())
    lines = ["| door | time of a call | over the first of its process |", "|---|---|---|"]
    lines += [f"| {row['door']} | {row['us']:.0f} us | {row['over']:.2f} |" for row in record["rows"]]
    started, machine = record["started"], record["machine"]["processor"]
    date, commit = started["date"][:16].replace("T", " "), record["commit"][:7]
    lines += ["", f"Measured on {date} UTC, commit {commit}: {machine}, medians of {record['rounds']} rounds."]
    return "\n".join(lines)


# Sums of losses, and their terms.
FOCAL = "sigmoid_focal[gamma=2+alpha+hard]"
SUMS = {
    "combined[mse+mae]": ("MSE + MAE", ["mse", "mae"]),
    "combined[bce+focal]": ("BCE + focal", ["bce_with_logits", FOCAL]),
    "combined_rows[T=2+smoothing=0.1+z_loss=0][ignored class]": ("cross-entropy + distillation, T = 2", ["cross_entropy", "distillation[T=4]"]),
    "combined_regions[dice+cross_entropy]": ("Dice + cross-entropy", ["dice[index+softmax]"]),
    "combined_regions[dice+softmax_focal]": ("Dice + softmax focal", ["dice[index+softmax]"]),
    "combined_regions[dice+sigmoid_focal]": ("Dice + sigmoid focal", ["dice[sigmoid]", FOCAL]),
}


def sums(names):
    records = [json.loads((ROOT / name).read_text()) for name in names.split(",")]
    # Of a CPU, its instruction set too.
    label = lambda r: ", ".join([r["machine"].split(",")[0], *re.findall(r"CPU \((.+?),", r["device"])])
    lines = ["| sum | " + " | ".join(map(label, records)) + " |", "|---|" + "---|" * len(records)]

    def cell(record, loss, terms, dtype):
        rows = [r for r in record["rows"] if r["dtype"] == dtype]
        (of_sum,) = (r for r in rows if r["loss"] == loss)
        alike = lambda r: r["loss"] in terms and math.prod(r["shape"]) == math.prod(of_sum["shape"])
        return f"{of_sum['ns'] / max(r['ns'] for r in rows if alike(r)):.2f}"

    for loss, (title, terms) in SUMS.items():
        cells = [", ".join(cell(r, loss, terms, dtype) for dtype in ("f32", "bf16")) for r in records]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    dates = ", ".join(f"{r['date'][:10]} ({r['commit'] or 'no commit'})" for r in records)
    lines += ["", f"Time over that of the slower term in the same run, f32 and bf16; measured on {dates}."]
    return "\n".join(lines)


# The name of a block in the README, and what makes it of its record.
BLOCKS = {"throughput": table, "peers": peers, "doors": doors, "gpu": gpu, "sums": sums}


def main():
    if len(sys.argv) not in (1, 2, 3) or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    text = remade = README.read_text()
    given = dict([sys.argv[1:]]) if len(sys.argv) == 3 else {}
    for block, make in BLOCKS.items():
        found = re.search(rf"<!-- {block} table: from (\S+) -->\n.*?<!-- end -->", remade, re.DOTALL)
        if not found:
            sys.exit(f"README.md has no {block} table between its two marks")
        name = found[1]
        if block in given:
            paths = map(pathlib.Path, given[block].split(","))
            name = ",".join(path.resolve().relative_to(ROOT).as_posix() for path in paths)
        made = f"<!-- {block} table: from {name} -->\n{make(name)}\n<!-- end -->"
        remade = remade[: found.start()] + made + remade[found.end() :]
    if sys.argv[1:] != ["--check"]:
        README.write_text(remade)
    elif remade != text:
        sys.exit("README.md is not what its records give: run benches/readme.py")


if __name__ == "__main__":
    main()
