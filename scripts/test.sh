#!/usr/bin/env bash
# Sets up whatever is missing, builds everything and runs every test; ends with ctest's summary,
# and fails if a test does.
#
# Usage: scripts/test.sh [--preset release|dev|asan] [CTEST ARGUMENT…]
#   --preset P      which of CMakePresets.json (default: release, shared with quickstart.sh)
#   CTEST ARGUMENT  for example -R model. (only tests of that name), -j 2
#
# Where CI is set in the environment, warnings are errors whatever the compiler, and so are CUDA
# kernels that are not compiled although there is an nvcc.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

preset=release
case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  --preset) preset=${2:?--preset expects a name} && shift 2 ;;
esac
options=()
if [[ -n ${CI:-} ]]; then
  options+=(-DCRNET_WARNINGS_AS_ERRORS=ON)
  if command -v nvcc /usr/local/cuda/bin/nvcc >/dev/null; then options+=(-DCRNET_CUDA=ON); fi
fi

"$CRNET_ROOT/scripts/setup.sh"
if [[ -x $CRNET_VENV/bin/python ]]; then
  export CRNET_PYTHON=${CRNET_PYTHON:-$CRNET_VENV/bin/python}
fi
configure_tree "$preset" "${options[@]}"
build_tree "$preset"
say "Testing build/$preset"
cd "$CRNET_ROOT"
if ! command -v nvidia-smi >/dev/null; then say "No GPU: what needs one skips, and counts as passed"; fi
# Tests run beside each other: a thread that waits leaves its core to others, after some 10 µs.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}
ctest --preset "$preset" "$@"
