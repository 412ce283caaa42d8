"""The driver, with contenders that are pretended: `python -m unittest` in this folder. Standard library only."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import cases
import compare
import contender
import tables

HERE = Path(__file__).parent
FAKE = f"{sys.executable} {HERE / 'fake.py'}"


def run(*arguments, **fakes):
    """What compare.py prints and records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        servers = [f"--server={name}={FAKE} {how}" for name, how in fakes.items()]
        servers.append(f"--server=fused-loss={FAKE}")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            compare.main([*servers, f"--peers={','.join(fakes)}", "--json", str(path), "--rounds=2", *arguments])
        return printed.getvalue(), json.loads(path.read_text())


class Driver(unittest.TestCase):
    def test_times_ratios_and_memory_are_told(self):
        printed, record = run("--loss=mse,mae", "--dtype=f32", "--size=2^20", "--turns=3", torch="", jax="")
        self.assertIn("| mse  | f32   | 2^20 | 10.5 ms    | 10.5 ms (1.0x) | 10.5 ms (1.0x) |", printed)
        self.assertIn("| mae  | f32   | 2^20 | 3.0 MiB    | 3.0 MiB | 3.0 MiB |", printed)
        self.assertEqual(len(record["results"]), 2)
        jax = record["results"][0]["contenders"]["jax"]
        self.assertEqual(jax["ns"], [[10485760] * 3] * 2)
        self.assertEqual((jax["times_fused_loss"], jax["peak_bytes"]), (1.0, 3 << 20))

    def test_a_peer_that_is_not_installed_is_named_and_the_rest_goes_on(self):
        printed, record = run("--loss=mse", "--dtype=f32", torch="absent", jax="")
        self.assertIn("torch: left out: ModuleNotFoundError", printed)
        self.assertEqual(list(record["contenders"]), ["fused-loss", "jax"])

    def test_a_peer_that_computes_something_else_is_an_error(self):
        printed, record = run("--loss=mse", "--dtype=f32", torch="wrong")
        self.assertIn("wrong value", record["results"][0]["contenders"]["torch"]["error"])
        self.assertIn("| -     |", printed)

    def test_a_refusal_leaves_the_other_problems(self):
        _, record = run("--loss=mse", "--dtype=f16,f32", torch="refuse")
        f16, f32 = (row["contenders"]["torch"] for row in record["results"])
        self.assertEqual(f16["error"], "no f16")
        self.assertEqual(len(f32["ns"]), 2)

    def test_a_peer_that_dies_is_not_asked_again(self):
        _, record = run("--loss=mse,mae", "--dtype=f32", torch="crash")
        for row in record["results"]:
            self.assertEqual(row["contenders"]["torch"]["error"], "ended with 3: out of luck")
            self.assertIn("median_ns", row["contenders"]["fused-loss"])

    def test_what_is_not_json_is_an_error(self):
        _, record = run("--loss=mse", "--dtype=f32", torch="chatty")
        self.assertIn("not an answer", record["results"][0]["contenders"]["torch"]["error"])

    def test_silence_has_an_end(self):
        mute = contender.Contender("mute", [sys.executable, str(HERE / "fake.py"), "mute"])
        with self.assertRaisesRegex(contender.Lost, "no answer within"):
            mute.ask({"loss": "mse", "dtype": "f32", "shape": [8], "turns": 1}, seconds=0.2)

    def test_threads_are_the_same_for_all(self):
        _, record = run("--loss=mse", "--dtype=f32", "--threads=1", torch="")
        self.assertEqual({said["version"] for said in record["contenders"].values()}, {"1"})

    def test_fused_loss_alone_has_no_help_from_the_allocator(self):
        _, record = run("--loss=mse", "--dtype=f32", torch="")
        self.assertNotIn("MALLOC_MMAP_MAX_", record["environment"]["fused-loss"])
        self.assertIn("MALLOC_MMAP_MAX_", record["environment"]["torch"])


class Options(unittest.TestCase):
    def refused(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            compare.parse(arguments)
        return said.getvalue()

    def test_what_does_not_exist_is_refused_by_name(self):
        self.assertIn("mze is none of mse, mae", self.refused("--loss=mze"))
        self.assertIn("f64", self.refused("--dtype=f64"))
        self.assertIn("not a size", self.refused("--size=2^"))

    def test_a_size_binds_the_losses_that_it_fits(self):
        options = compare.parse(["--size=2^10,32x100"])
        self.assertEqual(cases.shapes("mse", options.size), [(1024,)])
        self.assertEqual(cases.shapes("dice[sigmoid]", options.size), [(4, 4, 64)])
        self.assertEqual(cases.shapes("cross_entropy", options.size), [(32, 100)])

    def test_quick_can_be_overruled(self):
        self.assertEqual(compare.parse(["--quick", "--loss=huber"]).loss, ["huber[delta=1]"])


class Definitions(unittest.TestCase):
    def test_numbers_of_the_check_are_exact_in_bf16(self):
        for loss in cases.LOSSES:
            _, x, t = cases.check_problem(loss)
            for number in x + [t for t in t if isinstance(t, float)]:
                # 8 significant bits.
                mantissa = abs(number).hex().split("p")[0].removeprefix("0x1.").removeprefix("0x0.")
                self.assertLessEqual(int(mantissa.ljust(13, "0"), 16) & ((1 << 45) - 1), 0, (loss, number))

    def test_known_values(self):
        value = lambda loss, x, t, shape=None: cases.LOSSES[loss][2](x, t, shape or (len(x),))
        self.assertAlmostEqual(value("huber[delta=1]", [0.5, 3.0], [0.0, 0.0]), (0.125 + 2.5) / 2)
        self.assertAlmostEqual(value("bce_with_logits", [0.0], [1.0]), 0.6931471805599453)
        self.assertAlmostEqual(value("sigmoid_focal[gamma=2", [0.0], [1.0]), 0.25 * 0.25 * 0.6931471805599453)
        self.assertAlmostEqual(value("cross_entropy", [0.0] * 8, [1, 2], (2, 4)), 1.3862943611198906)
        self.assertAlmostEqual(value("dice[sigmoid]", [0.0] * 2, [1.0, 0.0], (1, 1, 2)), 1 - 2 / 3)

    def test_a_gradient_that_is_not_halved_is_found(self):
        _, x, t = cases.check_problem("mse")
        value = cases.LOSSES["mse"][2](x, t, (len(x),))
        halved = [(a - b) / len(x) for a, b in zip(x, t)]
        self.assertIsNone(cases.wrong("mse", "f32", value, halved))
        self.assertIn("wrong gradient", cases.wrong("mse", "bf16", value, [2 * g for g in halved]))
        self.assertIn("wrong value", cases.wrong("mse", "f32", "nan", halved))

    def test_sizes_are_written_short(self):
        self.assertEqual(tables.title(("mse", "f32", (1 << 24,))), "mse f32 2^24")
        self.assertEqual(tables.title(("dice[sigmoid]", "f16", (4, 4, 1 << 20))), "dice f16 4x4x2^20")


class Greeting(unittest.TestCase):
    def test_a_library_that_is_missing_is_said_in_one_line(self):
        # An isolated interpreter (-S: without site-packages) has no JAX.
        peer = [sys.executable, "-S", str(HERE / "peer_jax.py")]
        said = subprocess.run(peer, input="", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        self.assertIn("No module named 'jax'", json.loads(said.stdout)["error"])


if __name__ == "__main__":
    unittest.main()
