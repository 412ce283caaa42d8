#!/usr/bin/env python3
"""Counts the instructions of one call of each loss (benches/instructions.rs, under valgrind's callgrind), and fails where there are
more than the committed baseline has.

    benches/instructions.py           # compare; and a call made twice must be noticed
    benches/instructions.py --update  # write the baseline

A wall clock cannot guard speed on a shared machine. Counts depend on the compiler: after a new Rust, look at what changed and update.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/results/instructions.json"
ALLOWANCE = 1.03


def build():
    command = ["cargo", "bench", "--bench", "instructions", "--no-run", "--message-format", "json-render-diagnostics"]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = map(json.loads, said.splitlines())
    programs = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions"]
    return programs[-1]


def count(program, *arguments):
    """Instructions of each case, with all that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program, *arguments]
        run = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(command)}:\n{run.stderr}")
        command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", out]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    counts = {}
    for number, name in re.findall(r"^\s*([\d,]+) .*?:(case_\w+)(?: |$)", said, re.MULTILINE):
        counts[name] = int(number.replace(",", ""))
    return counts


def worse(counts, baseline):
    """What has more instructions than it should, in words."""
    lines = []
    for name in sorted(counts.keys() | baseline.keys()):
        now, then = counts.get(name), baseline.get(name)
        if now is None or then is None:
            lines.append(f"{name} is {'gone' if now is None else 'new'}: run benches/instructions.py --update")
        elif now > then * ALLOWANCE:
            lines.append(f"{name}: {now} instructions, {now / then:.2f} times as many as the {then} of the baseline")
    return lines


def main():
    if sys.argv[1:] not in ([], ["--update"]):
        sys.exit(__doc__)
    program = build()
    counts = count(program)
    if len(counts) < 10:
        sys.exit(f"callgrind shows only {len(counts)} cases")
    if sys.argv[1:]:
        BASELINE.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")
        return
    baseline = json.loads(BASELINE.read_text())
    for name in sorted(counts):
        then = baseline.get(name)
        print(f"{name:28} {counts[name]:9} instructions, {counts[name] / then:.3f} of the baseline" if then else name)
    lines = worse(counts, baseline)
    noticed = [name for name in sorted(baseline) if any(name + ":" in l for l in worse(count(program, "--slower", "case_mse"), baseline))]
    if "case_mse" not in noticed:
        lines.append("case_mse was called twice, and that was not noticed")
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
