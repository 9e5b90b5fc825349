"""crnet train --profile: a trace of some steps that trace viewers read."""
import collections
import json

from distributed_test import Distributed, crnet_launch
from harness import LAST_CHECKPOINT, STEPS, CliTest, digest, fixture, train_arguments

WARM_UP = 3
STAGES = ("crnet::next_batch", "crnet::forward", "crnet::backward", "crnet::clip", "crnet::update",
          "crnet::release_gradients")
OPERATORS = ("rms_norm", "rope", "swiglu_product", "cross_layer_sum", "matrix_product")
MICRO_BATCHES = 8


def events(path):
    """The ranges of a trace, by name."""
    named = collections.defaultdict(list)
    for event in json.loads(path.read_text())["traceEvents"]:
        if event["ph"] == "X":
            named[event["name"]].append(event)
    return named


def steps(named):
    return sorted(int(name.split("#")[1]) for name in named if name.startswith("ProfilerStep#"))


class Profile(CliTest):
    def profiled(self, run_dir, count, *more, **settings):
        result = self.succeeds(*train_arguments(run_dir, "--profile", count, *more, **settings))
        said = [line for line in result.stderr.splitlines() if "profiled steps" in line]
        self.assertEqual(len(said), 1, result.stderr)
        self.assertIn("https://ui.perfetto.dev", said[0])
        self.assertIn(str(run_dir / "trace.json"), said[0])
        return said[0], events(run_dir / "trace.json")

    def test_a_trace_has_the_steps_their_stages_and_operators(self):
        run_dir = self.scratch / "run"
        said, named = self.profiled(run_dir, 4)
        self.assertIn("steps 4 to 7", said)
        self.assertEqual(steps(named), [4, 5, 6, 7])
        for stage in STAGES:
            each = MICRO_BATCHES if stage.split("::")[1] in ("next_batch", "forward",
                                                             "backward") else 1
            self.assertEqual(len(named[stage]), 4 * each, stage)
        self.assertGreater(len(named["aten::mm"]), 0)
        for name in OPERATORS:
            forward, backward = named[f"crnet::{name}"], named[f"crnet::{name}_backward"]
            self.assertGreater(len(forward), 0, name)
            self.assertEqual(len(forward), len(backward), name)
        self.assertEqual(len(named["crnet::causal_attention"]), 4 * MICRO_BATCHES * 2)
        self.assertEqual(len(named["crnet::linear_cross_entropy"]), 4 * MICRO_BATCHES)

    def test_ranges_lie_in_the_step_they_belong_to(self):
        _, named = self.profiled(self.scratch / "run", 2)
        whole = [(e["tid"], e["ts"], e["ts"] + e["dur"])
                 for name in ("ProfilerStep#4", "ProfilerStep#5") for e in named[name]]
        for stage in STAGES:
            for event in named[stage]:
                inside = [1 for tid, begin, end in whole if tid == event["tid"] and
                          begin <= event["ts"] and event["ts"] + event["dur"] <= end]
                self.assertEqual(len(inside), 1, event)

    def test_the_threads_of_the_loader_and_of_checkpoints_are_there(self):
        _, named = self.profiled(self.scratch / "run", 3)  # step 6 is saved
        (step,) = named["ProfilerStep#4"]
        for name in ("crnet::read_batch", "crnet::write_checkpoint"):
            self.assertGreater(len(named[name]), 0, name)
            self.assertNotIn(step["tid"], {event["tid"] for event in named[name]}, name)
        self.assertEqual(len(named["crnet::save"]), 1)

    def test_it_changes_no_number(self):
        run_dir = self.scratch / "run"
        self.profiled(run_dir, STEPS - WARM_UP)
        self.assert_same_end(run_dir, "fp32")

    def test_a_resumed_part_is_profiled_after_its_own_warm_up(self):
        run_dir = self.copy_of_straight_run()
        said, named = self.profiled(run_dir, 1, "--resume", "auto", train__steps=STEPS + 10)
        self.assertIn(f"steps {STEPS + 4} to {STEPS + 4}", said)
        self.assertEqual(steps(named), [STEPS + 4])

    def test_a_part_that_ends_before_says_so_and_one_that_ends_within_gives_what_there_is(self):
        run_dir = self.copy_of_straight_run()
        result = self.succeeds(*train_arguments(run_dir, "--profile", 9, "--resume", "auto",
                                                train__steps=STEPS + 2))
        self.assertIn(f"no trace: this part of the run ended before step {STEPS + 4}",
                      result.stderr)
        self.assertFalse((run_dir / "trace.json").exists())
        said, named = self.profiled(run_dir, 9, "--resume", "auto", train__steps=STEPS + 2 + 5)
        self.assertIn(f"steps {STEPS + 6} to {STEPS + 7}", said)
        self.assertEqual(steps(named), [STEPS + 6, STEPS + 7])

    def test_rebuilt_blocks_are_seen(self):
        _, named = self.profiled(self.scratch / "run", 1, recompute__strategy="inverse")
        self.assertEqual(len(named["crnet::rebuild_block"]), 2 * MICRO_BATCHES)
        self.assertGreater(len(named["crnet::invert_low_rank_residual"]), 0)

    def test_without_it_there_is_no_trace(self):
        self.assertFalse((fixture("straight-fp32") / "trace.json").exists())

    def test_a_trace_that_cannot_be_written_leaves_the_run_alone(self):
        run_dir = self.scratch / "run"
        (run_dir / "trace.json" / "occupied").mkdir(parents=True)
        result = self.succeeds(*train_arguments(run_dir, "--profile", 1))
        self.assertIn("trace.json", result.stderr)
        self.assertNotIn("profiled steps", result.stderr)
        self.assertEqual(digest(run_dir / LAST_CHECKPOINT / "model.safetensors"),
                         digest(fixture("straight-fp32") / LAST_CHECKPOINT / "model.safetensors"))

    def test_mistakes_are_one_line_and_leave_nothing(self):
        run_dir = self.scratch / "run"
        for count, named in (("0", ["--profile", "at least 1", "0"]), ("-1", ["--profile", "-1"]),
                             ("many", ["many"]), ("1.5", ["1.5"]),
                             (STEPS, ["--profile", f"1 to {STEPS - WARM_UP}", "train.steps"])):
            with self.subTest(count):
                self.refused(train_arguments(run_dir, f"--profile={count}"), *named)
                self.assertFalse(run_dir.exists())


class SeveralProcesses(Distributed):
    def test_each_writes_its_own_trace(self):
        run_dir = self.scratch / "run"
        result = self.ends_well(crnet_launch(2, train_arguments(run_dir, "--profile", 2)))
        self.assertIn(str(run_dir / "trace-RANK.json"), result.stderr)
        for rank in range(2):
            self.assertEqual(steps(events(run_dir / f"trace-{rank}.json")), [4, 5])
        self.assertFalse((run_dir / "trace.json").exists())
