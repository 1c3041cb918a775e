#!/usr/bin/env python3
"""What a server does when things go wrong, compared with what is documented.

usage: faults.py BUILD_DIR MODEL

Kills it in the middle of streams and starts it again; gives it damaged files; a state pool that is too small; a tenant that floods it,
with and without quotas; fills the disk of its ledger and its log (a small tmpfs of its own, so run as root); sets its clock a day
forth and back (libfaketime, fetched as a Debian package and not installed if it is not there). Tokens of the requests that are served are compared with
`lift-eval generate`. Needs the packages of tests/integration/requirements.txt. Prints a table on standard error and one JSON object;
exits 1 if anything is not as documented. A fault that the machine cannot be given is reported as skipped.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
from soak import PROMPTS, stubs

TOKENS = 40


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def faketime(folder):
    """The library that shifts a program's clock: the installed one, or out of its Debian package (which is not installed)."""
    pattern = "usr/lib/*/faketime/libfaketimeMT.so.1"
    installed = glob.glob("/" + pattern)
    if installed:
        return installed[0]
    subprocess.run(["apt-get", "download", "libfaketime"], cwd=folder, capture_output=True, check=False)
    for package in glob.glob(f"{folder}/libfaketime*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, check=False)
    unpacked = glob.glob(f"{folder}/{pattern}")
    return unpacked[0] if unpacked else None


class Server:
    def __init__(self, build, model, folder, *flags, port=0, before=(), env=None):
        """before: a command that ends by running the server in its own place."""
        self.ready = pathlib.Path(folder) / f"ready{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [*before, build / "bin/lift-server", "--model", model, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
             "--ready-file", str(self.ready), *flags], stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})

    def wait_ready(self):
        while not self.ready.exists():
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stderr.read())
            time.sleep(0.02)
        address, self.admin = self.ready.read_text(encoding="utf-8").split()[:2]
        return address

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        raise RuntimeError(f"no metric {name}")

    def wait_for(self, name, value, seconds=60):
        """Whether the metric came to have that value."""
        until = time.monotonic() + seconds
        while self.metric(name) != value:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def __enter__(self):
        self.address = self.wait_ready()
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)


