#!/usr/bin/env bash
# What building costs somebody who has just cloned the project: the time from
# nothing and without ccache, and the disk space.
#   bench/first_build.sh [PRESET …]       (demo, if none is given)
# What there is to download bootstrap.sh says when it installs it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- demo
export CCACHE_DISABLE=1

for preset; do
  scripts/bootstrap.sh --for "$preset"
  . build/toolchain.sh
  folder=build/first_build/$preset
  rm -rf "$folder"
  arguments=(--preset "$preset" -B "$folder" "-DTorch_DIR=$TORCHLORA_TORCH_DIR")
  [ "$preset" = release ] || arguments+=("-DCMAKE_CXX_COMPILER=$TORCHLORA_CXX")
  cmake "${arguments[@]}" -Wno-dev >/dev/null 2>&1
  target=all
  [ "$preset" != demo ] || target=torchlora_program
  TIMEFORMAT="$preset: %U s + %S s of CPU time (user + system), %R s"
  time cmake --build "$folder" --target "$target" >"$folder.log" || {
    cat "$folder.log"
    exit 1
  }
  du -sh "$folder"
done
[ ! -d build/venv ] || du -sh build/venv
