"""Help, and every mistake that a user can make on the command line or in a configuration: one line
that names it, exit 2, and nothing made."""
import json

from harness import CliTest, crnet, fixture

COMMANDS = {
    "prepare": ["--output", "--train-tokenizer", "--tokenizer", "--field", "--validation-fraction"],
    "train": ["--set", "--resume", "--profile"],
    "launch": ["--nproc", "--max-restarts"],
    "eval": ["--data", "--split", "--sequence-length", "--device", "--precision"],
    "generate": ["--prompt", "--max-tokens", "--temperature", "--top-p", "--seed", "--no-cache"],
    "verify-resume": ["--set", "--steps", "--at", "--dir", "--keep"],
    "plan": ["--set", "--hours", "--plot", "--processes", "--per-node", "--node-bandwidth",
             "--network-bandwidth", "--device-flops", "--device-bandwidth", "--device-memory"],
    "bench": ["--floor", "--rounds", "--set"],
    "config": ["--set", "--json", "--schema"],
}


class Help(CliTest):
    def test_the_overview_names_every_command(self):
        text = self.succeeds("--help").stdout
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^ +{command} +\w")
        self.assertRegex(self.succeeds("--version").stdout, r"\Acrnet \d+\.\d+\.\d+\n\Z")
        self.assertEqual(crnet().returncode, 2)

    def test_every_command_explains_its_options(self):
        for command, options in COMMANDS.items():
            with self.subTest(command):
                text = self.succeeds(command, "--help").stdout
                for option in [*options, "--help"]:
                    self.assertRegex(text, rf"(?m)^ +(-\w, )?{option}\b.* \w")

    def test_config_explains_every_key(self):
        text = self.succeeds("config", "--help").stdout
        resolved = json.loads(self.succeeds("config", fixture("recipe.json"), "--json").stdout)
        for section, keys in resolved.items():
            for name in keys:
                self.assertIn(f" {section}.{name} ", text)


