"""Several processes: each launcher starts them, their number does not change the numbers, and when
one fails the others say so and nothing is lost."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from harness import (LAST_CHECKPOINT, STEPS, CliTest, Setup, checkpoints, digest,
                     fixture, losses, metrics, train_arguments)

# What a launcher sets must not come from whoever runs the tests.
OURS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC",
        "CRNET_LAUNCH")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(command, timeout=120, environment=CLEAN):
    return subprocess.run([*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=timeout, encoding="utf-8", errors="replace", check=False,
                          env=environment)


def mpirun(count, arguments):
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return run(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", count, Setup.crnet,
                *arguments], environment={**CLEAN, **as_root})


def torchrun(count, arguments):
    return run([sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node",
                count, "--master-port", free_port(), Setup.crnet, *arguments])


def crnet_launch(count, arguments):
    return run([Setup.crnet, "launch", "--nproc", count, *arguments])


def weights(run_dir):
    """Digests of the files that hold the last checkpoint's tensors."""
    return {path.name: digest(path)
            for path in (run_dir / LAST_CHECKPOINT).glob("*.safetensors")}


class Processes:
    """Started by hand, so that no launcher ends the others where one fails. `arguments`: of all, or
    a list for each."""

    def __init__(self, count, arguments, port=None, ranks=None, scratch=None):
        self.stderr_files = []
        self.processes = []
        port = port or free_port()
        for rank in ranks or range(count):
            own = arguments[rank] if isinstance(arguments[0], list) else arguments
            place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank,
                     "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
            self.stderr_files.append(open(scratch / f"stderr-{port}-{rank}", "w+",
                                          encoding="utf-8"))
            self.processes.append(subprocess.Popen(
                [Setup.crnet, *map(str, own)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=self.stderr_files[-1],
                env={**CLEAN, **{name: str(value) for name, value in place.items()}}))

    def wait_for_step(self, run_dir, step):
        path = run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and path.read_bytes().count(b'"kind":"step"') >= step:
                return
            time.sleep(0.01)
        raise AssertionError(f"no step {step}: {self.end()}")

    def end(self, timeout=60, stopped=None):
        """(exit code, standard error) of each; None for one that is running still. Does not wait for
        the process `stopped`."""
        deadline = time.monotonic() + timeout
        results = []
        for rank, (process, file) in enumerate(zip(self.processes, self.stderr_files)):
            try:
                left = 0 if rank == stopped else deadline - time.monotonic()
                code = process.wait(max(0, left))
            except subprocess.TimeoutExpired:
                code = None
            file.seek(0)
            results.append((code, file.read()))
        return results

    def kill(self):
        for process, file in zip(self.processes, self.stderr_files):
            process.kill()
            process.wait()
            file.close()


class Distributed(CliTest):
    def start(self, count, arguments, **options):
        processes = Processes(count, arguments, scratch=self.scratch, **options)
        self.addCleanup(processes.kill)
        return processes

    def ends_well(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def assert_same_numbers(self, run_dir, straight, tolerance):
        wanted, _ = losses(straight)
        got, _ = losses(run_dir)
        self.assertEqual(got.keys(), wanted.keys())
        for pair, loss in got.items():
            self.assertLess(abs(loss - wanted[pair]), tolerance * abs(wanted[pair]), pair)
        # AdamW would not mind gradients that are all too large.
        for ours, theirs in zip(metrics(run_dir), metrics(straight)):
            if ours["kind"] == "step":
                self.assertLess(abs(ours["grad_norm"] - theirs["grad_norm"]),
                                10 * tolerance * theirs["grad_norm"], ours["step"])

    def assert_same_weights(self, run_dir, other):
        """Of two runs of as many processes, so that they wrote the same shards."""
        ours, theirs = weights(run_dir), weights(other)
        self.assertGreaterEqual(len(theirs), 2)
        self.assertEqual(ours, theirs)

    def all_say(self, processes, code, *texts):
        """Every process ends with `code` and one last line that has every text."""
        for rank, (got, stderr) in enumerate(processes.end()):
            self.assertEqual(got, code, f"process {rank}: {stderr}")
            self.assertRegex(stderr, r"(?:\A|\n)crnet: [^\n]+\n\Z")
            for text in texts:
                self.assertIn(text, stderr.splitlines()[-1], f"process {rank}")


class Launchers(Distributed):
    def test_each_launcher_gives_the_same_weights_and_is_named(self):
        if shutil.which("mpirun") is None:
            self.skipTest("no mpirun; scripts/setup.sh installs it")
        launchers = {"mpirun (Open MPI)": mpirun, "crnet launch": crnet_launch}
        if run([sys.executable, "-c", "import torch"]).returncode == 0:
            launchers["torchrun"] = torchrun
        for name, start in launchers.items():
            with self.subTest(launcher=name):
                run_dir = self.scratch / start.__name__
                result = self.ends_well(start(2, train_arguments(run_dir)))
                self.assertIn(f"started by {name}: process 0 of 2", result.stderr)
                self.assertEqual(result.stderr.count("done after"), 1, result.stderr)
                self.assert_same_weights(run_dir, self.scratch / "mpirun")
                self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-5)

    def test_a_step_that_no_group_can_share_is_refused(self):
        self.all_say(self.start(3, train_arguments(self.scratch / "run")), 2,
                     "train.global_batch_tokens", "2 * 32 * 3 = 192")

    def test_an_environment_that_is_half_set_is_refused(self):
        result = run([Setup.crnet, *train_arguments(self.scratch / "run")],
                     environment={**CLEAN, "RANK": "1"})
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("WORLD_SIZE", result.stderr)


class Numbers(Distributed):
    def test_the_number_of_processes_changes_nothing_but_rounding(self):
        settings = {"train__steps": 50, "checkpoint__every": 0}
        straight = self.scratch / "1"
        self.succeeds(*train_arguments(straight, **settings))
        for count in (2, 4):
            with self.subTest(processes=count):
                run_dir = self.scratch / str(count)
                self.ends_well(crnet_launch(count, train_arguments(run_dir, **settings)))
                self.assert_same_numbers(run_dir, straight, 1e-5)

    def test_strategies_of_recomputation_give_the_same_bits(self):
        kept = self.scratch / "none"
        self.ends_well(crnet_launch(2, train_arguments(kept)))
        for strategy in ("full", "replay"):
            with self.subTest(strategy=strategy):
                run_dir = self.scratch / strategy
                self.ends_well(crnet_launch(
                    2, train_arguments(run_dir, recompute__strategy=strategy)))
                self.assert_same_weights(run_dir, kept)

    def test_gradients_may_travel_in_bf16(self):
        run_dir = self.scratch / "run"
        self.ends_well(crnet_launch(2, train_arguments(run_dir, dist__gradients="bf16")))
        self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-3)
        exact = self.scratch / "fp32"
        self.ends_well(crnet_launch(2, train_arguments(exact)))
        self.assertNotEqual(weights(run_dir), weights(exact))

    def test_any_number_of_processes_resumes_any_checkpoint(self):
        run_dir = self.scratch / "run"
        for count, step in ((4, 11), (2, 22)):
            self.stop_after(count, run_dir, step)
        self.succeeds(*train_arguments(run_dir, "--resume", "auto"))
        self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-5)

    def stop_after(self, count, run_dir, step):
        """One process alone is told to stop."""
        processes = self.start(count, train_arguments(run_dir, "--resume", "auto"))
        processes.wait_for_step(run_dir, step)
        processes.processes[-1].send_signal(signal.SIGTERM)
        for code, stderr in processes.end():
            self.assertEqual(code, 0, stderr)
        self.assertIn("stopped after step", processes.end()[0][1])

    def test_a_stopped_run_resumes_to_the_same_bits(self):
        straight, run_dir = self.scratch / "straight", self.scratch / "run"
        self.ends_well(crnet_launch(4, train_arguments(straight)))
        self.stop_after(4, run_dir, 7)
        self.ends_well(crnet_launch(4, train_arguments(run_dir, "--resume", "auto")))
        self.assert_same_weights(run_dir, straight)


