"""SIGINT and SIGTERM end a run with a checkpoint, from which it goes on to the same weights."""
import signal

from harness import SIGNALS, STEPS, PRECISIONS, CliTest, Interrupted, checkpoints, train_arguments


class Signals(CliTest):
    def stop_in_the_middle(self, run_dir, number, precision):
        # checkpoint.every is off: the only checkpoint is the one that the signal asks for.
        arguments = train_arguments(run_dir, train__precision=precision, checkpoint__every=0)
        stopped = Interrupted(arguments, run_dir, number, step=5)
        self.assertTrue(stopped.in_time, "the run was over before the signal")
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        return stopped

    def check(self, number, precision):
        run_dir = self.scratch / f"{signal.Signals(number).name}-{precision}"
        stopped = self.stop_in_the_middle(run_dir, number, precision)
        saved = checkpoints(run_dir)
        self.assertEqual(len(saved), 1, saved)
        self.assertTrue(5 <= int(saved[0].removeprefix("step-")) < STEPS, saved)
        advice = [line for line in stopped.stderr.splitlines() if "--resume auto" in line]
        self.assertEqual(len(advice), 1, stopped.stderr)
        for text in ("crnet train", "recipe.json", saved[0]):
            self.assertIn(text, advice[0])

        resumed = self.succeeds(*train_arguments(run_dir, "--resume", "auto",
                                                 train__precision=precision))
        self.assertIn(f"resumed from {run_dir}/checkpoints/{saved[0]}", resumed.stderr)
        self.assert_same_end(run_dir, precision, stopped.stderr + resumed.stderr)

    def test_a_stopped_run_saves_and_resumes_to_the_same_weights(self):
        for number in SIGNALS:
            for precision in PRECISIONS:
                with self.subTest(signal=signal.Signals(number).name, precision=precision):
                    self.check(number, precision)
