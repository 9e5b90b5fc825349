#!/usr/bin/env bash
# Checks crnet on a machine with an NVIDIA GPU, in under nine minutes: builds with a staged prefix
# and the machine's own PyTorch, runs the tests that a GPU concerns, trains briefly on the GPU and
# on the CPU, compares, and times training steps. Needs no network and no root.
#
# Usage: scripts/gpu_check.sh [--python SIZE | --debug] [STAGE_DIR]
#   --python SIZE  in place of tests and operators, sets training steps of that size (350m, 1b or
#                  7b) beside PyTorch from Python (eager, torch.compile with CUDA graphs and
#                  without, of LLaMA transformers where it is installed), with CUDA graphs and
#                  without, CR-Net beside LLaMA, and a step beside its floor; of 7b CR-Net and
#                  torch.compile without graphs
#   --debug        in place of that, builds the tests of operators and training passes with
#                  assertions, where a pass that waits for the GPU is an error, and runs them
#   STAGE_DIR      what `scripts/setup.sh --stage STAGE_DIR` made elsewhere (default: stage; without
#                  one, the system's own packages)
#
# Needs a GPU of 80 GB (with --python 1b or 7b of 140), CMake, Ninja, a C++ compiler, nvcc, and
# Python 3 with PyTorch built for CUDA (CRNET_PYTHON names the interpreter; default python3). Builds
# in build-gpu (build-gpu-debug). Leaves gpu_report.md (gpu_python_SIZE.md, gpu_debug.md),
# gpu_logs.tar.gz (all output) and, without an option, trace.json.gz (three training steps) in $OUT,
# or in the build's folder where OUT is not set.
# Exit status: 0 all well, 1 a part failed, 3 there is no GPU.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

python_size='' debug=
if [[ ${1:-} == --debug ]]; then
  debug=1
  shift
elif [[ ${1:-} == --python ]]; then
  python_size=${2:-}
  [[ $python_size =~ ^(350m|1b|7b)$ ]] ||
    die "[--python] expected 350m, 1b or 7b, got '$python_size'"
  shift 2
fi
case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  --debug | --python) die "expected one of --debug and --python SIZE, got a second: $1" ;;
  -*) die "unknown option $1; see --help" ;;
esac
if ! gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null); then
  say "No NVIDIA GPU here (nvidia-smi does not answer): nothing to check"
  exit 3
fi