class Faults:
    def __init__(self, build, model, folder):
        self.build, self.model, self.folder = build, model, pathlib.Path(folder)
        self.report, self.wrong = {}, []
        self.expected = {}

    def check(self, fine, what):
        if not fine:
            self.wrong.append(what)

    def offline(self, prompt, tokens=TOKENS):
        if (prompt, tokens) not in self.expected:
            done = subprocess.run([self.build / "bin/lift-eval", "generate", "--model", self.model, "--prompt", prompt,
                                   "--max-new-tokens", str(tokens), "--ignore-eos", "--json"], capture_output=True,
                                  text=True, check=True)
            self.expected[prompt, tokens] = json.loads(done.stdout)["token_ids"]
        return self.expected[prompt, tokens]

    def ask(self, address, prompt, tokens=TOKENS, tenant="", key="", on_event=None, timeout=300):
        """(token ids, seconds, error code name or OK, reason)."""
        from liftserve.v1 import generation_pb2 as api
        from liftserve.v1 import generation_pb2_grpc
        metadata = [("x-liftserve-tenant", tenant)] if tenant else []
        metadata += [("authorization", f"Bearer {key}")] if key else []
        ids, start = [], time.monotonic()
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = api.GenerateStreamRequest(
                text=prompt, stopping={"max_new_tokens": tokens, "ignore_eos": True}, output={"token_ids": True},
                precision={"mode": "PRECISION_MODE_PINNED", "variant": self.finest})
            try:
                for event in generation_pb2_grpc.GenerationServiceStub(channel).GenerateStream(
                        request, metadata=metadata, timeout=timeout):
                    ids += event.delta.token_ids
                    if on_event:
                        on_event()
            except grpc.RpcError as error:
                return ids, time.monotonic() - start, error.code().name, error.details()
        return ids, time.monotonic() - start, "OK", ""

    def find_finest(self, address):
        from liftserve.v1 import model_pb2, model_pb2_grpc
        with grpc.insecure_channel(address) as channel:
            models = model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest()).models
        self.finest = models[0].variants[-1].name

    def kill_and_restart(self):
        port = free_port()
        first = Server(self.build, self.model, self.folder, port=port)
        address = first.wait_ready()
        self.find_finest(address)
        begun = threading.Semaphore(0)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(self.ask, address, p, 200, on_event=begun.release) for p in PROMPTS[:4]]
            for _ in range(8):
                begun.acquire()
            first.process.send_signal(signal.SIGKILL)
            ends = [call.result() for call in calls]
        first.process.wait()
        self.check(all(end[2] == "UNAVAILABLE" for end in ends), f"killed: streams ended with {[e[2] for e in ends]}")
        for prompt, end in zip(PROMPTS, ends):
            self.check(end[0] == self.offline(prompt, 200)[:len(end[0])], f"killed: wrong tokens for {prompt}")
        start = time.monotonic()
        with Server(self.build, self.model, self.folder, port=port) as second:
            ready = time.monotonic() - start
            ids, _, code, _ = self.ask(second.address, PROMPTS[0])
            self.check(code == "OK" and ids == self.offline(PROMPTS[0]), f"after the restart: {code}")
        self.report["kill_and_restart"] = {"streams": [e[2] for e in ends], "ready_seconds": round(ready, 2)}

    def damaged_files(self):
        size = pathlib.Path(self.model).stat().st_size
        damages = {"header": (64, 8), "middle": (size // 2, 1), "end": (size - 4096, 1), "truncated": (size // 3, 0)}
        seen = {}
        for name, (offset, count) in damages.items():
            path = self.folder / f"{name}.lift"
            shutil.copyfile(self.model, path)
            with open(path, "r+b") as file:
                if count == 0:
                    file.truncate(offset)
                else:
                    file.seek(offset)
                    old = file.read(count)
                    file.seek(offset)
                    file.write(bytes(b ^ 0x5A for b in old))
            server = Server(self.build, path, self.folder)
            try:
                server.wait_ready()
                seen[name] = "served"
                server.__exit__()
            except RuntimeError as error:
                lines = str(error).strip().splitlines()
                seen[name] = f"exit {server.process.returncode}: {lines[-1] if lines else ''}"
            self.check(seen[name].startswith("exit 2: "), f"damaged file ({name}): {seen[name]}")
            path.unlink()
        self.report["damaged_files"] = seen

    def full_disk(self):
        """Ledger and request log on a disk of 2 MiB that is filled up and emptied again while streams go on."""
        disk = self.folder / "disk"
        disk.mkdir()
        shell = f"mount -t tmpfs -o size=2m tmpfs {disk} && exec \"$@\""
        before = ("unshare", "--mount", "sh", "-c", shell, "sh")
        if os.geteuid() != 0 or subprocess.run([*before, "true"], check=False, capture_output=True).returncode != 0:
            self.report["full_disk"] = "skipped: no right to mount a disk"
            return
        with Server(self.build, self.model, self.folder, "--ledger", str(disk / "ledger.db"), "--ledger-interval-seconds", "0.1",
                    "--request-log", str(disk / "log"), before=before) as server:
            seen = pathlib.Path(f"/proc/{server.process.pid}/root{disk}")  # the disk as the server has it
            answers = [self.ask(server.address, PROMPTS[0], tenant="acme")]
            filled = self.fill(seen / "ballast")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers += pool.map(lambda p: self.ask(server.address, p, tenant="acme"), PROMPTS[:4] * 2)
            # What SQLite had room for in its own files may take the first rows.
            unhealthy = server.wait_for("liftserve_ledger_healthy", 0)
            self.check(unhealthy, "full disk: the ledger calls itself healthy")
            answers.append(self.ask(server.address, PROMPTS[0], tenant="acme"))
            (seen / "ballast").unlink()
            self.check(server.wait_for("liftserve_ledger_healthy", 1), "full disk: the ledger did not recover")
            self.check(server.wait_for("liftserve_ledger_unwritten_requests", 0), "full disk: rows were not caught up with")
            answers.append(self.ask(server.address, PROMPTS[0], tenant="acme"))
            usage = subprocess.run([self.build / "bin/lift-client", "--server", server.address, "--json", "usage", "--of-tenant",
                                    "acme"], capture_output=True, text=True, check=True)
            rows = sum(int(entry["requests"]) for entry in json.loads(usage.stdout)["entries"])
        prompts = [PROMPTS[0], *PROMPTS[:4] * 2, PROMPTS[0], PROMPTS[0]]
        for prompt, (ids, _, code, _) in zip(prompts, answers):
            self.check(code == "OK" and ids == self.offline(prompt), f"full disk: {code} for {prompt}")
        self.check(rows == len(answers), f"full disk: {rows} rows of {len(answers)} requests")
        self.report["full_disk"] = {"filled_bytes": filled, "answers": len(answers), "ledger_rows_afterwards": rows}

    @staticmethod
    def fill(path):
        written = 0
        with open(path, "wb", buffering=0) as ballast:
            try:
                while True:
                    written += ballast.write(bytes(512))
            except OSError:
                return written

    def clock_jump(self):
        """The wall clock of the server alone moves a day forth, then two days back, under streams with deadlines."""
        library = faketime(self.folder)
        if library is None:
            self.report["clock_jump"] = "skipped: no libfaketime, and no package source to take it from"
            return
        shift = self.folder / "shift"
        shift.write_text("+0", encoding="utf-8")
        env = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(shift), "FAKETIME_NO_CACHE": "1",
               "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
        ledger, jumps, seconds = self.folder / "clock.db", [], {}
        with Server(self.build, self.model, self.folder, "--ledger", str(ledger), env=env) as server:
            for to in ("+1d", "-1d", "+0"):
                begun = threading.Semaphore(0)
                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    calls = [pool.submit(self.ask, server.address, p, 120, on_event=begun.release, timeout=120)
                             for p in PROMPTS[:4]]
                    for _ in range(4):
                        begun.acquire()
                    # Renamed into place: the server must never read half of it.
                    (self.folder / "next").write_text(to, encoding="utf-8")
                    (self.folder / "next").replace(shift)
                    answers = [call.result() for call in calls]
                answers.append(self.ask(server.address, PROMPTS[4], 120, timeout=120))
                for prompt, (ids, _, code, _) in zip(PROMPTS, answers):
                    self.check(code == "OK" and ids == self.offline(prompt, 120), f"clock {to}: {code} for {prompt}")
                jumps += [code for _, _, code, _ in answers]
                seconds[to] = round(max(a[1] for a in answers), 2)
            healthy = server.metric("liftserve_ledger_healthy")
        with sqlite3.connect(ledger) as db:
            days = db.execute("SELECT MIN(started_us), MAX(started_us) FROM requests WHERE tenant = 'default'").fetchone()
            charged = db.execute("SELECT SUM((weight_s + kv_s) * 1000000 + weight_us + kv_us) FROM lines").fetchone()[0]
            resident = db.execute("SELECT SUM(byte_s * 1000000 + byte_us) FROM residency").fetchone()[0]
        self.check(days[1] - days[0] > 1.9 * 86400e6, f"clock: the ledger's own times span {(days[1] - days[0]) / 86400e6:.2f} days")
        self.check(charged == resident, f"clock: charges of {charged} byte-us, {resident} were resident")
        self.check(healthy == 1, "clock: the ledger is unhealthy")
        self.report["clock_jump"] = {"streams": {c: jumps.count(c) for c in set(jumps)}, "slowest_seconds": seconds,
                                     "charges_equal_resident_bytes_x_time": charged == resident}

    def small_pool(self, *flags):
        with Server(self.build, self.model, self.folder, "--kv-tokens", "256", *flags) as server:
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda p: self.ask(server.address, p, 100), PROMPTS[:6] * 2))
            for prompt, (ids, _, code, _) in zip(PROMPTS[:6] * 2, answers):
                self.check(code == "OK" and ids == self.offline(prompt, 100), f"small pool: {code} for {prompt}")
            _, _, code, details = self.ask(server.address, "x", 300)
            self.check(code == "INVALID_ARGUMENT", f"a request larger than the pool: {code}")
            swapped, again = (server.metric('liftserve_preemptions_total{state="%s"}' % state)
                              for state in ("swapped", "computed_again"))
        self.check(swapped + again > 0, "small pool: nobody was preempted")
        self.report["small_pool" + "".join(flags)] = {"answers": len(answers), "too_large": f"{code}: {details}",
                                                      "swapped": swapped, "computed_again": again}

    def flood(self, quota):
        keys, flags = {"flood": "", "other": ""}, ["--max-queue", "40", "--max-batch", "8"]
        if quota:
            path = self.folder / "keys.json"
            for tenant in keys:
                keys[tenant] = subprocess.run([self.build / "bin/lift-key", "--file", path, "--tenant", tenant],
                                              capture_output=True, text=True, check=True).stdout.strip()
            document = json.loads(path.read_text(encoding="utf-8"))
            document["quotas"] = {"flood": {"max_concurrent": 4}}
            path.write_text(json.dumps(document), encoding="utf-8")
            flags += ["--auth-keys", str(path)]
        with Server(self.build, self.model, self.folder, *flags) as server:
            def other():
                return self.ask(server.address, PROMPTS[1], tenant="other", key=keys["other"])
            alone = statistics.median(other()[1] for _ in range(5))
            until, codes, lock = time.monotonic() + 15, {}, threading.Lock()

            def flooding():
                while time.monotonic() < until:
                    _, _, code, details = self.ask(server.address, PROMPTS[0], tenant="flood", key=keys["flood"])
                    with lock:
                        name = code if code == "OK" else f"{code} {details.split(':')[0][:30]}"
                        codes[name] = codes.get(name, 0) + 1
                    if code != "OK":
                        time.sleep(0.05)
            threads = [threading.Thread(target=flooding) for _ in range(64)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            times, refused = [], 0
            while time.monotonic() < until:
                ids, seconds, code, _ = other()
                if code == "OK":
                    times.append(seconds)
                    self.check(ids == self.offline(PROMPTS[1]), "flood: the other tenant got wrong tokens")
                else:
                    refused += 1
                    self.check(not quota and code == "UNAVAILABLE", f"flood: the other tenant got {code}")
            for thread in threads:
                thread.join()
        allowed = "RESOURCE_EXHAUSTED" if quota else "UNAVAILABLE"
        self.check(all(name == "OK" or name.startswith(allowed) for name in codes), f"flood: {codes}")
        self.check(len(times) > 0, "flood: the other tenant was never answered")
        self.report["flood_with_quota" if quota else "flood"] = {
            "flooding_tenant": codes, "other_answered": len(times), "other_refused": refused,
            "other_median_over_alone": round(statistics.median(times) / alone, 2) if times else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stubs(folder)
        faults = Faults(flags.build, flags.model, folder)
        for name, step in (("kill -9 and restart", faults.kill_and_restart), ("full disk", faults.full_disk),
                           ("clock jump", faults.clock_jump), ("damaged file", faults.damaged_files),
                           ("state pool too small", faults.small_pool),
                           ("the same, with swap", lambda: faults.small_pool("--swap-mb", "64")), ("flood", lambda: faults.flood(quota=False)),
                           ("flood, with quota", lambda: faults.flood(quota=True))):
            known = len(faults.wrong)
            step()
            seen = list(faults.report.values())[-1]
            verdict = "skipped" if isinstance(seen, str) else "as documented" if len(faults.wrong) == known else "WRONG"
            print(f"{name:<22}{verdict:<15}{json.dumps(seen)}", *faults.wrong[known:], sep="\n    ", file=sys.stderr, flush=True)
    print(json.dumps({**faults.report, "wrong": faults.wrong[:20]}, indent=2))
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
