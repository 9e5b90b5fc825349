"""The documented command lines run as documented, on the fixture: the paths of data, runs and
checkpoints become the fixture's, a documented training gets its tiny model on top. What a command
line names in this repository (its configuration files) has to be there."""
import pathlib
import re
import shlex
import tempfile
import unittest

from harness import LAST_CHECKPOINT, SOURCE, TINY, VOCABULARY, CliTest, fixture, overrides

SCALING = SOURCE / "docs/scaling.md"
DOCUMENTS = [SOURCE / "README.md", SOURCE / "CONTRIBUTING.md", *sorted(SOURCE.glob("docs/**/*.md"))]
TINY_RUN = {**TINY, "train.steps": 2, "train.eval_every": 0, "checkpoint.every": 0,
            "schedule.kind": "constant"}
# Options of crnet that take no value.
SWITCHES = {"--help", "-h", "--version", "--schema", "--json", "--no-cache", "--force", "--keep",
            "--floor"}
SHELL = {">", ">>", "|", "&&", ";", "2>&1"}
FENCE = re.compile(r"^ *```")
SHELL_FENCE = re.compile(r"^ *```(sh|bash|console)$")


def words_of(line):
    """The arguments after crnet where the line is a call of it, else None."""
    words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    end = next((i for i, word in enumerate(words) if word in SHELL), len(words))
    return words[1:end] if words and pathlib.PurePath(words[0]).name == "crnet" else None


def command_lines(document):
    """(line number, arguments after crnet, the refusal that is shown below or "") of every call in
    an indented or fenced block of shell, and of every `build/release/crnet ...` inside a line."""
    lines, fence = document.read_text().splitlines(), ""
    for number, line in enumerate(lines, 1):
        if FENCE.match(line):
            fence = "" if fence else line
        elif SHELL_FENCE.match(fence) if fence else line.startswith("    "):
            if not re.match(r" *(\$ )?(\S*/)?crnet\b(?!:)", line):
                continue
            at = number
            while line.endswith("\\"):
                line, at = line[:-1] + lines[at], at + 1
            after = lines[at].strip() if at < len(lines) else ""
            yield number, words_of(line), after if after.startswith("crnet: ") else ""
        elif not fence:
            for inline in re.findall(r"`(build/release/crnet [^`]+)`", line):
                yield number, words_of(inline), ""


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
        calls = [(document.name, *call) for document in DOCUMENTS if document.exists()
                 for call in command_lines(document)]
        self.assertIn("README.md", [name for name, *_ in calls])
        for name, number, words, refusal in calls:
            with self.subTest(f"{name}:{number}: crnet {shlex.join(words)}"):
                self.check(words, refusal)

    def check(self, words, refusal):
        if refusal:
            self.assertEqual(self.refused(words, cwd=SOURCE).stderr, refusal + "\n")
        else:
            self.succeeds(*self.on_the_fixture(words), cwd=SOURCE)

    def on_the_fixture(self, words):
        launched = next((i for i, word in enumerate(words) if word in ("train", "verify-resume")), 0)
        if words[:1] == ["launch"] and launched:
            return [*words[:launched], *self.on_the_fixture(words[launched:])]
        adapt = getattr(self, f"adapt_{words[0].replace('-', '_')}", None) if words else None
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
                "--document-bytes", 1000, "--validation-fraction", 0.3, "--force"]

    def adapt_train(self, positional, options):
        checkpoint = fixture("straight-fp32") / "checkpoints" / "step-00000027"
        replaced = {"--resume": "auto" if ("--resume", "auto") in options else checkpoint}
        run_dir = self.scratch / str(len(list(self.scratch.iterdir())))
        tiny = {key.replace(".", "__"): value for key, value in TINY_RUN.items()}
        # A documented run's own configuration.
        own = fixture("straight-fp32") / "config.yaml"
        return [*[own if path.startswith("runs/") else path for path in positional],
                *self.with_replaced(options, replaced),
                *overrides(**tiny, data__path=fixture("data"), train__run_dir=run_dir),
                *(overrides(train__steps=8) if "--profile" in dict(options) else [])]

    def adapt_verify_resume(self, positional, options):
        return [*self.adapt_train(positional, options), "--set", "train.steps=20"]

    def adapt_eval(self, positional, options):
        replaced = {"--data": fixture("data"), "--device": "cpu"}
        return [*[fixture("straight-fp32") for _ in positional],
                *self.with_replaced(options, replaced), "--threads", 1]

    def adapt_checkpoint(self, positional, options):
        run_dir = fixture("straight-fp32")
        whole = self.scratch / f"whole-{len(list(self.scratch.iterdir()))}"
        return [positional[0], run_dir if positional[0] == "verify" else run_dir / LAST_CHECKPOINT,
                *self.with_replaced(options, {"--out": whole})]

    def adapt_plan(self, positional, options):
        return [*positional, *self.with_replaced(options, {"--plot": self.scratch / "plan.svg"})]

    def adapt_bench(self, positional, options):
        tiny = {key.replace(".", "__"): value for key, value in TINY_RUN.items()
                if key != "model.architecture"}
        return [*positional, *self.with_replaced(options, {"--rounds": 1}), *overrides(**tiny)]

    def adapt_generate(self, positional, options):
        return [*[fixture("straight-fp32") for _ in positional],
                *self.with_replaced(options, {"--device": "cpu"}), "--threads", 1]


class PrintedTables(CliTest):
    def test_the_tables_of_scaling_are_what_their_commands_print(self):
        lines, tables = SCALING.read_text().splitlines(), 0
        for number, words, _ in command_lines(SCALING):
            shown = text_block_below(lines, number)
            if not shown:
                continue
            tables += 1
            with self.subTest(f"scaling.md:{number}: crnet {shlex.join(words)}"):
                printed = self.succeeds(*words, cwd=SOURCE).stdout.splitlines()
                self.assertEqual([line for line in printed if line in shown], shown)
        self.assertGreaterEqual(tables, 4)


def text_block_below(lines, number):
    """What a ```text block shows right below the call in line `number` (from 1), if there is one."""
    at = next((i for i in range(number, len(lines))
               if lines[i] and not lines[i].startswith("    ")), len(lines))
    if at == len(lines) or lines[at] != "```text":
        return []
    return lines[at + 1:lines.index("```", at)]


class CommandLines(unittest.TestCase):
    PAGE = """crnet train no.yaml
    $ crnet config x.yaml  # indented
    crnet: [config] refused

```sh
cd x  # crnet no
build/release/crnet train a.yaml \\
  --set k=v  # crnet no
crnet config --schema > file
```
```cpp
crnet no
```
A mention of `crnet train`, and `build/release/crnet plan "a b"`.
"""

    def test_they_are_found_in_blocks_of_shell_and_by_their_path(self):
        with tempfile.TemporaryDirectory() as folder:
            document = pathlib.Path(folder) / "page.md"
            document.write_text(self.PAGE)
            self.assertEqual(list(command_lines(document)),
                             [(2, ["config", "x.yaml"], "crnet: [config] refused"),
                              (7, ["train", "a.yaml", "--set", "k=v"], ""),
                              (9, ["config", "--schema"], ""), (14, ["plan", "a b"], "")])