(($# <= 1)) || die "expected one folder at most, got $*"
stage=$(realpath -m "${1:-$CRNET_ROOT/stage}")
readonly BUILD=$CRNET_ROOT/build-gpu${debug:+-debug}
RESULTS=$(realpath -m "${OUT:-$BUILD}")
readonly RESULTS
name=${python_size:+python_$python_size}${debug:+debug}
readonly REPORT=$RESULTS/gpu_${name:-report}.md
readonly PYTHON=${CRNET_PYTHON:-python3}
readonly DEADLINE=520  # seconds from the start
# Greatest relative difference between the losses of the first fp32 steps on the GPU and on the CPU.
# Another order of summation (one thread for two, on a CPU) made 8e-7 of the same 20 steps, whereas
# bf16 in place of fp32 made 1.4e-2 and a beta2 of 0.96 for 0.95 2.7e-2; products in TF32, whose
# mantissa is two bits longer than bf16's, should make a quarter of bf16's.
readonly LIMIT=1e-3
readonly STEPS=20
readonly PASS_TESTS='^train[.](AdamWUpdate|NoWaiting.*|TrainingPass.*)$'
readonly TESTS="^(ops|model|recompute)[.]|^dist[.]ShardedUnitTest\$|$PASS_TESTS"
readonly LONG_CPU_TESTS='^model[.]RecomputeMemory$'
# Without it LibTorch takes cuDNN's attention in bf16 on compute capability 9.0, which makes a plan
# for every length: in generating text, for every token.
readonly NO_CUDNN=TORCH_CUDNN_SDPA_DEPRIORITIZED=1
failed=()
mkdir -p "$BUILD" "$RESULTS"
rm -rf "$BUILD"/*.log "$BUILD/runs"  # of an earlier check
cd "$CRNET_ROOT"

report() { printf '%s\n' "$@" >>"$REPORT"; }
has_failed() { [[ " ${failed[*]} " == *" $1 "* ]]; }

# part NAME SECONDS COMMAND…: runs one part within its limit and what is left of the time; its
# output goes to build-gpu/NAME.log. Fails as the command does.
part() {
  local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) start=$SECONDS status=0
  shift 2
  rm -f "$BUILD/$name.log"
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
  # A warning of this machine's compiler is no reason to check nothing.
  part configure 60 cmake -S . -B "$BUILD" -G Ninja -DCRNET_WARNINGS_AS_ERRORS=OFF \
    -DCMAKE_BUILD_TYPE="$([[ $debug ]] && echo Debug || echo Release)" \
    -DCMAKE_CXX_FLAGS_DEBUG='-O1 -g1' -DCMAKE_PREFIX_PATH="$prefix" \
    -DCRNET_PYTHON="$(command -v "$PYTHON")" -DCRNET_CUDA=ON
}

# run_tests REGEX: two threads for each of six processes; more of them would wait for each other.
run_tests() {
  local log=$BUILD/Testing/Temporary/LastTest.log skipped
  rm -f "$log"*
  part test 150 env OMP_NUM_THREADS=2 ctest --test-dir "$BUILD" --output-on-failure --timeout 90 \
    -j 6 -R "$1" -E "$LONG_CPU_TESTS" || true
  # Of a run that was cut off, the log's name goes on.
  skipped=$(cat "$log"* 2>/dev/null | grep -cE '^(no GPU|built without CUDA kernels)' || true)
  if ((skipped > 0)); then  # ctest has them among those that passed
    failed+=(skipped)
    report "- skipped: FAILED, $skipped tests found no GPU or no kernels"
  fi
  report '  (without cli, parity, package and the suites that no GPU concerns)'
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

# A trace of three steps of a few of the 1B model's blocks.
profile() {
  local run=$BUILD/runs/profile
  rm -rf "$run"
  part profile 60 "$BUILD/crnet" train configs/models/crnet-1b.yaml --profile 3 \
    --set model.num_layers=8 --set train.steps=6 --set schedule.warmup_steps=0 \
    --set "train.run_dir=$run" \
    --set "data.path=$BUILD/data" --set data.sequence_length=1024 --set train.micro_batch=16 \
    --set train.device=cuda --set train.precision=bf16 --set train.eval_every=0 \
    --set train.eval_tokens=16384 || true
  if [[ -s $run/trace.json ]]; then gzip -c "$run/trace.json" >"$RESULTS/trace.json.gz"; fi
  rm -rf "$run/checkpoints"  # gigabytes
}

# bench_floor NAME SECONDS MODEL [CUDA_GRAPHS [VARIABLE=VALUE…]]
bench_floor() {
  local name=$1 limit=$2 model=$3 graphs=${4:-true}
  shift $(($# < 4 ? $# : 4))
  part "$name" "$limit" env "$@" "$BUILD/crnet" bench "configs/models/$model.yaml" \
    --floor --rounds 5 --set train.device=cuda --set train.precision=bf16 \
    --set train.micro_batch=16 --set data.sequence_length=1024 --set "train.cuda_graphs=$graphs"
}

# bench_recompute SIZE SECONDS OPTION…
bench_recompute() {
  local size=$1 limit=$2
  shift 2
  part "recompute-$size" "$limit" "$BUILD/benchmarks/crnet_bench_recompute" --device cuda \
    --size "$size" --rounds 3 "$@"
}

configure_and_build() {
  local targets=()
  if [[ $python_size ]]; then targets=(--target crnet_cli crnet_bench_train_step_cuda); fi
  if [[ $debug ]]; then targets=(--target crnet_ops_tests crnet_train_tests); fi
  configure || return 1
  report "- CUDA kernels: $(cached "$BUILD" CRNET_CUDA_KERNELS)"
  part build 260 cmake --build "$BUILD" "${targets[@]}" || return 1
}

# compare_python NAME SECONDS ARCHS PEERS SIZE BATCH [OURS…]
compare_python() {
  local name=$1 limit=$2 archs=$3 peers=$4 size=$5 batch=$6
  shift 6
  part "$name" "$limit" "$PYTHON" benchmarks/compare_train_step.py --device cuda \
    --precisions bf16 --archs "$archs" --peers "$peers" --size "$size" --batch "$batch" \
    --length 1024 --rounds 7 --steps-per-turn 3 --warmup 4 "$@"
}

# What is cheap comes first. All contenders of a part are in the GPU's memory at once: of 1b, 20 to 31
# GiB each, eager ones have parts of their own; of 7b each is alone, with 53 GB of weights, gradients
# and moments (LLaMA's would be 107).
compare_with_python() {
  local size=$1 batch=16 floor_batch=8 peers=compile,graphs transformers=
  local ours=(--ours "$BUILD/benchmarks/crnet_bench_train_step_cuda")
  if [[ $size != 350m ]]; then batch=8; fi
  if [[ $size == 7b ]]; then floor_batch=4; fi
  part "$size-floor" 60 "$BUILD/crnet" bench "configs/models/crnet-$size.yaml" --floor --rounds 5 \
    --set train.device=cuda --set train.precision=bf16 --set data.sequence_length=2048 \
    --set "train.micro_batch=$floor_batch" --set train.cuda_graphs=true || true
  if [[ $size == 7b ]]; then
    compare_python 7b-crnet 60 crnet '' 7b "$batch" "${ours[@]}" || true
    compare_python 7b-compile "$DEADLINE" crnet compile 7b "$batch" || true
    return
  fi
  if "$PYTHON" -c 'import transformers' 2>/dev/null; then transformers=,transformers; fi
  compare_python "$size-eager" 60 crnet eager "$size" "$batch" "${ours[@]}" || true
  compare_python "$size-llama-eager" 60 llama "eager$transformers" "$size" "$batch" "${ours[@]}" || true
  ours+=(--with-graphs)
  compare_python "$size-method" 60 crnet,llama '' "$size" "$batch" "${ours[@]}" || true
  compare_python "$size-crnet" $(((DEADLINE - SECONDS) / 2)) crnet "$peers" "$size" "$batch" \
    "${ours[@]}" || true
  compare_python "$size-llama" "$DEADLINE" llama "$peers" "$size" "$batch" "${ours[@]}" || true
}

check() {
  # Names the device and its rates; an error where LibTorch can use none.
  part device 40 "$BUILD/crnet" plan configs/models/crnet-1b.yaml --set train.device=cuda || true
  report "  ($(sed -n 's/^Recomputation, on //p' "$BUILD/device.log"))"
  run_tests "$TESTS"
  rm -rf "$BUILD/data"
  part prepare 30 "$BUILD/crnet" prepare --input docs README.md src include \
    --train-tokenizer 2000 --output "$BUILD/data" --validation-fraction 0.05 || return 1
  train cuda-fp32 40 "$STEPS" train.device=cuda train.precision=fp32 || true
  train cpu-fp32 60 "$STEPS" train.device=cpu train.precision=fp32 || true
  part compare 20 "$PYTHON" scripts/compare_runs.py --steps "$STEPS" --limit "$LIMIT" \
    "cpu-fp32=$BUILD/runs/cpu-fp32" "cuda-fp32=$BUILD/runs/cuda-fp32" || true
  train cuda-bf16 40 100 train.device=cuda train.precision=bf16 || true
  # Steps of two micro-batches: the first makes gradients, the second adds to them.
  train cuda-plain 40 "$STEPS" train.device=cuda train.precision=fp32 \
    train.global_batch_tokens=8192 || true
  train cuda-graphs 40 "$STEPS" train.device=cuda train.precision=fp32 \
    train.global_batch_tokens=8192 train.cuda_graphs=true || true
  part compare-graphs 20 "$PYTHON" scripts/compare_runs.py --steps "$STEPS" --limit "$LIMIT" \
    "cuda-plain=$BUILD/runs/cuda-plain" "cuda-graphs=$BUILD/runs/cuda-graphs" || true
  part generate 20 env "$NO_CUDNN" "$BUILD/crnet" generate \
    "$BUILD/runs/cuda-bf16/checkpoints/step-00000100" \
    --prompt 'The tensor' --max-tokens 40 --seed 1 || true
  bench_floor floor-crnet-1b 60 crnet-1b || true
  bench_floor floor-llama-1b 60 llama-1b || true
  bench_floor floor-crnet-1b-no-cudnn 60 crnet-1b true "$NO_CUDNN" || true
  profile
  part operators 60 "$BUILD/benchmarks/crnet_bench_operators" --device cuda --batch 64 || true
  # Fewer blocks than a 7B model has, so that keeping everything fits as well.
  bench_recompute 1b 60 --batch 8 --length 2048 || true
  bench_recompute 7b 60 --batch 4 --length 2048 --set model.r=512 --set model.num_layers=8 || true
  bench_floor floor-crnet-350m-no-graphs 40 crnet-350m false || true
  bench_floor floor-crnet-350m 40 crnet-350m || true
}

write_comparison() {
  local runs=() name
  for name in cpu-fp32 cuda-fp32 cuda-bf16 cuda-plain cuda-graphs; do
    if [[ -s $BUILD/runs/$name/metrics.jsonl ]]; then runs+=("$name=$BUILD/runs/$name"); fi
  done
  if ((${#runs[@]})); then
    report '' '## Training, GPU and CPU' ''
    "$PYTHON" scripts/compare_runs.py "${runs[@]}" >>"$REPORT"
  fi
}

torch=$(find_torch_of_python) || die "[torch] expected PyTorch in $PYTHON, found none"
write_head
if configure_and_build; then
  if [[ $python_size ]]; then
    compare_with_python "$python_size"
  elif [[ $debug ]]; then
    run_tests "^ops[.]|$PASS_TESTS"
  else
    check || true
    write_comparison || failed+=(comparison)
  fi
fi
for name in operators recompute-1b recompute-7b; do
  if ! has_failed "$name" && [[ -s $BUILD/$name.log ]]; then
    report '' "## $name" '' "$(cat "$BUILD/$name.log")" ''
  fi
done
for name in {350m,1b,7b}-{method,crnet,llama,compile,eager,llama-eager}; do
  if ! has_failed "$name" && [[ -s $BUILD/$name.log ]]; then  # from the table on
    report '' "## $name" '' "$(sed -n '/^Training step/,$p' "$BUILD/$name.log")" ''
  fi
done
report '## Output'
if [[ -f $BUILD/test.log ]]; then
  report '' '### tests' '```' "$(grep -A 7 ': Failure$' "$BUILD/test.log" | head -80)" \
    "$(sed -n '/tests passed/,$p' "$BUILD/test.log")" '```'
fi
for name in "${failed[@]}"; do show_log "$name" 40; done
for name in floor-crnet-1b floor-llama-1b floor-crnet-1b-no-cudnn floor-crnet-350m \
  floor-crnet-350m-no-graphs {350m,1b,7b}-floor generate; do
  if ! has_failed "$name"; then show_log "$name" 60; fi
done
report '' "Took $SECONDS s."
(cd "$BUILD" && find . -maxdepth 3 \( -name '*.log*' -o -name metrics.jsonl \) -print0 |
  tar --null -czf "$RESULTS/gpu_logs.tar.gz" --files-from -) || true
say "Report: $REPORT"
if ((${#failed[@]})); then
  say "Failed: ${failed[*]}"
  exit 1
fi
