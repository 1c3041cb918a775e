#!/usr/bin/env python3
"""What a server does when things go wrong, compared with what is documented.

usage: faults.py BUILD_DIR MODEL

Kills it in the middle of streams and starts it again; gives it damaged files; a state pool that is too small; a tenant that floods it,
with and without quotas. Tokens of the requests that are served are compared with `lift-eval generate`. Needs the packages of
tests/integration/requirements.txt. Prints one JSON object; exits 1 if anything is not as documented.
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from soak import PROMPTS, stubs

TOKENS = 40


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, build, model, folder, *flags, port=0):
        self.ready = pathlib.Path(folder) / f"ready{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [build / "bin/lift-server", "--model", model, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
             "--ready-file", str(self.ready), *flags], stderr=subprocess.PIPE, text=True)

    def wait_ready(self):
        while not self.ready.exists():
            if self.process.poll() is not None:
                raise RuntimeError(self.process.stderr.read())
            time.sleep(0.02)
        return self.ready.read_text(encoding="utf-8").split()[0]

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

    def small_pool(self):
        with Server(self.build, self.model, self.folder, "--kv-tokens", "256") as server:
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda p: self.ask(server.address, p, 100), PROMPTS[:6] * 2))
            for prompt, (ids, _, code, _) in zip(PROMPTS[:6] * 2, answers):
                self.check(code == "OK" and ids == self.offline(prompt, 100), f"small pool: {code} for {prompt}")
            _, _, code, details = self.ask(server.address, "x", 300)
            self.check(code == "INVALID_ARGUMENT", f"a request larger than the pool: {code}")
        self.report["small_pool"] = {"answers": len(answers), "too_large": f"{code}: {details}"}

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
        for step in (faults.kill_and_restart, faults.damaged_files, faults.small_pool,
                     lambda: faults.flood(quota=False), lambda: faults.flood(quota=True)):
            step()
            print(list(faults.report.items())[-1], faults.wrong, file=sys.stderr, flush=True)
    print(json.dumps({**faults.report, "wrong": faults.wrong[:20]}, indent=2))
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
