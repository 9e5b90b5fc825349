"""Data that are damaged or of another tokenizer are refused by name, before a run's folder is
made."""
import json
import shutil

from harness import SOURCE, CliTest, change_byte, digest, fixture, train_arguments

SHARD = "train-00000.bin"
FIELDS_BYTES, HEADER_BYTES = 64, 4096  # of a shard's header, the rest of which is padding


class DamagedData(CliTest):
    def copy(self, name):
        data = self.scratch / name
        shutil.copytree(fixture("data"), data)
        return data

    def check(self, data, *named, code=1, **settings):
        run_dir = self.scratch / f"run-on-{data.name}"
        self.fails(code, train_arguments(run_dir, data__path=data, **settings), *named)
        self.assertFalse(run_dir.exists())

    def test_a_truncated_shard_is_named(self):
        data = self.copy("data")
        content = (data / SHARD).read_bytes()
        for length in (len(content) - 2, HEADER_BYTES, HEADER_BYTES // 2, 0):
            with self.subTest(length):
                (data / SHARD).write_bytes(content[:length])
                self.check(data, data / SHARD, "truncated", "crnet prepare")

    def test_a_shard_with_a_changed_byte_is_named(self):
        for position in (0, 20, FIELDS_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1001, -1):
            with self.subTest(position):
                data = self.copy(f"data{position}")
                change_byte(data / SHARD, position)
                self.check(data, data / SHARD)

    def test_a_validation_shard_is_checked_too(self):
        data = self.copy("data")
        change_byte(data / "validation-00000.bin", -1)
        self.check(data, data / "validation-00000.bin", "damaged")
        self.damaged(["eval", fixture("straight-fp32"), "--data", data],
                     data / "validation-00000.bin")

    def test_a_missing_file_is_named(self):
        for name in ("index.json", SHARD, "validation-00000.bin", "tokenizer.model"):
            with self.subTest(name):
                data = self.copy(name)
                (data / name).unlink()
                # Without an index it is no data yet.
                self.check(data, data, name, code=2 if name == "index.json" else 1)
        self.check(self.scratch / "nowhere", self.scratch / "nowhere", code=2)

    def test_an_index_of_something_else_is_named(self):
        data = self.copy("data")
        for text in ("{}", "no JSON", '{"format": "crnet-data", "version": 1}'):
            (data / "index.json").write_text(text)
            self.check(data, data / "index.json")

    def test_data_shorter_than_a_window_are_refused(self):
        text = self.scratch / "text.txt"
        text.write_text("".join(f"Text {i}.\n\n" for i in range(60)))
        self.succeeds("prepare", text, "--output", self.scratch / "data", "--document-bytes", 8,
                      "--validation-fraction", 0.5, "--threads", 1,
                      "--tokenizer", fixture("data") / "tokenizer.model")
        self.check(self.scratch / "data", self.scratch / "data", "shorter sequences",
                   code=2, data__sequence_length=512, train__micro_batch=1)


class OtherTokenizer(CliTest):
    def setUp(self):
        super().setUp()
        self.other = self.scratch / "other"
        source = self.scratch / "text.txt"
        source.write_text("".join(f"{i} times {i} is {i * i}, as everybody sees.\n\n"
                                  for i in range(2000)))
        self.succeeds("prepare", source, "--output", self.other, "--train-tokenizer", 300,
                      "--document-bytes", 500, "--validation-fraction", 0.2, "--threads", 1)

    def hash_of(self, data):
        return json.loads((data / "index.json").read_text())["tokenizer"]["hash"]

    def test_a_shard_of_another_tokenizer_is_named(self):
        data, run_dir = self.scratch / "data", self.scratch / "run"
        shutil.copytree(fixture("data"), data)
        shutil.copy(self.other / SHARD, data / SHARD)
        self.damaged(train_arguments(run_dir, data__path=data), data / SHARD,
                     self.hash_of(data), self.hash_of(self.other))
        self.assertFalse(run_dir.exists())

    def test_a_tokenizer_that_the_shards_are_not_of_is_named(self):
        data, run_dir = self.scratch / "data", self.scratch / "run"
        shutil.copytree(fixture("data"), data)
        shutil.copy(self.other / "tokenizer.model", data / "tokenizer.model")
        self.damaged(train_arguments(run_dir, data__path=data), data)
        self.assertFalse(run_dir.exists())

    def test_eval_refuses_data_of_another_tokenizer_than_the_checkpoints(self):
        self.refused(["eval", fixture("straight-fp32"), "--data", self.other], self.other,
                     self.hash_of(self.other), self.hash_of(fixture("data")))

    def test_a_run_is_not_resumed_on_other_data_of_its_tokenizer(self):
        changed = self.scratch / "changed"
        self.succeeds("prepare", SOURCE / "src/train", "--output", changed, "--tokenizer",
                      fixture("data") / "tokenizer.model", "--validation-fraction", 0.2,
                      "--document-bytes", 1000, "--threads", 1)
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir)
        self.refused(train_arguments(run_dir, "--resume", "auto", train__steps=40,
                                     data__path=changed), "data.path", changed)
        self.assertEqual(digest(run_dir), before)

    def test_a_run_is_resumed_on_its_data_in_another_folder(self):
        shutil.copytree(fixture("data"), self.scratch / "moved")
        run_dir = self.copy_of_straight_run()
        self.succeeds(*train_arguments(run_dir, "--resume", "auto", train__steps=32,
                                       data__path=self.scratch / "moved"))

    def test_a_run_is_not_resumed_on_data_of_another_tokenizer(self):
        run_dir = self.copy_of_straight_run()
        self.refused(train_arguments(run_dir, "--resume", "auto", train__steps=40,
                                     data__path=self.other), self.other)
