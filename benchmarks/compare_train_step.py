"""Training step of crnet against the same model in eager PyTorch and torch.compile, as one table.

Every contender is a process of its own that is started, warmed up and kept; then those of one
precision take turns on the same cores, a few steps each, for several rounds. A machine's speed moves
within minutes, so the ratios are taken inside each round and the table gives their median. All are
in memory at once: --archs and --peers have to leave room.

  python benchmarks/compare_train_step.py --ours build/release/benchmarks/crnet_bench_train_step
"""

import argparse
import atexit
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--ours", help="command of crnet_bench_train_step; left out: peers only")
    parser.add_argument("--with-graphs", action="store_true",
                        help="on cuda also crnet with train.cuda_graphs, as crnet-graphs")
    parser.add_argument("--archs", default="crnet,llama,cola", help="all in memory at once")
    parser.add_argument("--precisions", default="fp32", help="of fp32 and bf16")
    parser.add_argument("--peers", default="eager,compile",
                        help="of eager, compile, autotune, (on cuda) graphs and (of llama) "
                             "transformers, and these with -pure: bf16 weights and state; see peer.py")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="60m", help="60m, 130m, 350m, 1b or 7b")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--rounds", type=int, default=9, help="in which each has a turn")
    parser.add_argument("--steps-per-turn", type=int, default=2, help="steps of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first round")
    parser.add_argument("--quick", action="store_true",
                        help="3 rounds of 1 step after 2, whatever the options before say")
    parser.add_argument("--json", type=pathlib.Path, help="also write every measured time here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps_per_turn, arguments.warmup = 3, 1, 2
    return arguments


class Contender:
    """A training process that runs steps when told to."""

    def __init__(self, arch, name, command, environment):
        self.arch, self.name = arch, name
        self.is_ours = name.startswith("crnet")
        self.turns = []  # seconds per step, one list a round
        try:
            self.process = subprocess.Popen(command, env=environment, text=True, bufsize=1,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise SystemExit(f"{name}: expected a program, got {command[0]}: {error.strerror}; "
                             "scripts/build.sh crnet_bench_train_step builds crnet's") from None
        print(f"{arch} {name}: starting", file=sys.stderr, flush=True)
        atexit.register(self.process.kill)
        self.is_ready = self.process.stdout.readline() != ""
        if not self.is_ready:  # the others may still be compared
            print(f"{arch} {name}: left out, ended with status {self.process.wait()}: "
                  f"{shlex.join(command)}", file=sys.stderr, flush=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()} and no answer: "
                             f"{shlex.join(self.process.args)}")
        return json.loads(line)

    def run(self, steps):
        print(steps, file=self.process.stdin, flush=True)
        self.turns.append(self.read()["step_seconds"])

    def finish(self):
        self.process.stdin.close()
        self.result = self.read()
        self.process.wait()

    def seconds(self, turn):
        return statistics.median(self.turns[turn])


def peer_names(arguments):
    return [name for name in arguments.peers.split(",") if name]


def commands(arguments, arch, precision):
    shape = ["--arch", arch, "--size", arguments.size, "--batch", str(arguments.batch),
             "--length", str(arguments.length), "--threads", str(arguments.threads),
             "--device", arguments.device, "--warmup", str(arguments.warmup), "--serve"]
    if arguments.ours:
        ours = shlex.split(arguments.ours) + shape + ["--precision", precision]
        yield "crnet", ours
        if arguments.with_graphs:
            yield "crnet-graphs", ours + ["--set", "train.cuda_graphs=true"]
    for peer in peer_names(arguments):
        mode, _, pure = peer.partition("-")
        if (pure and precision != "bf16") or (mode == "transformers" and arch != "llama"):
            continue
        peer_precision = "bf16-pure" if pure else precision
        yield peer, [sys.executable, str(HERE / "peer.py"), "--mode", mode,
                     "--precision", peer_precision] + shape


def measure(arguments, precision):
    # torch.compile bakes the number of threads into its code and does not look for it in its cache.
    cache = pathlib.Path.home() / ".cache" / "crnet" / f"inductor-{arguments.threads}-threads"
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": str(arguments.threads),
                   **os.environ}
    # One after the other: they compile, and torch.compile tries out what is fastest.
    contenders = [Contender(arch, name, command, environment)
                  for arch in arguments.archs.split(",")
                  for name, command in commands(arguments, arch, precision)]
    contenders = [contender for contender in contenders if contender.is_ready]
    if not contenders:
        raise SystemExit("expected a contender that starts, got none; see above")
    for turn in range(arguments.rounds):
        # Whoever follows a slow neighbour should not always be the same one.
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            contender.run(arguments.steps_per_turn)
    for contender in contenders:
        contender.finish()
    return contenders


