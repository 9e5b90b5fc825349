"""kill -9 at random moments: what is on the disk is whole, and the run goes on from it to the same
weights. CRNET_KILL_ROUNDS says how often (scripts/stress_resume.sh)."""
import random
import shutil
import signal

from harness import (CHECKPOINT_EVERY, KILL_ROUNDS, LAST_CHECKPOINT, PRECISIONS, STEPS, CliTest,
                     Interrupted, checkpoints, steps_done, train_arguments)


class Kill(CliTest):
    def kill_somewhere(self, run_dir, precision):
        """Kills at a random step, and up to two steps' time after it: while stepping, validating,
        saving or removing. Says where."""
        for _ in range(20):
            shutil.rmtree(run_dir, ignore_errors=True)
            step, delay = random.randint(0, STEPS), random.uniform(0, 0.05)
            killed = Interrupted(train_arguments(run_dir, train__precision=precision), run_dir,
                                 signal.SIGKILL, step, delay)
            if killed.in_time and killed.returncode == -signal.SIGKILL:
                return f"killed in {precision} {delay * 1000:.1f} ms after step {step}"
        self.fail("no run was killed before it was over")

    def resume_and_compare(self, run_dir, precision, moment):
        saved = checkpoints(run_dir)
        # Only the checkpoint that was being written may be missing.
        newest = int(saved[-1].removeprefix("step-")) if saved else 0
        due = (steps_done(run_dir) - 1) // CHECKPOINT_EVERY * CHECKPOINT_EVERY
        self.assertGreaterEqual(newest, due, moment)

        resumed = self.succeeds(*train_arguments(run_dir, "--resume", "auto",
                                                 train__precision=precision))
        shown = f"{moment}\n{resumed.stderr}"
        self.assertNotIn("refused", resumed.stderr, shown)
        # After its last checkpoint a run has nothing left to do; the kill may have come even there.
        finished = newest == STEPS
        self.assertEqual("nothing to do" in resumed.stderr, finished, shown)
        self.assertEqual("resumed from" in resumed.stderr, bool(saved) and not finished, shown)
        self.assert_same_end(run_dir, precision, shown)
        if finished:
            return  # the next save would remove what is left over; there is none
        leftovers = [path.name for path in (run_dir / LAST_CHECKPOINT).parent.iterdir()
                     if not path.name.startswith("step-")]
        self.assertEqual(leftovers, [], shown)

    def test_a_killed_run_resumes_to_the_same_weights(self):
        for number in range(KILL_ROUNDS):
            precision = PRECISIONS[number % len(PRECISIONS)]
            with self.subTest(round=number + 1):
                run_dir = self.scratch / "run"
                moment = self.kill_somewhere(run_dir, precision)
                print(f"round {number + 1}: {moment}", flush=True)
                self.resume_and_compare(run_dir, precision, moment)

    def test_a_run_killed_before_its_first_checkpoint_starts_anew(self):
        run_dir = self.scratch / "run"
        killed = Interrupted(train_arguments(run_dir, checkpoint__every=0), run_dir, signal.SIGKILL,
                             step=2)
        self.assertTrue(killed.in_time)
        lines = (run_dir / "metrics.jsonl").read_bytes()
        resumed = self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        self.assertNotIn("resumed from", resumed.stderr)
        kept = run_dir / "metrics-before-restart-1.jsonl"
        self.assertEqual(kept.read_bytes(), lines)
        self.assertIn(str(kept), resumed.stderr)
        self.assert_same_end(run_dir, "fp32", resumed.stderr)
