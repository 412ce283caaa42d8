"""A contender for the tests: answers at once, with the definition's own values.

    fake.py [wrong|absent|crash|mute|refuse|chatty]
"""

import json
import os
import sys
import time

import cases

how = sys.argv[1] if len(sys.argv) > 1 else ""


def say(answer):
    print(json.dumps(answer), flush=True)


def gradient(loss, x, t):
    """Of squared and absolute error, for an upstream gradient of 0.5."""
    slope = (lambda d: d) if loss == "mse" else (lambda d: 0.5 if d > 0.0 else -0.5)
    return [slope(a - b) / len(x) for a, b in zip(x, t)]


if how == "absent":
    say({"error": "ModuleNotFoundError: No module named 'fake'"})
    sys.exit()
threads = os.environ.get("OMP_NUM_THREADS", "?")
say({"program": f"fake {how}".strip(), "version": threads, "device": "cpu", "threads": 1})
for line in sys.stdin:
    request = json.loads(line)
    given = request.get("check")
    if given:
        value = cases.LOSSES[request["loss"]][2](given["input"], given["target"], request["shape"])
        grad = gradient(request["loss"], given["input"], given["target"])
        say({"value": value * (1.5 if how == "wrong" else 1.0), "grad": grad})
    elif how == "crash":
        print("out of luck", file=sys.stderr)
        sys.exit(3)
    elif how == "mute":
        time.sleep(60)
    elif how == "refuse" and request["dtype"] == "f16":
        say({"error": "no f16"})
    elif how == "chatty":
        print("loading, please wait", flush=True)
    elif request.get("memory"):
        say({"peak_bytes": 3 << 20})
    else:
        say({"ns": [request["shape"][0] * 10] * request["turns"]})
