#!/usr/bin/env python3
"""The CPU's speed beside what its memory allows: every table of the speed bars, in one command.

usage: cpu_speed.py BUILD_DIR [--tables linear,bits,batch,scaling] [--seconds 2] [--shapes llama-1b,llama-3b,llama-7b,smollm2-135m]
                    [--threads N] [--out FOLDER]

Synthetic models (random planes, kept in ~/.cache/liftserve/synthetic). Every figure stands beside the read loop of its own
process, so a busy machine moves both; only fractions and ratios may be compared between rows of different processes.
"""

import argparse
import pathlib

import bench_report


class Bench:
    def __init__(self, flags):
        self.flags = flags
        self.programs = flags.build / "bin"

    def run(self, spec, *arguments, plain=False, threads=None):
        model = bench_report.synthetic(self.programs, spec, plain)
        threads = threads or self.flags.threads
        command = [self.programs / "lift-bench", "--model", model, "--seconds", self.flags.seconds, "--json", *arguments]
        return bench_report.run_json(command + (["--threads", threads] if threads else []))[0]

    def profile(self, spec, bits, plain, context):
        report = self.run(spec, "--profile", "--variant", f"q{bits:g}", "--context", context, "--batch", 1, plain=plain)
        return report["profile"], report["read_bandwidth_bytes_per_second"]


def linear_and_decode(bench):
    """Plane bytes a second of the linear layers, and all bytes a second of a whole step, over the read loop's."""
    rows, bits, shape = [], (2, 3, 4, 6), bench.flags.shapes[0]
    for plain in (True, False):
        for each in bits:
            phases, read = bench.profile(f"{shape}:{','.join(str(b) for b in bits)}", each, plain, 512)
            planes = [p for p in phases if p["phase"].startswith("planes ")]
            seconds = sum(p["seconds"] for p in phases)
            rows.append({"shape": shape, "codes": "plain" if plain else "parity", "bits": each, "read_gb_s": read / 1e9,
                         "linear_of_read": sum(p["bytes"] for p in planes) / sum(p["seconds"] for p in planes) / read,
                         "step_of_read": sum(p["bytes"] for p in phases) / seconds / read, "step_ms": seconds * 1e3})
    return rows


def bits_rows(bench):
    """Time against bytes: a straight line, and how far each point is from it."""
    bits = (2, 2.5, 3, 4, 6, 8)
    report = bench.run(f"{bench.flags.shapes[0]}:{','.join(f'{b:g}' for b in bits)}", "--batch", 1, "--context", 128, "--prefill",
                       1)
    points = [(p["bytes_per_token"], 1 / p["tokens_per_second"], p) for p in report["decode"]]
    n = len(points)
    mean_x, mean_y = sum(x for x, _, _ in points) / n, sum(y for _, y, _ in points) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y, _ in points) / sum((x - mean_x) ** 2 for x, _, _ in points)
    return [{"variant": p["variant"], "gb": x / 1e9, "tokens_per_second": p["tokens_per_second"],
             "of_read": p["bandwidth_fraction"], "off_the_line": y / (mean_y + slope * (x - mean_x)) - 1} for x, y, p in points]


def batch_rows(bench):
    """Aggregate speed by batch, and a batch whose rows are at different variants against all at the highest."""
    report = bench.run(f"{bench.flags.shapes[0]}:2,3,4,6", "--batch", "1,2,4,8,16", "--context", 128, "--prefill", "32,512",
                       "--mixed")
    of = {(p["variant"], p["batch"]): p["tokens_per_second"] for p in report["decode"]}
    rows = []
    for variant, batch in sorted(of, key=lambda key: (key[0], key[1])):
        row = {"variant": variant, "batch": batch, "tokens_per_second": of[variant, batch],
               "of_batch_1": of[variant, batch] / of[variant, 1], "time_of_q6": of["q6", batch] / of[variant, batch]}
        rows.append(row)
    prompts = [{"prompt_tokens": p["tokens"], "tokens_per_second": p["tokens_per_second"]} for p in report["prefill"]]
    return rows, prompts


def scaling_rows(bench):
    rows = []
    for shape in bench.flags.shapes:
        for threads in (1, 2):
            contexts = [512, 1024, 2048, 4096, 8192] if shape != "llama-7b" else [512, 1024, 2048, 4000]
            report = bench.run(f"{shape}:3", "--batch", 1, "--context", ",".join(map(str, contexts)), "--prefill", 1,
                               threads=threads)
            for point in report["decode"]:
                rows.append({"shape": shape, "threads": threads, "context": point["context"],
                             "tokens_per_second": point["tokens_per_second"], "planes_of_read": point["bandwidth_fraction"]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--tables", default="linear,bits,batch,scaling")
    parser.add_argument("--shapes", default="llama-1b,llama-3b,llama-7b,smollm2-135m")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    flags.shapes = flags.shapes.split(",")
    bench, wanted = Bench(flags), set(flags.tables.split(","))
    result, tables, plots = {}, [], {}

    def add(name, title, rows, label=None, value=None, unit="", mark=None):
        result[name] = rows
        tables.append((title, rows))
        if value:
            plots[name] = bench_report.bars_svg(title, [(label(r), r[value]) for r in rows], unit, mark)

    if "linear" in wanted:
        add("linear", "Bytes a second over the read loop's, batch 1, context 512", linear_and_decode(bench),
            lambda r: f"{r['codes']} {r['bits']} bits", "linear_of_read", "of read", 0.85)
    if "bits" in wanted:
        add("bits", "Decode by bits: a straight line in bytes", bits_rows(bench), lambda r: r["variant"], "tokens_per_second",
            "tokens/s")
    if "batch" in wanted:
        rows, prompts = batch_rows(bench)
        add("batch", "Batches; 'mixed' has its rows at different variants", rows,
            lambda r: f"{r['variant']} x {r['batch']}", "tokens_per_second", "tokens/s")
        add("prompts", "Prompts, read at the finest variant", prompts)
    if "scaling" in wanted:
        add("scaling", "3 bits by shape, threads and context", scaling_rows(bench),
            lambda r: f"{r['shape']} {r['threads']}t {r['context']}", "tokens_per_second", "tokens/s")
    bench_report.publish("cpu_speed", result, tables, plots, flags.out)


if __name__ == "__main__":
    main()
