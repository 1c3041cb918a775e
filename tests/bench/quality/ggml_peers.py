#!/usr/bin/env python3
"""Quantizes a float GGUF to the types of llama.cpp or a fork of it and measures each with lift-eval.

    ggml_peers.py --quantize llama-quantize --lift-eval build/release/bin/lift-eval --model twin-f16.gguf \
        --imatrix imatrix.dat --text eval.txt --types Q2_K,Q4_K_M --out peers.json

The measurement is the same for every method: the peer's file is converted to F32 by its own program (values unchanged) and
lift-eval reads that, with the float model as the reference. Bytes are the tensors' in the peer's own file. Results already in
--out are kept, so an interrupted run goes on where it was.

Types with blocks of 256 fall back to another one where a row is no multiple of that; "types" in the result says what was used.
--fold-rows stores several rows as one, so that every type is really used (fold_rows.py; needs numpy and gguf). The method's name
then ends in "*".
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

try:
    import fold_rows
except ImportError:  # without numpy and gguf everything but --fold-rows works
    fold_rows = None
import gguf_size


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} exited {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout


def append_result(path, result):
    """Adds to the JSON list and prints the line. Two programs may extend one file: it is read again each time."""
    results = json.loads(path.read_text()) if path.exists() else []
    scratch = path.with_name(path.name + f".{os.getpid()}")
    scratch.write_text(json.dumps(results + [result], indent=1) + "\n")
    scratch.replace(path)
    print(f"{result['method']:28} {result['bytes']:>12,} bytes {result['bits_per_weight']:6.3f} bits  KL {result['kl']:.5f}  "
          f"perplexity {result['perplexity']:.4f}  top-1 {result['top1_agreement']:.4f}", flush=True)


def has_result(path, method):
    return path.exists() and any(r["method"] == method for r in json.loads(path.read_text()))


def evaluate(lift_eval, model, reference, text, context, max_tokens, threads):
    """lift-eval's figures for a float model: (kl, perplexity, top1_agreement)."""
    report = json.loads(run(lift_eval, "--model", model, "--reference", reference, "--text", text, "--context", context,
                            "--max-tokens", max_tokens, "--threads", threads, "--kv-cache", "f32", "--json"))
    variant = report["variants"][-1]
    return {key: variant[key] for key in ("kl", "perplexity", "top1_agreement")} | {"tokens": report["tokens"]}


def quantize_and_measure(args, name, folder):
    packed, plain = folder / "peer.gguf", folder / "peer-f32.gguf"
    model, imatrix = args.model, args.imatrix
    if args.fold_rows:
        model, imatrix = fold_rows.fold(args.model, args.imatrix, folder)
    options = ["--imatrix", imatrix] if imatrix else []
    started = time.monotonic()
    run(args.quantize, *options, *args.quantize_option, model, packed, name, args.threads)
    seconds = time.monotonic() - started
    result = {"method": name + args.suffix, "seconds": round(seconds, 1)} | gguf_size.summary(packed)
    run(args.quantize, "--allow-requantize", packed, plain, "F32", args.threads)
    if args.fold_rows:
        folded, plain = plain, folder / "peer-unfolded.gguf"
        fold_rows.unfold(args.model, folded, plain)
        folded.unlink()
    return result | evaluate(args.lift_eval, plain, args.model, args.text, args.context, args.max_tokens, args.threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", required=True, help="the peer's llama-quantize")
    parser.add_argument("--lift-eval", required=True)
    parser.add_argument("--model", required=True, help="float GGUF; also the reference")
    parser.add_argument("--imatrix", help="importance matrix of the calibration text")
    parser.add_argument("--text", required=True, help="evaluation text, disjoint from the calibration text")
    parser.add_argument("--types", required=True, help="comma-separated names as llama-quantize takes them")
    parser.add_argument("--quantize-option", action="append", default=[], help="passed on to llama-quantize; repeatable")
    parser.add_argument("--fold-rows", action="store_true")
    parser.add_argument("--suffix", default="", help="appended to the method's name, to tell runs with options apart")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON list, extended by every type")
    args = parser.parse_args()
    if args.fold_rows:
        if fold_rows is None or not args.imatrix:
            parser.error("--fold-rows needs numpy, gguf and --imatrix")
        args.suffix += "*"
    failed = False
    for name in args.types.split(","):
        if has_result(args.out, name + args.suffix):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                append_result(args.out, quantize_and_measure(args, name, pathlib.Path(folder)))
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
