#!/usr/bin/env python3
"""Remakes the README's throughput table from a record of `cargo run --release -p throughput -- --json FILE`.

    benches/readme.py                            # from the record that the README names
    benches/readme.py benches/results/FILE.json  # from another, which the README names from then on
    benches/readme.py --check                    # fails if the README is not what its record gives
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- throughput table: from (\S+) -->\n.*?<!-- end -->", re.DOTALL)

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


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    argument = sys.argv[1] if len(sys.argv) == 2 else None
    text = README.read_text()
    found = BLOCK.search(text)
    if not found:
        sys.exit("README.md has no throughput table between its two marks")
    name = found[1]
    if argument and argument != "--check":
        name = pathlib.Path(argument).resolve().relative_to(ROOT).as_posix()
    made = f"<!-- throughput table: from {name} -->\n{table(name)}\n<!-- end -->"
    remade = text[: found.start()] + made + text[found.end() :]
    if argument != "--check":
        README.write_text(remade)
    elif remade != text:
        sys.exit(f"README.md is not what {name} gives: run benches/readme.py")


if __name__ == "__main__":
    main()