class CommandLine(CliTest):
    def test_an_unknown_command_names_the_nearest(self):
        self.refused(["trian"], "trian", "did you mean train?")
        self.refused(["--train"], "--train")

    def test_an_unknown_option_is_named(self):
        for command in COMMANDS:
            with self.subTest(command):
                self.refused([command, "--bogus"], command, "bogus")

    def test_an_unknown_option_names_the_nearest(self):
        for command, option, nearest in (("plan", "--process", "--processes"),
                                         ("train", "--resum", "--resume"),
                                         ("generate", "--max-token=3", "--max-tokens")):
            with self.subTest(command):
                self.refused([command, option], f"{option.split('=')[0]}; did you mean {nearest}?")
        self.assertNotIn("did you mean", self.refused(["train", "-x"], "option -x").stderr)

    def test_a_setting_in_another_form_names_the_right_one(self):
        self.refused(["train", fixture("recipe.json"), "--steps", "50"],
                     "unknown option --steps", "--set key=value")
        self.refused(["train", fixture("recipe.json"), "--set", "train.steps", "50"],
                     "--set: expected train.steps=50, got train.steps 50")

    def test_an_argument_too_many_is_named(self):
        for command in ("train", "verify-resume", "eval", "generate", "plan", "config"):
            with self.subTest(command):
                self.refused([command, fixture("recipe.json"), "surplus"], command, "surplus")

    def test_an_argument_too_few_is_named(self):
        for command in ("train", "verify-resume", "plan", "config", "eval", "generate"):
            self.refused([command], f"[{command}] expected ", f"crnet {command} ")
        self.refused(["eval", fixture("straight-fp32")], "[eval] expected ", "data")
        self.refused(["train", fixture("recipe.json"), "--set"], "--set", "a value", "got none")

    def test_a_value_of_the_wrong_kind_names_the_option_and_what_it_takes(self):
        run, data = fixture("straight-fp32"), fixture("data")
        evaluate, generate = ["eval", run, "--data", data], ["generate", run, "--prompt", "a"]
        for arguments, named in (
                ([*evaluate, "--batch", "many"], ["--batch: expected a whole number, got many"]),
                ([*evaluate, "--batch=1.5"], ["--batch: expected a whole number, got 1.5"]),
                ([*evaluate, "--batch", "0"], ["--batch", "at least 1"]),
                ([*evaluate, "--sequence-length", "100000"], ["--sequence-length", "1 to 512"]),
                ([*evaluate, "--device", "gpu"], ["--device", "auto, cpu, cuda", "gpu"]),
                ([*evaluate, "--precision", "fp16"], ["--precision", "bf16", "fp16"]),
                ([*evaluate, "--threads", "-1"], ["--threads", "0 to 4096"]),
                ([*generate, "--max-tokens", "0"], ["--max-tokens", "at least 1", "got 0"]),
                ([*generate, "--temperature", "-1"], ["--temperature", "at least 0"]),
                ([*generate, "--top-p", "0"], ["--top-p", "(0, 1]"]),
                ([*generate, "--seed", "x"], ["--seed", "a whole number of at least 0, got x"]),
                ([*generate, "--temperature", "hot"], ["--temperature: expected a number, got hot"]),
                (["generate", run, "--prompt", "x", "--no-cache", "--seed", "x"],
                 ["--seed", "got x"]),
                (["plan", fixture("recipe.json"), "--hours", "0"], ["--hours", "above 0"])):
            with self.subTest(" ".join(map(str, arguments[2:]))):
                self.refused(arguments, *named)

    def test_processes_and_speeds_that_cannot_be_planned_are_named(self):
        plan = ["plan", fixture("recipe.json"), "--processes"]
        for options, named in (
                (["0"], ["--processes", "1 to 1000000", "got 0"]),
                (["-2"], ["--processes", "got -2"]),
                (["2,eight"], ["--processes", "2,eight"]),
                (["2,"], ["--processes", "got 2,"]),
                (["7", "--set", "dist.shard_group=2"], ["dist.shard_group", "divisor", "(7)"]),
                (["7"], ["train.global_batch_tokens", "multiple", "= 448), got 512; --set "
                         "train.global_batch_tokens=448 would do"]),
                (["16"], ["= 1024), got 512; --set train.micro_batch=1 would do"]),
                (["4", "--per-node", "3"], ["nodes of 3", "got 4"]),
                (["4", "--per-node", "0"], ["--per-node", "at least 1", "got 0"]),
                (["4", "--node-bandwidth", "-1"], ["--node-bandwidth", "above 0", "got -1"]),
                (["4", "--network-bandwidth", "0"], ["--network-bandwidth", "above 0", "got 0"]),
                (["4", "--network-bandwidth", "fast"], ["fast"]),
                (["4", "--network-latency", "-3"], ["--network-latency", "at least 0", "got -3"]),
                (["4", "--device-flops", "0", "--device-bandwidth", "1"],
                 ["--device-flops", "above 0"]),
                (["4", "--device-flops", "400"], ["--device-flops", "--device-bandwidth"]),
                (["4", "--device-memory", "80"], ["--device-memory", "--device-flops"])):
            with self.subTest(" ".join(options)):
                self.refused([*plan, *options], *named)

    def test_a_path_or_split_that_is_not_there_is_named(self):
        run, missing = fixture("straight-fp32"), self.scratch / "missing"
        for arguments, named in (
                (["eval", missing, "--data", fixture("data")], [missing]),
                (["eval", run, "--data", missing], [missing, "crnet prepare"]),
                (["eval", run, "--data", fixture("data"), "--split", "valid"],
                 ["train, validation", "got 'valid'"]),
                (["generate", missing], [missing])):
            with self.subTest(" ".join(map(str, arguments))):
                self.refused(arguments, *named)


