#!/usr/bin/env bash
# Installs a build of crnet into an empty prefix, then configures, builds and runs a program that
# links it, and runs the installed executable.
# Usage: run_example.sh BUILD_DIR EXAMPLE_DIR TORCH_PREFIX CMAKE_PREFIX_PATH
set -euo pipefail

build=$1 example=$2 torch=$3 prefix_path=$4
scratch=$build/package-test  # always the same, for the compiler cache
rm -rf "$scratch"

cmake --install "$build" --prefix "$scratch/prefix" >/dev/null

# The compiler, its flags (sanitizers) and the tools are those of the build.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
flags=$(cached CRNET_SANITIZE)
flags=${flags:+-fsanitize=$flags -fno-sanitize=vptr}
launcher=$(cached CCACHE_PROGRAM)
cmake -S "$example" -B "$scratch/build" -G Ninja --log-level=WARNING \
  -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_MAKE_PROGRAM="$(cached CMAKE_MAKE_PROGRAM)" \
  -DCMAKE_CXX_COMPILER="$(cached CMAKE_CXX_COMPILER)" \
  -DCMAKE_CXX_COMPILER_LAUNCHER="${launcher%*-NOTFOUND}" \
  -DCMAKE_CXX_FLAGS="$flags" \
  -DCMAKE_PREFIX_PATH="$scratch/prefix;$prefix_path;$torch"
cmake --build "$scratch/build"
"$scratch/build/train_layer"

"$scratch/prefix/bin/crnet" --version
