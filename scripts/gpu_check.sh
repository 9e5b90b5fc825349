#!/usr/bin/env bash
# Checks crnet on a machine with an NVIDIA GPU, in under nine minutes: builds with a staged prefix
# and the machine's own PyTorch, runs every test, trains briefly on the GPU and on the CPU, and
# compares. Everything goes into one Markdown report. Needs no network and no root.
#
# Usage: scripts/gpu_check.sh [STAGE_DIR]
#   STAGE_DIR  what `scripts/setup.sh --stage STAGE_DIR` made elsewhere (default: stage; without
#              one, the system's own packages)
#
# Needs CMake, Ninja, a C++ compiler, and Python 3 with PyTorch built for CUDA (CRNET_PYTHON names
# the interpreter; default python3). Builds in build-gpu; the report is $OUT/gpu_report.md, or
# build-gpu/gpu_report.md where OUT is not set.
# Exit status: 0 all well, 1 a part failed, 3 there is no GPU.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  -*) die "unknown option $1; see --help" ;;
esac
if ! gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null); then
  say "No NVIDIA GPU here (nvidia-smi does not answer): nothing to check"
  exit 3
fi

stage=$(realpath -m "${1:-$CRNET_ROOT/stage}")
readonly BUILD=$CRNET_ROOT/build-gpu
readonly REPORT=${OUT:-$BUILD}/gpu_report.md
readonly PYTHON=${CRNET_PYTHON:-python3}
readonly DEADLINE=520  # seconds from the start
# Greatest relative difference between the losses of the first fp32 steps on the GPU and on the CPU.
# Another order of summation (one thread for two, on a CPU) made 8e-7 of the same 20 steps, whereas
# bf16 in place of fp32 made 1.4e-2 and a beta2 of 0.96 for 0.95 2.7e-2; products in TF32, whose
# mantissa is two bits longer than bf16's, should make a quarter of bf16's.
readonly LIMIT=1e-3
readonly STEPS=20
failed=()
mkdir -p "$BUILD" "$(dirname "$REPORT")"
cd "$CRNET_ROOT"

report() { printf '%s\n' "$@" >>"$REPORT"; }

# part NAME SECONDS COMMAND…: runs one part within its limit and what is left of the time; its
# output goes to build-gpu/NAME.log. Fails as the command does.
part() {
  local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) start=$SECONDS status=0
  shift 2
  if ((limit > left)); then limit=$left; fi
  say "$name (at most $limit s)"
  if ((limit <= 0)); then
    status=124
  else
    timeout --kill-after=15 "$limit" "$@" >"$BUILD/$name.log" 2>&1 || status=$?
  fi
  report "- $name: $( ((status == 0)) && echo passed || echo "FAILED (status $status)"), $((SECONDS - start)) s"
  if ((status != 0)); then
    failed+=("$name")
    tail -20 "$BUILD/$name.log" 2>/dev/null || true
  fi
  return "$status"
}

# show_log NAME LINES: the end of a part's output in the report.
show_log() {
  if [[ -f $BUILD/$1.log ]]; then
    report '' "### $1, last lines" '```' "$(tail -n "$2" "$BUILD/$1.log" | tr '\r' '\n' | tail -n "$2")" '```'
  fi
}

find_torch_of_python() {
  "$PYTHON" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])'
}

write_head() {
  printf '# crnet on a GPU\n\n' >"$REPORT"
  report "- date: $(date -u '+%Y-%m-%d %H:%M UTC')" \
    "- GPU, driver, memory: $gpu" \
    "- CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) cores" \
    "- PyTorch: $(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$torch/version.py" 2>/dev/null), in $torch" \
    "- $(cmake --version | head -1), $("${CXX:-c++}" --version | head -1)" \
    "- nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release \([^,]*\).*/\1/p' || true)" \
    "- sources: $(git describe --always --dirty 2>/dev/null || echo 'not a git checkout')" \
    '' '## Parts' ''
}

configure() {
  local prefix=$torch/share/cmake
  if [[ -d $stage ]]; then prefix="$stage;$prefix"; fi
  part configure 60 cmake -S . -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$prefix" -DCRNET_PYTHON="$(command -v "$PYTHON")"
}

