#!/usr/bin/env bash
# Installs what crnet needs to build, test and run: packages of Debian or Ubuntu, and a Python
# environment with LibTorch. Installs only what is missing, so it may be run at any time.
#
# Usage: scripts/setup.sh [--stage DIR] [--no-packages]
#   --stage DIR    afterwards gather every dependency but LibTorch (headers, static libraries)
#                  in DIR, for building on a machine without root or network:
#                    cmake -DCMAKE_PREFIX_PATH="DIR;$(python3 -c \
#                      'import torch; print(torch.utils.cmake_prefix_path)')" …
#   --no-packages  leave the system's packages alone; only the Python environment
#
# Needs root or sudo for the packages. Wants Debian 12 or Ubuntu 24.04 at least.
# The Python environment is ${CRNET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/crnet}/venv, about 5 GB.
# CRNET_PYTHON names the interpreter that it is made with (default: python3). A LibTorch that
# CRNET_TORCH or CMAKE_PREFIX_PATH names is built with instead; the environment is then only for
# the tests that compare with Python, and not needed otherwise.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

readonly REQUIREMENTS=$CRNET_ROOT/scripts/requirements.txt
packages=(
  g++ cmake ninja-build ccache pkg-config ca-certificates
  python3 python3-venv perl perl-doc
  libcxxopts-dev libspdlog-dev nlohmann-json3-dev libyaml-cpp-dev libsentencepiece-dev
  libxxhash-dev zlib1g-dev libzstd-dev libgloo-dev libgtest-dev libgmock-dev
  openmpi-bin
)
stage_dir=
with_packages=true
did_something=false

is_debian() {
  local ID='' ID_LIKE=''
  # shellcheck source=/dev/null
  [[ -r /etc/os-release ]] && source /etc/os-release
  [[ " $ID $ID_LIKE " =~ \ (debian|ubuntu)\  ]] && command -v dpkg-query apt-get >/dev/null
}

refuse_system() {
  cat >&2 <<TEXT
setup.sh: this system is neither Debian nor Ubuntu. crnet needs, from its package manager:
  a C++20 compiler (g++ 12), CMake 3.25, Ninja, Python 3.11 with venv; optional: ccache, perl-doc,
  mpirun
  cxxopts 3.1, spdlog 1.10, nlohmann-json 3.11, yaml-cpp 0.7, sentencepiece 0.1.97 with its
  trainer, xxhash, zlib, zstd, GoogleTest 1.12, each with its headers; headers of Gloo
and LibTorch 2.11 (the Python package torch). Or, without root: run
  scripts/setup.sh --stage DIR
on a Debian machine, copy DIR here, and name it in CMAKE_PREFIX_PATH beside LibTorch.
TEXT
  exit 1
}

# Packages of the list that are not installed, one a line.
missing_packages() {
  # dpkg-query fails where it knows nothing of a package; what it prints is all that matters.
  comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort)
}

install_packages() {
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then return; fi
  did_something=true
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "neither root nor sudo; have somebody run: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_python_environment() {
  local stamp=$CRNET_VENV/requirements.installed
  if cmp -s "$REQUIREMENTS" "$stamp" && [[ -x $CRNET_VENV/bin/python ]]; then return; fi
  did_something=true
  say "Installing into $CRNET_VENV: $(grep -v '^#' "$REQUIREMENTS" | paste -sd ' ')"
  mkdir -p "$CRNET_CACHE"
  if [[ ! -x $CRNET_VENV/bin/python ]]; then
    "${CRNET_PYTHON:-python3}" -m venv "$CRNET_VENV"
  fi
  if "$CRNET_VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --requirement "$REQUIREMENTS"; then
    cp "$REQUIREMENTS" "$stamp"
  elif find_torch >/dev/null; then
    say "Could not install it: tests that compare with Python will not run"
  else
    die "could not install LibTorch; name one in CRNET_TORCH, or try again with a network"
  fi
}

# Under `sudo scripts/setup.sh` the environment belongs to the person, not to root.
install_python_environment_for_user() {
  if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
    sudo -u "$SUDO_USER" -H "$CRNET_ROOT/scripts/setup.sh" --no-packages
  else
    install_python_environment
  fi
}

while (($#)); do
  case $1 in
    --help | -h) print_usage "$0" && exit ;;
    --stage) stage_dir=${2:?--stage expects a folder} && shift ;;
    --no-packages) with_packages=false ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done

if $with_packages; then
  is_debian || refuse_system
  if [[ -n $stage_dir ]]; then packages+=(dpkg-dev patch); fi
  install_packages
fi
install_python_environment_for_user
if $did_something; then say "Set-up complete"; else say "Set-up: all there"; fi
if [[ -n $stage_dir ]]; then "$CRNET_ROOT/scripts/stage.sh" "$stage_dir"; fi
