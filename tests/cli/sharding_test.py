"""Parameters and the optimizer's state split over processes: the numbers are those of one process,
and checkpoints go from any split to any other."""
import re
import signal

from harness import (CliTest, LAST_CHECKPOINT, Setup, WEIGHT_FILES, change_byte, checkpoints, digest,
                     fixture, train_arguments)
from jobs import straight
from processes import Distributed, crnet_launch, run

# Processes, dist.shard, dist.shard_group.
SPLITS = ((2, "optimizer", 0), (4, "optimizer", 2), (2, "parameters", 0), (4, "parameters", 2))


class Numbers(Distributed):
    def sharded(self, run_dir, count, shard, group=0, *more, **settings):
        return self.ends_well(crnet_launch(count, train_arguments(
            run_dir, *more, dist__shard=shard, dist__shard_group=group, **settings)))

    def test_splitting_changes_nothing_but_rounding(self):
        for count, shard, group in SPLITS:
            with self.subTest(processes=count, shard=shard, group=group):
                run_dir = self.scratch / f"{count}-{shard}"
                self.sharded(run_dir, count, shard, group)
                self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-5)

    def test_in_bf16_it_changes_as_little_as_the_number_of_processes_does(self):
        for shard in ("optimizer", "parameters"):
            with self.subTest(shard=shard):
                run_dir = self.scratch / shard
                self.sharded(run_dir, 2, shard, train__precision="bf16")
                self.assert_same_numbers(run_dir, fixture("straight-bf16"), 2e-3)

    def test_strategies_of_recomputation_give_the_same_bits(self):
        kept = self.scratch / "none"
        self.sharded(kept, 2, "parameters")
        for strategy in ("full", "replay"):
            with self.subTest(strategy=strategy):
                run_dir = self.scratch / strategy
                self.sharded(run_dir, 2, "parameters", recompute__strategy=strategy)
                self.assert_same_weights(run_dir, kept)
        run_dir = self.scratch / "inverse"
        self.sharded(run_dir, 2, "parameters", recompute__strategy="inverse")
        self.assert_same_numbers(run_dir, kept, 1e-5)

    def test_tied_embeddings_and_a_fixed_beta_are_split_too(self):
        settings = {"model__tie_embeddings": "true", "model__learnable_beta": "false"}
        straight = self.scratch / "straight"
        self.succeeds(*train_arguments(straight, **settings))
        for shard in ("optimizer", "parameters"):
            with self.subTest(shard=shard):
                run_dir = self.scratch / shard
                self.sharded(run_dir, 2, shard, **settings)
                self.assert_same_numbers(run_dir, straight, 1e-5)
                self.assertEqual(evaluated(run_dir), evaluated(straight))


def evaluated(run_dir):
    """What `crnet eval` prints of the newest checkpoint, apart from its name."""
    result = run([Setup.crnet, "eval", run_dir, "--data", fixture("data"), "--tokens", 640,
                  "--precision", "fp32", "--device", "cpu"])
    return result.stdout.splitlines()[1:]


class Signals(Distributed):
    def test_a_signal_while_all_validate_or_save_is_heeded_and_the_run_goes_on_to_the_same_bits(self):
        """Both take most of the time here: a validation of all there is and a checkpoint per step."""
        for victim, number in ((0, signal.SIGTERM), (1, signal.SIGUSR1), (1, signal.SIGINT)):
            with self.subTest(process=victim, signal=number.name):
                run_dir = self.scratch / f"run-{victim}-{number.name}"
                processes = self.start(2, train_arguments(
                    run_dir, dist__shard="parameters", train__eval_every=1, train__eval_tokens=0,
                    checkpoint__every=1))
                processes.wait_for_step(run_dir, 4)
                processes.signal(victim, number)
                (code, stderr), (other_code, other_stderr) = processes.end()
                self.assertEqual((code, other_code), (0, 0), stderr + other_stderr)
                stopped = re.search(r"stopped after step (\d+)", stderr)
                self.assertTrue(stopped, stderr)
                saved = re.findall(r"info saved \S*step-(\d+)", stderr)
                self.assertEqual(len(saved), len(set(saved)), "a step was saved twice\n" + stderr)
                self.assertEqual(int(saved[-1]), int(stopped[1]))
                self.ends_well(crnet_launch(2, train_arguments(
                    run_dir, "--resume", "auto", dist__shard="parameters")))
                self.assert_same_weights(run_dir, straight(2, "parameters"))