class Configuration(CliTest):
    """Mistakes in a file of four lines, whose third and fourth are the test's."""

    def write(self, *lines):
        path = self.scratch / "recipe.yaml"
        path.write_text("\n".join([f"extends: {fixture('recipe.json')}", "train:",
                                   f"  run_dir: {self.scratch / 'run'}", *lines, ""]))
        return path

    def check(self, lines, *named):
        path = self.write(*lines)
        self.refused(["train", path], *named)
        self.assertEqual([entry.name for entry in self.scratch.iterdir()], ["recipe.yaml"])

    def test_mistakes_in_a_file_name_file_line_key_and_remedy(self):
        here = "recipe.yaml:4"
        for lines, named in (
                (["  step: 50"], [here, "train.step", "did you mean train.steps?"]),
                (["  lr: 1e-3"], [here, "train.lr", "did you mean optimizer.lr?"]),
                (["modle:", "  r: 8"], [here, "modle", "did you mean model?"]),
                (["  steps: many"], [here, "train.steps", "an integer >= 1", "many"]),
                (["  steps: 1.5"], [here, "train.steps", "an integer", "1.5"]),
                (["  steps: [1]"], [here, "train.steps", "an integer"]),
                (["  steps: 0"], [here, "train.steps", ">= 1", "0"]),
                (["  precision: fp16"], [here, "train.precision", "bf16", "fp16"]),
                (["data: text"], [here, "data", "a map of keys"]),
                (["  run_dir: twice"], [here, "train.run_dir", "second time"]),
                (["  steps: [1"], ["recipe.yaml:", "syntax error"]),
                (["optimizer:", "  beta2: 1"], ["recipe.yaml:5", "optimizer.beta2", "< 1"]),
                (["model:", "  num_heads: 3"],
                 ["recipe.yaml:5", "model.num_heads", "divisor of model.hidden_size (32)", "3"]),
                (["model:", "  num_kv_heads: 3"],
                 ["recipe.yaml:5", "model.num_kv_heads", "divisor of model.num_heads"]),
                (["model:", "  r: 33"], ["recipe.yaml:5", "model.r", "at most 32"]),
                (["model:", "  r: {defualt: 8}"], ["recipe.yaml:5", "model.r.defualt", "default"]),
                (["  global_batch_tokens: 100"],
                 [here, "train.global_batch_tokens", "multiple of", "2 * 32 = 64"]),
                (["data:", "  sequence_length: 513"],
                 ["recipe.yaml:5", "data.sequence_length", "at most", "512"])):
            with self.subTest(" ".join(lines)):
                self.check(lines, *named)

    def test_of_two_values_that_are_equally_near_none_is_suggested(self):
        refused = self.refused(["config", fixture("recipe.json"), "--set", "dist.gradients=fp16"],
                               "dist.gradients", "one of fp32, bf16", "got fp16")
        self.assertNotIn("did you mean", refused.stderr)

    def test_mistakes_in_an_override_name_it(self):
        run = f"train.run_dir={self.scratch / 'run'}"
        for setting, named in (
                ("train.step=5", ["--set", "train.step", "did you mean train.steps?"]),
                ("train.steps=x", ["--set", "train.steps", "an integer >= 1", "x"]),
                ("train.steps=0", ["--set", "train.steps", ">= 1"]),
                ("train.steps", ["--set", "train.steps", "key=value"]),
                ("model.num_heads=3", ["--set", "model.num_heads", "divisor"]),
                ("optimizer.lr=-1", ["--set", "optimizer.lr", "> 0"]),
                ("optimizer.lr=nan", ["--set", "optimizer.lr", "a number"])):
            with self.subTest(setting):
                self.refused(["train", fixture("recipe.json"), "--set", run, "--set", setting],
                             *named)
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_a_plan_of_recomputation_that_cannot_serve_is_refused(self):
        here = "recipe.yaml:5"
        for lines, named in (
                (["  strategy: inverse", "model:", "  architecture: llama"],
                 [here, "recompute.strategy", "none, full or auto", "llama"]),
                (["  strategy: cola_m"], [here, "recompute.strategy", "inverse, replay"]),
                (["  strategy: inverse", "  anchors: 0"], [":6", "recompute.anchors", ">= 1"]),
                (["  strategy: inverse", "  anchors: [1]"], [":6", "recompute.anchors", "last"]),
                (["  strategy: replay", "  anchors: [1, 99]"], [":6", "recompute.anchors", "99"]),
                (["  strategy: full", "  anchors: 2"], [":6", "recompute.anchors", "nothing"]),
                (["  strategy: auto", "  memory_budget: 1 parsec"],
                 [":6", "recompute.memory_budget", "60GiB", "parsec"]),
                (["  strategy: auto", "  memory_budget: 1kB"],
                 [":6", "recompute.memory_budget", "expected at least", "1 needs"])):
            with self.subTest(" ".join(lines)):
                self.check(["recompute:", *lines], *named)

    def test_a_missing_file_is_named_with_the_nearest(self):
        missing = fixture("recipe.jsn")
        for command in ("train", "plan", "config"):
            self.refused([command, missing], missing, "did you mean", "recipe.json?")
        path = self.scratch / "recipe.yaml"
        path.write_text("extends: nowhere.yaml\n")
        self.refused(["train", path], "recipe.yaml:1", "extends", "nowhere.yaml")

    def test_a_vocabulary_smaller_than_the_datas_is_refused(self):
        run = self.scratch / "run"
        self.refused(["train", fixture("recipe.json"), "--set", f"train.run_dir={run}", "--set",
                      "model.vocab_size=599"], "--set", "model.vocab_size", "at least 600")
        self.assertFalse(run.exists())

    def test_a_run_without_data_says_how_to_name_it(self):
        run = self.scratch / "run"
        self.refused(["train", fixture("recipe.json"), "--set", f"train.run_dir={run}", "--set",
                      'data.path=""'], "data.path", "crnet prepare")
        self.assertFalse(run.exists())
