#!/usr/bin/env python3
"""Kills or stops one process of a small distributed training, round after round, and goes on from it.

Each round draws the number of processes, dist.shard, the launcher, the process, SIGKILL or SIGSTOP,
and the moment: while they meet, in a step, or while a checkpoint is written. It expects that

- the others end by themselves, with a failure, and each names the lost process in one line, or at
  least one does (mpirun and torchrun end the others as soon as one has ended);
- every checkpoint there is sound;
- `--resume auto` ends with the weights and losses of a run that nothing disturbed, to the bit with
  as many processes and the same dist.shard, within 1e-6 of the losses with others.

Prints a line for each round and a summary. Exit status: 0, or 1 where anything was not as expected.
"""
import argparse
import collections
import dataclasses
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests/cli"))
sys.dont_write_bytecode = True

from harness import (LAST_CHECKPOINT, STEPS, Setup, checkpoints, crnet, fixture, losses,  # noqa: E402
                     make_fixture, steps_done, train_arguments)
from jobs import LAUNCHERS, Job, available_launchers, straight  # noqa: E402
from processes import Processes, run, wait_until, weights  # noqa: E402

HAND = "no launcher"
COUNTS = (2, 4)
SHARDS = ("none", "optimizer", "parameters")
MOMENTS = ("meeting", "step", "saving")
PATIENCE = 60  # seconds that the others have to end in
TOLERANCE = 1e-6
SETTINGS = {"dist__timeout_s": 3, "dist__start_timeout_s": 10}


@dataclasses.dataclass
class Plan:
    """What a round does."""
    launcher: str
    count: int
    shard: str
    victim: int
    number: signal.Signals
    moment: str
    step: int
    delay: float
    then_launcher: str
    then_count: int
    then_shard: str

    @staticmethod
    def draw(generator, launchers):
        count, shard = generator.choice(COUNTS), generator.choice(SHARDS)
        moment = generator.choice(MOMENTS)
        mixed = generator.random() < 1 / 3
        return Plan(
            generator.choice([*launchers, HAND]), count, shard, generator.randrange(count),
            generator.choice((signal.SIGKILL, signal.SIGSTOP)), moment,
            generator.randrange(STEPS - 5), generator.uniform(0, 3 if moment == "meeting" else 0.05),
            generator.choice(launchers),
            generator.choice(COUNTS) if mixed else count,
            generator.choice(SHARDS) if mixed else shard)

    def same_bits(self):
        return (self.count, self.shard) == (self.then_count, self.then_shard)

    def least_lines(self):
        """How many of the others have to say who is lost, at least."""
        if self.launcher not in ("mpirun", "torchrun"):
            return self.count - 1
        # They see a killed process before the others do, and a stopped one not at all.
        return int(self.number == signal.SIGSTOP and self.moment != "meeting")

    def __str__(self):
        when = {"meeting": f"{self.delay:.2f} s after the start",
                "step": f"{self.delay * 1000:.0f} ms after step {self.step + 1}",
                "saving": f"while saving after step {self.step + 1}"}[self.moment]
        return (f"{self.launcher}, {self.count} processes, shard {self.shard}, "
                f"{self.number.name} to process {self.victim} {when}")


