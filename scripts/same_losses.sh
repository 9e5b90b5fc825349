#!/usr/bin/env bash
# Trains the quickstart's model by an earlier commit and by this tree, in fp32 and in bf16, and
# compares the losses of every step: in fp32 within 1e-5 of each other (relative), in bf16 2e-3.
#
# Usage: scripts/same_losses.sh COMMIT [STEPS]
#   COMMIT  what to compare with; built in build/commits/COMMIT, a worktree that stays for the next
#           time (`git worktree remove --force build/commits/COMMIT`)
#   STEPS   of each run, at least the recipe's 20 of warm-up (default: 300)
#
# Wants the data that scripts/quickstart.sh prepares. Runs are left in runs/same_losses.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in --help | -h) print_usage "$0" && exit ;; esac
(($# == 1 || $# == 2)) || die "expected COMMIT [STEPS], got ${*:-nothing}; see --help"
cd "$CRNET_ROOT"
commit=$(git rev-parse --verify --quiet --short "$1^{commit}") || die "[COMMIT] expected a commit of this repository, got $1"
steps=${2:-300}
if ! [[ $steps =~ ^[1-9][0-9]*$ ]] || ((steps < 20)); then
  die "[STEPS] expected a number of at least 20, got $steps"
fi
readonly DATA=$CRNET_ROOT/runs/quickstart/data RUNS=$CRNET_ROOT/runs/same_losses
[[ -f $DATA/index.json ]] || die "[data] expected runs/quickstart/data; run scripts/quickstart.sh"

# train TREE NAME PRECISION: one thread, so that both trees can run beside each other. The rate is
# less than a tenth of the quickstart's: at its own one, differences of rounding grow to percents of
# a loss.
train() {
  local run=$RUNS/$2-$3
  rm -rf "$run"
  mkdir -p "$RUNS"
  ("$1/build/release/crnet" train "$CRNET_ROOT/configs/recipes/quickstart.yaml" --set "train.steps=$steps" \
    --set train.eval_every=0 --set "train.run_dir=$run" --set "data.path=$DATA" \
    --set train.micro_batch=2 --set train.global_batch_tokens=512 --set optimizer.lr=3e-4 \
    --set train.threads=1 --set train.device=cpu --set "train.precision=$3" >"$run.log" 2>&1) ||
    die "[train] $2 in $3: $(tail -1 "$run.log")"
}

tree=$CRNET_ROOT/build/commits/$commit
if [[ ! -x $tree/scripts/build.sh ]]; then
  rm -rf "$tree" && git worktree prune
  git worktree add --quiet --detach "$tree" "$commit"
fi
say "Building $commit"
"$tree/scripts/build.sh" crnet_cli
"$CRNET_ROOT/scripts/build.sh" crnet_cli
status=0
for precision in fp32:1e-5 bf16:2e-3; do
  limit=${precision#*:} precision=${precision%:*}
  say "Training $steps steps in $precision, by $commit and by this tree"
  train "$tree" "$commit" "$precision" &
  beside=$!
  trap 'kill "$beside" 2>/dev/null || true' EXIT
  train "$CRNET_ROOT" tree "$precision"
  wait "$beside"
  trap - EXIT
  python3 scripts/compare_runs.py --steps "$steps" --limit "$limit" \
    "$commit=$RUNS/$commit-$precision" "tree=$RUNS/tree-$precision" | sed -n '/^Greatest/,$p' || status=1
done
((status == 0)) || die "the losses differ by more than the limits"
say "The same losses, within the limits"
