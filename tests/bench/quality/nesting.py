#!/usr/bin/env python3
"""What nesting costs: one file that serves every budget beside the best chain of stages for each budget alone, at the same bytes.

    nesting.py --programs build/release/bin --model twin-f16.gguf --corpus "$(bash deploy/fetch_corpus.sh)" --work FOLDER \
        --nested 2-1-1-1-1-2 --alone 3-1-1-1,2-2-1-1,4-1-1,3-2-1-1 --bits 2,2.5,3,4,5,6 [--quality fast] --json nesting.json

Every chain is calibrated once; its variants of --bits are what files calibrated for those budgets alone would hold, since neither signs
nor the order of planes depend on the variants asked for. A chain is measured at the budgets above its first stage. KL in nats a token
against full precision on text no one calibrated on. Reports are kept in --work, so that chains can be added.
"""

import argparse
import json
import pathlib
import sys

from ggml_peers import run


def study(args, chain):
    """{"seconds": of calibration, "variants": [{"bits", "bytes", "kl", "perplexity"}]}, from the work folder if it is there."""
    report = args.work / f"{chain}.json"
    if report.exists():
        return json.loads(report.read_text())
    first = int(chain.split("-")[0])
    bits = [b for b in args.bits.split(",") if float(b) > first or (float(b) == first and chain == args.nested)]
    lifted = args.work / f"{chain}.lift"
    made = json.loads(run(
        args.programs / "lift-calibrate", "--model", args.model, "--calib", args.corpus / "calib.txt", "--bits", ",".join(bits),
        "--quality", args.quality, "--chain", chain.replace("-", ","), "--no-measure", "--quiet", "--json", "--out", lifted))
    measured = json.loads(run(
        args.programs / "lift-eval", "--model", lifted, "--variant", "all", "--reference", args.model, "--text",
        args.corpus / "eval.txt", "--context", 1024, "--max-tokens", args.tokens, "--json"))
    lifted.unlink()
    variants = [{"bits": float(b)} | {k: v[k] for k in ("bytes", "kl", "perplexity")} for b, v in zip(bits, measured["variants"])]
    result = {"chain": chain, "seconds": made["seconds"], "variants": variants}
    print(json.dumps(result), file=sys.stderr, flush=True)
    report.write_text(json.dumps(result) + "\n")
    return result


def table(results):
    """results: the nested chain's first."""
    bits = sorted({v["bits"] for r in results for v in r["variants"]})
    lines = ["| bits | " + " | ".join(r["chain"] for r in results) + " | nesting costs |", "|---" * (2 + len(results)) + "|"]
    for b in bits:
        kl = [next((v["kl"] for v in r["variants"] if v["bits"] == b), None) for r in results]
        best = min(x for x in kl if x is not None)
        cost = f"{100 * (kl[0] / best - 1):+.0f} %" if kl[0] is not None else "-"
        lines.append(f"| {b:g} | " + " | ".join("-" if x is None else f"{x:.4f}" for x in kl) + f" | {cost} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder with lift-calibrate and lift-eval")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder with calib.txt and eval.txt")
    parser.add_argument("--nested", required=True, help="chain of the file that serves all budgets")
    parser.add_argument("--alone", required=True, help="chains for single budgets")
    parser.add_argument("--bits", default="2,2.5,3,4,5,6")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for reports; what is there is not made again")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here too")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = [study(args, chain) for chain in [args.nested, *args.alone.split(",")]]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