class Round:
    def __init__(self, plan, folder):
        self.plan = plan
        self.folder = folder
        self.run_dir = folder / "run"
        self.objections = []
        self.stderr = ""
        self.seconds = 0.0

    def expect(self, is_so, objection):
        if not is_so:
            self.objections.append(objection)

    def wait_for_moment(self, job):
        plan = self.plan
        if plan.moment == "meeting":
            time.sleep(plan.delay)
            return
        wait_until(lambda: steps_done(self.run_dir) > plan.step or not job.is_running())
        if plan.moment == "step":
            time.sleep(plan.delay)
            return
        folder = self.run_dir / "checkpoints"
        wait_until(lambda: any(folder.glob(".tmp-step-*")) or not job.is_running(), pause=0)

    def disturb(self):
        """Whether the signal came in time."""
        plan = self.plan
        arguments = train_arguments(self.run_dir, dist__shard=plan.shard, checkpoint__every=1,
                                    **SETTINGS)
        job = (Processes(plan.count, arguments, scratch=self.folder) if plan.launcher == HAND
               else Job(plan.launcher, plan.count, arguments, self.folder))
        try:
            self.wait_for_moment(job)
            if not job.signal(plan.victim, plan.number):
                return False
            begin = time.monotonic()
            ended = wait_until(lambda: not set(job.ranks()) - {plan.victim}, PATIENCE, pause=0.05)
            self.seconds = time.monotonic() - begin
            self.expect(ended, f"others run on after {PATIENCE} s")
            job.signal(plan.victim, signal.SIGKILL)
            results = job.end()
        finally:
            job.kill()
        self.stderr = "".join(stderr for _, stderr in results)
        if f"step-{STEPS:08d}" in checkpoints(self.run_dir) and not self.lines():
            return False  # it was over
        for code, _ in results:
            self.expect(code not in (0, None), f"exit status {code}")
        return True

    def lines(self):
        return [line for line in self.stderr.splitlines() if line.startswith("crnet: ")]

    def names_the_victim(self, line):
        victim = self.plan.victim
        served = victim == 0 and re.search(r"lost: process 0, which served the rendezvous|"
                                           r"expected the rendezvous of process 0", line)
        return served or re.search(rf"lost: process {victim} on |missing: (\d+, )*{victim}\b", line)

    def judge_lines(self):
        others = set(range(self.plan.count)) - {self.plan.victim}
        speakers = collections.Counter()
        for line in self.lines():
            speaker = re.search(r"process (\d+) of \d+", line)
            self.expect(speaker and self.names_the_victim(line), f"said: {line}")
            if speaker:
                speakers[int(speaker[1])] += 1
        self.expect(all(number == 1 for number in speakers.values()), f"lines of {speakers}")
        expected = len(speakers) >= self.plan.least_lines() and speakers.keys() <= others
        self.expect(expected, f"lines of processes {sorted(speakers)}")

    def resume(self):
        plan = self.plan
        saved = checkpoints(self.run_dir)
        if saved:
            verified = crnet("checkpoint", "verify", self.run_dir)
            self.expect(verified.returncode == 0, verified.stdout)
        try:
            resumed = run([*LAUNCHERS[plan.then_launcher](plan.then_count), *train_arguments(
                self.run_dir, "--resume", "auto", dist__shard=plan.then_shard)])
            self.expect(resumed.returncode == 0, resumed.stderr)
            self.expect("refused" not in resumed.stderr, resumed.stderr)
            if resumed.returncode == 0:
                self.compare(straight(plan.count, plan.shard))
        except subprocess.TimeoutExpired as late:
            self.expect(False, f"the resumed run did not end: {late.stderr}")
        return saved[-1] if saved else "the beginning"

    def compare(self, undisturbed):
        wanted, _ = losses(undisturbed)
        got, order = losses(self.run_dir)
        self.expect(len(order) == len(got), "losses written twice")
        self.expect(got.keys() == wanted.keys(), "not the steps of an undisturbed run")
        if self.plan.same_bits():
            self.expect(got == wanted, "other losses")
            self.expect(weights(self.run_dir) == weights(undisturbed), "other weights")
            return
        worst = max(abs(got[pair] / wanted[pair] - 1) for pair in got.keys() & wanted.keys())
        self.expect(worst < TOLERANCE, f"losses differ by {worst:.1e}")

    def play(self):
        """One line on what happened, or None where the run was over before the signal."""
        if not self.disturb():
            return None
        self.judge_lines()
        start = self.resume()
        plan = self.plan
        how = "to the bit" if plan.same_bits() else f"within {TOLERANCE:g}"
        return (f"{plan}: others ended in {self.seconds:.1f} s with {len(self.lines())} lines; "
                f"{plan.then_launcher} with {plan.then_count} ({plan.then_shard}) from {start}: "
                + ("as undisturbed " + how if not self.objections else "OBJECTIONS"))


def play_rounds(rounds, generator, launchers):
    played = []
    while len(played) < rounds:
        folder = Setup.work / "round"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        game = Round(Plan.draw(generator, launchers), folder)
        line = game.play()
        if line is None:
            continue
        played.append(game)
        print(f"round {len(played)}: {line}", flush=True)
        for objection in game.objections:
            print(f"  objection: {objection}\n  said: {game.stderr}", flush=True)
    return played


def summarize(played):
    for name in ("launcher", "count", "shard", "number", "moment"):
        counts = collections.Counter(getattr(game.plan, name) for game in played)
        print(f"{name}: " + ", ".join(f"{getattr(key, 'name', key)} {number}"
                                      for key, number in sorted(counts.items(), key=str)))
    bits = sum(game.plan.same_bits() for game in played)
    bad = sum(bool(game.objections) for game in played)
    print(f"{len(played)} rounds: {bits} to be resumed to the bit, {len(played) - bits} within "
          f"{TOLERANCE:g}; longest until the others had ended {max(g.seconds for g in played):.1f} s; "
          f"{bad} with objections")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32),
                        help="of what is drawn (moments also depend on the machine)")
    parser.add_argument("--crnet", type=pathlib.Path, default=SOURCE / "build/release/crnet")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {arguments.rounds}")
    if not arguments.crnet.exists():
        parser.error(f"--crnet: expected an executable, got {arguments.crnet}; run scripts/build.sh")
    Setup.crnet = str(arguments.crnet.resolve())
    with tempfile.TemporaryDirectory() as work:
        Setup.work = pathlib.Path(work)
        make_fixture()
        launchers = available_launchers()
        print(f"seed {arguments.seed}; launchers: {', '.join(launchers)}", flush=True)
        played = play_rounds(arguments.rounds, random.Random(arguments.seed), launchers)
        raise SystemExit(1 if summarize(played) else 0)


if __name__ == "__main__":
    main()
