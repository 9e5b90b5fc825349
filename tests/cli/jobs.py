"""Runs under a launcher, whose processes can be signalled by rank, and what is said of a lost one."""
import functools
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import uuid

from harness import Setup, train_arguments
from processes import (CLEAN, PATIENCE, crnet_launch, crnet_launch_command, has_torch, mpirun_command,
                       torchrun_command, wait_until)

# Name -> the command that starts so many processes.
LAUNCHERS = {"crnet launch": crnet_launch_command, "torchrun": torchrun_command,
             "mpirun": mpirun_command}

MARK = "CRNET_TESTS_JOB"
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK")
LOST = re.compile(r"^crnet: \[dist\] process (?P<speaker>\d+) of \d+: expected (?P<operation>.+) of step "
                  r"\d+ from all, got: lost: process (?P<lost>\d+) on (?P<host>[^ ,]+), "
                  r"(last seen at step \d+|which served the rendezvous)[^\n]*; start again with "
                  r"--resume auto$", re.MULTILINE)


def available_launchers():
    there = {"crnet launch": True, "torchrun": has_torch(),
             "mpirun": shutil.which("mpirun") is not None}
    return [name for name in LAUNCHERS if there[name]]


@functools.cache
def straight(count, shard):
    """The folder of a run that nothing disturbs; made once."""
    run_dir = Setup.work / f"straight-{count}-{shard}"
    shutil.rmtree(run_dir, ignore_errors=True)
    result = crnet_launch(count, train_arguments(run_dir, dist__shard=shard))
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return run_dir


def environment_of(pid):
    """Of a process that is gone, or another user's: nothing."""
    try:
        entries = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(entry.decode(errors="replace").split("=", 1) for entry in entries if b"=" in entry)


def runs_crnet(pid):
    """Or the program beside it that it starts, crnet-cpu."""
    try:
        return os.readlink(f"/proc/{pid}/exe").startswith(os.path.realpath(Setup.crnet))
    except OSError:
        return False


def send(pid, number):
    """Whether it was there still."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def who_say_that_it_is_lost(stderr, victim):
    """The ranks, one for each line that names the process `victim` of this host, and the lines that
    name another."""
    right, wrong = [], []
    for line in LOST.finditer(stderr):
        names = (int(line["lost"]), line["host"]) == (victim, socket.gethostname())
        (right if names else wrong).append(int(line["speaker"]))
    return sorted(right), wrong


class Job:
    """A run under one of LAUNCHERS; has what Processes has."""

    def __init__(self, launcher, count, arguments, scratch):
        self._mark = uuid.uuid4().hex
        self._stderr = scratch / f"stderr-{self._mark}"
        with open(self._stderr, "w", encoding="utf-8") as file:
            self._launcher = subprocess.Popen(
                [*map(str, LAUNCHERS[launcher](count)), *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file,
                env={**CLEAN, MARK: self._mark}, start_new_session=True)

    def _members(self):
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            environment = environment_of(path.name)
            if environment.get(MARK) == self._mark:
                yield int(path.name), environment

    def ranks(self):
        return {int(environment[name]): pid for pid, environment in self._members()
                for name in RANKS if name in environment and runs_crnet(pid)}

    def signal(self, rank, number):
        pid = self.ranks().get(rank)
        return pid is not None and send(pid, number)

    def is_running(self):
        return self._launcher.poll() is None

    def end(self, timeout=PATIENCE):
        """Of the launcher."""
        wait_until(lambda: not self.is_running(), timeout, pause=0.01)
        stderr = self._stderr.read_text(encoding="utf-8", errors="replace")
        return [(self._launcher.poll(), stderr)]

    def kill(self):
        self._launcher.kill()
        for pid, _ in self._members():
            send(pid, signal.SIGKILL)
        self._launcher.wait()
