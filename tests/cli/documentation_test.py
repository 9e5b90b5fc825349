"""The documented command lines run as documented, on the fixture: the paths of data, runs and
checkpoints become the fixture's, a documented training gets its tiny model on top. What a command
line names in this repository (its configuration files) has to be there."""
import pathlib
import re
import shlex
import tempfile
import unittest

from harness import SOURCE, TINY, VOCABULARY, CliTest, fixture, overrides

DOCUMENTS = [SOURCE / "README.md", SOURCE / "CONTRIBUTING.md", *sorted(SOURCE.glob("docs/**/*.md"))]
TINY_RUN = {**TINY, "train.steps": 2, "train.eval_every": 0, "checkpoint.every": 0,
            "schedule.kind": "constant"}
# Options of crnet that take no value.
SWITCHES = {"--help", "-h", "--version", "--schema", "--json", "--no-cache", "--force"}


def command_lines(document):
    """(line number, arguments after crnet) of every such command in a fenced block of shell."""
    text = document.read_text()
    for block in re.finditer(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.M | re.S):
        body = re.sub(r"\\\n", "  ", block[1])
        for line in body.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and pathlib.PurePath(words[0]).name == "crnet":
                yield text.count("\n", 0, block.start()) + 2, words[1:]


def split_options(arguments):
    """Positional arguments, and (name, value) of the options."""
    positional, options, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            positional.append(word)
        elif "=" in word and word.startswith("--"):
            options.append(tuple(word.split("=", 1)))
        else:
            options.append((word, None if word in SWITCHES else rest.pop(0)))
    return positional, options


class Documentation(CliTest):
    def test_documented_command_lines_run(self):
        if not DOCUMENTS[0].exists():
            self.skipTest("there is no README.md yet")
        lines = [(f"{document.name}:{number}", words) for document in DOCUMENTS
                 if document.exists() for number, words in command_lines(document)]
        self.assertTrue([place for place, _ in lines if place.startswith("README.md")])
        for place, words in lines:
            with self.subTest(f"{place}: crnet {shlex.join(words)}"):
                self.succeeds(*self.on_the_fixture(words), cwd=SOURCE)

    def on_the_fixture(self, words):
        adapt = getattr(self, f"adapt_{words[0]}", None) if words else None
        if adapt is None or "--help" in words:
            return words
        positional, options = split_options(words[1:])
        return [words[0], *adapt(positional, options)]

    def with_replaced(self, options, replaced):
        """The options as documented, but for the values of `replaced`."""
        for name, value in options:
            yield name
            if value is not None:
                yield replaced.get(name, value)

    def adapt_prepare(self, positional, options):
        text = SOURCE / "src/train"
        replaced = {"--input": text, "-i": text, "--output": self.scratch / "prepared",
                    "-o": self.scratch / "prepared", "--train-tokenizer": VOCABULARY,
                    "--tokenizer": fixture("data") / "tokenizer.model"}
        return [*self.with_replaced(options, replaced), *[text for _ in positional[:1]],
                "--document-bytes", 1000, "--validation-fraction", 0.2, "--force"]

    def adapt_train(self, positional, options):
        checkpoint = fixture("straight-fp32") / "checkpoints" / "step-00000027"
        replaced = {"--resume": "auto" if ("--resume", "auto") in options else checkpoint}
        run_dir = self.scratch / str(len(list(self.scratch.iterdir())))
        tiny = {key.replace(".", "__"): value for key, value in TINY_RUN.items()}
        return [*positional, *self.with_replaced(options, replaced),
                *overrides(**tiny, data__path=fixture("data"), train__run_dir=run_dir)]

    def adapt_eval(self, positional, options):
        replaced = {"--data": fixture("data"), "--device": "cpu"}
        return [*[fixture("straight-fp32") for _ in positional],
                *self.with_replaced(options, replaced), "--threads", 1]

    def adapt_generate(self, positional, options):
        return [*[fixture("straight-fp32") for _ in positional],
                *self.with_replaced(options, {"--device": "cpu"}), "--threads", 1]


class CommandLines(unittest.TestCase):
    def test_they_are_found_in_blocks_of_shell_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            document = pathlib.Path(folder) / "page.md"
            document.write_text("crnet no\n```sh\ncd x  # crnet no\nbuild/release/crnet train a.yaml \\\n"
                                "  --set k=v  # crnet no\n$ crnet config --schema\n```\n"
                                "```cpp\ncrnet no\n```\n")
            self.assertEqual([words for _, words in command_lines(document)],
                             [["train", "a.yaml", "--set", "k=v"], ["config", "--schema"]])
