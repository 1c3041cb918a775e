#!/usr/bin/env python3
"""Small helpers of quickstart.sh; standard library only.

usage: quickstart_report.py variants CALIBRATE_JSON   table of variants
       quickstart_report.py ready URL                 fails unless URL answers 200
       quickstart_report.py metrics URL               resident bytes and byte-seconds
"""

import json
import re
import sys
import urllib.request

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count):
    unit = 0
    while abs(count) >= 1024 and unit + 1 < len(_UNITS):
        count /= 1024
        unit += 1
    return f"{count:.1f} {_UNITS[unit]}"


def print_table(header, rows):
    cells = [header] + rows
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        first, *rest = row
        print("   " + first.ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(rest, widths[1:])))


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def variants(path):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    rows = [[variant["name"], number(variant["bits_per_weight"], 2), number(variant["lambda"], 3),
             human_bytes(variant["bytes"]), number(variant["perplexity"], 3), number(variant["kl"], 4)]
            for variant in report["variants"]]
    source = report["reference"]
    rows.append(["(full precision)", number(source["bits_per_weight"], 2), "1.000", human_bytes(source["bytes"]),
                 number(source["perplexity"], 3), "0"])
    print_table(["variant", "bits/weight", "lambda", "bytes", "perplexity", "KL (nats)"], rows)
    largest = max(variant["bytes"] for variant in report["variants"])
    together = sum(variant["bytes"] for variant in report["variants"])
    print(f"   Measured on {report['eval_tokens']} tokens. Full precision is the checkpoint as it came, in the bytes of its own")
    print(f"   encoding. All variants are prefixes of one file: together they take {human_bytes(largest)}, not {human_bytes(together)}.")


def samples(text):
    """(name, labels, value) of every sample in the Prometheus text format."""
    for line in text.split("\n"):
        match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        if match:
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
            yield match.group(1), labels, float(match.group(3))


def metrics(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        found = list(samples(response.read().decode()))
    resident = [(labels, value) for name, labels, value in found if name == "liftserve_memory_resident_bytes"]
    charged = [(labels, value) for name, labels, value in found if name == "liftserve_memory_byte_seconds_total"]
    if not resident or not charged:
        sys.exit("error: /metrics lacks liftserve_memory_resident_bytes or liftserve_memory_byte_seconds_total")
    rows = [[labels["kind"], labels["variant"] or "-", human_bytes(value)] for labels, value in resident]
    rows.append(["total", "", human_bytes(sum(value for _, value in resident))])
    print_table(["resident", "variant (adds)", "bytes"], rows)
    print()
    print_table(["charged to tenant", "variant", "kind", "MiB x s"],
                [[labels["tenant"], labels["variant"] or "-", labels["kind"], f"{value / 2**20:.2f}"]
                 for labels, value in charged if value > 0])


def ready(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        print(f"   {url} answers {response.status}")


def main(arguments):
    match arguments:
        case ["variants", path]:
            variants(path)
        case ["metrics", url]:
            metrics(url)
        case ["ready", url]:
            ready(url)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
