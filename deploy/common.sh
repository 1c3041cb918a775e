# shellcheck shell=bash
# Shared by the scripts in deploy/ and tests/: the cache folder, messages and retries. Source it; it runs nothing.

LIFTSERVE_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LIFTSERVE_CACHE="${LIFTSERVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/liftserve}"
export LIFTSERVE_ROOT LIFTSERVE_CACHE

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
# A wrong command line.
usage_error() {
  say "error: $* (--help lists the options)"
  exit 2
}

# step TITLE: starts a numbered step; step_done prints how long it took.
STEP_NUMBER=0
step() {
  STEP_NUMBER=$((STEP_NUMBER + 1))
  STEP_STARTED=$(date +%s.%N)
  say ""
  say "== ${STEP_NUMBER}. $*"
}
seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }
step_done() { say "   done in $(seconds_since "$STEP_STARTED") s"; }

# build_jobs: parallel compile jobs; a gRPC compile unit needs up to about 1.2 GiB.
build_jobs() {
  local cores memory_mb by_memory
  cores=$(nproc)
  memory_mb=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
  by_memory=$((memory_mb / 1200))
  [ "$by_memory" -ge 1 ] || by_memory=1
  if [ "$cores" -lt "$by_memory" ]; then echo "$cores"; else echo "$by_memory"; fi
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }
