#!/usr/bin/env bash
# Runs clang-tidy with the checks of .clang-tidy; fails on findings.
#
# Usage: scripts/tidy.sh [FILE.cpp…]
#   FILE  sources to check (default: those that differ from the last commit)
#
# Needs clang-tidy, and what scripts/setup.sh installs. Configures build/tidy and builds nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  -*) die "unknown option $1; see --help" ;;
esac
command -v clang-tidy >/dev/null || die "expected clang-tidy, found none"
files=("$@")
if ((${#files[@]} == 0)); then
  cd "$CRNET_ROOT"
  mapfile -t files < <({ git diff --name-only --diff-filter=d HEAD && git ls-files --others --exclude-standard; } |
    grep '\.cpp$' | sort -u)
fi
if ((${#files[@]} == 0)); then say "No source to check" && exit; fi

# clang cannot read the compiler's precompiled header, and does not know all its warnings.
torch=$(find_torch) || die "[setup] expected a LibTorch, found none; run scripts/setup.sh"
cmake -S "$CRNET_ROOT" -B "$CRNET_ROOT/build/tidy" -G Ninja --log-level=WARNING \
  -DCRNET_WARNINGS_AS_ERRORS=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON \
  -DCMAKE_PREFIX_PATH="$torch"
say "Checking ${#files[@]} sources"
# Sources above config are written for the precompiled <torch/torch.h>.
tidy() {
  local header=()
  case $1 in */src/core/* | */src/config/* | */tests/core/* | */tests/config/*) ;;
    *) header=(--extra-arg=-include --extra-arg=torch/torch.h) ;;
  esac
  clang-tidy --quiet -p "$CRNET_ROOT/build/tidy" --warnings-as-errors='*' \
    --extra-arg=-Qunused-arguments "${header[@]}" "$1"
}
status=0
for file in "${files[@]}"; do tidy "$(realpath "$file")" || status=1; done
exit "$status"
