#!/usr/bin/env bash
# Builds the tree with nothing but a staged prefix and LibTorch visible, and checks that no file of
# the system's own copies of the dependencies took part.
#
# Usage: scripts/check_stage.sh [DIR] [TARGET…]
#   DIR     what `scripts/setup.sh --stage DIR` made (default: stage, made if it is not there)
#   TARGET  what to build in build/stage-check (default: everything)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  -*) die "unknown option $1; see --help" ;;
esac
stage=$(realpath -m "${1:-$CRNET_ROOT/stage}")
targets=("${@:2}")
readonly BUILD=$CRNET_ROOT/build/stage-check
readonly SYSTEM_COPIES='(spdlog|fmt|yaml-cpp|nlohmann|cxxopts|sentencepiece|xxhash|xxh3|zlib|zconf|zstd|gtest|gmock)'

# CMake's own search of the system is off, so the tools are named.
configure() {
  local torch
  torch=$(find_torch) || die "[setup] expected a LibTorch, found none; run scripts/setup.sh"
  env -u CMAKE_PREFIX_PATH cmake --fresh -S "$CRNET_ROOT" -B "$BUILD" -G Ninja \
    --log-level=WARNING \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$stage;$torch/share/cmake" \
    -DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF -DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF \
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF -DCMAKE_FIND_USE_SYSTEM_PACKAGE_REGISTRY=OFF \
    -DCMAKE_MAKE_PROGRAM="$(command -v ninja)" -DCMAKE_CXX_COMPILER="$(command -v g++)" \
    -DCCACHE_PROGRAM="$(command -v ccache || true)"
}

# refuse_any WHAT PATTERN: fails if a line of the input matches.
refuse_any() {
  local lines
  lines=$(grep -oE "$2" | sort -u) || return 0
  die "$1: $(head -5 <<<"$lines" | paste -sd ' ')"
}

# Headers that a compiler read, and libraries that a program loads.
check_traces() {
  local program libraries="lib${SYSTEM_COPIES}[^]]*|libz\.so[^]]*"
  if [[ -e $stage/lib/libsentencepiece.so ]]; then libraries=${libraries/sentencepiece|/}; fi
  ninja -C "$BUILD" -t deps |
    refuse_any "headers of the system were used" \
      "/usr/(local/)?include/([^/ ]*-linux-gnu/)?${SYSTEM_COPIES}.*"
  while IFS= read -r program; do
    readelf -d "$program" | sed -n '/NEEDED/p' |
      refuse_any "$(basename "$program") loads libraries of the system" "$libraries"
    say "$(basename "$program"): sound"
  done < <(find "$BUILD" -maxdepth 3 -type f -executable \( -name crnet -o -name 'crnet-c*' -o -name '*_tests' \))
}

if [[ ! -f $stage/VERSIONS ]]; then "$CRNET_ROOT/scripts/setup.sh" --stage "$stage"; fi
say "Building with $stage and LibTorch alone"
configure
cmake --build "$BUILD" ${targets[0]:+--target} "${targets[@]}"
check_traces
say "The staged prefix serves"
