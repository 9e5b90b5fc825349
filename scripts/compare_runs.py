#!/usr/bin/env python3
"""Prints metrics of several runs side by side, as Markdown.

Usage: compare_runs.py [--steps N] NAME=RUN_FOLDER…

Two tables: the losses of the first N training steps (default 10), with the greatest relative
difference from the first run; and the median tokens per second of each run's later half.
"""

import argparse
import json
import pathlib
import statistics


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


def loss_table(runs, num_steps):
    names = list(runs)
    steps = sorted(set.intersection(*(set(r) for r in runs.values())))[:num_steps]
    print("| step | " + " | ".join(f"{name}: loss" for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for step in steps:
        print(f"| {step} | " + " | ".join(f"{runs[n][step]['loss']:.6f}" for n in names) + " |")
    print()
    for name in names[1:]:
        worst = max(
            abs(runs[name][s]["loss"] / runs[names[0]][s]["loss"] - 1) for s in steps
        )
        print(f"Greatest relative difference of {name} from {names[0]}: {worst:.2e}")
    print()


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
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    arguments = parser.parse_args()
    runs = {}
    for argument in arguments.runs:
        name, _, folder = argument.partition("=")
        runs[name] = training_records(folder)
    loss_table(runs, arguments.steps)
    speed_table(runs)


if __name__ == "__main__":
    main()
