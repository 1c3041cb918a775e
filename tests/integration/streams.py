"""Streams that go on while something happens to the server. Import after harness.generate_stubs."""

import collections
import threading

import grpc
import harness
from google.rpc import error_details_pb2, status_pb2
from liftserve.v1 import generation_pb2 as api
from liftserve.v1 import types_pb2


def request(tokens, **precision):
    return api.GenerateStreamRequest(
        text="Prove that the square root of 2 is irrational, step by step, and compare two methods.", stopping=types_pb2.StoppingOptions(max_new_tokens=tokens, ignore_eos=True),
        output=types_pb2.OutputOptions(token_ids=True), precision=types_pb2.PrecisionOptions(**precision))


def pinned(variant):
    return {"mode": types_pb2.PRECISION_MODE_PINNED, "variant": variant}


def reason_of(error):
    info = error_details_pb2.ErrorInfo()
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return info.reason


class Streams:
    """Long answers one after the other on `count` threads; remembers each that did not end whole, and how often each came."""

    def __init__(self, stub, count, tokens):
        self.stub, self.tokens, self.stopped, self.lost, self.whole, self.moved = stub, tokens, threading.Event(), [], 0, 0
        self.answers = collections.Counter()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while not self.stopped.is_set():
            ids, finished = [], None
            try:
                for event in self.stub.GenerateStream(request(self.tokens), metadata=[("x-liftserve-tenant", f"t{number}")]):
                    ids.extend(event.delta.token_ids)
                    finished = event.finished if event.HasField("finished") else finished
            except grpc.RpcError as error:
                with self.lock:
                    self.lost.append(f"{error.code()}: {error.details()}")
                continue
            with self.lock:
                if finished is None or len(ids) != self.tokens:
                    self.lost.append(f"{len(ids)} tokens")
                    continue
                self.whole += 1
                self.answers[tuple(ids)] += 1
                self.moved += any(span.reason == types_pb2.ROUTING_REASON_MEMORY for span in finished.spans)

    def wait_for_more(self, answers):
        goal = self.whole + answers
        harness.until(f"{answers} more answers", lambda: self.whole >= goal or self.lost)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
