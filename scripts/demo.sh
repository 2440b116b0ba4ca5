#!/usr/bin/env bash
# scripts/demo.sh BUILD_DIR: fine-tunes the bundled checkpoint on the bundled
# preference pairs, evaluates on the held-out ones before and after, saves the
# adapter, merges it and compares the merged model with the adapted one.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1

began=$SECONDS
"$build/src/torchlora" dpo --config data/demo_dpo.toml \
  --model_name_or_path data/demo_checkpoint \
  --dataset_name data/rasbt_pref_train.jsonl \
  --eval_dataset_name data/rasbt_pref_test.jsonl \
  --eval_on_start --eval_steps 1000000 \
  --output_dir "$build/demo/adapter" \
  --merged_output_dir "$build/demo/merged" \
  --overwrite_output_dir
printf 'demo: done in %d s\n' $((SECONDS - began))
