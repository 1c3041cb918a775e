#!/usr/bin/env python3
"""What the server costs besides its model: CPU seconds of a stub server's process per streamed token.

usage: overhead.py BUILD_DIR [--streams N] [--seconds S] [--step-micros U] [--tenants K] [--state-tokens T]

Prints one JSON object. The stub's own work (its sleep, its 259 logits) is included, so the figure is an upper bound.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--step-micros", type=int, default=20000)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--state-tokens", type=int, default=65536, help="fewer than streams want: they queue for places")
    flags = parser.parse_args()
    server = subprocess.Popen([flags.build / "bin/stub-server", "--step-micros", str(flags.step_micros),
                               "--state-tokens", str(flags.state_tokens)],
                              stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        before = cpu_seconds(server.pid)
        done = subprocess.run(
            [flags.build / "bin/lift-bench", "serve", "--server", address, "--clients", str(flags.streams), "--seconds",
             str(flags.seconds), "--prompt-tokens", "8", "--output-tokens", "100:300", "--tenants",
             ",".join(f"t{i}" for i in range(flags.tenants)), "--json"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return 1
        load = json.loads(done.stdout)
        used = cpu_seconds(server.pid) - before
        print(json.dumps({"streams": flags.streams, "tokens": load["tokens"],
                          "tokens_per_second": load["tokens_per_second"],
                          "server_cpu_us_per_token": used / load["tokens"] * 1e6,
                          "server_cpu_cores": used / load["seconds"], "ttft_ms_p50": load["ttft_seconds"]["p50"] * 1e3,
                          "ttft_ms_p99": load["ttft_seconds"]["p99"] * 1e3, "ttft_ms_max": load["ttft_seconds"]["max"] * 1e3,
                          "requests": load["requests"], "without_a_token": load["requests"] - load["ttft_seconds"]["count"],
                          "itl_ms_p50": load["inter_token_seconds"]["p50"] * 1e3,
                          "itl_ms_p99": load["inter_token_seconds"]["p99"] * 1e3,
                          "itl_ms_max": load["inter_token_seconds"]["max"] * 1e3,
                          "tenant_fairness_index": load["tenant_fairness_index"],
                          "errors": load["errors"], "wrong_length": load["answers_of_wrong_length"]}, indent=2))
    finally:
        server.terminate()
        server.wait(timeout=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
