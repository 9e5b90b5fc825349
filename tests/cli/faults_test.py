"""Faults: a process that is killed or stopped, a disk that takes no more, a folder in use. The others
name who is lost, no half-written checkpoint counts, and the run goes on to the same bits.
CRNET_KILL_ROUNDS says how often a process is killed at random."""
import ctypes
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time

from harness import (KILL_ROUNDS, STEPS, Setup, checkpoints, digest, fixture, losses, steps_done,
                     train_arguments)
from jobs import LAUNCHERS, Job, available_launchers, straight, who_say_that_it_is_lost
from processes import CLEAN, Distributed, Processes, run, wait_until


class FaultTest(Distributed):
    def one_line_each(self, results, victim, count):
        """Of processes that were started by hand: every other one names `victim`, and says nothing
        else; the first has its log besides."""
        for rank, (code, stderr) in enumerate(results):
            if rank == victim:
                continue
            self.assertEqual(code, 1, f"process {rank}: {stderr}")
            self.assertEqual(who_say_that_it_is_lost(stderr, victim), ([rank], []), stderr)
            own = [line for line in stderr.splitlines() if rank != 0 or line.startswith("crnet: ")]
            self.assertEqual(len(own), 1, f"process {rank} of {count}: {stderr}")

    def goes_on_to_the_same_bits(self, launcher, run_dir, count, shard, shown):
        saved = checkpoints(run_dir)
        resumed = self.ends_well(run([*LAUNCHERS[launcher](count), *train_arguments(
            run_dir, "--resume", "auto", dist__shard=shard)]))
        self.assertNotIn("refused", resumed.stderr, shown)
        if f"step-{STEPS:08d}" not in saved:
            self.assertEqual("resumed from" in resumed.stderr, bool(saved), shown + resumed.stderr)
            leftovers = list((run_dir / "checkpoints").glob(".*"))
            self.assertEqual(leftovers, [], shown)
        self.assert_same_weights(run_dir, straight(count, shard))
        wanted, _ = losses(straight(count, shard))
        got, order = losses(run_dir)
        self.assertEqual(got, wanted, shown)
        self.assertEqual(len(order), len(got), f"written more than once\n{shown}")


# Launcher, processes, dist.shard, whether it lets the others say who is lost: mpirun and torchrun
# end them as soon as one has ended.
ROUNDS = (("crnet launch", 4, "optimizer", True), ("torchrun", 2, "parameters", False),
          ("mpirun", 2, "none", False))


class KilledUnderALauncher(FaultTest):
    def kill_somewhere(self, launcher, count, shard, victim, generator):
        """(run folder, moment, launcher's exit code, what was said)"""
        run_dir = self.scratch / "run"
        for _ in range(20):
            shutil.rmtree(run_dir, ignore_errors=True)
            step, delay = generator.randrange(STEPS - 5), generator.uniform(0, 0.05)
            job = Job(launcher, count, train_arguments(run_dir, dist__shard=shard), self.scratch)
            self.addCleanup(job.kill)
            wait_until(lambda: steps_done(run_dir) > step or not job.is_running())
            time.sleep(delay)
            killed = job.signal(victim, signal.SIGKILL)
            code, stderr = job.end()[0]
            if killed and code != 0:
                return run_dir, f"killed {delay * 1000:.1f} ms after step {step + 1}", code, stderr
        raise AssertionError(f"no run was killed before it was over: {stderr}")

    def play(self, launcher, count, shard, others_speak, generator):
        victim = generator.randrange(count)
        run_dir, moment, code, stderr = self.kill_somewhere(launcher, count, shard, victim, generator)
        shown = f"{launcher}, shard {shard}, process {victim} of {count} {moment}\n{stderr}"
        print(shown.splitlines()[0], flush=True)
        self.assertIsNotNone(code, f"did not end: {shown}")
        speakers, wrong = who_say_that_it_is_lost(stderr, victim)
        self.assertEqual(wrong, [], shown)
        others = [rank for rank in range(count) if rank != victim]
        if others_speak:
            self.assertEqual(speakers, others, shown)
        else:
            self.assertLessEqual(set(speakers), set(others), shown)
        self.goes_on_to_the_same_bits(launcher, run_dir, count, shard, shown)

    def test_the_others_name_it_and_the_run_goes_on_to_the_same_bits(self):
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}", flush=True)
        generator = random.Random(seed)
        available = available_launchers()
        rounds = [each for each in ROUNDS if each[0] in available]
        for number in range(KILL_ROUNDS):
            with self.subTest(round=number + 1, seed=seed):
                self.play(*rounds[number % len(rounds)], generator)


