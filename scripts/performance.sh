#!/usr/bin/env bash
# A table of docs/performance.md, measured on this machine's CPU, as Markdown (the floor as text).
#
# Usage: scripts/performance.sh TABLE
#   python-60m, python-130m, python-350m  training steps beside PyTorch's from Python
#   python-others                         and beside further peers: 60M compiled with max-autotune,
#                                         LLaMA 130M eager and by transformers
#   memory                                the same of 130M and 350M within a budget of memory
#   floor                                 steps beside their floor, and where their time goes
#   growth, operators, products, attention
#
# Environment:
#   CRNET_PRECISIONS  bf16 or fp32 alone (default: bf16,fp32; on a processor without bf16 instructions
#                     peers take minutes for a step in it)
#   CRNET_PYTHON      a Python with torch and transformers (default: that of scripts/setup.sh)
#
# Nothing else should run meanwhile: python-60m takes 13 minutes on two cores, the others 2 to 20.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

readonly BUILD=$CRNET_ROOT/build/release
readonly PRECISIONS=${CRNET_PRECISIONS:-bf16,fp32}

build() { "$CRNET_ROOT/scripts/build.sh" "$@" >&2; }

# compare OURS OPTION…
compare() {
  local python
  python=$(find_python)
  [[ $python ]] || die "[CRNET_PYTHON] expected a Python with torch, got none; scripts/setup.sh makes one"
  "$python" "$CRNET_ROOT/benchmarks/compare_train_step.py" \
    --ours "$BUILD/benchmarks/crnet_bench_train_step$1" "${@:2}"
}

# All contenders of a call are in memory at once: at 350M fewer at a time.
beside_python() {
  build crnet_bench_train_step
  case $1 in
    60m)
      compare '' --archs crnet,llama --precisions "$PRECISIONS" --peers eager,compile,transformers \
        --rounds 7
      ;;
    130m)
      compare '' --size 130m --archs crnet,llama --precisions "$PRECISIONS" --peers compile \
        --rounds 5 --steps-per-turn 1 --warmup 2
      ;;
    350m)
      local arch
      for arch in crnet llama; do
        compare '' --size 350m --archs "$arch" --precisions "$PRECISIONS" --peers compile --quick
      done
      compare '' --size 350m --archs crnet,llama --precisions "$PRECISIONS" --peers '' --quick
      ;;
  esac
}

beside_others() {
  build crnet_bench_train_step
  compare '' --archs crnet,llama --precisions "$PRECISIONS" --peers compile,autotune --rounds 3
  compare '' --size 130m --archs llama --precisions "$PRECISIONS" \
    --peers compile,eager,transformers --quick
}

within_budget() {
  build crnet_bench_train_step
  local size
  for size in 130m:1800MiB 350m:3400MiB; do
    compare " --set recompute.strategy=auto --set recompute.memory_budget=${size#*:}" \
      --size "${size%:*}" --archs crnet --precisions bf16 --peers compile --quick
  done
}

beside_floor() {
  build
  local model precision
  for precision in ${PRECISIONS//,/ }; do
    for model in {crnet,llama}-{60m,130m,350m}; do
      "$BUILD/crnet" bench "$CRNET_ROOT/configs/models/$model.yaml" --floor --rounds 5 \
        --set "train.precision=$precision" --set train.threads=2 --set train.micro_batch=8 \
        --set data.sequence_length=256
    done
  done
}

benchmark() {
  build "crnet_bench_$1"
  "$BUILD/benchmarks/crnet_bench_$1" "${@:2}"
}

TABLES='python-60m, python-130m, python-350m, python-others, memory, floor, growth'
TABLES+=', operators, products or attention'
readonly TABLES
(($# == 1)) || die "expected one table of $TABLES; got ${*:-none}"
case $1 in
  --help | -h) print_usage "$0" ;;
  python-60m | python-130m | python-350m) beside_python "${1#python-}" ;;
  python-others) beside_others ;;
  memory) within_budget ;;
  floor) beside_floor ;;
  growth)
    for precision in ${PRECISIONS//,/ }; do
      benchmark growth --set "train.precision=$precision" --rounds 3
    done
    ;;
  operators | products | attention) benchmark "$1" ;;
  *) die "expected a table of $TABLES; got $1" ;;
esac
