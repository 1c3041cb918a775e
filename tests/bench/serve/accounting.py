#!/usr/bin/env python3
"""What meter account, ledger and metrics cost: CPU of a stub server with and without them at one token rate, and the time of a
scrape with many tenants.

usage: accounting.py BUILD_DIR [--streams N] [--step-micros U] [--seconds S] [--rounds R] [--tenants T]

The two kinds of server run in turn, R times each. With them: probes, usage account, ledger (synchronous=FULL) and a scrape a second.
Prints one JSON object.
"""

import argparse
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from overhead import cpu_seconds


class Stub:
    def __init__(self, flags, *more):
        self.process = subprocess.Popen([flags.build / "bin/stub-server", "--step-micros", str(flags.step_micros), "--admin",
                                         "127.0.0.1:0", *more], stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        self.admin = int(self.process.stdout.readline())

    def scrape(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        start = time.perf_counter()
        connection.request("GET", "/metrics")
        size = len(connection.getresponse().read())
        seconds = time.perf_counter() - start
        connection.close()
        return seconds, size

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(timeout=60)


def bench(flags, address, clients, seconds, tokens, tenants):
    done = subprocess.run([flags.build / "bin/lift-bench", "serve", "--server", address, "--clients", str(clients), "--seconds",
                           str(seconds), "--prompt-tokens", "8", "--output-tokens", tokens, "--tenants",
                           ",".join(f"t{i}" for i in range(tenants)), "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def one_run(flags, *more, scraping):
    """CPU cores the server used, and its tokens a second."""
    with Stub(flags, *more) as stub:
        stop = threading.Event()

        def keep_scraping():
            while not stop.wait(1):
                stub.scrape()

        thread = threading.Thread(target=keep_scraping, daemon=True)
        if scraping:
            thread.start()
        before = cpu_seconds(stub.process.pid)
        load = bench(flags, stub.address, flags.streams, flags.seconds, "100:300", 10)
        used = cpu_seconds(stub.process.pid) - before
        stop.set()
        return used / load["seconds"], load["tokens_per_second"]


def scrape_times(flags, folder):
    with Stub(flags, "--ledger", f"{folder}/tenants.db") as stub:
        load = bench(flags, stub.address, 64, 5, "2:4", flags.tenants)
        times = sorted(stub.scrape() for _ in range(300))
        seen = json.loads(subprocess.run([flags.build / "bin/lift-client", "--server", stub.address, "usage", "--json"],
                                         capture_output=True, text=True, check=True).stdout)
    tenants = {e["tenant"] for e in seen["entries"]}
    return {"tenants": len(tenants), "requests": load["requests"], "bytes": times[-1][1],
            "ms_median": times[150][0] * 1e3, "ms_p99": times[296][0] * 1e3, "ms_min": times[0][0] * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--step-micros", type=int, default=20000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tenants", type=int, default=1000)
    flags = parser.parse_args()
    without, full = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(flags.rounds):
            without.append(one_run(flags, "--no-accounting", scraping=False))
            full.append(one_run(flags, "--ledger", f"{folder}/{i}.db", scraping=True))
        scrape = scrape_times(flags, folder)
    cores = lambda runs: statistics.median(run[0] for run in runs)  # noqa: E731
    print(json.dumps({"tokens_per_second": statistics.median(run[1] for run in full), "cores_without": cores(without),
                      "cores_with": cores(full), "cost_percent_of_a_core": (cores(full) - cores(without)) * 100,
                      "cost_percent_of_the_machine": (cores(full) - cores(without)) * 100 / os.cpu_count(),
                      "runs_without": without, "runs_with": full, "scrape": scrape}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