class RestartedGroup(FaultTest):
    def test_a_killed_process_is_started_anew_with_its_group(self):
        run_dir = self.scratch / "run"
        launcher = subprocess.Popen(
            [Setup.crnet, "launch", "--nproc", "2", "--max-restarts", "1",
             *map(str, train_arguments(run_dir))], stdin=subprocess.DEVNULL, env=CLEAN,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        self.addCleanup(launcher.kill)
        self.assertTrue(wait_until(lambda: bool(checkpoints(run_dir)), pause=0.005))
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        os.kill(int(children.split()[-1]), signal.SIGKILL)
        _, stderr = launcher.communicate()
        self.assertEqual(launcher.returncode, 0, stderr)
        self.assertIn("restart 1 of 1", stderr)
        self.assert_same_weights(run_dir, straight(2, "none"))


class LostProcess(FaultTest):
    def lose(self, victim, number, count=4, **settings):
        run_dir = self.scratch / f"run-{victim}-{number}"
        processes = self.start(count, train_arguments(
            run_dir, train__steps=100000, dist__timeout_s=3, **settings))
        processes.wait_for_step(run_dir, 8)
        processes.processes[victim].send_signal(number)
        self.one_line_each(processes.end(stopped=victim), victim, count)
        processes.kill()
        return run_dir

    def test_the_others_name_a_killed_process(self):
        for victim, shard in ((0, "none"), (3, "parameters")):
            with self.subTest(victim=victim, shard=shard):
                self.lose(victim, signal.SIGKILL, dist__shard=shard)

    def test_of_many_all_name_the_one_that_was_killed(self):
        self.lose(1, signal.SIGKILL, count=8)

    def test_the_others_name_a_stopped_process(self):
        for victim, shard in ((0, "optimizer"), (3, "none")):
            with self.subTest(victim=victim, shard=shard):
                self.lose(victim, signal.SIGSTOP, dist__shard=shard)

    def test_the_others_name_a_process_that_stops_while_they_save(self):
        for victim in (0, 1):
            with self.subTest(victim=victim):
                self.lose(victim, signal.SIGSTOP, count=2, checkpoint__every=1)


class KilledWhileSaving(FaultTest):
    """The first process writes the manifest and gives a checkpoint its name; the second writes a
    share."""

    def stop_with_half_a_checkpoint(self, process, run_dir, rank):
        """Stops the process where a checkpoint lacks what it has to write; returns the step."""
        folder = run_dir / "checkpoints"
        own_file = "manifest.json" if rank == 0 else "optimizer.shard-00001-of-00002.safetensors"

        def half_written():
            saved = checkpoints(run_dir)
            for path in folder.glob(".tmp-step-*"):
                name = path.name.removeprefix(".tmp-")
                if not saved or name <= saved[-1]:
                    continue  # the first, of which the sizes are not known; or one that goes
                whole = (folder / saved[-1] / own_file).stat().st_size
                written = path / own_file
                if not written.exists() or written.stat().st_size < whole:
                    return name
            return None

        for _ in range(200):
            self.assertTrue(wait_until(half_written, pause=0), process.poll())
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.02)
            name = half_written()
            if name:
                return name
            process.send_signal(signal.SIGCONT)
        raise AssertionError("no save was met half-way")

    def test_no_half_written_checkpoint_counts_and_the_run_goes_on_to_the_same_bits(self):
        count, shard = 2, "parameters"
        for victim in (0, 1):
            run_dir = self.scratch / f"run-{victim}"
            processes = self.start(count, train_arguments(run_dir, dist__shard=shard,
                                                          checkpoint__every=1))
            name = self.stop_with_half_a_checkpoint(processes.processes[victim], run_dir, victim)
            processes.processes[victim].kill()
            self.one_line_each(processes.end(), victim, count)
            with self.subTest(victim=victim, checkpoint=name):
                self.assertNotIn(name, checkpoints(run_dir))
                self.succeeds("checkpoint", "verify", run_dir)
                self.goes_on_to_the_same_bits("crnet launch", run_dir, count, shard, name)


