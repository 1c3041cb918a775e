#!/usr/bin/env bash
# Builds the CPU kernels and their tests for AArch64 and runs them under qemu. usage: run.sh BUILD_DIR DIGEST_PROGRAM
# Exit code 77 with a reason where the tools are missing. The Arm packages are unpacked below BUILD_DIR; the system stays as it is.
set -euo pipefail
build="$1"
digest="$2"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

skip() {
  echo "SKIPPED: $1"
  exit 77
}
for tool in aarch64-linux-gnu-g++ qemu-aarch64-static cmake ninja apt-get dpkg-deb; do
  command -v "$tool" > /dev/null || skip "$tool is missing (Debian: g++-aarch64-linux-gnu, qemu-user-static)"
done

# Unpacks absl and googletest for arm64 with a package state of its own.
unpack() {
  local state="$build/apt" debs="$build/debs"
  rm -rf "$state" "$debs.partial"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$debs.partial"
  : > "$state/status"
  local options=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State::Lists=$state/lists"
    -o "Dir::State::Status=$state/status" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=)
  (cd "$state" && apt-get "${options[@]}" update && apt-get "${options[@]}" download libabsl-dev libgtest-dev) || return 1
  local package
  for package in "$state"/*.deb; do dpkg-deb -x "$package" "$debs.partial"; done
  # The C and C++ libraries come with the cross compiler; only these headers may be found here.
  mv "$debs.partial" "$debs"
}
mkdir -p "$build"
build="$(cd "$build" && pwd)"
[ -d "$build/debs/usr/include/absl" ] || unpack > "$build/unpack.log" 2>&1 || skip "the arm64 packages of absl cannot be fetched"

export LIFT_ARM64_DEBS="$build/debs"
cmake -S "$here" -B "$build/out" -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache || true)" > "$build/configure.log"
ninja -C "$build/out" > "$build/build.log" || {
  tail -30 "$build/build.log"
  exit 1
}

arm() { QEMU_CPU="$1" qemu-aarch64-static "${@:2}"; }
failed=0
# Every table against the oracles. The portable table runs natively in the host's own tests; here it only has to agree.
for test in rotation_test lifted_kernels_test prefill_kernels_test attention_kernels_test dense_kernels_test; do
  start=$SECONDS
  filter='-*portable*:AttentionKernels.EqualToTheBit*neon_dotprod:*/AttentionKernels.EqualToTheBit*neon_dotprod'
  arm max "$build/out/$test" --gtest_brief=1 --gtest_filter="$filter" || failed=1
  echo "$test under qemu: $((SECONDS - start)) s"
done

# The same bits as on this machine, from every table of a new and of an old Arm CPU.
"$digest" portable > "$build/host.txt"
for pair in max:neon-i8mm max:neon-dotprod cortex-a76:neon-dotprod cortex-a53:portable; do
  arm "${pair%%:*}" "$build/out/kernel_digest" "${pair#*:}" > "$build/arm.txt"
  if diff "$build/host.txt" "$build/arm.txt" > "$build/diff.txt"; then
    echo "${pair#*:} on ${pair%%:*}: the bits of $(uname -m)"
  else
    echo "${pair#*:} on ${pair%%:*} differs from $(uname -m):"
    head -20 "$build/diff.txt"
    failed=1
  fi
done
exit "$failed"
