"""One contender of the training-step benchmark: PyTorch from Python, in a process of its own.

Times forward + backward + gradient clipping + AdamW on random tokens and prints one JSON object, the
same that crnet_bench_train_step prints. With --serve it takes turns with others, step by step, under
compare_train_step.py. Precisions:

  fp32       everything in fp32
  bf16       fp32 weights and optimizer, torch.autocast to bf16: what a Python user runs
  bf16-pure  weights, gradients and optimizer state in bf16: faster, and another (worse) numeric
"""

import argparse
import json
import os
import statistics
import sys
import time

# glibc hands big blocks back to the kernel and faults them in again in every step unless it is told
# not to; worth 1.25x in eager mode. It reads these at start-up only.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

COMPILE_MODES = {"compile": None, "autotune": "max-autotune-no-cudagraphs",
                 "graphs": "reduce-overhead"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=("llama", "crnet", "cola"), default="crnet")
    parser.add_argument("--size", default="60m")
    parser.add_argument("--mode", choices=("eager", *COMPILE_MODES, "transformers"),
                        default="eager",
                        help="autotune: compile with mode max-autotune-no-cudagraphs; graphs: with "
                             "reduce-overhead, CUDA graphs; transformers: Hugging Face's LLaMA, eager")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("bf16", "fp32", "bf16-pure"), default="bf16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="at least 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true",
                        help="after the warm-up, run N steps for each line N on stdin")
    parser.add_argument("--profile", action="store_true", help="print the top operators instead")
    arguments = parser.parse_args()
    if arguments.mode == "transformers" and arguments.arch != "llama":
        parser.error(f"--mode transformers: expected --arch llama, got {arguments.arch}")
    if arguments.mode == "graphs" and arguments.device != "cuda":
        parser.error(f"--mode graphs: expected --device cuda, got {arguments.device}")
    return arguments


def make_step(torch, arguments, model):
    """One training step as a function of (tokens, targets); returns the loss."""
    decayed = [p for p in model.parameters() if p.dim() >= 2 and p is not model.embedding.weight]
    plain = [p for p in model.parameters() if p.dim() < 2 or p is model.embedding.weight]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), fused=True,
    )
    loss_of = model
    if arguments.mode in COMPILE_MODES:
        loss_of = torch.compile(model, mode=COMPILE_MODES[arguments.mode], dynamic=False)

    def step(tokens, targets):
        with torch.autocast(arguments.device, torch.bfloat16,
                            enabled=arguments.precision == "bf16"):
            loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def peak_memory_mib(torch, arguments):
    """Of the device's allocator on CUDA, resident on the CPU. None of what a CUDA graph replays:
    that allocates nothing."""
    if arguments.mode == "graphs":
        return None
    if arguments.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024


def forget_peak(torch, device):
    """Starts the peak anew, so that compiling does not count."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:  # not allowed everywhere
        pass


def profile(torch, step, batch):
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            step(*batch)
    on = batch[0].device.type
    print(profiler.key_averages().table(sort_by=f"self_{on}_time_total", row_limit=30,
                                        max_name_column_width=60))


def timed(step, batch, count):
    """Runs `count` steps; returns their seconds and the last loss."""
    seconds, loss = [], None
    for _ in range(count):
        start = time.perf_counter()
        loss = step(*batch).item()
        seconds.append(time.perf_counter() - start)
    return seconds, loss


def serve(step, batch):
    """Answers each line `N` on stdin with N timed steps as JSON, until the end of input."""
    seconds, loss = [], None
    for line in sys.stdin:
        latest, loss = timed(step, batch, int(line))
        seconds += latest
        print(json.dumps({"step_seconds": latest, "loss": loss}), flush=True)
    return seconds, loss


def main():
    arguments = parse_arguments()
    if any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable] + sys.argv, {**ALLOCATOR, **os.environ})
    if arguments.device == "cuda":  # as crnet has it
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    import peer_model

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    size = peer_model.SIZES[arguments.size]
    with torch.device(arguments.device):
        if arguments.mode == "transformers":
            model = peer_model.TransformersLlama(size, arguments.length)
        else:
            model = peer_model.CausalLM(arguments.arch, size, arguments.length)
        text = torch.randint(size.vocab, (arguments.batch, arguments.length + 1))
    if arguments.precision == "bf16-pure":
        model = model.bfloat16()
    batch = (text[:, :-1].contiguous(), text[:, 1:].contiguous())
    step = make_step(torch, arguments, model)

    loss_first = step(*batch).item()
    timed(step, batch, arguments.warmup - 1)
    if arguments.profile:
        return profile(torch, step, batch)
    forget_peak(torch, arguments.device)
    if arguments.serve:
        print(json.dumps({"ready": True}), flush=True)
        seconds, loss_last = serve(step, batch)
    else:
        seconds, loss_last = timed(step, batch, arguments.steps)
    print(json.dumps({
        "contender": arguments.mode,
        "arch": arguments.arch,
        "size": arguments.size,
        "device": arguments.device,
        "precision": arguments.precision,
        "batch": arguments.batch,
        "length": arguments.length,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": arguments.batch * arguments.length / statistics.median(seconds),
        "step_seconds": seconds,
        "peak_memory_mib": peak_memory_mib(torch, arguments),
        "loss_first": loss_first,
        "loss_last": loss_last,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }))


if __name__ == "__main__":
    main()