# train NAME SECONDS STEPS SETTING…
train() {
  local name=$1 limit=$2 steps=$3 settings=() setting
  shift 3
  for setting in "$@"; do settings+=(--set "$setting"); done
  rm -rf "$BUILD/runs/$name"
  part "train-$name" "$limit" "$BUILD/crnet" train configs/recipes/quickstart.yaml \
    --set "train.steps=$steps" --set "train.run_dir=$BUILD/runs/$name" \
    --set "data.path=$BUILD/data" --set model.vocab_size=2000 --set train.eval_every=0 \
    --set train.eval_tokens=16384 --set checkpoint.every=0 --set schedule.warmup_steps=5 \
    "${settings[@]}"
}

# bench_recompute SIZE SECONDS OPTION…
bench_recompute() {
  local size=$1 limit=$2
  shift 2
  part "recompute-$size" "$limit" "$BUILD/benchmarks/crnet_bench_recompute" --device cuda \
    --size "$size" --rounds 3 "$@"
}

check() {
  configure || return 1
  local missing
  missing=$(cached "$BUILD" CRNET_CUDA_MISSING)
  report "- CUDA kernels: $(cached "$BUILD" CRNET_CUDA_KERNELS)${missing:+, expected $missing}"
  part build 260 cmake --build "$BUILD" || return 1
  part test 150 ctest --test-dir "$BUILD" --output-on-failure --timeout 90 -j 4 || true
  rm -rf "$BUILD/data"
  part prepare 30 "$BUILD/crnet" prepare --input docs README.md src include \
    --train-tokenizer 2000 --output "$BUILD/data" --validation-fraction 0.05 || return 1
  train cuda-fp32 40 "$STEPS" train.device=cuda train.precision=fp32 || true
  train cpu-fp32 60 "$STEPS" train.device=cpu train.precision=fp32 || true
  part compare 20 "$PYTHON" scripts/compare_runs.py --steps "$STEPS" --limit "$LIMIT" \
    "cpu-fp32=$BUILD/runs/cpu-fp32" "cuda-fp32=$BUILD/runs/cuda-fp32" || true
  train cuda-bf16 40 100 train.device=cuda train.precision=bf16 || true
  part generate 20 "$BUILD/crnet" generate "$BUILD/runs/cuda-bf16/checkpoints/step-00000100" \
    --prompt 'The tensor' --max-tokens 40 --seed 1 || true
  part operators 30 "$BUILD/benchmarks/crnet_bench_operators" --device cuda --batch 64 || true
  # Fewer blocks than a 7B model has, so that keeping everything fits as well.
  bench_recompute 1b 60 --batch 8 --length 2048 || true
  bench_recompute 7b 60 --batch 4 --length 2048 --set model.r=512 --set model.num_layers=8 || true
}

write_comparison() {
  local runs=() name
  for name in cpu-fp32 cuda-fp32 cuda-bf16; do
    if [[ -s $BUILD/runs/$name/metrics.jsonl ]]; then runs+=("$name=$BUILD/runs/$name"); fi
  done
  if ((${#runs[@]})); then
    report '' '## Training, GPU and CPU' ''
    "$PYTHON" scripts/compare_runs.py "${runs[@]}" >>"$REPORT"
  fi
}

torch=$(find_torch_of_python) || die "[torch] expected PyTorch in $PYTHON, found none"
write_head
check || true
write_comparison || failed+=(comparison)
for name in operators recompute-1b recompute-7b; do
  if [[ " ${failed[*]} " != *" $name "* && -s $BUILD/$name.log ]]; then
    report '' "## $name" '' "$(cat "$BUILD/$name.log")" ''
  fi
done
report '## Output'
if [[ -f $BUILD/test.log ]]; then
  report '' '### tests' '```' "$(sed -n '/tests passed/,$p' "$BUILD/test.log")" '```'
fi
for name in "${failed[@]}"; do show_log "$name" 40; done
if [[ " ${failed[*]} " != *" generate "* ]]; then show_log generate 10; fi
report '' "Took $SECONDS s."
say "Report: $REPORT"
if ((${#failed[@]})); then
  say "Failed: ${failed[*]}"
  exit 1
fi
