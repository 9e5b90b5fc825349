#!/usr/bin/env bash
# Sets up whatever is missing, then configures and builds the tree.
#
# Usage: scripts/build.sh [--preset release|dev|asan] [TARGET…]
#   --preset P  which of CMakePresets.json (default: release); the build is in build/P
#   TARGET      what to build (default: everything); crnet_cli is the program `crnet`
#
# LibTorch is the one that CRNET_TORCH or CMAKE_PREFIX_PATH names, else that of scripts/setup.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

preset=release
targets=()
while (($#)); do
  case $1 in
    --help | -h) print_usage "$0" && exit ;;
    --preset) preset=${2:?--preset expects a name} && shift ;;
    -*) die "unknown option $1; see --help" ;;
    *) targets+=("$1") ;;
  esac
  shift
done

"$CRNET_ROOT/scripts/setup.sh"
configure_tree "$preset"
build_tree "$preset" "${targets[@]}"
