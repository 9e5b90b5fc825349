#!/usr/bin/env bash
# Gathers every dependency of crnet but LibTorch in one folder: headers, static libraries and CMake
# packages that may be moved. `scripts/setup.sh --stage DIR` runs this after installing what is
# missing.
#
# Usage: scripts/stage.sh DIR
#
# sentencepiece comes without a static library, so it is built from the distribution's own source
# package; where that cannot be had, its shared libraries are staged.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

readonly STAGED_PACKAGES=(libcxxopts-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libyaml-cpp-dev
  libsentencepiece-dev libxxhash-dev zlib1g-dev libzstd-dev libgloo-dev libgtest-dev libgmock-dev)
readonly SPM_LIBRARIES=(sentencepiece sentencepiece_train)

case ${1:-} in
  --help | -h) print_usage "$0" && exit ;;
  '' | -*) die "expected a folder; see --help" ;;
esac
mkdir -p "$1"
stage=$(cd "$1" && pwd)
spm_version=$(dpkg-query -W -f '${source:Version}' libsentencepiece-dev)
spm_cache=$CRNET_CACHE/sentencepiece-static-$spm_version

# stage_headers PACKAGE DESTINATION: /usr/include and its architecture's part become one folder.
stage_headers() {
  local file name
  while IFS= read -r file; do
    if [[ -f $file ]]; then
      name=${file#/usr/include/}
      install -Dm644 "$file" "$2/${name#*-linux-gnu/}"
    fi
  done < <(dpkg -L "$1" | grep '^/usr/include/')
}

# stage_static PACKAGE LIBRARY…
stage_static() {
  local package=$1 library file
  shift
  for library in "$@"; do
    file=$(dpkg -L "$package" | grep "/lib$library\.a\$") || die "$package lacks lib$library.a"
    install -Dm644 "$file" "$stage/lib/lib$library.a"
    strip --strip-debug "$stage/lib/lib$library.a"
  done
}

# stage_cmake PACKAGE: a CMake package that finds its prefix from its own place.
stage_cmake() {
  local file
  while IFS= read -r file; do
    install -Dm644 "$file" "$stage/${file#/usr/}"
  done < <(dpkg -L "$1" | grep '\.cmake$')
}

# stage_own_cmake NAME: where the system's CMake package names shared libraries, ours serves.
stage_own_cmake() {
  install -Dm644 "$CRNET_ROOT/cmake/stage/$1Config.cmake" "$stage/lib/cmake/$1/$1Config.cmake"
}

# The system's package sources with `deb-src` in place of `deb`, in a folder of their own.
source_package_lists() {
  local file
  mkdir -p "$1/parts" "$1/lists/partial"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
    if [[ -f $file ]]; then
      sed -E 's/^deb([[:space:]])/deb-src\1/; s/^Types:.*/Types: deb-src/' "$file" \
        >"$1/parts/$(basename "$file")"
    fi
  done
}

fetch_spm_source() {
  local apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$1/parts"
    -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=root)
  source_package_lists "$1"
  mkdir -p "$1/cache/archives/partial"
  "${apt[@]}" update && (cd "$1" && "${apt[@]}" source --download-only "sentencepiece=$spm_version") &&
    dpkg-source --no-check -x "$1"/sentencepiece_*.dsc "$1/source"
}

# Hidden symbols, so that its copy of protobuf stays apart from any other in the process.
build_spm() {
  (cd "$1/source" && patch -s -R -p1 <debian/patches/disable-static-library.patch) &&
    cmake -S "$1/source" -B "$1/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
      -DSPM_ENABLE_SHARED=OFF -DSPM_ENABLE_TCMALLOC=OFF -DSPM_USE_BUILTIN_PROTOBUF=ON \
      -DCMAKE_CXX_FLAGS='-fvisibility=hidden -fvisibility-inlines-hidden' &&
    cmake --build "$1/build" --target "${SPM_LIBRARIES[@]/%/-static}"
}

static_spm() {
  [[ -f $spm_cache/libsentencepiece_train.a ]] && return
  say "Building sentencepiece $spm_version as static libraries"
  local work
  work=$(mktemp -d)
  if ! { fetch_spm_source "$work" && build_spm "$work"; } >"$work/log" 2>&1; then
    tail -5 "$work/log" >&2
    rm -rf "$work"
    return 1
  fi
  mkdir -p "$spm_cache"
  cp "$work/build/src/"libsentencepiece{,_train}.a "$spm_cache"
  rm -rf "$work"
}

stage_spm() {
  local library system
  stage_headers libsentencepiece-dev "$stage/include"
  mkdir -p "$stage/lib"
  if static_spm; then
    cp "$spm_cache"/*.a "$stage/lib"
    strip --strip-debug "$stage/lib/"libsentencepiece*.a
    return
  fi
  say "No source package of sentencepiece: its shared libraries are staged instead; keep them"
  say "where they are for as long as programs built with them are used"
  for library in "${SPM_LIBRARIES[@]}"; do
    system=$(dpkg -L libsentencepiece-dev | grep "/lib$library\.so\$")
    install -m644 "$(realpath "$system")" "$stage/lib/lib$library.so.0"
    ln -sf "lib$library.so.0" "$stage/lib/lib$library.so"
  done
}

# spdlog with {fmt} as its bundled copy, in upstream's own layout: an include/fmt would stand in the
# way of LibTorch's, which is of another version.
stage_spdlog() {
  stage_headers libspdlog-dev "$stage/include"
  sed -i '/define SPDLOG_FMT_EXTERNAL/d' "$stage/include/spdlog/tweakme.h"
  stage_headers libfmt-dev "$stage/include/spdlog/fmt/bundled"
  mv "$stage/include/spdlog/fmt/bundled/fmt/"*.h "$stage/include/spdlog/fmt/bundled"
  rmdir "$stage/include/spdlog/fmt/bundled/fmt"
  stage_own_cmake spdlog
}

stage_everything() {
  local package
  stage_spdlog
  for package in libcxxopts-dev nlohmann-json3-dev libyaml-cpp-dev libxxhash-dev zlib1g-dev \
    libzstd-dev libgloo-dev libgtest-dev libgmock-dev; do
    stage_headers "$package" "$stage/include"
  done
  stage_static libyaml-cpp-dev yaml-cpp
  stage_static libxxhash-dev xxhash
  stage_static zlib1g-dev z
  stage_static libzstd-dev zstd
  stage_static libgtest-dev gtest gtest_main
  stage_static libgmock-dev gmock gmock_main
  stage_cmake libcxxopts-dev
  stage_cmake nlohmann-json3-dev
  stage_own_cmake yaml-cpp
  stage_own_cmake GTest
  stage_spm
  for package in "${STAGED_PACKAGES[@]}"; do
    install -Dm644 "/usr/share/doc/$package/copyright" "$stage/share/doc/$package/copyright"
  done
}

say "Staging the dependencies in $stage"
stage_everything
dpkg-query -W "${STAGED_PACKAGES[@]}" >"$stage/VERSIONS"
say "Staged $(du -sh "$stage" | cut -f1). Build anywhere with:"
# shellcheck disable=SC2016  # printed for the reader's own shell
printf '    cmake -DCMAKE_PREFIX_PATH="%s;$(python3 -c %s)" …\n' "$stage" \
  "'import torch; print(torch.utils.cmake_prefix_path)'"
