#!/usr/bin/env bash
# Makes build/venv, a virtual environment with torch 2.13.0, and installs the
# packages of the requirements files given into it. What an earlier run has
# installed is not asked for again.
#   scripts/python_env.sh [--torch-index-url URL] [REQUIREMENTS.txt …]
set -euo pipefail
cd "$(dirname "$0")/.."
readonly torch=torch==2.13.0 venv=build/venv

index=()
if [ "${1:-}" = --torch-index-url ]; then
  index=(--index-url "${2:?--torch-index-url needs a URL}")
  shift 2
fi
say() { printf 'python_env: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# The packages that installing torch would bring, one a line.
planned() {
  pip install -q --dry-run --report - ${index[@]+"${index[@]}"} "$torch" |
    "$venv/bin/python" -c '
import json, sys
for item in json.load(sys.stdin)["install"]:
    print(item["metadata"]["name"], item["metadata"]["version"])'
}

install_torch() {
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$torch needs Python 3.10 or newer, and this is $("${PYTHON:-python3}" --version). Name another by PYTHON=…, or a LibTorch folder by --torch-dir DIR"
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  # An older pip downloads whole packages before it can say what they are.
  pip install -q 'pip>=24' || say "pip could not be updated; going on with this one"
  local plan
  plan=$(planned) || die "pip finds no $torch. Give another package index by --torch-index-url URL, or a LibTorch folder by --torch-dir DIR"
  if grep -q '^nvidia-' <<<"$plan"; then
    say "the torch that pip would install is a CUDA build: $(grep -c '^nvidia-' <<<"$plan") nvidia packages, several GB."
    if ! command -v nvcc >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
      die "C++ programs need the CUDA toolkit (nvcc) beside it, which is not here, so nothing was downloaded. Give one of
  scripts/python_env.sh --torch-index-url URL   the package index of PyTorch's CPU builds (PyTorch's installation page names it under Linux, pip, CPU)
  scripts/bootstrap.sh --torch-dir DIR          a LibTorch folder"
    fi
  fi
  say "installing $torch into $venv"
  pip install --progress-bar off ${index[@]+"${index[@]}"} "$torch" >build/pip.log
  say "downloaded $(megabytes <build/pip.log) MB; $venv takes $(du -sh "$venv" | cut -f 1)"
}

# The sum of the package sizes in pip's output.
megabytes() {
  grep -oE '\([0-9.]+ (k|M|G)B' | tr -d '(' |
    awk '{ sum += $1 * ($2 == "GB" ? 1000 : $2 == "MB" ? 1 : 0.001) } END { printf "%.0f", sum }'
}

mkdir -p build
stamp=$venv/installed-torch
if [ "$(cat "$stamp" 2>/dev/null)" != "$torch" ]; then
  install_torch
  echo "$torch" >"$stamp"
fi
for requirements in "$@"; do
  stamp=$venv/installed-$(basename "$requirements")
  cmp -s "$requirements" "$stamp" && continue
  say "installing the packages of $requirements into $venv"
  pip install -q -r "$requirements"
  cp "$requirements" "$stamp"
done
