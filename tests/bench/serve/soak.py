#!/usr/bin/env python3
"""A server at saturation with readers of every kind, its answers compared with what lift-eval says offline.

usage: soak.py BUILD_DIR MODEL [--minutes M] [--clients N] [--seed S] [--swap-seconds S] [-- SERVER FLAGS]

Every client sends random prompts, precisions, seeds and temperatures and then reads to the end, reads slowly, cancels, goes away
without a word, or has too short a deadline. Fails on a token that differs from, is missing from or appears twice against
`lift-eval generate`; on a block or request still held at the end; on memory that grows. With --swap-seconds the model is swapped
for the same file again so often, and memory is only reported: two models are resident for moments. Needs the packages of
tests/integration/requirements.txt. Prints one JSON object.
"""

import argparse
import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROMPTS = ["Once upon a time", "The capital of France is", "def add(a, b):", "A short list:\n1.", "In 1969", "She said",
           "Water boils at", "The quick brown fox"]
TOKENS = 48
# A third of the answers are constrained: the request's fields and lift-eval's flags for the same.
CONSTRAINTS = [
    ({}, []), ({}, []), ({}, []), ({}, []),
    ({"regex": "[A-Z][a-z]+( [a-z]+){2,9}\\."}, ["--regex", "[A-Z][a-z]+( [a-z]+){2,9}\\."]),
    ({"json_object": True}, ["--json-object"]),
]


def stubs(folder):
    from grpc_tools import protoc
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    files = [str(p) for p in (ROOT / "proto/liftserve").rglob("*.proto")]
    if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={folder}",
                    f"--grpc_python_out={folder}", *files]) != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, str(folder))


def offline(build, model, variants):
    """(prompt, variant, seed, temperature, index of the constraint) -> token ids."""
    answers = {}
    for index, prompt in enumerate(PROMPTS):
        for at, variant in enumerate(variants):
            temperature, seed = (0.0, 1) if index % 2 else (0.8, 7 + index)
            constraint = (index + at) % len(CONSTRAINTS)
            done = subprocess.run(
                [build / "bin/lift-eval", "generate", "--model", model, "--prompt", prompt, "--variant", variant,
                 "--max-new-tokens", str(TOKENS), "--seed", str(seed), "--temperature", str(temperature), "--json",
                 *CONSTRAINTS[constraint][1]], capture_output=True, text=True, check=True)
            answers[prompt, variant, seed, temperature, constraint] = json.loads(done.stdout)["token_ids"]
    return answers


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


class Client(threading.Thread):
    """Sends until `until`; counts in `self.counts`, complaints in `self.wrong`."""

    def __init__(self, address, answers, until, seed):
        super().__init__()
        self.address, self.answers, self.until = address, answers, until
        self.random = random.Random(seed)
        self.counts, self.wrong = collections.Counter(), []

    def run(self):
        from liftserve.v1 import generation_pb2_grpc
        channel = self.connect()
        while time.monotonic() < self.until:
            key = self.random.choice(list(self.answers))
            kind = self.random.choices(["whole", "slow", "cancel", "vanish", "deadline"], [50, 10, 15, 10, 15])[0]
            try:
                self.one(generation_pb2_grpc.GenerationServiceStub(channel), key, kind)
            except grpc.RpcError as error:
                code = error.code()
                allowed = {"cancel": {grpc.StatusCode.CANCELLED}, "deadline": {grpc.StatusCode.DEADLINE_EXCEEDED}}
                self.counts[f"{kind}:{code.name}"] += 1
                if code == grpc.StatusCode.UNAVAILABLE:
                    time.sleep(0.2)
                elif code not in allowed.get(kind, set()):
                    self.wrong.append(f"{kind} ended with {code.name}: {error.details()}")
            if kind == "vanish":
                channel.close()
                channel = self.connect()
        channel.close()

    def connect(self):
        return grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])

    def one(self, stub, key, kind):
        from liftserve.v1 import generation_pb2 as api
        prompt, variant, seed, temperature, constraint = key
        request = api.GenerateStreamRequest(
            text=prompt, sampling={"seed": seed, "temperature": temperature}, stopping={"max_new_tokens": TOKENS},
            output={"token_ids": True}, precision={"mode": "PRECISION_MODE_PINNED", "variant": variant},
            constraint=CONSTRAINTS[constraint][0])
        expected, got, finished = self.answers[key], [], False
        call = stub.GenerateStream(request, timeout=self.random.uniform(0.05, 1) if kind == "deadline" else 300)
        stop_at = self.random.randrange(TOKENS)
        try:
            for event in call:
                got += event.delta.token_ids
                finished |= event.HasField("finished")
                if kind == "slow":
                    time.sleep(self.random.uniform(0, 0.05))
                if kind == "cancel" and len(got) >= stop_at and not finished:
                    call.cancel()
                if kind == "vanish" and len(got) >= stop_at:
                    return
        finally:
            if got != expected[:len(got)]:
                self.wrong.append(f"{key}: {got} is not a beginning of {expected}")
            elif kind in ("whole", "slow") and finished and got != expected:
                self.wrong.append(f"{key}: ended after {len(got)} of {len(expected)} tokens")
            self.counts["tokens compared"] += len(got)
        self.counts[kind] += 1


class Swapper(threading.Thread):
    """Swaps the model for itself every `seconds` until `until`; the first error in `self.wrong`."""

    def __init__(self, models, seconds, until):
        super().__init__()
        self.models, self.seconds, self.until, self.swaps, self.wrong = models, seconds, until, 0, []

    def run(self):
        from liftserve.v1 import model_pb2
        while time.monotonic() + self.seconds < self.until and not self.wrong:
            time.sleep(self.seconds)
            try:
                self.models.SwapModel(model_pb2.SwapModelRequest(), timeout=300)
                self.swaps += 1
            except grpc.RpcError as error:
                self.wrong.append(f"swap {self.swaps}: {error.code().name}: {error.details()}")


def main():
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--swap-seconds", type=float, default=0)
    flags = parser.parse_args(arguments[:split])
    with tempfile.TemporaryDirectory() as folder:
        stubs(folder)
        from liftserve.v1 import model_pb2, model_pb2_grpc
        ready = pathlib.Path(folder) / "ready"
        server = subprocess.Popen([flags.build / "bin/lift-server", "--model", flags.model, "--listen", "127.0.0.1:0",
                                   "--admin", "127.0.0.1:0", "--ready-file", str(ready), *arguments[split + 1:]])
        try:
            while not ready.exists():
                if server.poll() is not None:
                    return 1
                time.sleep(0.05)
            address = ready.read_text(encoding="utf-8").split()[0]
            models = model_pb2_grpc.ModelServiceStub(grpc.insecure_channel(address))
            variants = [v.name for v in models.ListModels(model_pb2.ListModelsRequest()).models[0].variants]
            answers = offline(flags.build, flags.model, variants)
            start = time.monotonic()
            clients = [Client(address, answers, start + flags.minutes * 60, flags.seed * 1000 + i)
                       for i in range(flags.clients)]
            swapper = Swapper(models, flags.swap_seconds or flags.minutes * 60, start + flags.minutes * 60)
            for thread in [*clients, swapper]:
                thread.start()
            memory = []
            while any(client.is_alive() for client in clients):
                memory.append(rss_mib(server.pid))
                time.sleep(1)
            swapper.join()
            for _ in range(100):
                load = models.GetLoad(model_pb2.GetLoadRequest())
                if load.running == load.waiting == load.kv_blocks_used == 0:
                    break
                time.sleep(0.1)
        finally:
            server.terminate()
            code = server.wait(timeout=60)
    counts = sum((client.counts for client in clients), collections.Counter())
    wrong = [line for thread in [*clients, swapper] for line in thread.wrong]
    quarter = max(1, len(memory) // 4)  # warm-up
    growth = max(memory[-quarter:]) / max(memory[quarter:2 * quarter]) - 1 if len(memory) >= 8 else 0
    returned = load.running == load.waiting == load.kv_blocks_used == 0
    print(json.dumps({"minutes": flags.minutes, "counts": dict(counts), "wrong": wrong[:20], "wrong_count": len(wrong),
                      "swaps": swapper.swaps, "rss_mib_last": memory[-1], "rss_growth_after_warm_up": growth, "all_returned": returned,
                      "server_exit": code}, indent=2))
    return 0 if not wrong and returned and (growth <= 0.02 or swapper.swaps > 0) and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
