#!/usr/bin/env python3
"""Prints metrics of several runs side by side, as Markdown.

Usage: compare_runs.py [--steps N] [--limit X] [--smoothed] NAME=RUN_FOLDER…

Two tables: the losses of the first N training steps (default 10), with the greatest relative
difference from the first run (with --smoothed, of the smoothed losses); and the median tokens per
second of each run's later half.

Exit status: 0; with --limit, 1 where a difference is above X, or fewer than N steps can be compared.
"""

import argparse
import json
import pathlib
import statistics
import sys


def training_records(run):
    """The training steps of a run's metrics.jsonl by number."""
    path = pathlib.Path(run) / "metrics.jsonl"
    records = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record.get("kind") == "step" and record["loss"] is not None:
            records[record["step"]] = record
    if not records:
        raise SystemExit(f"compare_runs.py: {path} holds no training step")
    return records


def loss_table(runs, steps):
    names = list(runs)
    print("| step | " + " | ".join(f"{name}: loss" for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for step in steps:
        print(f"| {step} | " + " | ".join(f"{runs[n][step]['loss']:.6f}" for n in names) + " |")
    print()


def common_steps(runs, num_steps):
    """The first steps that every run has."""
    return sorted(set.intersection(*(set(records) for records in runs.values())))[:num_steps]


def differences(runs, steps, key):
    """The greatest relative difference of each run's losses from those of the first."""
    (_, first), *others = runs.items()
    return {
        name: max(abs(records[s][key] / first[s][key] - 1) for s in steps)
        for name, records in others
    }


def within_limit(runs, steps, num_steps, limit, key):
    """Prints each run's difference; False where one is above the limit, or too little is compared."""
    sound = limit is None or len(steps) == num_steps
    if not sound:
        print(f"Expected {num_steps} steps that all runs have, got {len(steps)}\n")
    for name, worst in differences(runs, steps, key).items():
        verdict = "" if limit is None else f" (limit {limit:g})"
        print(f"Greatest relative difference of {name} from {next(iter(runs))}: {worst:.2e}{verdict}")
        sound = sound and (limit is None or worst <= limit)
    print()
    return sound


def speed_table(runs):
    print("| run | steps | tokens/s, median of the later half |")
    print("|---|---|---|")
    for name, records in runs.items():
        speeds = [r["tokens_per_second"] for r in records.values()]
        median = statistics.median(speeds[len(speeds) // 2 :])
        print(f"| {name} | {len(records)} | {median:,.0f} |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=float)
    parser.add_argument("--smoothed", action="store_true")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    arguments = parser.parse_args()
    runs = {}
    for argument in arguments.runs:
        name, _, folder = argument.partition("=")
        runs[name] = training_records(folder)
    steps = common_steps(runs, arguments.steps)
    if not steps:
        raise SystemExit("compare_runs.py: expected steps that all runs have, got none")
    loss_table(runs, steps)
    key = "smoothed_loss" if arguments.smoothed else "loss"
    sound = within_limit(runs, steps, arguments.steps, arguments.limit, key)
    speed_table(runs)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
