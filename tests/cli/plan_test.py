"""crnet plan: what it prints for several processes, on the machine at hand and on a given one."""
from harness import CliTest, fixture

GPU = ("--device-flops", 400, "--device-bandwidth", 2500)


class Processes(CliTest):
    def table(self, *options):
        """The words of every line of the table."""
        text = self.succeeds("plan", fixture("recipe.json"), *options).stdout
        lines = text[text.index("Processes, predicted"):].splitlines()
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == ["processes"])
        return [line.split() for line in lines[at + 1:]]

    def test_every_number_has_a_line_for_every_way_to_share(self):
        rows = self.table("--processes", "1,4,8", "--per-node", 4, *GPU)
        self.assertEqual([row[:2] for row in rows],
                         [["1", "none"], ["4", "none"], ["4", "optimizer"], ["4", "parameters"],
                          ["8", "none"], ["8", "optimizer"], ["8", "parameters"],
                          ["8", "parameters/4"]])
        self.assertEqual(rows[0][-1], "100.0%", "alone it loses nothing")

    def test_a_given_machine_gives_the_same_numbers_every_time(self):
        options = ("--processes", "2,4", *GPU, "--device-memory", 80)
        self.assertEqual(self.table(*options), self.table(*options))

    def test_a_given_gpu_with_little_memory_holds_nothing(self):
        rows = self.table("--processes", 2, *GPU, "--device-memory", 1e-4)
        self.assertTrue(all("no" in row and "yes" not in row for row in rows), rows)

    def test_this_machine_is_measured_where_none_is_given(self):
        rows = self.table("--processes", 2)
        self.assertEqual([row[1] for row in rows], ["none", "optimizer", "parameters"])

    def test_what_is_assumed_is_said(self):
        text = self.succeeds("plan", fixture("recipe.json"), "--processes", 2, *GPU,
                             "--network-bandwidth", 12.5).stdout
        for words in ("nodes of 8 (default)", "450 GB/s (default) each way", "12.5 GB/s a process",
                      "400 TFLOP/s", "79 GiB (default)"):
            self.assertIn(words, text)
