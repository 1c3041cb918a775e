#!/usr/bin/env python3
"""The ledger against Prometheus: a server under light load, a real Prometheus that scrapes it, and what both say of the same
span of time, for every tenant and in total.

usage: reconcile.py BUILD_DIR PROMETHEUS [--minutes M] [--rate R] [--tenants T] [--model FILE] [--keep FOLDER]

Without --model the server is the stub (20 ms a step, so that answers take seconds); with it lift-server and that model.
Three readings of Prometheus are compared with the lines of the ledger's file:
  difference   liftserve_memory_byte_seconds_total at the end minus at the beginning
  increase     the same by PromQL's increase(), which extrapolates to the edges of the span
  integral     avg_over_time(sum(liftserve_memory_resident_bytes)) x span: a gauge that no account has touched; total only
Both ends of the span are read while nothing runs, so what is left at the edges is one scrape and one checkpoint of idle
memory. Prints one JSON object; exits 1 if a difference is above --bar.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from accounting import Stub

SOURCE = pathlib.Path(__file__).resolve().parents[3]
SETTLE_SECONDS = 10
LEDGER_INTERVAL_MS = 200


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Prometheus:
    def __init__(self, binary, folder, target):
        self.port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "liftserve", "static_configs": [{"targets": [target]}]}]}), encoding="utf-8")
        with open(folder / "prometheus.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--query.lookback-delta=30s"], stdout=log, stderr=log)

    def query(self, expr, at):
        """{tenant: value} of an instant query; a result without that label is under ''."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expr, "time": f"{at:.3f}"})
        with urllib.request.urlopen(url, timeout=60) as reply:
            return {r["metric"].get("tenant", ""): float(r["value"][1]) for r in json.load(reply)["data"]["result"]}

    def wait_until_it_scrapes(self):
        for _ in range(300):
            with contextlib.suppress(OSError):
                if sum(self.query("up", time.time()).values()) == 1:
                    return
            time.sleep(0.2)
        raise SystemExit("Prometheus does not scrape the server")


@contextlib.contextmanager
def started(flags, folder, ledger):
    """(address of the server, its HOST:PORT of /metrics)."""
    if flags.model is None:
        with Stub(flags, "--ledger", str(ledger), "--ledger-interval-ms", str(LEDGER_INTERVAL_MS)) as stub:
            yield stub.address, f"127.0.0.1:{stub.admin}"
        return
    os.environ.setdefault("LIFT_SOURCE_DIR", str(SOURCE))
    os.environ.setdefault("LIFT_PROGRAM_DIR", str(flags.build.resolve() / "bin"))
    sys.path.insert(0, str(SOURCE / "tests/integration"))
    import harness

    with harness.Server(flags.model, "--ledger", str(ledger), "--ledger-interval-seconds", str(LEDGER_INTERVAL_MS / 1000)) as server:
        yield server.address, server.admin


def load(flags, address, rate, seconds):
    done = subprocess.run([flags.build / "bin/lift-bench", "serve", "--server", address, "--rate", str(rate), "--seconds",
                           str(seconds), "--prompt-tokens", "4:16", "--output-tokens", flags.output_tokens, "--tenants",
                           ",".join(f"t{i}" for i in range(flags.tenants)), "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def ledger_now(path):
    """Byte-seconds by tenant so far, from the file."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
        sums = {}
        for tenant, *parts in db.execute("SELECT tenant, weight_s, weight_us, kv_s, kv_us FROM lines JOIN requests USING (epoch, "
                                         "sequence)"):
            sums[tenant] = sums.get(tenant, 0) + (parts[0] + parts[2]) * 10**6 + parts[1] + parts[3]
    return time.time(), {tenant: value / 1e6 for tenant, value in sums.items()}


def percent(shown, billed):
    return (shown / billed - 1) * 100


def compare(prometheus, before, after):
    """Both readings of the span, by tenant and in total."""
    (begin, ledger_begin), (end, ledger_end) = before, after
    counter = "sum by (tenant) (liftserve_memory_byte_seconds_total)"
    at_begin, at_end = prometheus.query(counter, begin), prometheus.query(counter, end)
    span = f"{int(round(end - begin))}s"
    increase = prometheus.query(f"sum by (tenant) (increase(liftserve_memory_byte_seconds_total[{span}]))", end)
    resident = prometheus.query(f"avg_over_time(sum(liftserve_memory_resident_bytes{{kind!=\"workspace\"}})[{span}:500ms])", end)[""]
    rows = {}
    for tenant in sorted(ledger_end):
        billed = ledger_end[tenant] - ledger_begin.get(tenant, 0)
        rows[tenant] = {"ledger": billed, "difference_percent": percent(at_end[tenant] - at_begin.get(tenant, 0), billed),
                        "increase_percent": percent(increase[tenant], billed)}
    total = sum(row["ledger"] for row in rows.values())
    return {"tenants": rows, "total": {
        "ledger": total, "difference_percent": percent(sum(at_end.values()) - sum(at_begin.values()), total),
        "increase_percent": percent(sum(increase.values()), total),
        "integral_percent": percent(resident * (end - begin), total)}}


def measure(flags, folder):
    ledger = folder / "ledger.db"
    with started(flags, folder, ledger) as (address, admin):
        prometheus = Prometheus(flags.prometheus, folder, admin)
        try:
            prometheus.wait_until_it_scrapes()
            load(flags, address, 2 * flags.tenants, 10)  # every tenant has a series before the span begins
            time.sleep(SETTLE_SECONDS)
            before = ledger_now(ledger)
            sent = load(flags, address, flags.rate, flags.minutes * 60 - SETTLE_SECONDS)
            time.sleep(SETTLE_SECONDS)
            after = ledger_now(ledger)
            time.sleep(2)
            report = compare(prometheus, before, after)
            drift = prometheus.query("max_over_time(abs(liftserve_ledger_drift_bytes_seconds)[2h:10s])", after[0])
        finally:
            prometheus.process.terminate()
            prometheus.process.wait(timeout=60)
    worst = max(abs(value) for row in [report["total"], *report["tenants"].values()]
                for name, value in row.items() if name != "ledger")
    return {"server": "stub" if flags.model is None else str(flags.model), "span_seconds": after[0] - before[0],
            "requests": sent["requests"], "errors": sent["errors"], "tokens": sent["tokens"], **report,
            "worst_percent": worst, "largest_drift_byte_seconds": max(drift.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("prometheus", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=0.25)
    parser.add_argument("--tenants", type=int, default=5)
    parser.add_argument("--output-tokens", default="100:300")
    parser.add_argument("--step-micros", type=int, default=20000)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--bar", type=float, default=0.1, help="percent")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for ledger and samples, kept afterwards")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (flags.keep or pathlib.Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(flags, folder)
    print(json.dumps(report, indent=2))
    return 1 if report["worst_percent"] > flags.bar or report["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
