#!/usr/bin/env bash
# The script behind `make quickstart`: fetches a model and makes a dataset once, fine-tunes with all state on disk, and
# shows an answer before and after.
#   configs/quickstart/quickstart.sh [build/cpu/sluice]
# SLUICE_PYTHON names the Python to use (runtime/setup sets it). Its output folder is made anew each time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

sluice=${1:-build/release/sluice}
python=${SLUICE_PYTHON:-python3}
here=configs/quickstart
work=build/quickstart
cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
model=$cache/models/SmolLM2-135M-Instruct
dataset=$cache/quickstart/debian-faq.jsonl
question="How does one pronounce Debian and what does this word mean?"
export SLUICE_PYTHON=$python

heading() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 && -z ${NO_COLOR:-} ]] || heading() { printf '\n%s\n' "$*"; }

answer() { # of the model in directory $1
  "$sluice" generate --model "$1" --prompt "$question" --max-new-tokens 64
}

[[ -x $sluice ]] || { echo "error: $sluice is not there. fix: make build" >&2; exit 2; }

heading "Model and dataset"
"$python" "$here/fetch_model.py" "$model"
"$python" "$here/make_faq_dataset.py" "$dataset"
mkdir -p "$work"
ln -sfn "$model" "$work/model"
ln -sfn "$dataset" "$work/faq.jsonl"
rm -rf "${work:?}/out"

heading "Before: $question"
answer "$work/model"

heading "Fine-tuning ($here/quickstart.yaml)"
"$sluice" train "$here/quickstart.yaml"

heading "After: $question"
answer "$work/out"

heading "The result: $work/out"
echo "in transformers:"
echo "  $python -c \"from transformers import AutoModelForCausalLM as M; print(M.from_pretrained('$work/out'))\""
