#!/usr/bin/env python3
"""Small helpers of quickstart.sh; standard library only.

usage: quickstart_report.py variants EVAL_JSON            table of variants
       quickstart_report.py metrics URL                   resident bytes and byte-seconds
       quickstart_report.py free-ports COUNT              unused loopback ports
       quickstart_report.py wait-ready URL PID SECONDS    until URL answers 200, PID ends or time is up
"""

import json
import os
import re
import socket
import sys
import time
import urllib.error
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
    rows = []
    for variant in report["variants"]:
        top1 = variant.get("top1_agreement")
        rows.append([variant["name"], number(variant.get("bits_per_weight"), 2), number(variant.get("lambda"), 3),
                     human_bytes(variant["bytes"]), number(variant.get("perplexity"), 3), number(variant.get("kl"), 4),
                     "-" if top1 is None else f"{100 * top1:.1f} %"])
    print_table(["variant", "bits/weight", "lambda", "bytes", "perplexity", "KL (nats)", "same top-1"], rows)
    print(f"   measured on {report['tokens']} tokens; KL and top-1 are against the unquantized model")


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
    print_table(["resident memory", "variant", "bytes"],
                [[labels.get("kind", ""), labels.get("variant") or "-", human_bytes(value)] for labels, value in resident])
    print()
    print_table(["charged to tenant", "variant", "kind", "MiB x s"],
                [[labels.get("tenant", ""), labels.get("variant") or "-", labels.get("kind", ""), f"{value / 2**20:.2f}"]
                 for labels, value in charged if value > 0])


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    print(*[each.getsockname()[1] for each in sockets])
    for each in sockets:
        each.close()


def wait_ready(url, pid, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return 0
        except (urllib.error.URLError, OSError):
            pass  # not listening yet, or still loading (503)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 1
        time.sleep(0.1)
    return 1


def main(arguments):
    match arguments:
        case ["variants", path]:
            variants(path)
        case ["metrics", url]:
            metrics(url)
        case ["free-ports", count]:
            free_ports(int(count))
        case ["wait-ready", url, pid, seconds]:
            return wait_ready(url, int(pid), float(seconds))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