def limited_to(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def obey_permissions():
    """Root may write anywhere; without this capability it may not."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE) != 0:
        os._exit(99)


LIMIT = 64 * 1024
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
MORE_STEPS, ATTEMPTS = STEPS + 9, (STEPS + 3, STEPS + 6, STEPS + 9)


class NoRoom(FaultTest):
    """A run of which no later checkpoint can be written: it goes on to its last step."""

    def goes_on_without_saving(self, run_dir, reason, count=1, failing=0, before_exec=None,
                               figures=MORE_STEPS):
        before = digest(run_dir / "checkpoints")
        processes = self.start(count, train_arguments(run_dir, "--resume", "auto",
                                                      train__steps=MORE_STEPS),
                               special={failing: {"preexec_fn": before_exec}})
        results = processes.end()
        (_, first), *others = results
        self.assertEqual([code for code, _ in results], [1] * count, results)
        errors = [line for line in first.splitlines() if " error " in line]
        self.assertEqual(len(errors), len(ATTEMPTS), first)
        for line, step in zip(errors, ATTEMPTS):
            self.assertRegex(line, rf"\[checkpoint\] expected to save .*\b(step-0*|step ){step}\b")
            self.assertIn(reason, line)
        for _, stderr in results:
            self.assertRegex(stderr, rf"(?:\A|\n)crnet: \[checkpoint\] [^\n]*{reason}[^\n]*\n\Z")
        self.assertEqual([len(stderr.splitlines()) for _, stderr in others], [1] * len(others))
        self.assertEqual(digest(run_dir / "checkpoints"), before)
        self.assertEqual(steps_done(run_dir), figures, first)
        return first

    def test_files_that_may_not_grow_end_no_run(self):
        run_dir = self.copy_of_straight_run()
        self.goes_on_without_saving(run_dir, "File too large", before_exec=limited_to(LIMIT))
        shutil.rmtree(run_dir)
        self.copy_of_straight_run()
        size = (run_dir / "metrics.jsonl").stat().st_size
        said = self.goes_on_without_saving(run_dir, "File too large", figures=STEPS,
                                           before_exec=limited_to(size + 10))
        self.assertEqual(said.count("expected to append to"), 1, said)

    def test_where_one_of_two_processes_cannot_write_both_go_on(self):
        for failing in (0, 1):
            with self.subTest(failing=failing):
                run_dir = self.copy_of_straight_run()
                said = self.goes_on_without_saving(run_dir, "File too large", count=2,
                                                   failing=failing, before_exec=limited_to(LIMIT))
                self.assertIn(f"process {failing} could not write its share", said)
                shutil.rmtree(run_dir)

    def test_a_folder_that_may_not_be_written_ends_no_run(self):
        run_dir = self.copy_of_straight_run()
        (run_dir / "checkpoints").chmod(0o555)
        self.addCleanup((run_dir / "checkpoints").chmod, 0o755)
        self.goes_on_without_saving(run_dir, "Permission denied", before_exec=obey_permissions)

    def test_a_full_disk_ends_no_run(self):
        run_dir = self.scratch / "run"
        run_dir.mkdir()
        mounted = run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", run_dir])
        if mounted.returncode != 0:
            self.skipTest(f"no file system can be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(run, ["umount", run_dir])
        shutil.copytree(fixture("straight-fp32"), run_dir, dirs_exist_ok=True)
        self.fill(run_dir, all_but=200 * 1024)
        self.goes_on_without_saving(run_dir, "No space left on device")

    def fill(self, folder, all_but):
        left = shutil.disk_usage(folder).free - all_but
        (folder / "filler").write_bytes(bytes(left))


class ReadOnlyFolder(FaultTest):
    def test_it_is_refused_with_the_key_that_chooses_another(self):
        for run_dir in (self.scratch / "run", self.scratch):
            self.scratch.chmod(0o555)
            processes = Processes(1, train_arguments(run_dir), scratch=Setup.work,
                                  special={0: {"preexec_fn": obey_permissions}})
            self.addCleanup(self.scratch.chmod, 0o755)
            self.addCleanup(processes.kill)
            self.all_say(processes, 1, str(run_dir), "Permission denied",
                         "choose another with --set train.run_dir=FOLDER")
            processes.kill()
            self.scratch.chmod(0o755)
            self.assertEqual(list(self.scratch.iterdir()), [])


class FolderInUse(FaultTest):
    def test_a_second_run_is_refused_and_the_first_goes_on(self):
        run_dir = self.scratch / "run"
        first = self.start(2, train_arguments(run_dir, train__steps=100000))
        first.wait_for_step(run_dir, 8)
        second = self.start(2, train_arguments(run_dir, "--resume", "auto", train__steps=100000))
        self.all_say(second, 1, "for this process alone, got another that writes there", str(run_dir))
        for _, stderr in second.end():
            self.assertEqual(len(stderr.splitlines()), 1, stderr)
        first.processes[1].send_signal(signal.SIGTERM)
        for code, stderr in first.end():
            self.assertEqual(code, 0, stderr)
        self.succeeds("checkpoint", "verify", run_dir)
