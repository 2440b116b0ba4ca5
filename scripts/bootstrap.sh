#!/usr/bin/env bash
# Makes this machine ready to build torchlora: installs the missing Debian or
# Ubuntu packages (as root or by passwordless sudo), finds LibTorch or installs
# it into build/venv, and writes both results to build/toolchain.sh.
# With everything present it changes nothing and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: scripts/bootstrap.sh [--for WORK]… [--torch-dir DIR] [--torch-index-url URL]

WORK, whose packages are installed (default: dev):
  demo, release   g++, CMake and the libraries that the program needs
  dev             also clang, mold, GoogleTest and Google Benchmark
  asan            also clang's sanitizers
  lint, docs      only clang-format-19, only doxygen; these need no LibTorch
  all             everything

LibTorch is looked for in this order:
  1. --torch-dir DIR (a LibTorch folder, or the package folder of a Python torch),
     the variable Torch_DIR, the folders of CMAKE_PREFIX_PATH;
  2. what an earlier run of this script found;
  3. the torch of the active Python (PYTHON, else python3);
  4. build/venv, a virtual environment into which pip installs torch, from the
     package index URL where one is given.
END
}

readonly tested_torch=2.13.0 oldest_torch=2.5.0 oldest_cmake=3.24.0
torch_dir='' index_url='' work=' '
while [ $# -gt 0 ]; do
  case $1 in
  --for)
    case ${2-} in
    demo | release | dev | asan | lint | docs) work+="$2 " ;;
    all) work+='asan lint docs ' ;;
    *) echo "bootstrap: --for ${2-}: not one of demo, release, dev, asan, lint, docs, all" >&2; exit 2 ;;
    esac
    shift 2 ;;
  --torch-dir) torch_dir=${2:?--torch-dir needs a folder}; shift 2 ;;
  --torch-index-url) index_url=${2:?--torch-index-url needs a URL}; shift 2 ;;
  -h | --help) usage; exit 0 ;;
  *) echo "bootstrap: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done
[ "$work" != ' ' ] || work=' dev '
wants() {
  local word
  for word; do [[ $work != *" $word "* ]] || return 0; done
  return 1
}

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# --- system packages ---------------------------------------------------------

include_dirs=(/usr/include /usr/local/include)
IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
for prefix in ${prefixes[@]+"${prefixes[@]}"}; do include_dirs+=("$prefix/include"); done

has_header() {
  local dir
  for dir in "${include_dirs[@]}"; do [ -f "$dir/$1" ] && return; done
  return 1
}

has_cmake() {
  has cmake && at_least "$(cmake --version | sed -n '1s/.* //p')" "$oldest_cmake"
}

has_sanitizers() {
  has "clang++-$1" && compgen -G "$("clang++-$1" -print-resource-dir)/lib/linux/libclang_rt.asan*.a" >/dev/null
}

