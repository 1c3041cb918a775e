#!/usr/bin/env bash
# Installs what building, testing and the quickstart need, from the system's Debian or Ubuntu packages.
# Asks nothing; when everything is there it touches neither the network nor the system.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PACKAGES=(
  # compiler and build
  g++ cmake ninja-build pkg-config ccache
  # libraries (what cmake/Dependencies.cmake looks for)
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  prometheus-cpp-dev libsqlite3-dev libssl-dev zlib1g-dev
  nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev
  libgtest-dev libgmock-dev
  # scripts: model and corpus download, integration tests
  python3 python3-venv python3-pip ca-certificates
)

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  echo "usage: deploy/install_deps.sh [--list]"
  echo "Installs the Debian packages LiftServe is built from; --list prints their names and does nothing."
  exit 0
elif [ "${1:-}" = "--list" ]; then
  printf '%s\n' "${PACKAGES[@]}"
  exit 0
elif [ $# -gt 0 ]; then
  usage_error "unknown argument '$1'"
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  say "error: this script installs Debian packages, and dpkg or apt-get is missing here."
  die "install the counterparts of these yourself: ${PACKAGES[*]}"
fi

missing=()
for package in "${PACKAGES[@]}"; do
  # shellcheck disable=SC2016  # dpkg-query's own format, not a shell variable
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [ "${status:0:2}" = "ii" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  say "all ${#PACKAGES[@]} Debian packages are installed"
  exit 0
fi

as_root=(env)
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
  else
    say "error: these packages are missing and this user may not install them: ${missing[*]}"
    die "run as root: apt-get install --no-install-recommends ${missing[*]}"
  fi
fi
as_root+=(DEBIAN_FRONTEND=noninteractive)

say "installing ${#missing[@]} Debian packages: ${missing[*]}"
# One unreachable third-party source must not stop the rest: the install below decides.
"${as_root[@]}" apt-get -q update >&2 || say "warning: apt-get update reported errors; going on with what it has"
"${as_root[@]}" apt-get -q install -y --no-install-recommends \
  -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 \
  "${missing[@]}" >&2 || die "apt-get could not install: ${missing[*]} (its messages are above)"
