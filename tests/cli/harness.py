"""What the tests of the command line share: the real executable, a small prepared data set, a
model that trains in a second, and finished runs of it to compare with.

All of it lies in a work folder: `fixture` is made once, every test has a scratch folder of its own.
"""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
STEPS = 30
CHECKPOINT_EVERY = 3
MAX_SEQUENCE = 512
LAST_CHECKPOINT = f"checkpoints/step-{STEPS:08d}"
WEIGHT_FILES = ("model.safetensors", "optimizer.safetensors")
PRECISIONS = ("fp32", "bf16")

# Eight micro-batches per step: slow enough to be interrupted in the middle, and the same numbers
# have to come out of an accumulated gradient.
TINY = {
    "model.architecture": "crnet", "model.vocab_size": 600, "model.hidden_size": 32,
    "model.num_layers": 2, "model.num_heads": 2, "model.ffn_size": 64, "model.r": 8,
    "model.max_sequence_length": MAX_SEQUENCE,
    "data.sequence_length": 32,
    "schedule.warmup_steps": 2,
    "train.steps": STEPS, "train.micro_batch": 2, "train.global_batch_tokens": 512,
    "train.device": "cpu", "train.precision": "fp32", "train.threads": 1,
    "train.eval_every": 10, "train.eval_tokens": 640,
    "checkpoint.every": CHECKPOINT_EVERY,
}
VOCABULARY = TINY["model.vocab_size"]


class Setup:
    """Set by run.py, before any test is loaded."""
    crnet = None
    program = None  # what crnet starts, or crnet itself
    work = None


def fixture(name):
    return Setup.work / "fixture" / name


def overrides(**settings):
    """--set arguments; a keyword names a key with __ for its dot."""
    arguments = []
    for key, value in settings.items():
        arguments += ["--set", f"{key.replace('__', '.')}={value}"]
    return arguments


def crnet(*arguments, cwd=None, timeout=300):
    """Runs the command line to its end. Text that is not UTF-8 may come from a tiny model."""
    return subprocess.run([Setup.crnet, *map(str, arguments)], cwd=cwd or Setup.work,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                          encoding="utf-8", errors="replace", check=False)


def nested(settings):
    tree = {}
    for key, value in settings.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree


def make_fixture():
    """Data of this repository's own sources, and one uninterrupted run in each precision."""
    shutil.rmtree(fixture(""), ignore_errors=True)
    fixture("").mkdir(parents=True)
    must("prepare", SOURCE / "src", SOURCE / "include", "--output", fixture("data"),
         "--train-tokenizer", VOCABULARY, "--validation-fraction", 0.1, "--document-bytes", 2000,
         "--threads", 1)
    recipe = {**TINY, "data.path": str(fixture("data")), "train.run_dir": "run"}
    fixture("recipe.json").write_text(json.dumps(nested(recipe), indent=2))
    for precision in PRECISIONS:
        must(*train_arguments(fixture(f"straight-{precision}"), train__precision=precision))
    fixture("complete").touch()


def must(*arguments):
    result = crnet(*arguments)
    if result.returncode != 0:
        raise RuntimeError(f"crnet {arguments[0]} exited {result.returncode}: {result.stderr}")
    return result


def train_arguments(run_dir, *more, **settings):
    return ["train", fixture("recipe.json"), *overrides(train__run_dir=run_dir, **settings), *more]


def metrics(run_dir):
    """The lines of metrics.jsonl; each has to parse."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir):
    """(kind, step) -> loss, and the list of these pairs as written."""
    written = [((line["kind"], line["step"]), line["loss"]) for line in metrics(run_dir)]
    return dict(written), [pair for pair, _ in written]


def steps_done(run_dir):
    """By the lines of metrics.jsonl, of which the last may be torn; 0 where there is none."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b'"kind":"step"') if path.exists() else 0


def checkpoints(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))


def digest(path):
    """Of a file, or of a folder's every name and content."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    listing = [(str(p.relative_to(path)), digest(p) if p.is_file() else "folder")
               for p in sorted(path.rglob("*"))]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def change_byte(path, position):
    """Flips the bits of one byte; a negative position counts from the end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


class Interrupted:
    """A training that gets a signal after `step` steps (0: as soon as metrics.jsonl is there) and
    `delay` seconds. `in_time` tells whether it was running still."""

    def __init__(self, arguments, run_dir, number, step, delay=0.0):
        process = subprocess.Popen([Setup.crnet, *map(str, arguments)], cwd=Setup.work,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        try:
            self._wait_for_step(process, run_dir, step)
            time.sleep(delay)
            self.in_time = process.poll() is None
            self._deliver(process, number)
            _, self.stderr = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.returncode = process.returncode

    def _deliver(self, process, number):
        process.send_signal(number)

    @staticmethod
    def _wait_for_step(process, run_dir, step):
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (run_dir / "metrics.jsonl").exists() and steps_done(run_dir) >= step:
                return
            time.sleep(0.001)


class CliTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix=f"{self.id().rsplit('.', 1)[-1][:40]}-",
                                              dir=Setup.work)
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)

    def succeeds(self, *arguments, **options):
        result = crnet(*arguments, **options)
        self.assertEqual(result.returncode, 0, f"{arguments}\n{result.stderr}")
        return result

    def breaks_off(self, arguments):
        """Exits with 1, perhaps after log lines, and says so in one last line."""
        result = crnet(*arguments, cwd=self.scratch)
        self.assertEqual(result.returncode, 1, f"{arguments}\n{result.stderr}")
        self.assertRegex(result.stderr, r"(?:\A|\n)crnet: [^\n]+\n\Z")
        return result

    def fails(self, code, arguments, *named, cwd=None):
        """Exits with `code`, prints one line, and this names all of `named`."""
        result = crnet(*arguments, cwd=cwd or self.scratch)
        shown = f"crnet {' '.join(map(str, arguments))[:500]}\n{result.stdout[:500]}{result.stderr}"
        self.assertEqual(result.returncode, code, shown)
        self.assertEqual(len(result.stdout), 0, f"expected no output before an error\n{shown}")
        self.assertRegex(result.stderr, r"\Acrnet: [^\n]+\n\Z", shown)
        for text in named:
            self.assertIn(str(text), result.stderr, shown)
        return result

    def refused(self, arguments, *named, cwd=None):
        """A mistake of the user's: exit 2 and one line."""
        return self.fails(2, arguments, *named, cwd=cwd)

    def damaged(self, arguments, *named):
        """Something outside the program is not as it should be: exit 1 and one line."""
        return self.fails(1, arguments, *named)

    def assert_same_end(self, run_dir, precision, message=""):
        """The run ended as the one that was never interrupted: weights, moments and figures."""
        straight = fixture(f"straight-{precision}")
        for name in WEIGHT_FILES:
            self.assertEqual(digest(run_dir / LAST_CHECKPOINT / name),
                             digest(straight / LAST_CHECKPOINT / name), f"{name}\n{message}")
        wanted, _ = losses(straight)
        got, order = losses(run_dir)
        self.assertEqual([pair for pair in order if order.count(pair) > 1], [],
                         f"written more than once\n{message}")
        steps = {pair: loss for pair, loss in got.items() if pair[0] == "step"}
        self.assertEqual(steps, {p: loss for p, loss in wanted.items() if p[0] == "step"}, message)
        for pair, loss in got.items():
            self.assertEqual(loss, wanted.get(pair), f"{pair}\n{message}")

    def copy_of_straight_run(self, precision="fp32"):
        run_dir = self.scratch / "run"
        shutil.copytree(fixture(f"straight-{precision}"), run_dir)
        return run_dir


# c10d asks DNS for the name of whoever connects, which must not make a test slow.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
KILL_ROUNDS = int(os.environ.get("CRNET_KILL_ROUNDS", "3"))
