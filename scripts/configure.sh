#!/usr/bin/env bash
# scripts/configure.sh PRESET [CMake arguments …]: configures a CMake preset
# with what bootstrap.sh found, unless that has been done with the same answer.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
. build/toolchain.sh

arguments=(--preset "$preset" "-DTorch_DIR=$TORCHLORA_TORCH_DIR" "$@")
[ "$preset" = release ] || arguments+=("-DCMAKE_CXX_COMPILER=$TORCHLORA_CXX")
stamp=build/$preset/configured
if [ "$(cat "$stamp" 2>/dev/null)" != "${arguments[*]}" ]; then
  cmake "${arguments[@]}" -Wno-dev
  echo "${arguments[*]}" >"$stamp"
fi
