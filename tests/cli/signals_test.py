"""SIGINT and SIGTERM end a run with a checkpoint, from which it goes on to the same weights."""
import signal
import subprocess

from harness import (PRECISIONS, SIGNALS, STEPS, CliTest, Interrupted, Setup, checkpoints,
                     train_arguments)


class WithoutAReader(Interrupted):
    """As by Ctrl-C in `crnet train … 2>&1 | tee log`, where tee ends first."""

    def _deliver(self, process, number):
        process.stderr.close()
        super()._deliver(process, number)


class Signals(CliTest):
    def stop_in_the_middle(self, given, run_dir, number, precision):
        # checkpoint.every is off: the only checkpoint is the one that the signal asks for.
        arguments = train_arguments(given, train__precision=precision, checkpoint__every=0)
        stopped = Interrupted(arguments, run_dir, number, step=5)
        self.assertTrue(stopped.in_time, "the run was over before the signal")
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        answer = "crnet: stopping with a checkpoint"
        self.assertEqual(stopped.stderr.count(answer), 1)
        self.assertLess(stopped.stderr.index(answer), stopped.stderr.index("stopped after step"))
        return stopped

    def paste(self, command):
        """What a person does with a command that was printed."""
        result = subprocess.run(command, shell=True, cwd=Setup.work, stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=300, encoding="utf-8", check=False)
        self.assertEqual(result.returncode, 0, f"{command}\n{result.stderr}")
        return result

    def advice_of(self, stopped, saved):
        advice = [line for line in stopped.stderr.splitlines() if "go on with: " in line]
        self.assertEqual(len(advice), 1, stopped.stderr)
        self.assertIn(saved, advice[0])
        return advice[0].split("go on with: ")[1]

    def check(self, number, precision):
        run_dir = self.scratch / f"a run of {signal.Signals(number).name} in {precision}"
        # A relative folder by turns.
        given = run_dir if number == SIGNALS[0] else run_dir.relative_to(Setup.work)
        stopped = self.stop_in_the_middle(given, run_dir, number, precision)
        saved = checkpoints(run_dir)
        self.assertEqual(len(saved), 1, saved)
        self.assertTrue(5 <= int(saved[0].removeprefix("step-")) < STEPS, saved)
        resumed = self.paste(self.advice_of(stopped, saved[0]))
        self.assertIn(f"resumed from {given}/checkpoints/{saved[0]}", resumed.stderr)
        self.assertNotIn("warning", resumed.stderr)
        self.assert_same_end(run_dir, precision, stopped.stderr + resumed.stderr)

    def test_a_stopped_run_goes_on_by_the_printed_command_to_the_same_weights(self):
        for number in SIGNALS:
            for precision in PRECISIONS:
                with self.subTest(signal=signal.Signals(number).name, precision=precision):
                    self.check(number, precision)

    def test_a_run_whose_log_has_no_reader_any_more_is_saved_too(self):
        run_dir = self.scratch / "run"
        stopped = WithoutAReader(train_arguments(run_dir, checkpoint__every=0), run_dir,
                                 signal.SIGINT, step=5)
        self.assertTrue(stopped.in_time, "the run was over before the signal")
        self.assertEqual(stopped.returncode, 0)
        self.assertEqual(len(checkpoints(run_dir)), 1)

    def test_each_part_of_a_run_keeps_its_configuration(self):
        run_dir = self.scratch / "run"
        first = self.stop_in_the_middle(run_dir, run_dir, signal.SIGTERM, "fp32")
        self.advice_of(first, checkpoints(run_dir)[-1])
        config, step = (run_dir / "config.yaml").read_bytes(), int(checkpoints(run_dir)[-1][5:])
        second = Interrupted(["train", run_dir / "config.yaml", "--resume", "auto", "--set",
                              "train.log_every=7"], run_dir, signal.SIGTERM, step=step + 2)
        self.assertTrue(second.in_time, "the run was over before the signal")
        self.assertEqual((run_dir / "config.yaml").read_bytes(), config)
        self.assertTrue((run_dir / f"run-from-{step}.json").exists())
        command = self.advice_of(second, checkpoints(run_dir)[-1])
        self.assertIn(f"config-from-{step}.yaml", command)
        step = int(checkpoints(run_dir)[-1][5:])
        self.assertNotIn("warning", self.paste(command).stderr)
        self.assertIn("log_every: 7 ", (run_dir / f"config-from-{step}.yaml").read_text())
        self.assert_same_end(run_dir, "fp32")
