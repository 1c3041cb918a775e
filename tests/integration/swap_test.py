"""A real server's model is swapped while streams run: none is lost or altered, the old weights leave memory, the account stays
whole. Run by CTest through LIFT_TEST_PYTHON."""

import os
import pathlib
import shutil
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
from streams import Streams, reason_of, request  # noqa: E402

TOKENS = 200
STREAMS = 4


def make_models(folder):
    """Two lifted files of different sizes and variants in one folder."""
    for name, bits, shape in (("first", "3,6", {}), ("second", "4,5", {"hidden": 256, "intermediate": 640, "layers": 4})):
        scratch = folder / f"{name}-source"
        source = harness.make_random_checkpoint(scratch / "hf", **shape)
        harness.make_lifted_model(scratch, source, bits=bits).rename(folder / f"{name}.lift")
        shutil.rmtree(scratch)
    return folder / "first.lift", folder / "second.lift"


FIRST, SECOND = make_models(pathlib.Path(FOLDER.name))


class Swap(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.folder = pathlib.Path(self.scratch.name)
        for path in (FIRST, SECOND):
            shutil.copy(path, self.folder)
        self.first, self.second = self.folder / FIRST.name, self.folder / SECOND.name
        self.ledger = self.folder / "ledger.db"
        self.server = harness.Server(self.first, "--ledger", str(self.ledger), "--ledger-interval-seconds", "0.1", "--kv-tokens", "4096")
        self.addCleanup(self.server.__exit__)
        channel = grpc.insecure_channel(self.server.address)
        self.addCleanup(channel.close)
        self.stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)

    def serving(self):
        return self.models.ListModels(model_pb2.ListModelsRequest()).models[0]

    def swap(self, file):
        return self.models.SwapModel(model_pb2.SwapModelRequest(file=file)).model

    def refused(self, file, code, reason):
        before = self.serving()
        with self.assertRaises(grpc.RpcError) as caught:
            self.swap(file)
        self.assertEqual((caught.exception.code(), reason_of(caught.exception)), (code, reason), caught.exception.details())
        self.assertEqual(self.serving(), before)

    def answer(self):
        return tuple(t for event in self.stub.GenerateStream(request(TOKENS)) for t in event.delta.token_ids)

    def mapped(self, path):
        return harness.mapped_bytes(self.server.process.pid, path)

    def test_streams_end_at_their_model_and_new_ones_begin_at_the_new_one(self):
        old = self.answer()
        sha = self.serving().weights_sha256
        streams = Streams(self.stub, STREAMS, TOKENS)
        self.addCleanup(streams.stop)
        streams.wait_for_more(STREAMS)
        model = self.swap("second.lift")
        self.assertNotEqual(model.weights_sha256, sha)
        self.assertEqual(model, self.serving())
        new = self.answer()
        self.assertNotEqual(new, old)
        harness.until("the old weights to leave memory", lambda: self.mapped(self.first) == 0)
        self.assertGreater(self.mapped(self.second), 0.9 * model.resident_bytes)
        streams.wait_for_more(2 * STREAMS)
        self.swap("first.lift")  # and back
        streams.wait_for_more(2 * STREAMS)
        streams.stop()
        self.assertEqual(streams.lost, [])
        self.assertEqual(set(streams.answers), {old, new})  # each whole answer is one model's, none a mixture
        harness.until("the other to leave", lambda: self.mapped(self.second) == 0)
        metrics = self.server.get("/metrics")[1]
        weights = sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines()
                      if line.startswith("liftserve_memory_resident_bytes") and 'kind="weights"' in line)
        self.assertEqual(weights, self.serving().resident_bytes)
        self.server.terminate()
        self.assertEqual(self.server.wait(), 0)
        self.check_ledger(streams.whole)
        print(f"{streams.whole} answers of {TOKENS} tokens whole over two swaps, {dict(streams.answers.items()).values()}", flush=True)

    def check_ledger(self, answers):
        """Every byte-second of both models is somebody's, and each answer is in it once."""
        with sqlite3.connect(self.ledger) as db:
            (lines,), (resident,) = (db.execute(f"SELECT SUM({s}) * 1000000 + SUM({us}) FROM {table}").fetchone() for s, us, table in (
                ("weight_s + kv_s", "weight_us + kv_us", "lines"), ("byte_s", "byte_us", "residency")))
            tenants = db.execute("SELECT COUNT(*) FROM requests WHERE tenant LIKE 't%'").fetchone()[0]
        self.assertEqual(lines, resident)
        self.assertEqual(tenants, answers)

    def test_a_model_that_cannot_be_served_changes_nothing(self):
        unusable = (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE")
        self.refused("nothing.lift", *unusable)
        self.refused("ledger.db", *unusable)
        os.mkfifo(self.folder / "pipe")
        self.refused("pipe", *unusable)
        damaged = bytearray(self.second.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (self.folder / "damaged.lift").write_bytes(damaged)
        self.refused("damaged.lift", *unusable)
        for outside in ("../first.lift", "/etc/passwd", "..", "."):
            self.refused(outside, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        self.assertEqual(len(self.answer()), TOKENS)

    def test_a_file_renamed_over_the_served_one_is_taken_by_the_client_program(self):
        old = self.serving()
        shutil.copy(self.second, self.folder / "incoming")
        (self.folder / "incoming").rename(self.first)
        self.assertEqual(self.serving(), old)
        done = self.server.client_json("swap")
        self.assertNotEqual(done["model"]["weightsSha256"], old.weights_sha256)
        self.assertEqual(len(self.answer()), TOKENS)
        self.assertEqual(self.server.client("swap", "--file", "nothing.lift").returncode, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
