#!/usr/bin/env bash
# Installs a build of crnet into an empty prefix, then configures, builds and runs two programs that
# link it, an example and the one that the README shows, and runs the installed executable.
# Usage: run_example.sh BUILD_DIR SOURCE_DIR TORCH_PREFIX CMAKE_PREFIX_PATH
set -euo pipefail

build=$1 source=$2 torch=$3 prefix_path=$4
scratch=$build/package-test  # always the same, for the compiler cache
rm -rf "$scratch"

cmake --install "$build" --prefix "$scratch/prefix" >/dev/null

# The compiler, its flags (sanitizers) and the tools are those of the build.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
flags=$(cached CRNET_SANITIZE)
flags=${flags:+-fsanitize=$flags -fno-sanitize=vptr}
launcher=$(cached CCACHE_PROGRAM)

# build_and_run FOLDER NAME
build_and_run() {
  cmake -S "$1" -B "$scratch/$2" -G Ninja --log-level=WARNING \
    -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_MAKE_PROGRAM="$(cached CMAKE_MAKE_PROGRAM)" \
    -DCMAKE_CXX_COMPILER="$(cached CMAKE_CXX_COMPILER)" \
    -DCMAKE_CXX_COMPILER_LAUNCHER="${launcher%*-NOTFOUND}" \
    -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_PREFIX_PATH="$scratch/prefix;$prefix_path;$torch"
  cmake --build "$scratch/$2"
  "$scratch/$2/$2"
}

# readme_block LANGUAGE: the fenced block of that language in the README.
readme_block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/{ /^\`\`\`/d; p; }" "$source/README.md"; }

build_and_run "$source/examples/train_layer" train_layer
mkdir "$scratch/readme"
readme_block cmake >"$scratch/readme/CMakeLists.txt"
readme_block cpp >"$scratch/readme/main.cpp"
build_and_run "$scratch/readme" two_layers | grep 'CRNetLayer(in=64, out=64, r=16), dβ = '

for program in "$scratch"/prefix/bin/crnet*; do "$program" --version; done
