"""What a run refuses: a folder in use, a damaged checkpoint, another model's, a loss that is not
finite. It names it, and leaves everything as it was."""
import shutil

from harness import (LAST_CHECKPOINT, CliTest, change_byte, checkpoints, digest, fixture,
                     train_arguments)

NEWEST, OLDER = "step-00000030", "step-00000027"


class UsedFolder(CliTest):
    def test_it_is_refused_and_left_alone(self):
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir)
        self.refused(train_arguments(run_dir), "train.run_dir", run_dir, "--resume auto")
        self.assertEqual(digest(run_dir), before)

    def test_a_finished_run_resumes_to_itself(self):
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir)
        finished = self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        self.assertIn("nothing to do", finished.stderr)
        self.assertEqual(digest(run_dir), before)


class FolderThatCannotBeMade(CliTest):
    def test_it_is_named_with_the_key_that_chooses_another(self):
        (self.scratch / "file").touch()
        run_dir = self.scratch / "file" / "run"
        self.damaged(train_arguments(run_dir), "train.run_dir", run_dir, "Not a directory",
                     "choose another with --set train.run_dir=FOLDER")


class DamagedCheckpoint(CliTest):
    def damages(self):
        """Ways to damage a checkpoint, each with the file that a refusal has to name."""
        for name in ("model.safetensors", "optimizer.safetensors", "tokenizer.model"):
            yield name, lambda path: change_byte(path, path.stat().st_size // 2)
            yield name, lambda path: path.unlink()
        yield "model.safetensors", lambda path: change_byte(path, -1)
        yield "model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1])
        yield "manifest.json", lambda path: path.write_text(
            path.read_text().replace('"step": 30', '"step": 29'))
        yield "manifest.json", lambda path: path.write_text(path.read_text()[:-100])
        yield "manifest.json", lambda path: path.unlink()

    def test_every_kind_of_damage_says_what_to_do(self):
        for number, (name, damage) in enumerate(self.damages()):
            if name != "manifest.json":
                checkpoint = self.scratch / f"copy-{number}"
                shutil.copytree(fixture("straight-fp32") / LAST_CHECKPOINT, checkpoint)
                damage(checkpoint / name)
                with self.subTest(name, number=number):
                    self.damaged(["generate", checkpoint], name, "use another checkpoint")

    def test_a_run_of_which_none_is_sound_is_refused_with_advice(self):
        run_dir = self.copy_of_straight_run()
        for name in checkpoints(run_dir):
            (run_dir / "checkpoints" / name / "model.safetensors").unlink()
        for command in (["generate", run_dir], ["eval", run_dir, "--data", fixture("data")]):
            last = self.breaks_off(command).stderr.splitlines()[-1]
            self.assertIn("got damaged ones alone; take another run", last)
        for name in checkpoints(run_dir):
            shutil.rmtree(run_dir / "checkpoints" / name)
        self.damaged(["generate", run_dir], "got none at all; let the run save one")

    def test_it_is_refused_by_name_where_it_was_asked_for(self):
        for number, (name, damage) in enumerate(self.damages()):
            with self.subTest(name, number=number):
                checkpoint = self.scratch / f"copy-{number}"
                shutil.copytree(fixture("straight-fp32") / LAST_CHECKPOINT, checkpoint)
                damage(checkpoint / name)
                run_dir = self.scratch / "run"
                self.damaged(train_arguments(run_dir, "--resume", checkpoint), checkpoint / name)
                self.assertFalse(run_dir.exists())
        self.damaged(["generate", checkpoint, "--prompt", "a"], checkpoint)
        self.damaged(["eval", checkpoint, "--data", fixture("data")], checkpoint)

    def test_auto_warns_and_takes_the_newest_sound_one(self):
        run_dir = self.copy_of_straight_run()
        change_byte(run_dir / LAST_CHECKPOINT / "model.safetensors", 5000)
        resumed = self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        warning = [line for line in resumed.stderr.splitlines() if "warning" in line]
        self.assertEqual(len(warning), 1, resumed.stderr)
        self.assertIn(NEWEST, warning[0])
        self.assertIn("model.safetensors", warning[0])
        log = (run_dir / "train.log").read_text()
        self.assertEqual(log.count(warning[0].split("warning ")[1]), 1, log)
        self.assertIn(f"resumed from {run_dir}/checkpoints/{OLDER}", resumed.stderr)
        self.assert_same_end(run_dir, "fp32", resumed.stderr)

    def test_eval_and_generate_of_a_run_take_the_newest_sound_one(self):
        run_dir = self.copy_of_straight_run()
        (run_dir / LAST_CHECKPOINT / "model.safetensors").unlink()
        before = digest(run_dir)
        result = self.succeeds("eval", run_dir, "--data", fixture("data"), "--tokens", 512,
                               "--threads", 1)
        self.assertIn(OLDER, result.stdout)
        self.assertIn(NEWEST, result.stderr)
        self.assertIn(NEWEST, self.succeeds("generate", run_dir, "--max-tokens", 1).stderr)
        self.assertEqual(digest(run_dir), before)

    def test_auto_refuses_a_run_of_which_none_is_sound(self):
        run_dir = self.copy_of_straight_run()
        for name in checkpoints(run_dir):
            (run_dir / "checkpoints" / name / "manifest.json").unlink()
        before = digest(run_dir)
        result = self.breaks_off(train_arguments(run_dir, "--resume", "auto"))
        for text in (OLDER, NEWEST, "expected a sound checkpoint", run_dir):
            self.assertIn(str(text), result.stderr)
        self.assertEqual(digest(run_dir), before)


class OtherModel(CliTest):
    def test_its_checkpoint_is_refused_by_name(self):
        checkpoint = fixture("straight-fp32") / LAST_CHECKPOINT
        run_dir = self.scratch / "run"
        for settings in ({"model__hidden_size": 64}, {"model__num_layers": 3},
                         {"model__num_layers": 1}, {"model__architecture": "llama"},
                         {"model__architecture": "cola"}, {"model__r": 4}):
            with self.subTest(str(settings)):
                self.refused(train_arguments(run_dir, "--resume", checkpoint, **settings),
                             checkpoint)
                self.assertFalse(run_dir.exists())

    def test_a_run_of_another_model_is_left_alone(self):
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir)
        arguments = train_arguments(run_dir, "--resume", "auto", model__ffn_size=96)
        self.refused(arguments, run_dir)
        self.assertEqual(digest(run_dir), before)

    def test_a_checkpoint_that_is_none_is_refused_by_name(self):
        for path, check in ((self.scratch / "nowhere", self.refused), (self.scratch, self.damaged)):
            check(train_arguments(self.scratch / "run", "--resume", path), path)
            check(["generate", path], path)
            check(["eval", path, "--data", fixture("data")], path)
        self.assertFalse((self.scratch / "run").exists())


class NonFiniteLoss(CliTest):
    """Resumed at a learning rate that ruins the weights in one update: the first loss is finite,
    all later ones are not."""

    def ruin(self, run_dir, every):
        result = self.breaks_off(train_arguments(
            run_dir, "--resume", "auto", train__steps=60, train__max_bad_steps=3,
            optimizer__lr=1e30, optimizer__clip_norm=0, checkpoint__every=every))
        last = result.stderr.splitlines()[-1]
        for text in ("step 34", "expected a finite loss", "3 updates in a row", "max_bad_steps"):
            self.assertIn(text, last)
        self.assertEqual(result.stderr.count("not finite"), 3, result.stderr)

    def test_it_ends_the_run_and_leaves_earlier_checkpoints_untouched(self):
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir / "checkpoints")
        self.ruin(run_dir, every=0)
        self.assertEqual(digest(run_dir / "checkpoints"), before)

    def test_skipped_updates_push_no_sound_checkpoint_out(self):
        run_dir = self.copy_of_straight_run()
        before = digest(run_dir / LAST_CHECKPOINT)
        self.ruin(run_dir, every=1)
        self.assertIn(NEWEST, checkpoints(run_dir))
        self.assertEqual(digest(run_dir / LAST_CHECKPOINT), before)