class Checkpoints(Distributed):
    def consolidated(self, checkpoint):
        """Digests of the tensors, whatever files they are in."""
        whole = self.scratch / f"whole-{len(list(self.scratch.iterdir()))}"
        self.succeeds("checkpoint", "consolidate", checkpoint, "--out", whole)
        return [digest(whole / name) for name in WEIGHT_FILES]

    def test_any_split_goes_on_from_any_other(self):
        run_dir = self.scratch / "run"
        for (count, shard, group), step in (((4, "optimizer", 2), 11), ((2, "parameters", 0), 22)):
            self.stop_after(count, run_dir, step, dist__shard=shard, dist__shard_group=group)
        self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-6)

    def stop_after(self, count, run_dir, step, **settings):
        processes = self.start(count, train_arguments(run_dir, "--resume", "auto", **settings))
        processes.wait_for_step(run_dir, step)
        processes.processes[-1].send_signal(signal.SIGTERM)
        for code, stderr in processes.end():
            self.assertEqual(code, 0, stderr)

    def test_resharding_keeps_every_bit(self):
        first = self.scratch / "first"
        self.ends_well(crnet_launch(4, train_arguments(first, dist__shard="optimizer",
                                                       train__steps=3)))
        source = first / "checkpoints/step-00000003"
        whole = self.scratch / "whole"
        self.succeeds("checkpoint", "consolidate", source, "--out", whole)
        ends = {}
        for name, checkpoint in {"shards": source, "whole": whole}.items():
            run_dir = self.scratch / name
            self.ends_well(crnet_launch(2, train_arguments(
                run_dir, "--resume", checkpoint, dist__shard="parameters", train__steps=6)))
            ends[name] = self.consolidated(run_dir / "checkpoints/step-00000006")
        self.assertEqual(ends["shards"], ends["whole"])

    def test_the_same_split_resumes_to_the_same_bits(self):
        settings = {"dist__shard": "optimizer"}
        straight, run_dir = self.scratch / "straight", self.scratch / "run"
        self.ends_well(crnet_launch(2, train_arguments(straight, **settings)))
        self.stop_after(2, run_dir, 7, **settings)
        self.ends_well(crnet_launch(2, train_arguments(run_dir, "--resume", "auto", **settings)))
        self.assertEqual(self.consolidated(run_dir / LAST_CHECKPOINT),
                         self.consolidated(straight / LAST_CHECKPOINT))

    def test_a_damaged_shard_is_refused_by_all_and_the_one_before_is_taken(self):
        run_dir = self.scratch / "run"
        settings = {"dist__shard": "optimizer"}
        self.ends_well(crnet_launch(2, train_arguments(run_dir, train__steps=9, **settings)))
        newest = run_dir / "checkpoints/step-00000009"
        for shard in sorted(newest.glob("*.shard-*")):
            change_byte(shard, -1)
            result = run([Setup.crnet, "checkpoint", "verify", newest])
            self.assertEqual(result.returncode, 1, result.stdout)
            self.assertIn(f"damaged: [checkpoint] {shard}: expected the hash", result.stdout)
            change_byte(shard, -1)
        change_byte(shard, -1)
        result = self.ends_well(crnet_launch(2, train_arguments(run_dir, "--resume", "auto",
                                                                train__steps=12, **settings)))
        self.assertIn("refused the checkpoint step-00000009", result.stderr)
        self.assertIn("resumed from " + str(run_dir / "checkpoints/step-00000006"), result.stderr)

    def test_a_missing_shard_is_refused(self):
        run_dir = self.scratch / "run"
        self.ends_well(crnet_launch(2, train_arguments(run_dir, train__steps=3)))
        checkpoint = run_dir / "checkpoints/step-00000003"
        next(checkpoint.glob("optimizer.shard-00001*")).unlink()
        self.damaged(["train", fixture("recipe.json"), "--resume", checkpoint, "--set",
                      f"train.run_dir={self.scratch / 'other'}"], "optimizer.shard-00001-of-00002")

    def test_a_group_that_does_not_divide_the_processes_is_refused(self):
        self.all_say(self.start(2, train_arguments(self.scratch / "run", dist__shard="optimizer",
                                                   dist__shard_group=3)), 2,
                     "dist.shard_group", "expected 0 or a divisor of the number of processes (2)")


class CheckpointCommand(CliTest):
    def test_every_checkpoint_of_a_run_is_verified(self):
        run_dir = self.copy_of_straight_run()
        result = self.succeeds("checkpoint", "verify", run_dir)
        self.assertEqual(len(result.stdout.splitlines()), len(checkpoints(run_dir)))
        for line in result.stdout.splitlines():
            self.assertIn(": sound, step ", line)

    def test_a_consolidated_checkpoint_of_one_process_has_its_bytes(self):
        whole = self.scratch / "whole"
        source = fixture("straight-fp32") / LAST_CHECKPOINT
        said = self.succeeds("checkpoint", "consolidate", source, "--out", whole).stdout
        for text in (whole, *WEIGHT_FILES, "eval, generate and train --resume"):
            self.assertIn(str(text), said)
        for name in WEIGHT_FILES:
            self.assertEqual(digest(whole / name), digest(source / name), name)
        self.refused(["checkpoint", "consolidate", source, "--out", whole],
                     "--out: expected a folder that does not exist yet", "name another")

    def test_mistakes_are_named(self):
        run_dir = fixture("straight-fp32")
        self.refused(["checkpoint"], "expected verify or consolidate")
        self.refused(["checkpoint", "check", run_dir], "got check")
        self.refused(["checkpoint", "verify", self.scratch / "none"], self.scratch / "none")
        self.refused(["checkpoint", "consolidate", run_dir, "--out", "x"], "got a run's")
        self.refused(["checkpoint", "consolidate", run_dir / LAST_CHECKPOINT], "--out FOLDER")
