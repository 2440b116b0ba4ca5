#!/usr/bin/env bash
# Runs the harnesses of tests/fuzz for FUZZ_SECONDS each, two at a time.
#   FUZZ_SECONDS=600 FUZZ_SEED=0 scripts/fuzz.sh BUILD_DIR [PARSER …]
# Inputs that reached new code stay in BUILD_DIR/fuzz/PARSER for the next run.
# An input that failed is BUILD_DIR/fuzz/PARSER-crash-… (or -timeout-, -oom-,
# -leak-). To try it again: BUILD_DIR/tests/fuzz/fuzz_PARSER FILE
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$1/tests/fuzz work=$1/fuzz
shift
[ $# -gt 0 ] || set -- $(find "$programs" -maxdepth 1 -type f -name 'fuzz_*' -perm -u+x -printf '%f\n' | sed 's/^fuzz_//' | sort)
[ $# -gt 0 ] || { echo "fuzz: no harness in $programs; make fuzz builds them" >&2; exit 1; }

export OMP_NUM_THREADS=1
export ASAN_OPTIONS=quarantine_size_mb=32 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
mkdir -p "$work/seeds"
python3 tests/fuzz/make_seeds.py "$work/seeds"
# Each input becomes a file, so better in memory.
folder=${TMPDIR:-/tmp}
[ ! -w /dev/shm ] || folder=/dev/shm
TMPDIR=$(mktemp -d "$folder/torchlora-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz() {
  local parser=$1 log=$work/$1.log
  mkdir -p "$work/$parser"
  if "$programs/fuzz_$parser" -max_total_time="${FUZZ_SECONDS:-600}" -seed="${FUZZ_SEED:-0}" \
    -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -dict="$work/seeds/$parser.dict" \
    -artifact_prefix="$work/$parser-" "$work/$parser" "$work/seeds/$parser" >"$log" 2>&1; then
    printf 'fuzz: %-15s %9d inputs\n' "$parser" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  else
    printf 'fuzz: %s failed, %s:\n' "$parser" "$log" >&2
    grep -E -A 12 '^(==[0-9]+== ?ERROR|expected:|terminate called|  what\(\)|.*runtime error)' "$log" | head -40 >&2 || true
    printf 'fuzz: the input is %s\n' "$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)" >&2
    touch "$TMPDIR/failed"
  fi
}

for parser; do
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
  fuzz "$parser" &
done
wait
[ ! -e "$TMPDIR/failed" ]
