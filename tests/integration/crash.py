#!/usr/bin/env python3
"""Kills a real lift-server under load at random points and reads its ledger: nothing told is unbilled, nothing is billed twice,
lines sum to resident memory x time, and how much memory x time the crash lost: the time from the last charge in the file to the
kill, in seconds of what was resident. The bar is one interval; it is a time, so it is reported and not a broken promise.

usage: crash.py BUILD_DIR MODEL [--rounds N] [--seed S] [--python-stubs FOLDER]

Prints one JSON object; exits 1 if a promise was broken. billing_test.py runs a few rounds of it.
"""

import argparse
import json
import os
import pathlib
import random
import sqlite3
import sys
import tempfile
import threading
import time

INTERVAL = 0.1  # seconds between checkpoints
TENANTS = ("acme", "zenith", "umbra")


class Caller(threading.Thread):
    """Asks until the server is gone; keeps the ids whose end it was told."""

    def __init__(self, address, name, seed, max_tokens):
        super().__init__(daemon=True)
        self.address, self.label, self.rng, self.max_tokens = address, name, random.Random(seed), max_tokens
        self.told = []

    def run(self):
        import grpc
        from liftserve.v1 import generation_pb2 as api, generation_pb2_grpc, types_pb2

        with grpc.insecure_channel(self.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            for i in range(1000000):
                tokens = self.rng.randint(1, self.max_tokens)
                request = api.GenerateRequest(
                    request_id=f"{self.label}-{i}", text="One, two,",
                    stopping=types_pb2.StoppingOptions(max_new_tokens=tokens, ignore_eos=True),
                    output=types_pb2.OutputOptions(token_ids=True))
                try:
                    answer = stub.Generate(request, metadata=[("x-liftserve-tenant", self.rng.choice(TENANTS))], timeout=30)
                except grpc.RpcError:
                    return
                self.told.append((request.request_id, len(answer.token_ids)))


def resident_bytes(server):
    total = 0
    for line in server.get("/metrics")[1].splitlines():
        if line.startswith("liftserve_memory_resident_bytes{") and 'kind="workspace"' not in line:
            total += float(line.rsplit(" ", 1)[1])
    return total


def epoch_of(ledger):
    with sqlite3.connect(ledger) as db:
        epoch, started = db.execute("SELECT epoch, started_us FROM epochs ORDER BY epoch DESC LIMIT 1").fetchone()
        covered = sum(s * 10**6 + us for s, us in db.execute("SELECT byte_s, byte_us FROM residency WHERE epoch = ?", (epoch,)))
    return epoch, started, covered


def one_round(server, ledger, number, rng, max_tokens):
    """Returns what was told and the seconds of memory x time that the crash lost."""
    held = resident_bytes(server)
    callers = [Caller(server.address, f"r{number}-{t}", rng.random(), max_tokens) for t in range(4)]
    for caller in callers:
        caller.start()
    time.sleep(rng.uniform(0.02, 0.4))
    killed_us = time.time() * 1e6
    server.process.kill()
    server.process.wait()
    for caller in callers:
        caller.join()
    _, started_us, covered = epoch_of(ledger)
    return [t for c in callers for t in c.told], (killed_us - started_us) / 1e6 - covered / held / 1e6


def check(ledger, told):
    """Broken promises, as sentences."""
    broken = []
    with sqlite3.connect(ledger) as db:
        rows = db.execute("SELECT request_id, state, generated_tokens FROM requests WHERE sequence > 0").fetchall()
        sums = {}
        for epoch, *parts in db.execute("SELECT epoch, weight_s, weight_us, kv_s, kv_us FROM lines"):
            sums[epoch] = sums.get(epoch, 0) + (parts[0] + parts[2]) * 10**6 + parts[1] + parts[3]
        for epoch, s, us in db.execute("SELECT epoch, byte_s, byte_us FROM residency"):
            sums[epoch] = sums.get(epoch, 0) - s * 10**6 - us
    by_id = {}
    for name, state, tokens in rows:
        by_id.setdefault(name, []).append((state, tokens))
    for name, tokens in told:
        if by_id.get(name) != [(1, tokens)]:
            broken.append(f"{name} ended with {tokens} tokens, the ledger has {by_id.get(name)}")
    broken += [f"{name} is there {len(found)} times" for name, found in by_id.items() if len(found) != 1 and name.startswith("r")]
    broken += [f"epoch {epoch} is off by {value} byte-microseconds" for epoch, value in sums.items() if value != 0]
    return broken, sum(state == 2 for name, state, _ in rows)


def crash(harness, model, rounds, seed, max_tokens=24):
    rng = random.Random(seed)
    told, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        ledger = pathlib.Path(folder) / "ledger.db"
        flags = ["--ledger", str(ledger), "--ledger-sync", "normal", "--ledger-interval-seconds", str(INTERVAL), "--threads", "1"]
        start = time.monotonic()
        for number in range(rounds):
            with harness.Server(model, *flags) as server:
                more, lost = one_round(server, ledger, number, rng, max_tokens)
            told += more
            losses.append(lost)
        with harness.Server(model, *flags) as server:  # marks what the last crash left running
            server.terminate()
            server.wait()
        broken, lost_requests = check(ledger, told)
    losses.sort()
    return {"kills": rounds, "finished_and_told": len(told), "running_when_killed": lost_requests, "broken": broken[:10],
            "broken_count": len(broken), "interval_seconds": INTERVAL, "lost_seconds_median": losses[len(losses) // 2],
            "lost_longer_than_interval": sum(lost > INTERVAL for lost in losses),
            "lost_seconds_p99": losses[int(len(losses) * 0.99)], "lost_seconds_max": losses[-1],
            "wall_seconds": time.monotonic() - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=24)
    flags = parser.parse_args()
    source = pathlib.Path(__file__).resolve().parents[2]
    os.environ.setdefault("LIFT_SOURCE_DIR", str(source))
    os.environ.setdefault("LIFT_PROGRAM_DIR", str(flags.build / "bin"))
    import harness

    with tempfile.TemporaryDirectory() as stubs:
        harness.generate_stubs(stubs)
        report = crash(harness, flags.model, flags.rounds, flags.seed, flags.max_tokens)
    print(json.dumps(report, indent=2))
    return 1 if report["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
