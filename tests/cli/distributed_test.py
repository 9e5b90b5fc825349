"""Several processes: each launcher starts them, their number does not change the numbers, and all
report a mistake."""
import pathlib
import shutil
import signal
import socket

from harness import SOURCE, Setup, fixture, train_arguments
from processes import (CLEAN, Distributed, crnet_launch, free_port, has_torch, mpirun, run, torchrun,
                       wait_until, weights)


def connections_to(port):
    """How many clients a server of this host has there."""
    entries = [line.split() for table in ("tcp", "tcp6")
               for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    established = "01"
    return sum(entry[1].endswith(f":{port:04X}") and entry[3] == established for entry in entries)


class Launchers(Distributed):
    def test_each_launcher_gives_the_same_weights_and_is_named(self):
        if shutil.which("mpirun") is None:
            self.skipTest("no mpirun; scripts/setup.sh installs it")
        launchers = {"mpirun (Open MPI)": mpirun, "crnet launch": crnet_launch}
        if has_torch():
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
        for text in ("expected WORLD_SIZE, got nothing",
                     "unset RANK, or set CRNET_LAUNCHER=none"):
            self.assertIn(text, result.stderr)


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
        self.assert_same_numbers(run_dir, fixture("straight-fp32"), 1e-6)

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

    def test_data_that_differ_are_named_everywhere(self):
        """Under one name, as on two hosts."""
        for name, source in (("first", "src"), ("second", "include")):
            (self.scratch / name).mkdir()
            self.succeeds("prepare", SOURCE / source, "--output", self.scratch / name / "data",
                          "--tokenizer", fixture("data") / "tokenizer.model", "--threads", 1,
                          "--validation-fraction", 0.3)
        processes = self.start(
            2, train_arguments(self.scratch / "run", data__path="data"),
            special={0: {"cwd": self.scratch / "first"}, 1: {"cwd": self.scratch / "second"}})
        self.all_say(processes, 2, "expected the same data on every process")

    def test_another_run_at_the_port_is_named(self):
        """One of another number of processes, or of another version."""
        version = self.succeeds("--version").stdout.split()[1]
        other = self.scratch / "crnet"
        other.write_bytes(Setup.program.read_bytes().replace(
            version.encode() + b"\0", b"9" * len(version) + b"\0"))
        other.chmod(0o755)
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=4)
        cases = ((4, {}, f"crnet {version} with 4 processes"),
                 (2, {1: {"executable": other}}, f"crnet {'9' * len(version)} with 2 processes"))
        for count, special, said in cases:
            with self.subTest(said):
                port = free_port()
                first = self.start(2, arguments, port=port, ranks=[0])
                second = self.start(count, arguments, port=port, ranks=[1], special=special)
                self.all_say(second, 1, f"expected {said}", f"got crnet {version} with 2 processes",
                             "another run has the port")
                self.all_say(first, 1, "missing: 1")

    def test_a_process_that_does_not_come_is_named_everywhere(self):
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=2)
        self.all_say(self.start(4, arguments, ranks=[0, 2]), 1, "expected 4 processes at",
                     "missing: 1, 3")
        alone = self.start(2, arguments, ranks=[1])
        self.all_say(alone, 1, "expected the rendezvous of process 0")
        self.assertEqual(len(alone.end()[0][1].splitlines()), 1, "said more than its line")

    def test_a_first_process_that_is_lost_while_others_are_awaited_is_named(self):
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=10)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(signal=number.name):
                port = free_port()
                processes = self.start(4, arguments, port=port, ranks=[0, 1])
                self.assertTrue(wait_until(lambda: connections_to(port) >= 2, pause=0.05))
                processes.signal(0, number)
                code, stderr = processes.end(stopped=0)[1]
                self.assertEqual(code, 1, stderr)
                self.assertRegex(stderr, r"\Acrnet: [^\n]*(lost: process 0, which served the "
                                         r"rendezvous|expected the rendezvous of process 0)[^\n]*\n\Z")
                processes.kill()

    def test_a_port_that_is_taken_is_named(self):
        arguments = train_arguments(self.scratch / "run", dist__start_timeout_s=2)
        with socket.socket() as taken:  # by somebody who never says a word
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.all_say(self.start(2, arguments, port=port, ranks=[0]), 1, "MASTER_PORT")
            self.all_say(self.start(2, arguments, port=port, ranks=[1]), 1, "MASTER_PORT")
