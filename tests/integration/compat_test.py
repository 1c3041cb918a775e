"""Stock Python clients of the other protocols against the real server: same tokens as liftserve.v1, on the wire as their owners say."""

import os
import pathlib
import socket
import sys
import tempfile
import threading
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)

import grpc  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase)
from inference import grpc_predict_v2_pb2 as oip  # noqa: E402
from inference import grpc_predict_v2_pb2_grpc as oip_grpc  # noqa: E402
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc  # noqa: E402
from vllm.grpc import vllm_engine_pb2 as vllm  # noqa: E402
from vllm.grpc import vllm_engine_pb2_grpc as vllm_grpc  # noqa: E402

PROMPT, TOKENS = "npm install the package", 12


class CountingProxy:
    """Forwards connections to `target` and counts the bytes that come back."""

    def __init__(self, target):
        self.target, self.received, self.data = target, 0, bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=self.pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, True), daemon=True).start()

    def pump(self, source, sink, counts):
        try:
            while data := source.recv(65536):
                if counts:
                    self.received += len(data)
                    self.data += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Compat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(harness.TINY)
        cls.server.__enter__()
        cls.channel = grpc.insecure_channel(cls.server.address)
        answer = generation_pb2_grpc.GenerationServiceStub(cls.channel).Generate(api.GenerateRequest(
            text=PROMPT, stopping={"max_new_tokens": TOKENS, "ignore_eos": True}, output={"token_ids": True}), timeout=60)
        cls.text, cls.ids, cls.variant = answer.text, list(answer.token_ids), answer.served_by.variant

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.__exit__()

    def infer(self, **more):
        request = oip.ModelInferRequest(inputs=[{"name": "text_input", "datatype": "BYTES", "shape": [1],
                                                 "contents": {"bytes_contents": [PROMPT.encode()]}}], **more)
        request.parameters["max_tokens"].int64_param = TOKENS
        request.parameters["ignore_eos"].bool_param = True
        return request

    def test_reflection_lists_every_service(self):
        names = set(ProtoReflectionDescriptorDatabase(self.channel).get_services())
        self.assertLessEqual({"liftserve.v1.GenerationService", "liftserve.v1.ModelService", "liftserve.v1.UsageService",
                              "inference.GRPCInferenceService", "vllm.grpc.engine.VllmEngine", "grpc.health.v1.Health"},
                             names)

    def test_open_inference_protocol(self):
        stub = oip_grpc.GRPCInferenceServiceStub(self.channel)
        self.assertTrue(stub.ServerReady(oip.ServerReadyRequest(), timeout=20).ready)
        answer = stub.ModelInfer(self.infer(outputs=[{"name": "text_output"}, {"name": "token_ids"}]), timeout=60)
        self.assertEqual(answer.outputs[0].contents.bytes_contents[0].decode(), self.text)
        self.assertEqual(list(answer.outputs[1].contents.int_contents), self.ids)
        self.assertEqual(answer.model_version, self.variant)
        stream_input = {"name": "stream", "datatype": "BOOL", "shape": [1], "contents": {"bool_contents": [True]}}
        request = self.infer(id="a")
        request.inputs.add(**stream_input)
        wrong = self.infer(id="b", model_version="nonesuch")
        pieces, errors = "", []
        for response in stub.ModelStreamInfer(iter([request, wrong]), timeout=60):
            if response.error_message:
                errors.append((response.infer_response.id, response.error_message))
            else:
                pieces += response.infer_response.outputs[0].contents.bytes_contents[0].decode()
        self.assertEqual(pieces, self.text)
        self.assertEqual([name for name, _ in errors], ["b"])
        self.assertIn("NOT_FOUND", errors[0][1])

    def test_vllm(self):
        stub = vllm_grpc.VllmEngineStub(self.channel)
        self.assertTrue(stub.HealthCheck(vllm.HealthCheckRequest(), timeout=20).healthy)
        params = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
        chunks, complete = [], None
        for response in stub.Generate(vllm.GenerateRequest(text=PROMPT, stream=True, sampling_params=params), timeout=60):
            chunks += response.chunk.token_ids
            complete = response.complete if response.HasField("complete") else complete
        self.assertEqual(chunks, self.ids)
        self.assertEqual(list(complete.output_ids), self.ids)
        self.assertEqual(complete.finish_reason, "length")
        answer = list(stub.Generate(vllm.GenerateRequest(
            text=PROMPT, sampling_params={"temperature": 0, "max_tokens": TOKENS, "regex": "a+"}), timeout=60))[-1]
        self.assertGreater(answer.complete.completion_tokens, 0)
        with self.assertRaises(grpc.RpcError) as refused:
            list(stub.Generate(vllm.GenerateRequest(text=PROMPT, sampling_params={"prompt_logprobs": 1}), timeout=60))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        details = status_pb2.Status.FromString(dict(refused.exception.trailing_metadata())["grpc-status-details-bin"])
        bad = error_details_pb2.BadRequest()
        self.assertTrue(any(detail.Unpack(bad) for detail in details.details))
        self.assertEqual(bad.field_violations[0].field, "sampling_params.prompt_logprobs")

    def test_load_trailer(self):
        """On the wire: gRPC's own client takes it out of the trailers for its balancer."""
        proxy = CountingProxy(self.server.address)
        with grpc.insecure_channel(proxy.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                api.GenerateRequest(text=PROMPT, stopping={"max_new_tokens": 1}), timeout=60)
        self.assertIn(b"endpoint-load-metrics-bin", bytes(proxy.data))
        proxy.listener.close()

    def test_compression_shrinks_answers_and_a_bomb_is_refused(self):
        sizes = []
        text = "a " * 20000
        for compression in ("none", "gzip"):
            with harness.Server(harness.TINY, "--compression", compression) as server:
                proxy = CountingProxy(server.address)
                with grpc.insecure_channel(proxy.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                    stub = generation_pb2_grpc.GenerationServiceStub(channel)
                    ids = stub.Tokenize(api.TokenizeRequest(text=text), timeout=60).token_ids
                    self.assertGreater(len(ids), 1000)
                    sizes.append(proxy.received)
                    # 64 MiB that travel as a few KiB.
                    with self.assertRaises(grpc.RpcError) as refused:
                        stub.Tokenize(api.TokenizeRequest(text="a" * (64 << 20)), timeout=60,
                                      compression=grpc.Compression.Gzip)
                    self.assertIn(refused.exception.code(),
                                  (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT))
                    stub.Tokenize(api.TokenizeRequest(text="still here"), timeout=60)
                proxy.listener.close()
        self.assertLess(sizes[1] * 3, sizes[0])

    def test_load_tool(self):
        bench = [harness.program("lift-bench"), "serve", "--server", self.server.address, "--requests", "30", "--seconds", "60",
                 "--prompt-tokens", "4:12", "--output-tokens", "exp:6", "--tenants", "x,y", "--json"]
        plot = pathlib.Path(FOLDER.name) / "plot.svg"
        closed = harness.run_json(*bench, "--clients", "4", "--plot", str(plot))
        self.assertEqual((closed["requests"], closed["finished"], closed["errors"]), (30, 30, {}))
        self.assertEqual(closed["answers_of_wrong_length"], 0)
        self.assertEqual(set(closed["tokens_by_tenant"]), {"x", "y"})
        self.assertEqual(closed["ttft_seconds"]["count"], 30)
        self.assertLessEqual(closed["ttft_seconds"]["p50"], closed["ttft_seconds"]["p99"])
        self.assertEqual(plot.read_text(encoding="utf-8").count("<polyline"), 3)
        opened = harness.run_json(*bench, "--rate", "100", "--cancel-fraction", "0.5")
        self.assertEqual(opened["finished"] + opened["cancelled"], 30)
        self.assertGreater(opened["cancelled"], 0)
        self.assertEqual(closed["requests"], 30)
        self.assertEqual(harness.run(*bench).returncode, 2)
        self.assertEqual(harness.run(*bench, "--clients", "1", "--prompt-tokens", "9:1").returncode, 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
