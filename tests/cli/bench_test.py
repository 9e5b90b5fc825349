"""crnet bench: a training step, what it cannot avoid, and where its time goes."""
import re

from harness import SOURCE, CliTest, fixture

NUMBER = r"(\d+\.\d+)"
ROW = re.compile(rf"^ +(step|floor|products|attention|floor ratio) +{NUMBER} +\[{NUMBER}-{NUMBER}\]",
                 re.MULTILINE)
GROUP = re.compile(rf"^  (\S.*?) +{NUMBER} +{NUMBER}(?: +{NUMBER})?$", re.MULTILINE)
GROUPS = {"matrix products", "attention", "softmax and loss", "fused operators",
          "allocation and filling", "pointwise and sums", "optimizer", "other"}


class Bench(CliTest):
    def test_a_step_alone_has_its_rate_and_memory(self):
        text = self.succeeds("bench", fixture("recipe.json"), "--rounds", 2,
                             cwd=self.scratch).stdout
        self.assertEqual([name for name, *_ in ROW.findall(text)], ["step"])
        median = float(ROW.search(text)[2])
        rate = float(re.search(r"tokens/s +(\d+\.\d)\n", text)[1])
        self.assertAlmostEqual(rate * median / 1e3, 2 * 32, delta=2 * 32 * 0.1)  # median in 0.1 ms
        self.assertRegex(text, r"memory +\S+ [KMG]iB  at most, of the whole process")
        groups = {name: floor for name, _, _, floor in GROUP.findall(text)}
        self.assertLessEqual(GROUPS, set(groups))
        self.assertEqual(set(groups.values()), {""})

    def test_it_prints_the_ratio_and_where_the_time_goes(self):
        text = self.succeeds("bench", fixture("recipe.json"), "--floor", "--rounds", 2,
                             cwd=self.scratch).stdout
        for part in ("crnet with", "2 x 32 tokens", "1 threads, fp32", "LibTorch 2.", "2 rounds"):
            self.assertIn(part, text)
        rows = {name: tuple(map(float, numbers)) for name, *numbers in ROW.findall(text)}
        self.assertEqual(set(rows), {"step", "floor", "products", "attention", "floor ratio"})
        for name, (median, least, most) in rows.items():
            self.assertTrue(0 <= least <= median <= most, name)
        groups = {name: (float(time), floor) for name, time, _, floor in GROUP.findall(text)}
        self.assertLessEqual(GROUPS, set(groups))
        step, _ = groups.pop("step")
        self.assertAlmostEqual(sum(time for time, _ in groups.values()), step, delta=0.5)
        floors = {name: float(floor) for name, (_, floor) in groups.items() if floor}
        self.assertEqual(floors, {"matrix products": rows["products"][0],
                                  "attention": rows["attention"][0]})
        self.assertRegex(text, r"(?m)^ +attention .*(unfused \(fused|fused \(unfused): \d+\.\d\)$")
        self.assertRegex(text, r"(?m)^    aten::mm .*\d$")
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_a_model_file_needs_no_data(self):
        settings = ("train.device=cpu", "train.threads=1", "train.micro_batch=1",
                    "data.sequence_length=16", "model.vocab_size=256", "model.num_layers=2")
        arguments = [word for setting in settings for word in ("--set", setting)]
        for architecture in ("llama", "crnet", "cola"):
            text = self.succeeds("bench", SOURCE / f"configs/models/{architecture}-60m.yaml",
                                 "--floor", "--rounds", 1, *arguments).stdout
            self.assertIn(f"{architecture} with", text)
            self.assertIn("1 x 16 tokens", text)

    def test_mistakes_are_one_line(self):
        recipe = fixture("recipe.json")
        for arguments, named in (
                ([], ["[bench] expected a recipe", "crnet bench --help"]),
                (["nothing.yaml"], ["nothing.yaml"]),
                ([recipe, "--rounds", "0"], ["--rounds", "at least 1", "0"]),
                ([recipe, "--rounds", "few"], ["few"]),
                ([recipe, "--floor=yes!"], ["expected --floor alone", "got --floor=yes!"]),
                ([recipe, "--set", "model.num_heads=3"], ["model.num_heads"]),
                ([recipe, "--floor", "surplus"], ["surplus"])):
            with self.subTest(" ".join(map(str, arguments))):
                self.refused(["bench", *arguments], *named)
