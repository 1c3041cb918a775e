#!/usr/bin/env python3
"""Lifts every trained tiny model to 4 bits and to GPTQ's bytes, and prints one table beside full precision and GPTQ g128.

    compare.py --programs build/release/bin --models ~/.cache/liftserve/families --corpus "$(bash deploy/fetch_corpus.sh)" \
        --out results.json [FAMILY ...]

Everything is measured by lift-eval on the same held-out text; dequantized GPTQ models are measured without quantizing activations,
which favours them. Needs what gptq_family.py and train_tiny.py need.
"""

import argparse
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "quality"))
from ggml_peers import run  # noqa: E402

CONTEXT = 256


def evaluate(args, model, reference, variant="all"):
    report = run(args.programs / "lift-eval", "--model", model, "--reference", reference, "--text", args.corpus / "eval.txt",
                 "--context", CONTEXT, "--max-tokens", args.tokens, "--variant", variant, "--kv-cache", "f32", "--json")
    return json.loads(report)["variants"]


def compare_family(args, family, scratch):
    source, lifted, peer = args.models / family, scratch / f"{family}.lift", scratch / f"{family}-gptq"
    result = {"family": family, "train": json.loads((source / "train.json").read_text()), "rows": []}

    def add(method, figures, size):
        row = {"method": method, "bytes": size} | {k: figures[k] for k in ("perplexity", "kl", "top1_agreement")}
        result["rows"].append(row)
        print(family, json.dumps(row), file=sys.stderr, flush=True)

    full = evaluate(args, source, source)[-1]
    add("full", full, full["bytes"])
    gptq = json.loads(run(sys.executable, HERE / "gptq_family.py", "--model", source, "--calib", args.corpus / "calib.txt",
                          "--bits", 4, "--out", peer))
    add("GPTQ g128, 4 bits", evaluate(args, peer, source)[-1], gptq["bytes"])
    run(args.programs / "lift-calibrate", "--model", source, "--calib", args.corpus / "calib.txt", "--bits", 4, "--budget-mb",
        gptq["bytes"] / 1e6, "--quality", args.quality, "--chain", args.chain, "--context", CONTEXT, "--threads",
        args.threads, "--no-measure", "--out", lifted)
    for variant in evaluate(args, lifted, source):
        add(f"lifted {variant['name']}", variant, variant["bytes"])
    return result


def table(results):
    lines = ["| family | method | MB | perplexity | against full | KL | same token |", "|---|---|---|---|---|---|---|"]
    for result in results:
        full = result["rows"][0]["perplexity"]
        for row in result["rows"]:
            more = 100 * (row["perplexity"] / full - 1)
            lines.append(f"| {result['family']} | {row['method']} | {row['bytes'] / 1e6:.2f} | {row['perplexity']:.2f} | "
                         f"{more:+.2f} % | {row['kl'] or 0:.5f} | {100 * (row['top1_agreement'] or 1):.1f} % |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder with lift-calibrate and lift-eval")
    parser.add_argument("--models", type=pathlib.Path, required=True, help="what train_tiny.py wrote")
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--quality", default="default")
    parser.add_argument("--chain", default="3,1,1", help="stages; the first must leave room for 4 bits")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON list, extended by every family")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    for family in args.families or sorted(p.parent.name for p in args.models.glob("*/train.json")):
        with tempfile.TemporaryDirectory() as scratch:
            new = compare_family(args, family, pathlib.Path(scratch))
        results = [r for r in results if r["family"] != family] + [new]
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
