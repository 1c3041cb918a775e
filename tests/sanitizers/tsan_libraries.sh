#!/usr/bin/env bash
# Builds Abseil, gRPC and prometheus-cpp from the distribution's own sources with ThreadSanitizer. Without that, every hand-over
# through them looks like a race to a test that serves over gRPC, and real races drown in the noise.
# usage: tsan_libraries.sh FOLDER [JOBS]   (once, about an hour of one core and 2 GB; needs libprotoc-dev and dpkg-dev besides
#        install_deps.sh; what was built before is kept when it is interrupted; JOBS: compilers at a time, one a core if not given)
# Then: LD_LIBRARY_PATH="$(cat FOLDER/library_path)" TSAN_OPTIONS="suppressions=tests/sanitizers/tsan.supp history_size=4" \
#         build/tsan/tests/rpc_test
set -euo pipefail
[ $# -eq 1 ] || [ $# -eq 2 ] || {
  sed -n '2,8s/^# //p' "$0"
  exit 2
}
mkdir -p "$1"
folder="$(cd "$1" && pwd)"
jobs="${2:-$(nproc)}"
cd "$folder"

# The package sources of this machine, as sources of source packages; the system's own lists stay as they are.
if [ ! -d grpc-src ]; then
  mkdir -p apt/lists/partial
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2> /dev/null || true; } |
    sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' > apt/sources.sources
  if ! grep -q '^Types:' apt/sources.sources; then mv apt/sources.sources apt/sources.list; fi
  options=(-qq -o "Dir::Etc::SourceList=$(echo "$folder"/apt/sources.*)" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$folder/apt/lists" -o APT::Sandbox::User=)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" source --download-only abseil grpc prometheus-cpp
  for package in abseil grpc prometheus-cpp; do
    dpkg-source --no-check -x "$package"_*.dsc "$package-src" > /dev/null
  done
fi

flags="-fsanitize=thread -O1 -g1 -fno-omit-frame-pointer"
common=(-G Ninja -DCMAKE_BUILD_TYPE=None -DBUILD_SHARED_LIBS=ON "-DCMAKE_INSTALL_PREFIX=$folder/prefix"
  "-DCMAKE_PREFIX_PATH=$folder/prefix" -DCMAKE_INSTALL_LIBDIR=lib "-DCMAKE_CXX_FLAGS=$flags" "-DCMAKE_C_FLAGS=$flags"
  -DCMAKE_CXX_STANDARD=17 "-DCMAKE_CXX_COMPILER_LAUNCHER=$(command -v ccache || true)")
cmake -S abseil-src -B abseil-build "${common[@]}" -DABSL_PROPAGATE_CXX_STD=ON
ninja -j "$jobs" -C abseil-build install
plugins=()
for language in PHP NODE OBJECTIVE_C PYTHON RUBY CSHARP; do plugins+=("-DgRPC_BUILD_GRPC_${language}_PLUGIN=OFF"); done
providers=()
for library in ABSL CARES PROTOBUF RE2 SSL ZLIB; do providers+=("-DgRPC_${library}_PROVIDER=package"); done
cmake -S grpc-src -B grpc-build "${common[@]}" "${plugins[@]}" "${providers[@]}" -DgRPC_INSTALL=OFF -DgRPC_BUILD_CODEGEN=OFF
ninja -j "$jobs" -C grpc-build grpc++
cmake -S prometheus-cpp-src -B prometheus-build "${common[@]}" -DENABLE_PUSH=OFF -DENABLE_TESTING=OFF -DUSE_THIRDPARTY_LIBRARIES=OFF
ninja -j "$jobs" -C prometheus-build
echo "$folder/prefix/lib:$folder/grpc-build:$folder/prometheus-build/lib" > library_path
