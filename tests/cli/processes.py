"""What the tests of several processes share: each launcher, and processes that are started by hand."""
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

from harness import LAST_CHECKPOINT, CliTest, Setup, digest, losses, metrics, steps_done

# What a launcher sets must not come from whoever runs the tests.
OURS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC",
        "CRNET_LAUNCH")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
CLEAN |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
PATIENCE = 240  # seconds, for a machine with much else to do
EPHEMERAL_PORTS = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port():
    """Below those that the system gives to clients: one that tries to connect to such a port before
    it is served may be given that very port, and talk to itself."""
    first_ephemeral = int(EPHEMERAL_PORTS.read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10000, max(first_ephemeral, 10001))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def run(command, timeout=PATIENCE, environment=CLEAN):
    return subprocess.run([*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=timeout, encoding="utf-8", errors="replace", check=False,
                          env=environment)


def mpirun_command(count):
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", count, Setup.crnet]


def torchrun_command(count):
    return [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", count,
            "--master-port", free_port(), Setup.crnet]


def crnet_launch_command(count):
    return [Setup.crnet, "launch", "--nproc", count]


def mpirun(count, arguments):
    return run([*mpirun_command(count), *arguments])


def torchrun(count, arguments):
    return run([*torchrun_command(count), *arguments])


def crnet_launch(count, arguments):
    return run([*crnet_launch_command(count), *arguments])


def has_torch():
    return run([sys.executable, "-c", "import torch"]).returncode == 0


def weights(run_dir):
    """Digests of the files that hold the last checkpoint's tensors."""
    return {path.name: digest(path)
            for path in (run_dir / LAST_CHECKPOINT).glob("*.safetensors")}


def wait_until(is_so, timeout=PATIENCE, pause=0.001):
    """Whether it came to be so in time."""
    deadline = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


class Processes:
    """Started by hand, so that no launcher ends the others where one fails. `arguments`: of all, or
    a list for each; `special`: by rank, what else Popen takes."""

    def __init__(self, count, arguments, port=None, ranks=None, scratch=None, special=None):
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
                env={**CLEAN, **{name: str(value) for name, value in place.items()}},
                **(special or {}).get(rank, {})))

    def wait_for_step(self, run_dir, step):
        if not wait_until(lambda: steps_done(run_dir) >= step):
            raise AssertionError(f"no step {step}: {self.end()}")

    def ranks(self):
        """Rank -> process number, of those that run."""
        return {rank: process.pid for rank, process in enumerate(self.processes)
                if process.poll() is None}

    def signal(self, rank, number):
        """Whether that process was running still."""
        running = self.processes[rank].poll() is None
        self.processes[rank].send_signal(number)
        return running

    def is_running(self):
        return bool(self.ranks())

    def end(self, timeout=PATIENCE, stopped=None):
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
