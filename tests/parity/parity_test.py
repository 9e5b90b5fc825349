"""crnet against independent implementations: logits, loss, gradients and ten AdamW steps.

Runs the C++ program crnet_parity_dump on one small model, then repeats what it did

  in fp64 with the plain model of reference_models.py (every case), and
  in fp32 with transformers' LlamaForCausalLM, loading the same file (the llama cases),

and compares. fp64 is the yardstick for the limit of 1e-5 on an fp32 implementation: its own error
is nothing beside it. Ends by checking itself: after a change of 1e-3 to a single weight of any one
tensor, and after each of a list of plausible mistakes, the comparison has to fail.

  parity_test.py --dump build/tests/parity/crnet_parity_dump --case crnet_scalar_r [--keep DIR]

Exit status: 0 passed, 1 failed, 77 skipped because PyTorch is not there.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    print(f"skipped: {missing}")
    # A skip would look like a pass there.
    sys.exit(1 if os.environ.get("CI") else 77)

import reference_models as reference
from mistakes import mistakes

# Keys are those of crnet::ModelConfig. Sizes are odd, and epsilons and theta not the defaults, so that
# a constant in the code in place of the configured value is seen.
CASES = json.loads((pathlib.Path(__file__).parent / "cases.json").read_text())
# The clip is below the first gradient norms. The program picks the learning rates.
OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 0.5}

# Relative, ||a - b|| / ||b||. fp32 has a machine epsilon of 6e-8, and errors of about 1e-6 after
# three blocks forward and backward: one decimal order of room.
LIMIT = 1e-5
# Ten steps of AdamW, whose update is near the sign of the gradient where that is small.
TRAINING_LIMIT = 1e-4
# The sum of ten updates against the same from the reference; a forgotten weight decay is 1e-1.
UPDATE_LIMIT = 1e-2


def relative_error(ours, theirs):
    ours, theirs = ours.double(), theirs.double()
    if ours.shape != theirs.shape:
        return float("inf")
    scale = theirs.norm().item()
    difference = (ours - theirs).norm().item()
    # NaN has to come out as a failure, and compares false with every limit.
    return difference / scale if scale > 0 else difference


def ungrouped(results, prefix):
    return {name.removeprefix(prefix): t for name, t in results.items() if name.startswith(prefix)}


class Comparison:
    """Named errors with their limits; NaN and missing names count as failures."""

    def __init__(self):
        self.rows = {}

    def add(self, name, error, limit):
        self.rows[name] = (error, limit)

    def add_group(self, name, ours, theirs, limit):
        if ours.keys() != theirs.keys():
            self.add(f"{name}: names {sorted(ours.keys() ^ theirs.keys())}", float("inf"), limit)
            return
        errors = {key: relative_error(ours[key], theirs[key]) for key in theirs}
        worst = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else 1e30)
        self.add(f"{name} (worst of {len(errors)}: {worst})", errors[worst], limit)

    def passed(self):
        return all(error <= limit for error, limit in self.rows.values())

    def show(self, title):
        for name, (error, limit) in self.rows.items():
            mark = "ok" if error <= limit else "FAILED"
            print(f"  {title:12s} {error:9.2e}  <= {limit:.0e}  {mark:6s} {name}")


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def forward_backward(model, logits_of, tokens, targets):
    model.zero_grad(set_to_none=True)
    logits = logits_of(tokens)
    loss = reference.mean_cross_entropy(logits, targets)
    loss.backward()
    return logits.detach(), loss.detach()


def compare_first_step(model, logits_of, results):
    """Logits, loss and every gradient on the first batch."""
    logits, loss = forward_backward(model, logits_of, results["tokens"][0], results["targets"][0])
    comparison = Comparison()
    comparison.add("logits", relative_error(results["logits"], logits), LIMIT)
    comparison.add("loss", relative_error(results["loss"], loss), LIMIT)
    # A beta's gradient is one number, the sum of B T out products of both signs: what cancels in it
    # is not an error of the sum. The betas are held against the vector of all of them instead.
    ours, theirs = ungrouped(results, "grad."), gradients(model)
    betas = sorted(name for name in theirs if name.endswith(".beta"))
    if betas and all(name in ours for name in betas):
        for side in (ours, theirs):
            side["all beta"] = torch.stack([side.pop(name).reshape(()) for name in betas])
    comparison.add_group("gradients", ours, theirs, LIMIT)
    return comparison


def is_decayed(name):
    return not name.endswith((".beta", "norm.weight", "embed_tokens.weight"))


def make_adamw(model):
    decayed = [p for name, p in model.named_parameters() if is_decayed(name)]
    plain = [p for name, p in model.named_parameters() if not is_decayed(name)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]},
         {"params": plain, "weight_decay": 0.0}],
        lr=0.0, betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"])


def compare_training(model, logits_of, results, weights):
    """Ten steps of AdamW with clipping, each on its own batch."""
    optimizer = make_adamw(model)
    losses, norms = [], []
    for tokens, targets, lr in zip(results["tokens"], results["targets"], results["lr"].tolist(),
                                   strict=True):
        _, loss = forward_backward(model, logits_of, tokens, targets)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"]))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        losses.append(loss)
    comparison = Comparison()

    def worst(ours, theirs):
        return max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))

    comparison.add("ten AdamW losses", worst(results["losses"], losses), TRAINING_LIMIT)
    comparison.add("ten gradient norms", worst(results["grad_norms"], norms), TRAINING_LIMIT)
    ours = {name: final - weights[name] for name, final in ungrouped(results, "final.").items()}
    theirs = {name: p.detach().to(torch.float64) - weights[name].double()
              for name, p in model.named_parameters()}
    comparison.add_group("ten AdamW updates", ours, theirs, UPDATE_LIMIT)
    return comparison


def make_reference(case, weights, dtype=torch.float64):
    model = reference.ReferenceModel(reference.Config.from_dict(case), weights, dtype)
    return model, model


def make_transformers(case, weights, folder):
    """transformers' own LLaMA, from the file that crnet wrote."""
    config = transformers.LlamaConfig(
        vocab_size=case["vocab_size"], hidden_size=case["hidden_size"],
        intermediate_size=case["ffn_size"], num_hidden_layers=case["num_layers"],
        num_attention_heads=case["num_heads"],
        num_key_value_heads=case.get("num_kv_heads") or case["num_heads"],
        rms_norm_eps=case.get("norm_epsilon", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": case.get("rope_theta", 10000.0)},
        tie_word_embeddings=case.get("tie_embeddings", False), attn_implementation="sdpa",
        architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise SystemExit(f"transformers: {problem} {sorted(info[problem])}")
    return model, lambda tokens: model(input_ids=tokens).logits


def run_dump(command, case, folder):
    (folder / "recipe.json").write_text(json.dumps({"model": case, "optimizer": OPTIMIZER}))
    subprocess.run([*command, str(folder)], check=True)
    return load_file(folder / "model.safetensors"), load_file(folder / "results.safetensors")


def training_mistakes():
    yield "weight decay of everything", mock.patch(f"{__name__}.is_decayed", lambda name: True)
    for title, change in (("no clipping", {"clip_norm": 1e9}), ("another beta2", {"beta2": 0.999}),
                          ("another weight decay", {"weight_decay": 0.0})):
        yield title, mock.patch.dict(OPTIMIZER, change)


def check_that_errors_are_caught(case, weights, results):
    """Returns what was changed and yet compared equal."""
    blind = []
    model, logits_of = make_reference(case, weights)
    forward_backward(model, logits_of, results["tokens"][0], results["targets"][0])
    steepest = {name: p.grad.abs().argmax() for name, p in model.named_parameters()}
    for name in weights:
        changed = {key: tensor.clone() for key, tensor in weights.items()}
        changed[name].view(-1)[steepest[name]] += 1e-3
        if compare_first_step(*make_reference(case, changed), results).passed():
            blind.append(f"1e-3 added to one entry of {name}")
    for title, values, patch in mistakes(case):
        with patch or contextlib.nullcontext():
            if compare_first_step(*make_reference({**case, **values}, weights), results).passed():
                blind.append(title)
    for title, patch in training_mistakes():
        with patch:
            if compare_training(*make_reference(case, weights), results, weights).passed():
                blind.append(title)
    num_mistakes = len(list(mistakes(case))) + len(list(training_mistakes()))
    print(f"  self-check   {len(weights)} changed weights and {num_mistakes} mistakes, "
          f"{len(blind)} unnoticed")
    return blind


def run_case(name, command, folder):
    case = CASES[name]
    weights, results = run_dump(command, case, folder)
    print(f"{name}: {json.dumps(case)}")
    sides = [("fp64 plain", make_reference(case, weights))]
    if case["architecture"] == "llama":
        sides.append(("transformers", make_transformers(case, weights, folder)))
    passed = True
    for title, (model, logits_of) in sides:
        for comparison in (compare_first_step(model, logits_of, results),
                           compare_training(model, logits_of, results, weights)):
            comparison.show(title)
            passed &= comparison.passed()
    unnoticed = check_that_errors_are_caught(case, weights, results)
    for text in unnoticed:
        print(f"  FAILED to notice: {text}")
    return passed and not unnoticed


def main():
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dump", required=True, nargs="+", help="the C++ program")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="default: all")
    parser.add_argument("--keep", type=pathlib.Path, help="leave the files here")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.case or CASES:
        with contextlib.ExitStack() as stack:
            if arguments.keep:
                folder = arguments.keep / name
                folder.mkdir(parents=True, exist_ok=True)
            else:
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if not run_case(name, arguments.dump, folder):
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
