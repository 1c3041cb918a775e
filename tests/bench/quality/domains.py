#!/usr/bin/env python3
"""What the calibration text is worth: calibrates on one domain, on another and on both, and measures each file on either.

    domains.py --programs build/release/bin --model twin-f16.gguf --work FOLDER --json domains.json [--bits 2,3,4] [--quality fast]

The domains are disjoint Debian documentation packages: the manual of a medical practice (gnumed-doc) and of a database
(postgresql-doc), and what the other comparisons calibrate on (deploy/fetch_corpus.sh, --general) for a third opinion. Documents go to
calibration or evaluation as a whole and no paragraph is in both, as in deploy/corpus/mix.py. The files have the same bytes; only the text
differs. KL in nats a token against the model in full precision.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "deploy" / "corpus"))
import extract  # noqa: E402
import mix  # noqa: E402
from ggml_peers import run  # noqa: E402

DOMAINS = {
    "medicine": ("gnumed-doc", "gnumed-doc/usr/share/doc/gnumed/user-manual/**/*.html"),
    "database": ("postgresql-doc-15", "postgresql-doc-15/usr/share/doc/postgresql-doc-15/html/*.html"),
}
CALIB_BYTES, EVAL_BYTES = 700_000, 120_000


def unpack(package, work):
    if (work / "packages" / package).exists():
        return
    (work / "debs").mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-qq", "download", package], cwd=work / "debs", check=True)
    deb = next((work / "debs").glob(f"{package}_*.deb"))
    (work / "packages").mkdir(exist_ok=True)
    run("dpkg-deb", "-x", deb, work / "packages" / package)


def write_texts(domain, work):
    """{"calib": path, "eval": path} of one domain."""
    package, pattern = DOMAINS[domain]
    unpack(package, work)
    candidates, seen = {"calib": [], "eval": []}, set()
    documents = mix.documents(work / "packages", [pattern])
    for kind in ("calib", "eval"):  # calibration first: evaluation must not repeat any paragraph of it
        for name, path in documents:
            if mix.is_eval(name) != (kind == "eval"):
                continue
            text = mix.without_repeats(extract.from_html(mix.read(path)), seen)
            candidates[kind] += [(mix.digest(f"{name}#{i}"), piece) for i, piece in enumerate(mix.pieces(text))]
    paths = {}
    for kind, budget in (("calib", CALIB_BYTES), ("eval", EVAL_BYTES)):
        chosen = mix.fill(budget, candidates[kind])
        paths[kind] = work / f"{domain}-{kind}.txt"
        paths[kind].write_text("\n\n".join(text for _, text in chosen) + "\n", encoding="utf-8")
        print(f"{domain} {kind}: {paths[kind].stat().st_size} bytes", file=sys.stderr)
    return paths


def measure(args, lifted, text):
    report = run(args.programs / "lift-eval", "--model", lifted, "--reference", args.model, "--text", text, "--context", 512,
                 "--max-tokens", args.tokens, "--variant", "all", "--json")
    return {v["name"]: {k: v[k] for k in ("bits_per_weight", "kl", "perplexity")} for v in json.loads(report)["variants"]}


def study(args):
    texts = {domain: write_texts(domain, args.work) for domain in DOMAINS}
    held_out = {domain: paths["eval"] for domain, paths in texts.items()}
    sources = {domain: [f"{domain}={paths['calib']}:1"] for domain, paths in texts.items()}
    sources["both"] = [one for domain in DOMAINS for one in sources[domain]]
    if args.general:
        held_out["general"] = args.general / "eval.txt"
        sources["general"] = [f"general={args.general / 'calib.txt'}:1"]
        sources["all"] = sources["both"] + sources["general"]
    rows = []
    for name, given in sources.items():
        lifted = args.work / f"{name}.lift"
        run(args.programs / "lift-calibrate", "--model", args.model, "--calib", ",".join(given), "--bits", args.bits, "--quality",
            args.quality, "--no-measure", "--quiet", "--out", lifted)
        for domain, text in held_out.items():
            rows.append({"calibrated_on": name, "measured_on": domain, "variants": measure(args, lifted, text)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        lifted.unlink()
    return rows


def table(rows):
    measured = list(dict.fromkeys(row["measured_on"] for row in rows))
    lines = ["| variant | calibrated on | " + " | ".join(f"KL on {m}" for m in measured) + " |", "|---" * (2 + len(measured)) + "|"]
    for variant in rows[0]["variants"]:
        for name in dict.fromkeys(row["calibrated_on"] for row in rows):
            kl = {row["measured_on"]: row["variants"][variant]["kl"] for row in rows if row["calibrated_on"] == name}
            lines.append(f"| {variant} | {name} | " + " | ".join(f"{kl[m]:.4f}" for m in measured) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder with lift-calibrate and lift-eval")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--general", type=pathlib.Path, help="folder with calib.txt and eval.txt: a third domain")
    parser.add_argument("--bits", default="2,3,4")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for packages, texts and files")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here too")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = study(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
