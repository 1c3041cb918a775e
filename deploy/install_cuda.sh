#!/usr/bin/env bash
# Installs NVIDIA's compiler, runtime and cuBLAS from PyPI, for building the CUDA backend where no toolkit is installed.
# Prints the compiler's path. Safe to repeat. Building for the CPU needs none of this.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'USAGE'
usage: deploy/install_cuda.sh

  nvcc=$(bash deploy/install_cuda.sh)
  cmake --preset release -DCMAKE_CUDA_COMPILER="$nvcc" && cmake --build build/release

A toolkit that is there already (nvcc on the PATH) is found without this script. Running needs an NVIDIA driver for CUDA 13
(580 or later); for an older driver set CUDA_TOOLKIT_VERSION=12.8.1.
USAGE
  exit 0
elif [ $# -gt 0 ]; then
  usage_error "unknown argument '$1'"
fi

version="${CUDA_TOOLKIT_VERSION:-13.0.2}"
venv="$LIFTSERVE_CACHE/cuda-$version"
if ! [ -f "$venv/nvcc" ]; then
  say "installing cuda-toolkit $version from PyPI into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" --quiet --disable-pip-version-check install \
    "cuda-toolkit[nvcc,nvvm,crt,cudart,cublas]==$version" >&2 || die "cuda-toolkit $version cannot be installed from PyPI"
  nvcc=$(find "$venv/lib" -path '*/bin/nvcc' -type f | head -n 1)
  [ -n "$nvcc" ] || die "cuda-toolkit $version from PyPI has no nvcc"
  # The packages keep libraries in lib; nvcc and CMake look in lib64, and for names without a version.
  top=$(dirname "$(dirname "$nvcc")")
  [ -e "$top/lib64" ] || ln -s lib "$top/lib64"
  for library in "$top"/lib/lib*.so.*; do
    name="${library%%.so.*}.so"
    [ -e "$name" ] || ln -s "$(basename "$library")" "$name"
  done
  printf '%s\n' "$nvcc" >"$venv/nvcc"
fi
cat "$venv/nvcc"
