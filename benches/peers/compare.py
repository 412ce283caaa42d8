"""Times fused-loss and its peers side by side: the same problems, the same machine, taking turns.

    python benches/peers/compare.py                 # everything that is installed, on the CPU
    python benches/peers/compare.py --quick         # three losses, about a minute
    python benches/peers/compare.py --device cuda   # on a GPU
"""

import argparse
import math
import os
import sys
import time

import cases
import record
import tables
from contender import Contender, Lost, Refused
from roster import BUILT, PEERS, Unavailable, command, environment

QUICK_LOSSES = "mse,bce_with_logits,cross_entropy"
QUICK_SIZE = "2^22,2048x8192"


def size(text):
    """`2^24` or `16777216` elements, or `2048x8192` rows and classes."""
    parts = text.split("x")
    try:
        numbers = tuple(2 ** int(p[2:]) if p.startswith("2^") else int(p) for p in parts)
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a size: 2^24, 16777216 or 2048x8192")
    return numbers


def one_of(choices):
    """The members of a list with commas; a loss may lack what its name has in brackets."""

    def parse(text):
        chosen = []
        for word in text.split(","):
            found = [c for c in choices if c == word or c.split("[")[0] == word]
            if not found:
                raise argparse.ArgumentTypeError(f"{word} is none of {', '.join(c.split('[')[0] for c in choices)}")
            chosen += found
        return chosen

    return parse


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [name for names in PEERS.values() for name in names]
    parser.add_argument("--device", choices=PEERS, default="cpu")
    parser.add_argument("--peers", type=one_of(list(dict.fromkeys(every))), help="which peers, with commas")
    parser.add_argument("--loss", type=one_of(list(cases.LOSSES)), help="which losses, with commas")
    parser.add_argument("--dtype", type=one_of(cases.DTYPES), help="f32, bf16, f16, with commas")
    parser.add_argument("--size", type=lambda text: [size(word) for word in text.split(",")], help=size.__doc__)
    parser.add_argument("--rounds", type=int, help="how often the contenders take turns (default 11, quick 5)")
    parser.add_argument("--turns", type=int, default=1, help="calls in a row in each round (default 1)")
    parser.add_argument("--threads", type=int, help="for every contender (default: all processors)")
    parser.add_argument("--fresh-pages", action="store_true", help="the C library's own settings (see README.md)")
    parser.add_argument("--quick", action="store_true", help="three losses in f32 at smaller sizes")
    parser.add_argument("--json", metavar="FILE", help="writes a record of the run")
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME=COMMAND", help="starts a contender by this command"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.loss = options.loss or one_of(list(cases.LOSSES))(QUICK_LOSSES)
        options.dtype = options.dtype or ["f32"]
        options.size = options.size or [size(word) for word in QUICK_SIZE.split(",")]
    options.loss = options.loss or list(cases.LOSSES)
    options.dtype = options.dtype or list(cases.DTYPES)
    options.rounds = options.rounds or (5 if options.quick else 11)
    options.threads = options.threads or len(os.sched_getaffinity(0))
    options.peers = options.peers or PEERS[options.device]
    return options


def start(options):
    """The contenders that can compete, fused-loss first; a line about each of the others."""
    own = dict(server.split("=", 1) for server in options.server)
    contenders = []
    processors = sorted(os.sched_getaffinity(0))[: options.threads]
    for name in ["fused-loss", *options.peers]:
        try:
            if name in BUILT and name not in own:
                print(f"building {name} ...", flush=True)
            words = command(name, options.device, own.get(name))
            contender = Contender(name, words, environment(name, options), processors)
        except (Lost, Unavailable) as error:
            print(f"{name}: left out: {error}")
            continue
        said = contender.hello
        print(f"{name}: {said['program']} {said['version']}, {said['device']}, {said['threads']} threads", flush=True)
        contenders.append(contender)
    return contenders


class Result:
    """What one contender did with one problem."""

    def __init__(self):
        self.ns, self.copy_ns, self.bytes, self.peak_bytes, self.error = [], [], None, None, None


def check(contender, loss, dtype, checked):
    """Raises `Refused` if the contender computes something else; asked once for a loss and dtype. fused-loss's own
    value is checked by its tests and before each of its benches."""
    if contender.name == "fused-loss":
        return
    key = contender.name, loss, dtype
    if key not in checked:
        shape, x, t = cases.check_problem(loss)
        request = {"loss": loss, "dtype": dtype, "shape": shape, "check": {"input": x, "target": t}}
        try:
            answer = contender.ask(request)
            checked[key] = cases.wrong(loss, dtype, answer["value"], answer["grad"])
        except Refused as error:
            checked[key] = str(error)
    if checked[key]:
        raise Refused(checked[key])


def race(contenders, problem, options, checked):
    """Checks and warms every contender, then lets them take turns. Results by name."""
    loss, dtype, shape = problem
    request = {"loss": loss, "dtype": dtype, "shape": shape}
    results = {contender.name: Result() for contender in contenders}

    def attempt(contender, what, ask):
        result = results[contender.name]
        if result.error or contender.lost:
            result.error = result.error or contender.lost
            return
        tables.status(f"{tables.title(problem)}: {contender.name}, {what}")
        try:
            ask(result)
        except (Lost, Refused) as error:
            result.error = str(error)

    for contender in contenders:
        attempt(contender, "check", lambda _: check(contender, loss, dtype, checked))

        def memory(result):
            try:
                result.peak_bytes = contender.ask({**request, "turns": 1, "memory": True})["peak_bytes"]
            except Refused as error:
                # Perhaps it only cannot tell: the next turn will show.
                tables.note(f"{contender.name}, {tables.title(problem)}, memory: {error}")
            contender.ask({**request, "turns": 1})  # not counted: measuring memory may have given pages back

        attempt(contender, "warming up", memory)
    for turn in range(options.rounds):
        for contender in contenders:
            # The one before may still have threads that spin, waiting for work.
            time.sleep(0.02)

            def timed(result):
                answer = contender.ask({**request, "turns": options.turns})
                result.ns.append(answer["ns"])
                # fused-loss's server also times a copy of the same buffers, and tells the fewest bytes to be moved.
                result.copy_ns.append(answer.get("copy_ns"))
                result.bytes = answer.get("bytes")

            attempt(contender, f"round {turn + 1} of {options.rounds}", timed)
    return results


def main(arguments=None):
    options = parse(arguments)
    started = record.now_and_load()
    if started["load"] > 0.5:
        # Most of all for peers that wait for their threads in spinning loops: they lose whole time slices.
        print(f"the machine is busy (load {started['load']}): these times will be worth little")
    contenders = start(options)
    if not contenders:
        sys.exit("no contender is left")
    print(f"\n{record.machine()['processor']}, {options.threads} threads for each contender", flush=True)
    problems = [(l, d, s) for l in options.loss for s in cases.shapes(l, options.size or ()) for d in options.dtype]
    rows, checked = [], {}
    try:
        for problem in problems:
            results = race(contenders, problem, options, checked)
            rows.append((problem, results))
            tables.live(problem, results)
    except KeyboardInterrupt:
        print("\nstopped; what is done follows")
    for contender in contenders:
        if not contender.lost:
            contender.stop()
    tables.final(rows, [contender.name for contender in contenders])
    if options.json:
        record.write(options, started, contenders, rows)
        print(f"\nrecord: {options.json}")


if __name__ == "__main__":
    main()
