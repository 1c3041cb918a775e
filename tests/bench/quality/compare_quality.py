#!/usr/bin/env python3
"""One table, one JSON file and one plot: bytes against KL, for any methods on one judge.

    pip install matplotlib        (only for --plot)
    compare_quality.py --peers peers.json [--lifted model.lift --lift-eval build/release/bin/lift-eval --reference twin-f16.gguf
        --text eval.txt] [--method 'NAME=BYTES=MODEL' ...] [--json out.json] [--plot out.png]

--peers files are what ggml_peers.py and group_peers.py write; --lifted measures every variant of a lifted file and --method any
other model that lift-eval reads, at the bytes that are claimed for it. Every figure has to come from the same text, context,
number of tokens and reference: runs whose token counts differ are refused.

The last columns of a peer are the answer to "what does a lifted variant of at most these bytes reach": its KL, and the factor
by which the peer's KL is larger. "best" marks peers that no other peer beats in both bytes and KL.
"""
import argparse
import json
import os
import pathlib
import sys

import ggml_peers


def load_peers(paths):
    return [entry | {"lifted": False} for path in paths for entry in json.loads(pathlib.Path(path).read_text())]


def measure_lifted(args, path):
    cuts = []
    if args.cut_mb:  # the names that lift-eval gives them
        cuts = ["--cut-mb", args.cut_mb, "--variant", ",".join(f"b{float(mb):g}" for mb in args.cut_mb.split(","))]
    report = json.loads(ggml_peers.run(
        args.lift_eval, "--model", path, *cuts, "--reference", args.reference, "--text", args.text, "--context", args.context,
        "--max-tokens", args.max_tokens, "--threads", args.threads, "--kv-cache", "f32", "--json"))
    name = pathlib.Path(path).stem
    return [{"method": f"{name} {v['name']}", "lifted": True, "tokens": report["tokens"]}
            | {key: v[key] for key in ("bytes", "kl", "perplexity", "top1_agreement")} for v in report["variants"]]


def measure_other(args, text):
    try:
        name, size, path = text.split("=", 2)
        size = int(size)
    except ValueError:
        raise SystemExit(f"error: --method '{text}': expected NAME=BYTES=MODEL") from None
    figures = ggml_peers.evaluate(args.lift_eval, path, args.reference, args.text, args.context, args.max_tokens, args.threads)
    return {"method": name, "lifted": False, "bytes": size} | figures


def frontier(entries):
    """The entries that no other one beats in bytes and KL."""
    return [e for e in entries if not any(
        o["bytes"] <= e["bytes"] and o["kl"] <= e["kl"] and (o["bytes"], o["kl"]) != (e["bytes"], e["kl"]) for o in entries)]


def compare(entries, parameters, full_perplexity):
    """Adds bits_per_weight, excess perplexity, and to every peer the best lifted variant of at most its bytes."""
    lifted = [e for e in entries if e["lifted"]]
    best = {id(e) for e in frontier([e for e in entries if not e["lifted"]])}
    for entry in entries:
        entry["bits_per_weight"] = 8 * entry["bytes"] / parameters
        if full_perplexity:
            entry["perplexity_excess"] = entry["perplexity"] / full_perplexity - 1
        if entry["lifted"]:
            continue
        entry["best"] = id(entry) in best
        fitting = [e for e in lifted if e["bytes"] <= entry["bytes"]]
        if fitting:
            match = min(fitting, key=lambda e: e["kl"])
            entry["lifted_match"] = {"method": match["method"], "bytes": match["bytes"], "kl": match["kl"],
                                     "factor": entry["kl"] / match["kl"] if match["kl"] > 0 else None}
    return sorted(entries, key=lambda e: (e["bytes"], e["kl"]))


def table(entries):
    """Markdown."""
    has_lifted = any(e["lifted"] for e in entries)
    head = ["method", "bytes", "bits per weight", "KL", "perplexity", "top-1"]
    head += ["lifted at most as large: KL", "factor"] if has_lifted else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for e in entries:
        name = f"**{e['method']}**" if e["lifted"] or e.get("best") else e["method"]
        excess = f" ({100 * e['perplexity_excess']:+.1f} %)" if "perplexity_excess" in e else ""
        row = [name, f"{e['bytes']:,}", f"{e['bits_per_weight']:.3f}", f"{e['kl']:.5f}", f"{e['perplexity']:.3f}{excess}",
               f"{e['top1_agreement']:.4f}"]
        match = e.get("lifted_match")
        if has_lifted:
            row += [f"{match['kl']:.5f}" if match else "", f"{match['factor']:.2f}" if match and match["factor"] else ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def plot(entries, path):
    import matplotlib  # only this option needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6.5))
    peers = [e for e in entries if not e["lifted"] and e["kl"] > 0]
    lifted = sorted((e for e in entries if e["lifted"] and e["kl"] > 0), key=lambda e: e["bytes"])
    axes.scatter([e["bytes"] / 1e6 for e in peers], [e["kl"] for e in peers], s=18, color="tab:gray", label="peers")
    for e in peers:
        axes.annotate(e["method"], (e["bytes"] / 1e6, e["kl"]), fontsize=6.5, xytext=(3, 3), textcoords="offset points")
    best = sorted(frontier(peers), key=lambda e: e["bytes"])
    axes.plot([e["bytes"] / 1e6 for e in best], [e["kl"] for e in best], color="tab:gray", linewidth=0.8, label="best peers")
    if lifted:
        axes.plot([e["bytes"] / 1e6 for e in lifted], [e["kl"] for e in lifted], "o-", color="tab:blue", label="lifted, one file")
    axes.set(yscale="log", xlabel="bytes of weights, tables and scales (MB)", ylabel="KL to the float model (nats per token)")
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="append", default=[], help="results of the other scripts; repeatable")
    parser.add_argument("--lifted", action="append", default=[], help="a lifted file, every variant of it; repeatable")
    parser.add_argument("--method", action="append", default=[], help="NAME=BYTES=MODEL; repeatable")
    parser.add_argument("--cut-mb", help="measure only variants of these sizes (comma-separated) of the lifted files")
    parser.add_argument("--lift-eval", default="build/release/bin/lift-eval")
    parser.add_argument("--reference", help="the float model")
    parser.add_argument("--text")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--parameters", type=int, default=162826560, help="of the judge; the default is SmolLM2-135M's twin")
    parser.add_argument("--full-perplexity", type=float, help="the float model's, to print the excess")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    args = parser.parse_args()
    if (args.lifted or args.method) and not (args.reference and args.text):
        parser.error("--lifted and --method need --reference and --text")
    try:
        entries = load_peers(args.peers)
        for path in args.lifted:
            entries += measure_lifted(args, path)
        entries += [measure_other(args, text) for text in args.method]
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    tokens = {e["tokens"] for e in entries if "tokens" in e}
    if not entries or len(tokens) > 1:
        print(f"error: {'the runs scored different numbers of tokens: ' + str(sorted(tokens)) if entries else 'nothing to compare'}",
              file=sys.stderr)
        return 2
    entries = compare(entries, args.parameters, args.full_perplexity)
    print(table(entries))
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")
    if args.plot:
        plot(entries, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
