"""From text to a continued prompt: every command on the way, and what it leaves behind."""
import importlib.util
import json
import struct
import unittest
import xml.etree.ElementTree

from harness import (LAST_CHECKPOINT, SOURCE, STEPS, VOCABULARY, WEIGHT_FILES, CliTest, checkpoints,
                     fixture, losses, metrics, train_arguments)


def read_safetensors(path):
    """name -> (dtype, shape), checked against the length of the file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in header.values()]
    assert max(ends) == len(content) - 8 - length, f"{path} has another length than its header says"
    return {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}


class Pipeline(CliTest):
    def test_text_becomes_a_model_that_continues_a_prompt(self):
        data, run_dir = self.scratch / "data", self.scratch / "run"
        self.succeeds("prepare", SOURCE / "src/train", "--output", data, "--tokenizer",
                      fixture("data") / "tokenizer.model", "--document-bytes", 1000,
                      "--validation-fraction", 0.2, "--threads", 1)
        self.succeeds(*train_arguments(run_dir, data__path=data, train__steps=8))
        perplexity = self.succeeds("eval", run_dir, "--data", data, "--sequence-length", 32,
                                   "--threads", 1).stdout
        self.assertRegex(perplexity, r"perplexity +\d+\.\d+")
        self.assertRegex(perplexity, r"tokens +[1-9]\d*")
        story = self.succeeds("generate", run_dir, "--prompt", "The model", "--max-tokens", 5,
                              "--threads", 1, "--temperature", 0).stdout
        self.assertTrue(story.startswith("The model") and len(story) > len("The model\n"), story)

    def test_plan_and_config_print_the_run_without_making_anything(self):
        recipe = fixture("recipe.json")
        plan = self.succeeds("plan", recipe, "--hours", 1, cwd=self.scratch).stdout
        for part in ("Parameters", "FLOPs", "Memory", "optimizer", "activations", "tok/s"):
            self.assertIn(part, plan)
        resolved = self.succeeds("config", recipe, "--set", "train.steps=7", "--json",
                                 cwd=self.scratch).stdout
        self.assertEqual(json.loads(resolved)["train"]["steps"], 7)
        described = self.succeeds("config", recipe, "--set", "train.steps=7").stdout
        line = next(line for line in described.splitlines() if line.strip().startswith("steps:"))
        self.assertIn("--set", line)
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_plan_compares_and_draws_the_ways_to_keep_activations(self):
        picture = self.scratch / "front.svg"
        plan = self.succeeds("plan", fixture("recipe.json"), "--plot", picture).stdout
        for strategy in ("none", "full", "inverse", "replay", "auto"):
            self.assertRegex(plan, rf"(?m)^  {strategy} .* \d+\.\d%.* \d+\.\d{{3}}$")
        self.assertIn("arXiv 2509.18993", plan)
        xml.etree.ElementTree.parse(picture)

    def test_the_schema_names_every_key_of_a_resolved_run(self):
        schema = json.loads(self.succeeds("config", "--schema").stdout)
        resolved = json.loads(self.succeeds("config", fixture("recipe.json"), "--json").stdout)
        for section, keys in resolved.items():
            described = schema["properties"][section]["properties"]
            self.assertEqual(set(keys), set(described), section)
            for name, entry in described.items():
                self.assertTrue({"default", "description"} <= set(entry), f"{section}.{name}")


class RunFolder(CliTest):
    run_dir = property(lambda self: fixture("straight-bf16"))

    def test_it_holds_configuration_hardware_metrics_and_picture(self):
        run = json.loads((self.run_dir / "run.json").read_text())
        self.assertEqual(run["precision"], "bf16")
        self.assertTrue(run["crnet_version"] and run["torch_version"] and run["hardware"])
        self.assertIn(run["cpu"], run["hardware"])  # it was trained on the CPU
        root = xml.etree.ElementTree.parse(self.run_dir / "loss.svg").getroot()
        self.assertTrue(root.tag.endswith("svg"))
        self.assertIn(f"step {STEPS}/{STEPS}", (self.run_dir / "train.log").read_text())

    def test_its_configuration_can_be_trained_again_as_it_is(self):
        again = json.loads(self.succeeds("config", self.run_dir / "config.yaml", "--json").stdout)
        first = json.loads(self.succeeds("config", fixture("recipe.json"), "--json", "--set",
                                         f"train.run_dir={self.run_dir}", "--set",
                                         "train.precision=bf16").stdout)
        self.assertEqual(again, first)

    def test_its_metrics_have_every_step_and_validation_once(self):
        _, order = losses(self.run_dir)
        self.assertEqual([step for kind, step in order if kind == "step"],
                         list(range(1, STEPS + 1)))
        self.assertEqual([step for kind, step in order if kind == "validation"], [0, 10, 20, STEPS])
        self.assertLess(metrics(self.run_dir)[-1]["loss"], metrics(self.run_dir)[0]["loss"])

    def test_the_newest_two_checkpoints_stay_and_those_asked_for(self):
        self.assertEqual(checkpoints(self.run_dir), ["step-00000027", "step-00000030"])
        run_dir = self.scratch / "run"
        self.succeeds(*train_arguments(run_dir, train__steps=12, checkpoint__keep_last=1,
                                       checkpoint__keep_every=6))
        self.assertEqual(checkpoints(run_dir), ["step-00000006", "step-00000012"])

    def test_its_checkpoint_is_plain_safetensors(self):
        for name in WEIGHT_FILES:
            tensors = read_safetensors(self.run_dir / LAST_CHECKPOINT / name)
            weights = {key: dtype for key, (dtype, _) in tensors.items() if key != "updates"}
            self.assertEqual(set(weights.values()), {"F32"}, weights)
            self.assertIn([VOCABULARY, 32], [shape for _, shape in tensors.values()])

    @unittest.skipUnless(importlib.util.find_spec("safetensors") and
                         importlib.util.find_spec("numpy"), "needs Python's safetensors and numpy")
    def test_python_reads_its_checkpoint(self):
        import numpy
        from safetensors.numpy import load_file
        for name in WEIGHT_FILES:
            path = self.run_dir / LAST_CHECKPOINT / name
            tensors = load_file(path)
            self.assertEqual({key: list(tensor.shape) for key, tensor in tensors.items()},
                             {key: shape for key, (_, shape) in read_safetensors(path).items()})
            self.assertTrue(all(numpy.isfinite(tensor).all() for tensor in tensors.values()))
