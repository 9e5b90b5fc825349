"""Continuing a prompt: reproducible, the same with and without the key/value cache."""
import os
import signal
import subprocess

from harness import MAX_SEQUENCE, VOCABULARY, CliTest, Setup, fixture, train_arguments

PROMPT = "The function returns"


class Generate(CliTest):
    def text(self, *options, run="straight-fp32", prompt=PROMPT):
        return self.succeeds("generate", fixture(run), "--prompt", prompt, "--max-tokens", 24,
                             "--threads", 1, *options).stdout

    def test_it_begins_with_the_prompt(self):
        text = self.text("--temperature", 0)
        self.assertTrue(text.startswith(PROMPT) and len(text) > len(PROMPT) + 1, text)
        self.assertGreater(len(self.text("--temperature", 0, prompt="")), 1)

    def test_a_seed_gives_the_same_text_again_and_another_seed_another(self):
        first = self.text("--seed", 1)
        self.assertEqual(self.text("--seed", 1), first)
        self.assertNotEqual(self.text("--seed", 2), first)

    def test_temperature_zero_takes_no_chances(self):
        likeliest = self.text("--temperature", 0, "--seed", 1)
        self.assertEqual(self.text("--temperature", 0, "--seed", 2), likeliest)
        self.assertEqual(self.text("--top-p", 1e-9, "--seed", 3), likeliest)

    def test_the_cache_does_not_change_the_text(self):
        for sampling in (["--temperature", 0], ["--seed", 5]):
            options = ["--precision", "fp32", *sampling]
            self.assertEqual(self.text(*options), self.text("--no-cache", *options))

    def test_it_ends_where_the_models_positions_do(self):
        text = self.succeeds("generate", fixture("straight-fp32"), "--threads", 1, "--prompt",
                             "a" * (MAX_SEQUENCE - 100), "--max-tokens", 10 ** 6, "--temperature",
                             0).stdout
        self.assertGreater(len(text), MAX_SEQUENCE - 100)

    def test_it_ends_where_nobody_reads_any_more(self):
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        result = subprocess.run(
            [Setup.crnet, "generate", fixture("straight-fp32"), "--prompt", PROMPT],
            stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, timeout=120,
            check=False)
        self.assertEqual(result.returncode, -signal.SIGPIPE, result.stderr)

    def test_a_prompt_longer_than_the_models_positions_is_refused(self):
        self.refused(["generate", fixture("straight-fp32"), "--prompt", "word and " * MAX_SEQUENCE],
                     f"1 to {MAX_SEQUENCE - 1} tokens")

    def test_a_model_with_more_entries_than_the_tokenizer_has_pieces_draws_pieces_only(self):
        run_dir = self.scratch / "run"
        self.succeeds(*train_arguments(run_dir, model__vocab_size=4 * VOCABULARY, train__steps=2))
        self.text("--temperature", 5, "--top-p", 1, run=run_dir)
