"""crnet launch: processes start and end together, signals reach them, and a training that failed
goes on by itself. How a launch ends is tested in tests/dist."""
import os
import pathlib
import signal
import subprocess

from harness import (LAST_CHECKPOINT, SIGNALS, STEPS, CliTest, Interrupted, Setup, checkpoints,
                     crnet, fixture, train_arguments)


def launch(arguments, *options, processes=1):
    return ["launch", "--nproc", processes, *options, *arguments]


class KilledTrainer(Interrupted):
    """The signal goes to the launcher's only process."""

    def _deliver(self, process, number):
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(int(children.read_text()), number)


class Launch(CliTest):
    def test_every_process_runs_the_command_with_its_options(self):
        arguments = ["config", fixture("recipe.json"), "--set", "train.steps=7", "--json"]
        alone = self.succeeds(*arguments).stdout
        together = self.succeeds(*launch(arguments, processes=2)).stdout
        self.assertEqual(sorted(together), sorted(2 * alone))

    def test_a_mistake_in_the_launched_command_is_not_restarted(self):
        mistaken = ["config", self.scratch / "missing.yaml"]
        result = crnet(*launch(mistaken, "--max-restarts", 3, processes=2))
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stderr.count("crnet: "), 2, result.stderr)
        self.assertRegex(result.stderr, r"process [01] of 2 exited with 2")
        for text in ("restart", "go on"):
            self.assertNotIn(text, result.stderr)

    def test_a_mistake_in_a_training_is_said_once_and_nothing_is_started(self):
        run_dir = self.scratch / "run"
        for processes, arguments, named in (
                (3, train_arguments(run_dir), ["train.global_batch_tokens", "2 * 32 * 3 = 192"]),
                (2, train_arguments(run_dir, train__stepz=3), ["did you mean train.steps?"]),
                (2, train_arguments(run_dir, train__steps=0), ["train.steps", "got 0"]),
                (2, train_arguments(run_dir, dist__shard="parameters", dist__shard_group=3),
                 ["dist.shard_group", "(2)"]),
                (2, train_arguments(run_dir, "--profile", 0), ["--profile", "got 0"]),
                (2, train_arguments(run_dir, "--resum", "auto"), ["resum"]),
                (2, ["train"], ["[train] expected a recipe"])):
            with self.subTest(" ".join(map(str, arguments[2:]))):
                self.refused(launch(arguments, processes=processes), *named)
        self.assertFalse(run_dir.exists())

    def test_a_signal_ends_it_with_a_checkpoint(self):
        for number in SIGNALS:
            with self.subTest(signal=signal.Signals(number).name):
                run_dir = self.scratch / signal.Signals(number).name
                stopped = Interrupted(launch(train_arguments(run_dir, checkpoint__every=0)),
                                      run_dir, number, step=5)
                self.assertTrue(stopped.in_time, "the run was over before the signal")
                self.assertEqual(stopped.returncode, 0, stopped.stderr)
                saved = checkpoints(run_dir)
                self.assertEqual(len(saved), 1, saved)
                self.assertTrue(5 <= int(saved[0].removeprefix("step-")) < STEPS, saved)

    def test_a_killed_trainer_is_started_anew_and_goes_on_to_the_same_weights(self):
        run_dir = self.scratch / "run"
        killed = KilledTrainer(launch(train_arguments(run_dir), "--max-restarts", 1), run_dir,
                               signal.SIGKILL, step=8)
        self.assertTrue(killed.in_time, "the run was over before the signal")
        self.assertEqual(killed.returncode, 0, killed.stderr)
        for text in ("process 0 of 1 was ended by SIGKILL", "restart 1 of 1", "resumed from"):
            self.assertIn(text, killed.stderr)
        self.assert_same_end(run_dir, "fp32", killed.stderr)

    def test_a_killed_trainer_without_restarts_gives_its_code_and_the_command_to_go_on(self):
        run_dir = self.scratch / "a run"
        killed = KilledTrainer(launch(train_arguments(run_dir)), run_dir, signal.SIGKILL, step=8)
        self.assertTrue(killed.in_time, "the run was over before the signal")
        self.assertEqual(killed.returncode, 128 + signal.SIGKILL, killed.stderr)
        _, command = killed.stderr.splitlines()[-1].split("if there is one: ")
        resumed = subprocess.run(command, shell=True, cwd=Setup.work, capture_output=True,
                                 encoding="utf-8", check=False, timeout=120)
        self.assertEqual(resumed.returncode, 0, f"{command}\n{resumed.stderr}")
        self.assertIn("resumed from", resumed.stderr)
        self.assert_same_end(run_dir, "fp32", resumed.stderr)

    def test_a_failed_run_is_given_the_command_to_go_on_where_one_serves(self):
        (self.scratch / "file").touch()
        arguments = train_arguments(self.scratch / "file" / "run", train__steps=60)
        for more, advice in ((["--resume", "auto"], True), (["--resume=auto"], True),
                             (["--resume", fixture("straight-fp32") / LAST_CHECKPOINT], False)):
            with self.subTest(" ".join(map(str, more))):
                failed = crnet(*launch([*arguments[:2], *more, *arguments[2:]]))
                self.assertEqual(failed.returncode, 1, failed.stderr)
                self.assertEqual("to go on from" in failed.stderr, advice, failed.stderr)
                self.assertEqual(failed.stderr.splitlines()[-1].count("--resume"), int(advice))

    def test_the_trainer_dies_with_a_killed_launcher(self):
        run_dir = self.scratch / "run"
        # Returns when the trainer too has closed its standard error.
        killed = Interrupted(launch(train_arguments(run_dir)), run_dir, signal.SIGKILL, step=8)
        self.assertTrue(killed.in_time, "the run was over before the signal")
        self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr)
        resumed = self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        self.assertIn("resumed from", resumed.stderr)
        self.assert_same_end(run_dir, "fp32", resumed.stderr)

    def test_mistakes_are_named(self):
        config = ["config", fixture("recipe.json")]
        for arguments, named in (
                (["launch", *config], ["--nproc", "got none", "crnet launch --nproc 4 train"]),
                (["launch", "--nproc"], ["--nproc", "got none", "crnet launch --help"]),
                (["launch", "--nproc", "two", *config],
                 ["[launch] --nproc: expected a whole number, got two"]),
                (["launch", "--nproc=99999999999", *config], ["--nproc", "a smaller number"]),
                (["launch", "--nprocs", "2", *config], ["--nprocs", "did you mean --nproc?"]),
                (launch(config, processes=0), ["--nproc", "1 to 1024", "got 0"]),
                (launch(config, "--max-restarts", "-1"), ["--max-restarts", "at least 0", "-1"]),
                (launch([], processes=2), ["a command", "crnet launch --nproc 4 train"]),
                (launch(launch(config)), ["got launch", "once"]),
                (launch(["trian"]), ["trian", "did you mean train?"])):
            with self.subTest(" ".join(map(str, arguments))):
                self.refused(arguments, *named)
