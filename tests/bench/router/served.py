#!/usr/bin/env python3
"""Routing on a real server: what it gains in speed, and what it does under overload.

    served.py BUILD MODEL PROMPTS speed --route quality:0.01 [--rounds 3]
    served.py BUILD MODEL PROMPTS overload [--seconds 120] [--factor 3] [--plot FILE.svg]

MODEL is a lifted file with a trained router (lift-calibrate router), PROMPTS JSON lines (make_prompts.py). Needs
tests/integration/requirements.txt.

speed: simple and complex prompts half and half, a few at a time; tokens per second of a server that serves everything
at its finest variant, and of one that routes, in alternating rounds. Prompts are the same in every round.
overload: open loop. First at half of what the finest variant serves, then at FACTOR times as much for a third of the
time, then at half again; some requests ask for a floor. Prints mean precision and refusals over the time of the decision.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIMPLE, COMPLEX = ("facts", "chat", "lists", "instructions"), ("code", "reasoning", "maths", "long")


def load_prompts(path, kinds):
    with open(path, encoding="utf-8") as lines:
        prompts = [json.loads(line) for line in lines]
    return [p for p in prompts if p["kind"] in kinds and "prompt" in p]


class Client:
    """Streams answers and notes what served them."""

    def __init__(self, server, tokens):
        import grpc
        from liftserve.v1 import generation_pb2, generation_pb2_grpc

        self.api, self.grpc, self.tokens = generation_pb2, grpc, tokens
        self.stub = generation_pb2_grpc.GenerationServiceStub(grpc.insecure_channel(server.address))

    def ask(self, prompt, **precision):
        """(tokens, lambda, variant, seconds to the first token), or the status code of a refusal."""
        request = self.api.ChatStreamRequest(messages=[{"role": "user", "content": prompt["prompt"]}],
                                             stopping={"max_new_tokens": self.tokens, "ignore_eos": True}, precision=precision)
        began, first, served, tokens = time.monotonic(), None, None, 0
        try:
            for event in self.stub.ChatStream(request):
                if event.HasField("started"):
                    served, first = event.started.served_by, time.monotonic() - began
                if event.HasField("finished"):
                    tokens = event.finished.usage.generated_tokens
        except self.grpc.RpcError as error:
            return error.code().name
        return tokens, getattr(served, "lambda"), served.variant, first


def throughput(harness, model, route, prompts, clients, tokens, *flags, floor=0):
    with harness.Server(model, "--route", route, *flags) as server:
        client, todo, lock, done = Client(server, tokens), list(prompts), threading.Lock(), []
        client.ask(prompts[0])

        def work():
            while True:
                with lock:
                    if not todo:
                        return
                    prompt = todo.pop()
                asked = {"min_lambda": floor} if floor and prompt["kind"] in COMPLEX else {}
                answer = client.ask(prompt, **asked)
                with lock:
                    done.append((prompt["kind"], answer))

        threads = [threading.Thread(target=work) for _ in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    variants = collections.Counter((("complex" if kind in COMPLEX else "simple"), answer[2]) for kind, answer in done)
    return sum(answer[0] for _, answer in done) / seconds, variants


def speed(args, harness):
    rng = random.Random(args.seed)
    half = args.requests // 2
    prompts = rng.sample(load_prompts(args.prompts, SIMPLE), half) + rng.sample(load_prompts(args.prompts, COMPLEX), half)
    rng.shuffle(prompts)
    finest = harness.run_json(harness.program("lift-calibrate"), "plan", "--file", args.model, "--json")["variants"][-1]["name"]
    ratios = []
    for round_ in range(args.rounds):
        fixed, _ = throughput(harness, args.model, f"fixed:{finest}", prompts, args.clients, args.tokens)
        routed, variants = throughput(harness, args.model, args.route, prompts, args.clients, args.tokens,
                                      "--speculate", str(args.speculate), floor=args.complex_floor)
        ratios.append(routed / fixed)
        print(f"round {round_ + 1}: finest ({finest}) {fixed:.1f} tokens/s, {args.route} {routed:.1f}: {ratios[-1]:.3f}x", flush=True)
    for (group, variant), count in sorted(variants.items()):
        print(f"  {group:8} {variant:8} {count}")
    print(json.dumps({"route": args.route, "clients": args.clients, "requests": len(prompts), "ratios": ratios, "median": statistics.median(ratios)}))


def overload(args, harness):
    prompts = load_prompts(args.prompts, SIMPLE + COMPLEX)
    finest = harness.run_json(harness.program("lift-calibrate"), "plan", "--file", args.model, "--json")["variants"][-1]["name"]
    rng = random.Random(args.seed)
    fixed, _ = throughput(harness, args.model, f"fixed:{finest}", rng.sample(prompts, 48), 16, args.tokens)
    capacity = fixed / args.tokens
    print(f"the finest variant serves {capacity:.2f} requests/s of {args.tokens} tokens", flush=True)
    events, lock = [], threading.Lock()
    with harness.Server(args.model, "--route", args.route, "--max-queue", str(args.queue)) as server:
        client = Client(server, args.tokens)
        began = time.monotonic()

        def one(prompt, floor):
            at = time.monotonic() - began
            answer = client.ask(prompt, **({"min_lambda": floor} if floor else {}))
            with lock:
                events.append((at, floor, answer))

        threads = []
        while (at := time.monotonic() - began) < args.seconds:
            rate = capacity * (args.factor if args.seconds / 6 <= at < args.seconds / 2 else 0.5)
            threads.append(threading.Thread(target=one, args=(rng.choice(prompts), args.floor if rng.random() < 0.2 else 0)))
            threads[-1].start()
            time.sleep(rng.expovariate(rate))
        for thread in threads:
            thread.join()
    report_overload(args, events)


def report_overload(args, events):
    broken, points = 0, []
    print(f"{'seconds':>9} {'requests':>9} {'lambda':>8} {'floored':>8} {'TTFT':>7} {'refused':>8}")
    width = args.seconds / 24
    decided = lambda event: event[0] + (0 if isinstance(event[2], str) else event[2][3])  # noqa: E731  when precision was chosen
    for i in range(24):
        part = [e for e in events if i * width <= decided(e) < (i + 1) * width]
        served = [e for e in part if not isinstance(e[2], str)]
        broken += sum(floor > 0 and answer[1] < floor for _, floor, answer in served)
        free, floored = [e[2][1] for e in served if not e[1]], [e[2][1] for e in served if e[1]]
        mean = lambda values: statistics.fmean(values) if values else float("nan")  # noqa: E731
        points.append(((i + 0.5) * width, mean(free)))
        print(f"{(i + 0.5) * width:9.1f} {len(part):9} {mean(free):8.3f} {mean(floored):8.3f} {mean([e[2][3] for e in served]):7.2f} {len(part) - len(served):8}")
    print(json.dumps({"requests": len(events), "floors_broken": broken, "lambda_by_time": points}))
    if args.plot:
        plot(args.plot, points, args)


def plot(path, points, args):
    line = " ".join(f"{60 + 700 * t / args.seconds:.1f},{340 - 300 * v:.1f}" for t, v in points if v == v)
    begin, end = 60 + 700 / 6, 60 + 700 / 2
    pathlib.Path(path).write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='800' height='380' font-family='sans-serif' font-size='13'>"
        "<rect width='800' height='380' fill='white'/>"
        f"<rect x='{begin:.0f}' y='40' width='{end - begin:.0f}' height='300' fill='#fee'/><text x='{begin + 6:.0f}' y='56'>{args.factor:g}x overload</text>"
        f"<text x='60' y='28'>mean lambda of requests without a floor, when it was chosen; {args.seconds:g} s</text>"
        + "".join(f"<line x1='60' x2='760' y1='{340 - 300 * v:.0f}' y2='{340 - 300 * v:.0f}' stroke='#ddd'/><text x='30' y='{344 - 300 * v:.0f}'>{v}</text>"
                  for v in (0, 0.25, 0.5, 0.75, 1))
        + f"<polyline points='{line}' fill='none' stroke='#d62728' stroke-width='2'/></svg>\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("what", choices=("speed", "overload"))
    parser.add_argument("--route", default="balanced")
    parser.add_argument("--speculate", type=int, default=0, help="tokens that the routing server may guess ahead")
    parser.add_argument("--complex-floor", type=float, default=0, help="speed: min_lambda of the complex prompts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=80, help="of a round")
    parser.add_argument("--clients", type=int, default=1, help="requests at a time")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--factor", type=float, default=3)
    parser.add_argument("--floor", type=float, default=0.6, help="min_lambda of a fifth of the requests")
    parser.add_argument("--queue", type=int, default=32, help="--max-queue of the overloaded server")
    parser.add_argument("--plot")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.environ["LIFT_SOURCE_DIR"], os.environ["LIFT_PROGRAM_DIR"] = str(ROOT), str(args.build.resolve() / "bin")
    sys.path.insert(0, str(ROOT / "tests/integration"))
    import harness

    with tempfile.TemporaryDirectory() as stubs:
        harness.generate_stubs(stubs)
        (speed if args.what == "speed" else overload)(args, harness)


if __name__ == "__main__":
    main()
