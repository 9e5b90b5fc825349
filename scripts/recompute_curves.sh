#!/usr/bin/env bash
# Trains the quickstart's model once per strategy of recomputation and compares the curves of the
# loss: full, replay and cola_m must have those of none to the bit, inverse within 0.5 %, smoothed.
#
# Usage: scripts/recompute_curves.sh [STEPS] [CRNET ARGUMENT…]
#   STEPS           of each run (default: 300)
#   CRNET ARGUMENT  for every `crnet train`, such as --set train.micro_batch=8
#
# Wants the data that scripts/quickstart.sh prepares. Runs are left in runs/recompute.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in --help | -h) print_usage "$0" && exit ;; esac
steps=${1:-300}
[[ $steps =~ ^[1-9][0-9]*$ ]] || die "[STEPS] expected a number of at least 1, got $steps"
shift || true
more=("$@")
crnet=$CRNET_ROOT/build/release/crnet
[[ -x $crnet ]] || die "[crnet] expected $crnet; run scripts/build.sh"
cd "$CRNET_ROOT"
[[ -d runs/quickstart/data ]] || die "[data] expected runs/quickstart/data; run scripts/quickstart.sh"

# train NAME SETTING…
train() {
  local name=$1 settings=() setting
  shift
  for setting in "$@"; do settings+=(--set "$setting"); done
  say "Training $steps steps: $name"
  rm -rf "runs/recompute/$name"
  "$crnet" train configs/recipes/quickstart.yaml --set "train.steps=$steps" --set train.eval_every=0 \
    --set "train.run_dir=runs/recompute/$name" --set train.log_every=100 "${settings[@]}" "${more[@]}"
}
compare() { python3 scripts/compare_runs.py --steps "$steps" "$@" | grep -v '^| [0-9]'; }

for strategy in none full replay inverse; do train "$strategy" "recompute.strategy=$strategy"; done
for strategy in none cola_m; do
  train "cola-$strategy" "recompute.strategy=$strategy" model.architecture=cola
done
say "Comparing"
compare --limit 0 none=runs/recompute/none full=runs/recompute/full replay=runs/recompute/replay
compare --limit 0 cola-none=runs/recompute/cola-none cola_m=runs/recompute/cola-cola_m
# Single batches differ as between two seeds once anything rounds differently.
compare --limit 0.005 --smoothed none=runs/recompute/none inverse=runs/recompute/inverse
