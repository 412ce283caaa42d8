"""What every contender written in Python shares: JSON lines in, JSON lines out (see README.md for the protocol)."""

import ctypes
import json
import os
import sys
import time


class Problem:
    """One loss, dtype and shape. A contender derives from it; `value` and `grad` are what the last call gave."""

    value = grad = None
    # Bytes of gradient that a call allocates itself: they are no overhead.
    new_grad_bytes = 0

    def prepare(self):
        """Before every call, untimed: drops the last gradient."""
        self.value = self.grad = None

    def call(self):
        """Forward and backward, into `self.value` and `self.grad`, finished when it returns."""
        raise NotImplementedError

    def turn(self):
        """Nanoseconds of a call."""
        self.prepare()
        started = time.perf_counter_ns()
        self.call()
        return time.perf_counter_ns() - started

    def results(self):
        """Value and gradient as Python numbers."""
        raise NotImplementedError

    def peak_bytes(self):
        """How far the resident set grows during one call, above inputs and gradient."""
        self.prepare()
        # Pages that were freed and kept would hide that they are taken again.
        ctypes.CDLL(None).malloc_trim(0)
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as clear_refs:
            clear_refs.write("5")  # the high-water mark starts again
        self.call()
        return max(0, status("VmHWM") - before - self.new_grad_bytes)


def status(key):
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def serve(hello, problem):
    """Answers lines until there are no more. `hello()` is the greeting (it imports what the contender needs),
    `problem(loss, dtype, shape, given)` makes one, of the given (input, target) or of random numbers."""
    # Libraries print what they like: the real standard output is kept for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        say(hello())
    except Exception as error:
        say({"error": brief(error)})
        return
    kept, current = None, None
    for line in sys.stdin:
        request = json.loads(line)
        which = (request["loss"], request["dtype"], tuple(request["shape"]))
        try:
            given = request.get("check")
            if given or which != kept:
                kept = current = None  # frees its memory before more is taken
                current = problem(*which, given and (given["input"], given["target"]))
            if given:
                current.prepare()
                current.call()
                value, grad = current.results()
                say({"value": finite(value), "grad": [finite(g) for g in grad]})
                current = None
                continue
            if which != kept:
                for _ in range(3):  # the first compiles, the next ones find their memory
                    current.turn()
                kept = which
            if request.get("memory"):
                say({"peak_bytes": current.peak_bytes()})
            else:
                say({"ns": [current.turn() for _ in range(request.get("turns", 1))]})
        except Exception as error:
            kept = current = None
            say({"error": brief(error)})


def finite(x):
    """JSON has neither NaN nor infinity."""
    return x if abs(x) < float("inf") else str(x)


def brief(error):
    """One line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
