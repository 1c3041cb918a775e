#!/usr/bin/env bash
# Perplexity of the full-precision path on 20,480 tokens against the one transformers gave (tests/golden/smollm2/golden.json, made
# by tests/golden/make_model_goldens.py). Prints both and fails if they differ by more than 0.1 %. Takes minutes.
#
#   tests/bench/compare_perplexity.sh SmolLM2-135M-Instruct.Q4_1.gguf [path of lift-eval]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
model=${1:?usage: compare_perplexity.sh MODEL.gguf [LIFT_EVAL]}
lift_eval=${2:-$root/build/release/bin/lift-eval}
golden=$root/tests/golden/smollm2/golden.json
report=$("$lift_eval" --model "$model" --text "$root/tests/golden/text/node_modules_and_packages.txt" \
  --context 1024 --max-tokens 20480 --json)
python3 - "$golden" "$report" <<'PY'
import json
import sys

golden = json.load(open(sys.argv[1]))["perplexity"]
report = json.loads(sys.argv[2])
ours = report["variants"][0]["perplexity"]
off = abs(ours / golden - 1)
print(f"transformers {golden:.6f}  lift-eval {ours:.6f}  difference {100 * off:.4f} %  tokens scored {report['tokens']}")
sys.exit(off > 1e-3)
PY
