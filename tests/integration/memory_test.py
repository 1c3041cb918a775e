"""The memory budget of a real server, changed over gRPC while streams run: resident memory, streams, floors and the bill.
Run by CTest through LIFT_TEST_PYTHON."""

import os
import pathlib
import re
import sqlite3
import sys
import tempfile
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)

import grpc  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc  # noqa: E402
from streams import Streams, pinned, reason_of, request  # noqa: E402

MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name), harness.make_random_checkpoint(pathlib.Path(FOLDER.name) / "hf"),
                                  bits="3,6")
TOKENS = 300
STREAMS = 4


def charged(ledger):
    """Byte-microseconds of weights and of state so far, of one commit."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as db:
        sums = db.execute("SELECT SUM(weight_s), SUM(weight_us), SUM(kv_s), SUM(kv_us) FROM lines").fetchone()
    return sums[0] * 10**6 + sums[1], sums[2] * 10**6 + sums[3]


def billed_weights(ledger, state_bytes):
    """Bytes of weights that the ledger charges from now on. The state's size never changes, so what is charged for it is the
    clock: nothing here depends on when it is looked at."""
    def next_commit():
        last = charged(ledger)
        return harness.until("the next commit", lambda: (now := charged(ledger)) != last and now)

    next_commit()  # may hold charges of before this call alone
    weights, state = next_commit()
    weights_later, state_later = next_commit()
    return (weights_later - weights) * state_bytes / (state_later - state)


class Budget(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.ledger = pathlib.Path(self.scratch.name) / "ledger.db"
        self.server = harness.Server(MODEL, "--ledger", str(self.ledger), "--ledger-interval-seconds", "0.1", "--kv-tokens", "2048",
                                     "--verify", "start")
        self.addCleanup(self.server.__exit__)
        channel = grpc.insecure_channel(self.server.address)
        self.addCleanup(channel.close)
        self.stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        variants = self.models.ListModels(model_pb2.ListModelsRequest()).models[0].variants
        self.names = [v.name for v in variants]
        self.lambdas = [getattr(v, "lambda") for v in variants]
        self.sums = [sum(v.incremental_bytes for v in variants[:i + 1]) for i in range(len(variants))]

    def set_budget(self, weight_bytes):
        return self.models.SetMemoryBudget(model_pb2.SetMemoryBudgetRequest(weight_bytes=weight_bytes))

    def refused(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        return reason_of(caught.exception)

    def answer(self, **precision):
        return [t for event in self.stub.GenerateStream(request(40, **precision)) for t in event.delta.token_ids]

    def test_memory_and_bill_fall_under_load_and_no_stream_is_lost(self):
        coarse, fine = self.sums[0], self.sums[-1]
        before = self.answer(**pinned(self.names[-1]))
        streams = Streams(self.stub, STREAMS, TOKENS)
        self.addCleanup(streams.stop)
        streams.wait_for_more(STREAMS)
        pid = self.server.process.pid
        mapped = lambda: harness.mapped_bytes(pid, MODEL)  # noqa: E731
        state = float(re.search(r'liftserve_memory_resident_bytes{kind="state"[^}]*} (\S+)', self.server.get("/metrics")[1])[1])
        mapped_fine = mapped()
        self.assertGreater(mapped_fine, 0.95 * fine)
        self.assertAlmostEqual(billed_weights(self.ledger, state) / fine, 1, delta=1e-6)

        change = self.set_budget(coarse)
        self.assertEqual((list(change.resident_variants), change.resident_bytes), (self.names[:1], coarse))
        self.assertAlmostEqual(billed_weights(self.ledger, state) / coarse, 1, delta=1e-6)
        # Pages that hold an edge of what stays cannot go.
        fallen = lambda: mapped_fine - mapped()  # noqa: E731
        harness.until("the planes to leave memory", lambda: fallen() >= 0.97 * (fine - coarse))
        self.assertLess(fallen(), 1.03 * (fine - coarse))
        self.assertRegex(self.server.get("/metrics")[1], rf'liftserve_memory_resident_bytes{{[^}}]*"{self.names[-1]}"[^}}]*}} 0\n')
        streams.wait_for_more(2 * STREAMS)

        change = self.set_budget(fine)
        self.assertEqual((list(change.resident_variants), change.resident_bytes), (self.names, fine))
        streams.wait_for_more(2 * STREAMS)
        self.assertEqual(self.answer(**pinned(self.names[-1])), before)
        streams.stop()
        self.assertEqual(streams.lost, [])
        self.server.terminate()
        self.assertEqual(self.server.wait(), 0)
        with sqlite3.connect(self.ledger) as db:
            (lines,), (resident,) = (db.execute(f"SELECT SUM({s}) * 1000000 + SUM({us}) FROM {table}").fetchone() for s, us, table in (
                ("weight_s + kv_s", "weight_us + kv_us", "lines"), ("byte_s", "byte_us", "residency")))
        self.assertEqual(lines, resident)
        print(f"{streams.whole} answers of {TOKENS} tokens whole, {streams.moved} moved, {fine - coarse} bytes left and returned", flush=True)

    def test_floors_and_pins_are_kept_or_the_change_is_refused(self):
        finest = self.lambdas[-1]
        for precision in ({"min_lambda": finest}, pinned(self.names[-1])):
            stream = self.stub.GenerateStream(request(1900, **precision))
            next(event for event in stream if event.delta.token_ids)
            self.assertEqual(self.refused(lambda: self.set_budget(self.sums[0])), "PRECISION_IN_USE")
            self.assertEqual(self.set_budget(self.sums[-1]).resident_bytes, self.sums[-1])  # nothing had changed
            stream.cancel()
            harness.until("the cancelled stream to be gone", lambda: self.models.GetLoad(model_pb2.GetLoadRequest()).running == 0)
        self.assertEqual(self.refused(lambda: self.set_budget(self.sums[0] - 1)), "BUDGET_TOO_SMALL")
        self.set_budget(self.sums[0])
        self.assertEqual(self.refused(lambda: self.answer(min_lambda=finest)), "PRECISION_FLOOR_UNAVAILABLE")
        self.assertEqual(len(self.answer(min_lambda=self.lambdas[0])), 40)
        self.set_budget(self.sums[-1])
        self.assertEqual(len(self.answer(min_lambda=finest)), 40)


if __name__ == "__main__":
    unittest.main(verbosity=2)