class Faults(Distributed):
    def lose(self, rank, number, *more, count=4, **settings):
        run_dir = self.scratch / f"run-{rank}-{number}"
        processes = self.start(count, train_arguments(
            run_dir, *more, train__steps=100000, dist__timeout_s=4, **settings))
        processes.wait_for_step(run_dir, 8)
        processes.processes[rank].send_signal(number)
        for other, (code, stderr) in enumerate(processes.end(stopped=rank)):
            if other == rank:
                continue
            self.assertEqual(code, 1, f"process {other}: {stderr}")
            last = stderr.splitlines()[-1]
            self.assertRegex(last, rf"^crnet: \[dist\] process {other} of {count}: expected .* of "
                                   rf"step \d+ from all, got: lost: process {rank} on ")
        processes.kill()
        return run_dir

    def test_the_others_name_a_killed_process_and_nothing_is_lost(self):
        for rank in (0, 1, 3):
            with self.subTest(rank=rank):
                run_dir = self.lose(rank, signal.SIGKILL)
                steps = int(checkpoints(run_dir)[-1].removeprefix("step-")) + 3
                resumed = self.ends_well(crnet_launch(4, train_arguments(
                    run_dir, "--resume", "auto", train__steps=steps)))
                self.assertIn("resumed from", resumed.stderr)

    def test_the_others_name_a_stopped_process(self):
        for rank in (0, 3):
            with self.subTest(rank=rank):
                self.lose(rank, signal.SIGSTOP)

    def test_the_others_name_a_process_that_stops_while_they_save(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                self.lose(rank, signal.SIGSTOP, count=2, checkpoint__every=1)

    def test_of_many_all_name_the_one_that_was_killed(self):
        self.lose(1, signal.SIGKILL, count=8)

    def test_a_killed_process_is_started_anew_with_its_group(self):
        run_dir = self.scratch / "run"
        launcher = subprocess.Popen(
            [Setup.crnet, "launch", "--nproc", "2", "--max-restarts", "1",
             *map(str, train_arguments(run_dir))], stdin=subprocess.DEVNULL, env=CLEAN,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        self.addCleanup(launcher.kill)
        deadline = time.monotonic() + 60
        while not (run_dir / "checkpoints").is_dir() and time.monotonic() < deadline:
            time.sleep(0.005)
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        os.kill(int(children.split()[-1]), signal.SIGKILL)
        _, stderr = launcher.communicate(timeout=120)
        self.assertEqual(launcher.returncode, 0, stderr)
        self.assertIn("restart 1 of 1", stderr)
        self.assertEqual(checkpoints(run_dir)[-1], f"step-{STEPS:08d}", stderr)


class Mistakes(Distributed):
    def test_settings_that_differ_are_named_everywhere(self):
        run_dir = self.scratch / "run"
        self.all_say(self.start(2, [train_arguments(run_dir),
                                    train_arguments(run_dir, optimizer__lr=0.5)]), 2,
                     "the same optimizer.lr", "got 0.001 on process 0", "0.5 on process 1")
        self.assertFalse(run_dir.exists())

    def test_what_one_process_cannot_do_all_report(self):
        copy = self.scratch / "data"
        shutil.copytree(fixture("data"), copy)
        shard = next(copy.glob("train*"))
        content = bytearray(shard.read_bytes())
        content[-1] ^= 0xFF
        shard.write_bytes(content)
        processes = self.start(2, train_arguments(self.scratch / "run", data__path=copy))
        for code, stderr in processes.end():
            self.assertEqual(code, 1, stderr)
            self.assertIn(shard.name, stderr)

    def test_a_folder_that_holds_a_run_is_refused_on_every_process(self):
        run_dir = self.copy_of_straight_run()
        (first, first_says), (second, second_says) = self.start(
            2, train_arguments(run_dir)).end()
        self.assertEqual((first, second), (2, 2), first_says + second_says)
        self.assertIn("which holds a run", first_says)
        self.assertRegex(second_says, r"process 1 of 2 stops, since process 0 on .* which holds a run")

    def test_a_process_that_does_not_come_is_named(self):
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=2)
        self.all_say(self.start(3, arguments, ranks=[0]), 2, "train.global_batch_tokens")
        processes = self.start(4, arguments, ranks=[0, 2])
        self.all_say(processes, 1, "expected 4 processes at", "missing: ")
        self.assertIn("missing: 1, 3", processes.end()[0][1])
        self.all_say(self.start(2, arguments, ranks=[1]), 1, "expected the rendezvous of process 0")

    def test_a_port_that_is_taken_is_named(self):
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=2)
        with socket.socket() as taken:  # by somebody who never says a word
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.all_say(self.start(2, arguments, port=port, ranks=[0]), 1, "MASTER_PORT")
            self.all_say(self.start(2, arguments, port=port, ranks=[1]), 1, "MASTER_PORT")
