#!/usr/bin/env bash
# Sets up what a build needs and is missing, then prints the environment to build in, as `export` lines.
# Progress and errors go to stderr; with nothing to do there is none. To run something in that environment: with_env.
#
# A set-up of another kind is one variable:
#   SLUICE_VENV=<dir>       a Python environment of yours, used as it is (its torch must be the pinned one)
#   SLUICE_TORCH_DIR=<dir>  a LibTorch of yours: the folder that holds include/ and lib/
#   SLUICE_CACHE=<dir>      where the venv and the compiler cache go (else ${XDG_CACHE_HOME:-~/.cache}/sluice)
#   SLUICE_PRESET=<name>    the CMake preset to build (else release, or cpu where there is no nvcc)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
requirements=$here/requirements.txt
cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
torch_version=$(sed -n 's/^torch==//p' "$requirements")

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

install_debian_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "no dpkg on this system: what $here/debian-packages.txt lists must be there under your system's names"
    return
  fi
  local wanted installed package missing=()
  mapfile -t wanted < <(grep -v '^#' "$here/debian-packages.txt")
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
  for package in "${wanted[@]}"; do
    grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $(id -u) != 0 ]]; then
    fail "Debian packages are missing. run as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update >&2 && "${apt[@]}" install --no-install-recommends "${missing[@]}" >&2 ||
    fail "apt-get failed. fix what it says above, then run this again"
}

# The python3 on PATH if it can make the venv, else Debian's.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no python3 of version 3.11 or newer with the venv module. fix: install one, or name a venv with SLUICE_VENV=<dir>"
}

# The stamp tells how far the venv got: none, it is not even made; `unfinished`, packages are being installed; the hash
# of the requirements, they all are.
install_venv() {
  local venv=$1 stamp=$1/.sluice-stamp wanted python
  wanted=$(sha256sum <"$requirements")
  finished() { [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; }
  if finished; then return; fi
  mkdir -p "$cache"
  exec 9>"$cache/setup.lock"
  flock -n 9 || { say "waiting for another set-up of $cache to end" && flock 9; }
  if finished; then return; fi
  if [[ ! -x $venv/bin/python || ! -f $stamp ]]; then
    python=$(find_python)
    rm -rf "$venv"
    "$python" -m venv "$venv" >&2 || fail "$python -m venv $venv failed"
  fi
  echo unfinished >"$stamp"
  # pip writes a package's RECORD last. One without it was interrupted, and must not pass for installed.
  find "$venv"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' ! -exec test -f '{}/RECORD' ';' -exec rm -rf '{}' +
  say "installing Python packages into $venv (5.4 GB; 2.9 GB to fetch the first time)"
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --requirement "$requirements" |
    sed -u '/^Requirement already satisfied/d' >&2 ||
    fail "pip could not install $requirements. fix what it says above, then run this again"
  echo "$wanted" >"$stamp"
  exec 9>&-
}

check_named_venv() {
  local tool
  [[ -x $1/bin/python ]] || fail "SLUICE_VENV=$1 is no Python environment: it has no bin/python"
  for tool in cmake ninja; do
    [[ -x $1/bin/$tool ]] ||
      fail "SLUICE_VENV=$1 has no $tool. fix: $1/bin/python -m pip install $(grep "^$tool==" "$requirements")"
  done
}

# Prints the folder of the environment's torch, after checking its version.
find_torch() {
  local found
  found=$("$1/bin/python" -c 'import importlib.metadata as metadata, importlib.util as util
print(metadata.version("torch"), util.find_spec("torch").submodule_search_locations[0])' 2>/dev/null) || found=none
  [[ ${found%%[+ ]*} == "$torch_version" ]] ||
    fail "$1 has torch ${found%% *}, needed is $torch_version. fix: $1/bin/python -m pip install torch==$torch_version"
  echo "${found#* }"
}

check_named_torch() {
  [[ -f $1/include/ATen/ATen.h && -f $1/lib/libtorch_cpu.so ]] ||
    fail "SLUICE_TORCH_DIR=$1 is no LibTorch: it lacks include/ATen/ATen.h or lib/libtorch_cpu.so"
  grep -qF "\"$torch_version\"" "$1/include/torch/headeronly/version.h" 2>/dev/null ||
    fail "SLUICE_TORCH_DIR=$1 is not LibTorch $torch_version"
}

find_nvcc() {
  command -v nvcc || { [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] && echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; }
}

print_environment() {
  local venv=$1 torch_dir=$2 nvcc preset=${SLUICE_PRESET:-release}
  if ! nvcc=$(find_nvcc) && [[ -z ${SLUICE_PRESET:-} ]]; then
    preset=cpu
    say "no nvcc found: building the preset cpu, without the CUDA device"
  fi
  printf 'export %s=%q\n' \
    SLUICE_PRESET "$preset" SLUICE_PYTHON "$venv/bin/python" SLUICE_TORCH_DIR "$torch_dir" SLUICE_CACHE "$cache" \
    CUDACXX "${CUDACXX:-$nvcc}" CCACHE_DIR "${CCACHE_DIR:-$cache/ccache}" CCACHE_BASEDIR "$root" CCACHE_NOHASHDIR true \
    CMAKE_BUILD_PARALLEL_LEVEL "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" PATH "$venv/bin:$PATH"
}

install_debian_packages
if [[ -n ${SLUICE_VENV:-} ]]; then
  venv=$(cd "$SLUICE_VENV" 2>/dev/null && pwd) || fail "SLUICE_VENV=$SLUICE_VENV is not there"
  check_named_venv "$venv"
else
  venv=$cache/venv
  install_venv "$venv"
fi
if [[ -n ${SLUICE_TORCH_DIR:-} ]]; then
  torch_dir=$(cd "$SLUICE_TORCH_DIR" 2>/dev/null && pwd) || fail "SLUICE_TORCH_DIR=$SLUICE_TORCH_DIR is not there"
  check_named_torch "$torch_dir"
else
  torch_dir=$(find_torch "$venv")
fi
print_environment "$venv" "$torch_dir"
