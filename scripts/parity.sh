#!/usr/bin/env bash
# Runs the comparisons of tests/parity with peft, transformers and trl, in a
# Python environment of their own (build/venv).
#   scripts/parity.sh BUILD_DIR [SCRIPT.py …]
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift
[ $# -gt 0 ] || set -- tests/parity/*_parity.py

scripts/python_env.sh tests/parity/requirements.txt
failed=()
for script in "$@"; do
  printf '\n--- %s\n' "$(basename "$script")"
  began=$SECONDS
  OMP_NUM_THREADS=1 build/venv/bin/python "$script" --build-dir "$build" || failed+=("$(basename "$script")")
  printf -- '--- %d s\n' $((SECONDS - began))
done
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nparity: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
printf '\nparity: %d scripts passed\n' $#