has_venv() { "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null; }

# The clang of the dev and asan presets: 19, else the newest that is installed or,
# where those presets are wanted, that apt offers; none: they take g++.
choose_compiler() {
  local version
  for version in 19 21 20 18 17 16; do
    if has "clang++-$version"; then
      clang_version=$version
      return
    fi
  done
  clang_version=
  wants dev asan || return 0
  for version in 19 21 20 18 17 16; do
    if has apt-cache && [ -n "$(apt-cache policy "clang-$version" 2>/dev/null | grep 'Candidate: [^(]')" ]; then
      clang_version=$version
      return
    fi
  done
}

missing_packages() {
  if wants demo release dev asan; then
    has g++ || echo g++
    has make || echo make
    has ninja || echo ninja-build
    has_cmake || echo cmake
    has ccache || echo ccache
    has pkg-config || echo pkg-config
    has_header nlohmann/json.hpp || echo nlohmann-json3-dev
    has_header CLI/CLI.hpp || echo libcli11-dev
    has_header pcre2.h || echo libpcre2-dev
    has_venv || echo "python3 python3-venv"
  fi
  if wants dev asan; then
    has mold || echo mold
    [ -z "$clang_version" ] || has "clang++-$clang_version" || echo "clang-$clang_version"
    has_header gtest/gtest.h || echo libgtest-dev
    has_header benchmark/benchmark.h || echo libbenchmark-dev
  fi
  if wants asan && [ -n "$clang_version" ]; then
    has_sanitizers "$clang_version" || echo "libclang-rt-$clang_version-dev"
  fi
  if wants lint; then has clang-format-19 || echo clang-format-19; fi
  if wants docs; then has doxygen || echo doxygen; fi
}

install_packages() {
  local packages=$* run=()
  local command="apt-get update && apt-get install -y --no-install-recommends $packages"
  has apt-get || die "missing: $packages (names of Debian's packages). Install them, then run this again."
  if [ "$(id -u)" != 0 ]; then
    { has sudo && sudo -n true 2>/dev/null; } ||
      die "missing packages, and neither root nor passwordless sudo. Run this, then try again:
  sudo sh -c '$command'"
    run=(sudo -n)
  fi
  say "installing $packages"
  ${run[@]+"${run[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends $packages >build/apt.log 2>&1 ||
    die "apt-get could not install them (see build/apt.log). By hand: $command"
  # apt's own words: how much it downloaded and how much disk that takes.
  grep -E '^(Need to get|After this operation)' build/apt.log >&2 || true
}

update_package_lists() {
  has apt-get || return 0
  if [ "$(id -u)" = 0 ]; then
    apt-get update -q >build/apt.log 2>&1
  elif has sudo && sudo -n true 2>/dev/null; then
    sudo -n apt-get update -q >build/apt.log 2>&1
  fi || say "apt-get update did not succeed (see build/apt.log); going on with the lists there are"
}

mkdir -p build
choose_compiler
if [ -n "$(missing_packages)" ]; then
  update_package_lists
  choose_compiler
  install_packages $(missing_packages)
  hash -r
  left=$(missing_packages)
  [ -z "$left" ] || die "still missing after the installation:" $left \
    "(cmake must be $oldest_cmake or newer, and this one of PATH is: $(has cmake && cmake --version | head -n 1))"
fi

wants demo release dev asan || exit 0

compiler=${clang_version:+clang++-$clang_version}
compiler=${compiler:-g++}
if wants dev asan && [ "$clang_version" != 19 ]; then
  say "there is no clang 19 here: building with $compiler"
fi

# --- LibTorch ----------------------------------------------------------------

# The folder of TorchConfig.cmake below $1, which may be it already.
torch_config_dir() {
  local dir
  for dir in "$1" "$1/share/cmake/Torch" "$1/torch/share/cmake/Torch"; do
    if [ -f "$dir/TorchConfig.cmake" ]; then
      (cd "$dir" && pwd)
      return
    fi
  done
  return 1
}

torch_version() {
  sed -n 's/^set(PACKAGE_VERSION "\([^"]*\)".*/\1/p' "$1/TorchConfigVersion.cmake" 2>/dev/null || true
}

# A LibTorch that the user names is taken as it is; an old one is told.
named_torch() {
  local place
  if [ -n "$torch_dir" ]; then
    found=$(torch_config_dir "$torch_dir") || die "--torch-dir $torch_dir: no share/cmake/Torch/TorchConfig.cmake there"
  elif [ -n "${Torch_DIR:-}" ]; then
    found=$(torch_config_dir "$Torch_DIR") || die "Torch_DIR=$Torch_DIR: no TorchConfig.cmake there"
  else
    for place in ${prefixes[@]+"${prefixes[@]}"}; do
      found=$(torch_config_dir "$place") && break
    done
  fi
  [ -n "${found:-}" ] || return 1
  local version
  version=$(torch_version "$found")
  at_least "${version:-0}" "$oldest_torch" || die "LibTorch ${version:-of unknown version} in $found: $oldest_torch or newer is needed"
  at_least "$version" "$tested_torch" || say "LibTorch $version in $found is older than $tested_torch, with which torchlora is tested"
}

recorded_torch() {
  [ -f build/toolchain.sh ] || return 1
  found=$(. build/toolchain.sh && echo "$TORCHLORA_TORCH_DIR")
  [ -f "$found/TorchConfig.cmake" ]
}

has_cuda_toolkit() { has nvcc || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }

python_torch() {
  local package version
  package=$("${PYTHON:-python3}" -c '
import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")' 2>/dev/null) || return 1
  [ -n "$package" ] && found=$(torch_config_dir "$package") || return 1
  version=$(torch_version "$found")
  if ! at_least "${version:-0}" "$tested_torch"; then
    say "the active Python has torch ${version:-of unknown version}, older than $tested_torch: not used (--torch-dir $package would)"
    return 1
  fi
  if grep -q "^cuda.*= *'" "$package/version.py" && ! has_cuda_toolkit; then
    say "the active Python's torch is a CUDA build, and C++ needs the CUDA toolkit (nvcc) beside it, which is not here: not used"
    return 1
  fi
}

found=''
if ! named_torch && ! recorded_torch && ! python_torch; then
  scripts/python_env.sh ${index_url:+--torch-index-url "$index_url"}
  found=$(torch_config_dir "$(build/venv/bin/python -c '
import importlib.util
print(importlib.util.find_spec("torch").submodule_search_locations[0])')")
fi

printf 'TORCHLORA_TORCH_DIR=%q\nTORCHLORA_CXX=%q\n' "$found" "$compiler" >build/toolchain.sh.new
if cmp -s build/toolchain.sh.new build/toolchain.sh; then
  rm build/toolchain.sh.new
else
  mv build/toolchain.sh.new build/toolchain.sh
  say "LibTorch $(torch_version "$found") in $found, compiler $compiler"
fi
