#!/usr/bin/env python3
"""What changing the memory budget under load does: the resident set before and after, how long it took, whether a stream was
lost, and what the ledger charges before and after.

usage: budget.py BUILD_DIR MODEL [--high BYTES] [--low BYTES] [--streams N] [--seconds S]

Budgets default to the variants nearest to 6 and 3 bits per weight. Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import sqlite3
import sys
import tempfile
import threading
import time


def rss(pid):
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Stream(threading.Thread):
    """One long answer after the other; counts those that did not end well."""

    def __init__(self, harness, server, stop):
        super().__init__(daemon=True)
        self.server, self.stop, self.ended, self.lost, self.variants = server, stop, 0, [], set()

    def run(self):
        while not self.stop.is_set():
            done = self.server.client("generate", "--prompt", "Count to a thousand: one, two,", "--max-new-tokens", "200",
                                      "--ignore-eos", "--json")
            if done.returncode != 0:
                self.lost.append(done.stderr)
                continue
            answer = json.loads(done.stdout)
            self.ended += 1
            self.variants.add(answer["served_by"]["variant"])
            if answer["usage"]["generated_tokens"] != 200:
                self.lost.append(f"{answer['usage']['generated_tokens']} tokens")


def charged(ledger):
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
        return sum(a * 10**6 + b for a, b in db.execute("SELECT byte_s, byte_us FROM residency")) / 1e6


def rate(ledger, seconds):
    """Byte-seconds a second that are charged: what is resident, according to the bill."""
    def next_commit():
        last = charged(ledger)
        while (now := charged(ledger)) == last:
            time.sleep(0.002)
        return now, time.monotonic()

    before, start = next_commit()
    time.sleep(seconds)
    after, end = next_commit()
    return (after - before) / (end - start)


def settle(resident, target, start):
    """Seconds until `resident()` bytes are at or below `target` (at most 10)."""
    while time.monotonic() - start < 10:
        if resident() <= target:
            return time.monotonic() - start
        time.sleep(0.01)
    return None


def measure(harness, model, flags):
    with tempfile.TemporaryDirectory() as folder:
        ledger = pathlib.Path(folder) / "ledger.db"
        with harness.Server(model, "--ledger", str(ledger), "--ledger-interval-seconds", "0.2", "--kv-tokens", "4096") as server:
            variants = server.client_json("models")["models"][0]["variants"]
            total, sums = 0, {}
            for v in variants:
                total += int(v["incrementalBytes"])
                sums[v["name"]] = (v["bitsPerWeight"], total)
            nearest = lambda bits: min(sums.values(), key=lambda pair: abs(pair[0] - bits))  # noqa: E731
            high, low = flags.high or nearest(6)[1], flags.low or nearest(3)[1]
            pid = server.process.pid
            weights = lambda: harness.mapped_bytes(pid, model)  # noqa: E731  without what the streams' state adds meanwhile
            server.client_json("budget", "--weight-bytes", str(high))
            stop = threading.Event()
            streams = [Stream(harness, server, stop) for _ in range(flags.streams)]
            for stream in streams:
                stream.start()
            time.sleep(flags.seconds)
            billed_high = rate(ledger, flags.seconds)
            rss_high, file_high = rss(pid), weights()
            start = time.monotonic()
            answer = server.client_json("budget", "--weight-bytes", str(low))
            call = time.monotonic() - start
            # Half a percent: pages at the borders of what left stay.
            fell = settle(weights, file_high - 0.995 * (high - low), start)
            rss_low, file_low = rss(pid), weights()
            billed_low = rate(ledger, flags.seconds)
            start = time.monotonic()
            server.client_json("budget", "--weight-bytes", str(high))
            back = time.monotonic() - start
            time.sleep(flags.seconds)
            rss_back = rss(pid)
            stop.set()
            for stream in streams:
                stream.join()
            server.terminate()
            code = server.wait()
    return {"model": str(model), "streams": flags.streams, "answers": sum(s.ended for s in streams),
            "lost": [text for s in streams for text in s.lost], "exit_code": code, "moved_streams": answer.get("movedStreams"),
            "budget_high": high, "budget_low": low, "bytes_freed_by_budget": high - low,
            "file_resident_high": file_high, "file_resident_low": file_low, "file_resident_fell_by": file_high - file_low,
            "rss_high": rss_high, "rss_low": rss_low, "rss_fell_by": rss_high - rss_low, "rss_back": rss_back,
            "seconds_until_995_permille_freed": fell, "call_seconds": call, "load_back_seconds": back,
            "billed_bytes_high": billed_high, "billed_bytes_low": billed_low, "billed_fell_by": billed_high - billed_low}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--high", type=int)
    parser.add_argument("--low", type=int)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    flags = parser.parse_args()
    source = pathlib.Path(__file__).resolve().parents[3]
    os.environ.setdefault("LIFT_SOURCE_DIR", str(source))
    os.environ.setdefault("LIFT_PROGRAM_DIR", str(flags.build.resolve() / "bin"))
    sys.path.insert(0, str(source / "tests/integration"))
    import harness

    report = measure(harness, flags.model.resolve(), flags)
    print(json.dumps(report, indent=2))
    return 1 if report["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
