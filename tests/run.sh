#!/usr/bin/env bash
# Builds everything and runs every test. Asks nothing; safe to repeat; the last line is CTest's summary.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/common.sh"

usage() {
  cat <<'USAGE'
usage: tests/run.sh [--preset release|asan|tsan] [--filter REGEX] [--jobs N]

  --preset NAME   which build to test (default release); asan is Address- plus UndefinedBehaviorSanitizer
  --filter REGEX  only the CTest entries whose name matches
  --jobs N        parallel compile jobs (default: by cores and free memory)

Tests that need what this machine cannot give (network for the model or for Python packages, clang-format) are skipped
and the reason is printed. The exit code is CTest's.
USAGE
}

preset=release
filter=""
jobs=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    --preset | --filter | --jobs)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      case "$1" in
        --preset) preset="$2" ;;
        --filter) filter="$2" ;;
        --jobs) jobs="$2" ;;
      esac
      shift 2
      ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
done
case "$preset" in
  release | asan | tsan) ;;
  *) usage_error "--preset is release, asan or tsan, not '$preset'" ;;
esac
jobs="${jobs:-$(build_jobs)}"

cd "$LIFTSERVE_ROOT"
build="build/$preset"
log="$build/ctest.log"

step "Dependencies"
bash deploy/install_deps.sh
step_done

step "Python environment of the integration tests"
venv="$LIFTSERVE_ROOT/build/venv"
requirements="$LIFTSERVE_ROOT/tests/integration/requirements.txt"
python_ready() { [ -f "$venv/ready" ] && cmp -s "$requirements" "$venv/ready"; }
if [ -f "$requirements" ] && ! python_ready; then
  rm -rf "$venv"
  if python3 -m venv "$venv" &&
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet -r "$requirements" >&2; then
    cp "$requirements" "$venv/ready"
  else
    rm -rf "$venv"
    say "   not available (is PyPI reachable?): the tests with a stock Python client will be skipped"
  fi
fi
if [ -x "$venv/bin/python" ]; then export LIFT_TEST_PYTHON="$venv/bin/python"; fi
step_done

step "The real model for the tests that need one"
if model=$(bash deploy/fetch_model.sh); then
  export LIFT_TEST_MODEL="$model"
  say "   $model"
else
  say "   not available: the tests on a real model will be skipped"
fi
step_done

step "Tools that test a deployment: Prometheus, Alertmanager, Helm, headless Chromium"
if tools=$(bash tests/deploy/fetch_tools.sh); then
  export LIFT_DEPLOY_TOOLS="$tools"
else
  say "   not available: the tests of rules, dashboards and chart will be skipped"
fi
if browser=$(bash tests/deploy/fetch_tools.sh --browser); then
  export LIFT_BROWSER="$browser"
else
  say "   no Chromium: the test of the status page will be skipped"
fi
step_done

step "Tools that run the Arm kernels: the AArch64 cross compiler and qemu"
arm_tools() { command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64-static > /dev/null; }
install_arm_tools() {
  apt-get install -y -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user-static > /dev/null 2>&1
}
if ! arm_tools; then
  install_arm_tools || { apt-get update -qq > /dev/null 2>&1 && install_arm_tools; } || true
  arm_tools || say "   not available (no root, or no package source?): the tests of the Arm kernels will be skipped"
fi
step_done

step "Configure and build (preset $preset, $jobs jobs)"
cmake --preset "$preset" -DLIFTSERVE_TESTS=ON >&2
cmake --build --preset "$preset" -j "$jobs" >&2
step_done

step "Tests"
arguments=(--preset "$preset" -j "$(nproc)" --no-tests=error)
if [ -n "$filter" ]; then arguments+=(-R "$filter"); fi
status=0
ctest "${arguments[@]}" 2>&1 | tee "$log" || status=$?

skipped="$build/Testing/Temporary/LastTest.log"
if [ -f "$skipped" ] && grep -q '^\[  SKIPPED \]\|: Skipped$' "$skipped"; then
  echo
  echo "Skipped cases and their reasons:"
  # GoogleTest prints "FILE:LINE: Skipped" and then the reason.
  { grep -A1 ': Skipped$' "$skipped" | grep -v '^--$\|: Skipped$' || true; } | sort | uniq -c
fi
echo
grep 'tests passed' "$log" || echo "CTest ran no test"
exit "$status"
