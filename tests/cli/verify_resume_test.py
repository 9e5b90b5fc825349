"""crnet verify-resume: a resumed run is the run that never stopped, with one process and several.
What it says of a difference is tested in tests/train/run_comparison_test.cpp."""
import re
import shutil
import signal

from harness import (CliTest, Interrupted, checkpoints, crnet, digest, fixture, metrics, overrides)
from processes import Distributed, crnet_launch, mpirun

EQUAL = (r"\Aequal bit by bit: (?P<steps>\d+) steps with a resume after step (?P<at>\d+), "
         r"(?P<tensors>\d+) tensors of (?P<elements>\d+) elements, and the state"
         r"(; runs in (?P<folder>[^\n]+))?\n\Z")


class VerifyResume(Distributed):
    def setUp(self):
        super().setUp()
        self.run_dir = self.scratch / "run"

    def arguments(self, *more, **settings):
        return ["verify-resume", fixture("recipe.json"), *more,
                *overrides(train__run_dir=self.run_dir, **settings)]

    def is_equal(self, result):
        self.ends_well(result)
        match = re.match(EQUAL, result.stdout)
        self.assertIsNotNone(match, result.stdout)
        self.assertNotIn("go on with", result.stderr, "its runs are not the user's")
        return {name: int(text) if name != "folder" else text
                for name, text in match.groupdict().items()}

    def left(self):
        return sorted(path.name for path in self.scratch.iterdir())


class OneProcess(VerifyResume):
    def test_it_says_how_much_is_equal_and_leaves_nothing(self):
        for precision in ("fp32", "bf16"):
            with self.subTest(precision):
                found = self.is_equal(crnet(*self.arguments(train__precision=precision)))
                self.assertEqual((found["steps"], found["at"]), (20, 10))
                self.assertGreater(found["tensors"], 60)
                self.assertGreater(found["elements"], 3 * 600 * 32)
                self.assertEqual(self.left(), [])

    def test_the_users_run_and_its_neighbours_are_left_alone(self):
        shutil.copytree(fixture("straight-fp32"), self.run_dir)
        before = digest(self.run_dir)
        self.is_equal(crnet(*self.arguments("--steps", 4)))
        self.assertEqual(digest(self.run_dir), before)
        self.assertEqual(self.left(), ["run"])

    def test_the_schedule_is_that_of_the_whole_run(self):
        folder = self.scratch / "kept"
        found = self.is_equal(crnet(*self.arguments("--steps", 7, "--at", 2, "--dir", folder)))
        self.assertEqual((found["steps"], found["at"]), (7, 2))
        self.assertEqual(found["folder"], str(folder))
        whole = [line["loss"] for line in metrics(fixture("straight-fp32"))
                 if line["kind"] == "step"]
        for run in ("straight", "resumed"):
            steps = [line for line in metrics(folder / run) if line["kind"] == "step"]
            self.assertEqual([line["step"] for line in steps], [1, 2, 3, 4, 5, 6, 7])
            self.assertEqual([line["loss"] for line in steps], whole[:7])
            self.assertEqual(checkpoints(folder / run)[-1], "step-00000007")
        self.assertTrue((folder / "resumed" / "config-from-2.yaml").exists())
        self.assertEqual(self.left(), ["kept"])

    def test_keep_leaves_the_temporary_folder(self):
        found = self.is_equal(crnet(*self.arguments("--steps", 2, "--keep")))
        self.assertEqual(self.left(), [found["folder"].rsplit("/", 1)[-1]])
        self.assertTrue(self.left()[0].startswith("run-verify-resume-"))

    def test_a_run_to_its_very_end_is_compared_with_its_validation(self):
        folder = self.scratch / "kept"
        self.is_equal(crnet(*self.arguments("--steps", 6, "--dir", folder, train__steps=6)))
        for run in ("straight", "resumed"):
            self.assertEqual(metrics(folder / run)[-1]["kind"], "validation")

    def test_strategies_of_recomputation_resume_to_the_same_bits(self):
        for strategy in ("inverse", "auto"):
            with self.subTest(strategy):
                self.is_equal(crnet(*self.arguments(
                    recompute__strategy=strategy, recompute__check_every=3,
                    model__num_layers=4)))

    def test_a_signal_ends_it_without_a_verdict(self):
        folder = self.scratch / "kept"
        stopped = Interrupted(self.arguments("--dir", folder, "--steps", 20000,
                                             train__steps=20000, checkpoint__every=0,
                                             train__eval_every=0),
                              folder / "straight", signal.SIGTERM, step=3)
        self.assertTrue(stopped.in_time)
        self.assertEqual(stopped.returncode, 1, stopped.stderr)
        self.assertRegex(stopped.stderr.splitlines()[-1],
                         r"^crnet: \[verify-resume\] expected 20000 steps in .*, got a signal to "
                         r"stop after \d+; nothing was compared$")


class SeveralProcesses(VerifyResume):
    def test_every_split_resumes_to_the_same_bits(self):
        for shard in ("none", "optimizer", "parameters"):
            with self.subTest(shard=shard):
                found = self.is_equal(crnet_launch(2, self.arguments(dist__shard=shard)))
                self.assertGreater(found["elements"], 3 * 600 * 32)
                self.assertEqual(self.left(), [])

    def test_groups_of_shards_resume_to_the_same_bits(self):
        self.is_equal(crnet_launch(4, self.arguments(dist__shard="parameters",
                                                     dist__shard_group=2)))

    def test_mpirun_starts_it_too(self):
        if shutil.which("mpirun") is None:
            self.skipTest("no mpirun; scripts/setup.sh installs it")
        self.is_equal(mpirun(2, self.arguments(dist__shard="parameters")))

    def test_a_mistake_is_said_by_all(self):
        self.all_say(self.start(2, self.arguments("--steps", 31)), 2, "--steps", "got 31")
        self.all_say(self.start(2, self.arguments("--dir", fixture("data"))), 2, "--dir")
        self.all_say(self.start(2, self.arguments(data__path=self.scratch / "none")), 2,
                     "data.path")


class Mistakes(CliTest):
    def test_they_are_named_and_nothing_is_made(self):
        run = ["--set", f"train.run_dir={self.scratch / 'made' / 'run'}"]
        recipe = ["verify-resume", fixture("recipe.json"), *run]
        for arguments, named in (
                (["verify-resume"], ["[verify-resume] expected a recipe"]),
                ([*recipe, "--steps", 31], ["--steps", "2 to 30 (train.steps), got 31"]),
                ([*recipe, "--steps", 1], ["--steps", "got 1"]),
                ([*recipe, "--steps", "x"], ["x"]),
                ([*recipe, "--at", 20], ["--at", "1 to 19", "got 20"]),
                ([*recipe, "--at", 0], ["--at", "1 to 19", "got 0"]),
                ([*recipe, "--dir", fixture("data")], ["--dir", "new or empty", fixture("data")]),
                ([*recipe, "--dir", self.scratch / "made" / "run"], ["other than train.run_dir"]),
                ([*recipe, "--set", "data.path=none"], ["data.path", "none"]),
                ([*recipe, "--set", "train.stepz=3"], ["did you mean train.steps?"])):
            with self.subTest(" ".join(map(str, arguments[4:]))):
                self.refused(arguments, *named)
                self.assertEqual(list(self.scratch.iterdir()), [])
