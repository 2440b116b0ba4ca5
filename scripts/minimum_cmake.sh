#!/usr/bin/env bash
# Configures what no build has, without the weight overlay and with an absolute
# library folder, with the oldest CMake that CMakeLists.txt allows, from its
# package in build/venv; builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. build/toolchain.sh
readonly build=build/minimum-cmake
die() { echo "minimum_cmake: $*" >&2; exit 1; }

scripts/python_env.sh tests/install/requirements.txt
minimum=$(sed -n 's/^cmake_minimum_required(VERSION \(.*\))/\1/p' CMakeLists.txt)
cmake=build/venv/bin/cmake
version=$("$cmake" --version | sed -n '1s/.* //p')
[[ $version == "$minimum".* ]] ||
  die "CMakeLists.txt allows CMake $minimum, and tests/install/requirements.txt brings $version"

rm -rf "$build"
"$cmake" --preset dev -B "$build" -DTorch_DIR="$TORCHLORA_TORCH_DIR" \
  -DCMAKE_CXX_COMPILER="$TORCHLORA_CXX" -DTORCHLORA_WITH_OVERLAY=OFF \
  -DCMAKE_INSTALL_LIBDIR=/opt/lib "$@" -Wno-dev >/dev/null
overlay=$(grep 'command.*overlay/kernels.cpp' "$build/compile_commands.json")
[[ $overlay == *overlay/kernels.cpp* && $overlay != *DTORCHLORA_OVERLAY_KEYS* ]] ||
  die "TORCHLORA_WITH_OVERLAY=OFF, but: $overlay"
grep -qx libdir=/opt/lib "$build/torchlora.pc" ||
  die "CMAKE_INSTALL_LIBDIR=/opt/lib is not in torchlora.pc"
echo "configured with CMake $version"
