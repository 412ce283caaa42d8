"""A contender: a process that answers one JSON line for each that it gets. Only one of them works at a time."""

import json
import os
import select
import subprocess
import tempfile
import time

START_SECONDS = 120  # until the greeting: PyTorch's import alone takes half a minute from a cold disk
ANSWER_SECONDS = 900  # a compilation, and the turns


class Lost(Exception):
    """The contender is gone or mute: there is no sense in asking again."""


class Refused(Exception):
    """It answered with an error; another problem may go well."""


class Contender:
    def __init__(self, name, command, environment=None, processors=None, start_seconds=START_SECONDS):
        """Starts `command`, bound to these processors; raises `Lost` with the reason if it cannot compete."""
        self.name, self.lost = name, None
        self.errors = tempfile.TemporaryFile()
        bind = (lambda: os.sched_setaffinity(0, processors)) if processors else None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env={**os.environ, **(environment or {})},
                preexec_fn=bind,
            )
        except OSError as error:
            raise Lost(str(error)) from None
        self.pending = b""
        self.hello = self.read(start_seconds)
        if "error" in self.hello:
            self.stop()
            raise Lost(self.hello["error"])

    def ask(self, request, seconds=ANSWER_SECONDS):
        """Its answer; `Refused` if that is an error, `Lost` if there is none."""
        if self.lost:
            raise Lost(self.lost)
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone: reading says why
        answer = self.read(seconds)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def read(self, seconds):
        """The next line. (`readline` knows no time limit.)"""
        stdout, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self.pending:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.lose(f"no answer within {seconds:g} s")
            chunk = os.read(stdout, 1 << 16)
            if not chunk:
                self.lose(self.last_words())
            self.pending += chunk
        line, self.pending = self.pending.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.lose(f"not an answer: {line[:80]!r}")
        return answer

    def lose(self, why):
        self.stop()
        self.lost = why
        raise Lost(why)

    def last_words(self):
        """How it ended, and the last line it wrote to standard error."""
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        ended = f"ended by signal {-status}" if status < 0 else f"ended with {status}"
        return f"{ended}: {lines[-1][:200]}" if lines else ended

    def stop(self):
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()