def ratio(contender, others):
    """Speed of `contender` over the fastest of `others`: median and range over the rounds."""
    if not others or others == [contender]:
        return "–"
    ratios = [min(other.seconds(turn) for other in others) / contender.seconds(turn)
              for turn in range(len(contender.turns))]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]"


def memory(mib):
    return "–" if mib is None else f"{mib:,.0f}"


def rows(arguments, precision, contenders):
    tokens = arguments.batch * arguments.length
    for contender in contenders:
        rates = sorted(tokens / contender.seconds(turn) for turn in range(len(contender.turns)))
        peers = [c for c in contenders if c.arch == contender.arch and not c.is_ours]
        columns = [ratio(contender, [c for c in peers if c.name == name])
                   for name in peer_names(arguments)]
        if len(columns) > 1:
            columns.append(ratio(contender, peers) if contender.is_ours else "–")
        cells = [contender.arch, precision, contender.name,
                 f"{statistics.median(rates):,.0f} [{rates[0]:,.0f}–{rates[-1]:,.0f}]", *columns,
                 memory(contender.result["peak_memory_mib"]),
                 f"{contender.result['loss_first']:.2f} → {contender.result['loss_last']:.2f}"]
        yield f"| {' | '.join(cells)} |"


def method_ratios(precision, contenders):
    """How much faster crnet trains other architectures than LLaMA, beside what FLOPs promise."""
    for name in ("crnet", "crnet-graphs"):
        ours = {c.arch: c for c in contenders if c.name == name}
        llama = ours.pop("llama", None)
        for arch, contender in ours.items() if llama else ():
            flops = llama.result["flops_per_token"] / contender.result["flops_per_token"]
            yield (f"{arch} over llama, both by {name}, {precision}: {ratio(contender, [llama])}; "
                   f"LLaMA's FLOPs are {flops:.2f} times as many.  ")


def hardware(device):
    with open("/proc/cpuinfo") as cpuinfo:
        names = [line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")]
    with open("/proc/meminfo") as meminfo:
        gib = int(meminfo.readline().split()[1]) / 2**20
    gpu = ""
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, check=True)
            gpu = answer.stdout.splitlines()[0] + "; "
        except (OSError, subprocess.CalledProcessError, IndexError):
            raise SystemExit("--device cuda: expected a GPU, nvidia-smi shows none") from None
    cpu = names[0] if names else platform.machine()
    return f"{gpu}{cpu}, {os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()}"


def main():
    arguments = parse_arguments()
    start, machine = time.monotonic(), hardware(arguments.device)
    lines, ratios, raw = [], [], []
    versions = {}
    for precision in arguments.precisions.split(","):
        contenders = measure(arguments, precision)
        lines += rows(arguments, precision, contenders)
        ratios += method_ratios(precision, contenders)
        print("\n".join(lines[-len(contenders):]), file=sys.stderr, flush=True)
        for contender in contenders:
            versions.update(contender.result["versions"])
            raw.append({"name": contender.name, "turns": contender.turns, **contender.result})
    ratio_names = [f"× {name}" for name in peer_names(arguments)]
    if len(ratio_names) > 1:
        ratio_names.append("× fastest")
    header = ["model", "precision", "contender", "tokens/s", *ratio_names, "peak memory, MiB", "loss"]
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    print(f"Training step: {arguments.size}, batch {arguments.batch} × {arguments.length}, "
          f"{arguments.threads} threads, {arguments.rounds} rounds of {arguments.steps_per_turn} "
          f"steps after {arguments.warmup} of warm-up, {time.monotonic() - start:.0f} s in all.  \n"
          f"{machine}; {named}.\n\n"
          f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n" + "\n".join(lines) + "\n")
    print("\n".join(ratios))
    if arguments.json:
        arguments.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
