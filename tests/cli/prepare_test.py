"""crnet prepare: its mistakes, and what an interruption leaves."""
import json
import signal
import subprocess
import time

from harness import SOURCE, CliTest, Setup, fixture, train_arguments


class Preparation(CliTest):
    def test_mistakes_are_named_and_leave_no_folder(self):
        text = self.scratch / "text.txt"
        text.write_text("One line of text.\n" * 100)
        output = self.scratch / "data"
        to = ["--output", output]
        for arguments, named in (
                (to + ["--train-tokenizer", "300"], ["input|text|PATH"]),
                ([text, "--train-tokenizer", "300"], ["output"]),
                ([text, *to], ["tokenizer"]),
                ([text, *to, "--train-tokenizer", "300", "--tokenizer", text], ["tokenizer"]),
                ([text, *to, "--train-tokenizer", "many"], ["--train-tokenizer: expected", "many"]),
                ([text, *to, "--tokeniser", "x"], ["did you mean --tokenizer"]),
                ([text, *to, "--train-tokenizer", "300", "--validation-fraction", "2"],
                 ["validation-fraction"]),
                ([text, *to, "--train-tokenizer", "300", "--shard-tokens", "0"],
                 ["shard-tokens"]),
                ([self.scratch / "none.txt", *to, "--train-tokenizer", "300"], ["none\\.txt"]),
                ([text, *to, "--tokenizer", self.scratch / "none.model"], ["none\\.model"]),
                ([text, *to, "--tokenizer", text], ["text\\.txt", "SentencePiece|tokenizer"])):
            with self.subTest(" ".join(map(str, arguments))):
                result = self.refused(["prepare", *arguments])
                for pattern in named:
                    self.assertRegex(result.stderr, pattern)
                self.assertFalse(output.exists())
        empty = self.scratch / "empty.txt"
        empty.write_text("\n\n")
        self.damaged(["prepare", empty, *to, "--tokenizer", fixture("data") / "tokenizer.model"],
                     "no document")
        self.assertFalse(output.exists(), "made, and taken away again")

    def test_data_that_are_there_are_replaced_by_force_only(self):
        text = self.scratch / "text.txt"
        text.write_text("".join(f"Line {i} of the text.\n" for i in range(300)))
        command = ["prepare", text, "--output", self.scratch / "data", "--threads", 1,
                   "--validation-fraction", 0, "--tokenizer", fixture("data") / "tokenizer.model"]
        self.succeeds(*command)
        index = (self.scratch / "data" / "index.json").read_bytes()
        text.write_text(text.read_text() * 2)
        self.refused(command, self.scratch / "data", "--force")
        self.assertEqual((self.scratch / "data" / "index.json").read_bytes(), index)
        self.succeeds(*command, "--force")
        tokens = json.loads((self.scratch / "data" / "index.json").read_text())
        self.assertGreater(tokens["splits"]["train"]["tokens"],
                           json.loads(index)["splits"]["train"]["tokens"])


class Interruption(CliTest):
    """Of a preparation that writes a shard every 500 tokens, with the first of them there."""
    SHARD_TOKENS = 500

    def setUp(self):
        super().setUp()
        self.data = self.scratch / "data"
        self.command = ["prepare", SOURCE / "src", "--output", self.data, "--threads", 1,
                        "--tokenizer", fixture("data") / "tokenizer.model",
                        "--document-bytes", 2000,
                        "--validation-fraction", 0.1, "--shard-tokens", self.SHARD_TOKENS]

    def interrupt(self, number):
        process = subprocess.Popen([Setup.crnet, *map(str, self.command)], cwd=self.scratch,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(self.data.glob("train-*.bin")):
            time.sleep(0.0005)
        process.send_signal(number)
        process.wait(timeout=60)
        self.assertFalse((self.data / "index.json").exists(), "it was over before the signal")

    def test_it_leaves_nothing_that_looks_complete(self):
        for number in (signal.SIGKILL, signal.SIGINT):
            with self.subTest(signal.Signals(number).name):
                self.interrupt(number)
                run_dir = self.scratch / "run"
                self.refused(train_arguments(run_dir, data__path=self.data), self.data,
                             "crnet prepare")
                self.assertFalse(run_dir.exists())

    def test_the_same_command_again_makes_it_whole(self):
        self.interrupt(signal.SIGKILL)
        self.succeeds(*self.command)
        splits = json.loads((self.data / "index.json").read_text())["splits"]
        listed = [shard["file"] for split in splits.values() for shard in split["shards"]]
        extra = {"index.json", "tokenizer.model"}
        self.assertEqual({path.name for path in self.data.iterdir()}, {*listed, *extra})
        self.succeeds(*train_arguments(self.scratch / "run", data__path=self.data, train__steps=2))
