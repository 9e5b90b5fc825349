# shellcheck shell=bash
# What the other scripts share: where things are, how a step is announced, how the tree is built.
# Usage: source "$(dirname "$0")/env.sh"
#
# Environment:
#   CRNET_CACHE        folder for the Python environment and other reusable things
#                      (default: ${XDG_CACHE_HOME:-$HOME/.cache}/crnet)
#   CRNET_TORCH        LibTorch to build with: an unpacked archive, or the folder `torch` of a
#                      Python installation
#   CMAKE_PREFIX_PATH  searched for LibTorch as well, and for every other dependency

CRNET_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CRNET_CACHE=${CRNET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/crnet}
CRNET_VENV=$CRNET_CACHE/venv

say() { printf '==> %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Prints the comment on top of a script, which is its manual.
print_usage() { sed -n '2,/^[^#]/{ /^#/!d; s/^# \{0,1\}//; p; }' "$1"; }

is_torch_root() { [[ -f $1/include/torch/csrc/api/include/torch/torch.h ]]; }

# The folder of the LibTorch to build with, if there is one: the user's, else the environment's.
find_torch() {
  local entry root
  if [[ -n ${CRNET_TORCH:-} ]]; then
    is_torch_root "$CRNET_TORCH" || die "[CRNET_TORCH] expected a LibTorch, got $CRNET_TORCH"
    realpath "$CRNET_TORCH"
    return
  fi
  while IFS= read -r -d : entry; do
    for root in "$entry" "$entry/../.."; do
      if [[ -n $entry ]] && is_torch_root "$root"; then
        realpath "$root"
        return
      fi
    done
  done <<<"${CMAKE_PREFIX_PATH:-}:"
  for root in "$CRNET_VENV"/lib/python3*/site-packages/torch; do
    if is_torch_root "$root"; then
      realpath "$root"
      return
    fi
  done
  return 1
}

# The Python of the tests that compare with PyTorch: the user's, else the environment's; else nothing.
find_python() {
  local python
  if [[ -n ${CRNET_PYTHON:-} ]]; then
    python=$(command -v "$CRNET_PYTHON") ||
      die "[CRNET_PYTHON] expected an interpreter, got $CRNET_PYTHON"
    realpath -s "$python"  # a link into an environment stays one
  elif [[ -x $CRNET_VENV/bin/python ]]; then
    echo "$CRNET_VENV/bin/python"
  fi
}

# cached BUILD NAME: the value that CMake has kept for a build folder.
cached() { sed -n "s/^$2:[A-Z]*=//p" "$1/CMakeCache.txt" 2>/dev/null || true; }

# configure_tree PRESET [cmake arguments…]: configures build/PRESET unless that is done already
# for the same LibTorch and Python.
configure_tree() {
  local preset=$1 torch python build configured
  shift
  torch=$(find_torch) || die "[setup] expected a LibTorch, found none; run scripts/setup.sh"
  build=$CRNET_ROOT/build/$preset
  python=$(find_python)
  configured=$(cached "$build" LibTorch_INCLUDE_DIR)
  export CMAKE_PREFIX_PATH=$torch${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
  if [[ -f $build/build.ninja && $# -eq 0 && $(realpath -m "$configured") == "$torch/include" &&
    (-z $python || $(cached "$build" CRNET_PYTHON) == "$python") ]]; then
    return
  fi
  say "Configuring build/$preset with LibTorch in $torch"
  local fresh=()
  if [[ -n $configured && $(realpath -m "$configured") != "$torch/include" ]]; then
    fresh=(--fresh)
  fi
  (cd "$CRNET_ROOT" && cmake --preset "$preset" --log-level=WARNING "${fresh[@]}" \
    ${python:+-DCRNET_PYTHON="$python"} "$@")
}

# build_tree PRESET [targets…]
build_tree() {
  local preset=$1
  shift
  local targets=()
  if (($#)); then targets=(--target "$@"); fi
  say "Building build/$preset${*:+ ($*)}"
  cmake --build "$CRNET_ROOT/build/$preset" "${targets[@]}"
}
