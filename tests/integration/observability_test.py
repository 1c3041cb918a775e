"""The log of requests, trace context and vLLM's metric names of a real server. Run by CTest through LIFT_TEST_PYTHON."""

import json
import os
import pathlib
import sys
import tempfile
import time
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)

import grpc  # noqa: E402
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, types_pb2  # noqa: E402

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "a prompt that must stay out of logs"


def ask(stub, tokens, traceparent=None, **extra):
    request = api.GenerateRequest(text=SECRET, stopping=types_pb2.StoppingOptions(max_new_tokens=tokens, ignore_eos=True), **extra)
    metadata = [("x-liftserve-tenant", "acme")] + ([("traceparent", traceparent)] if traceparent else [])
    return stub.Generate(request, metadata=metadata)


class Observability(unittest.TestCase):
    def test_one_line_a_request_with_its_trace(self):
        log = pathlib.Path(FOLDER.name) / "requests.jsonl"
        with harness.Server(harness.TINY, "--request-log", str(log)) as server:
            with grpc.insecure_channel(server.address) as channel:
                stub = generation_pb2_grpc.GenerationServiceStub(channel)
                first = ask(stub, 5, f"00-{TRACE}-{SPAN}-01")
                for wrong in ("00-nonsense", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01"):
                    ask(stub, 2, wrong)
                ask(stub, 3)
                with self.assertRaises(grpc.RpcError):
                    ask(stub, 3, f"00-{TRACE}-{SPAN}-00", model="another")
            deadline = time.monotonic() + 20
            while len(log.read_text().splitlines()) < 8 and time.monotonic() < deadline:
                time.sleep(0.05)
        text = log.read_text(encoding="utf-8")
        self.assertNotIn(SECRET, text)
        lines = [line for line in map(json.loads, text.splitlines()) if line["tenant"] == "acme"]
        self.assertEqual([line["event"] for line in lines], ["request"] * 6 + ["refused"])
        done = lines[0]
        self.assertEqual((done["trace_id"], done["parent_span_id"], done["trace_flags"]), (TRACE, SPAN, "01"))
        self.assertRegex(done["span_id"], "^[0-9a-f]{16}$")
        self.assertNotEqual(done["span_id"], SPAN)
        self.assertEqual(done["request_id"], first.request_id)
        self.assertEqual(done["gen_ai.usage.output_tokens"], 5)
        self.assertEqual(done["gen_ai.usage.input_tokens"], first.finished.usage.prompt_tokens)
        self.assertEqual(done["weight_byte_seconds"], first.finished.usage.weight_byte_seconds)
        self.assertEqual((done["code"], done["gen_ai.response.finish_reasons"]), ("OK", ["LENGTH"]))
        self.assertEqual(sum(span["tokens"] for span in done["spans"]), 5)
        self.assertFalse(any("trace_id" in line for line in lines[1:6]))
        self.assertEqual((lines[6]["code"], lines[6]["error.type"], lines[6]["trace_id"]), ("NOT_FOUND", "MODEL_NOT_FOUND", TRACE))

    def test_a_log_that_cannot_be_written_is_refused(self):
        done = harness.run(harness.program("lift-server"), "--model", str(harness.TINY), "--listen", "127.0.0.1:0", "--admin",
                           "127.0.0.1:0", "--request-log", str(pathlib.Path(FOLDER.name) / "absent" / "x"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("--request-log", done.stderr)

    def test_vllm_names_are_there_when_asked_for(self):
        with harness.Server(harness.TINY) as server:
            self.assertNotIn("vllm:", server.get("/metrics")[1])
        with harness.Server(harness.TINY, "--vllm-metrics") as server:
            server.client_json("generate", "--prompt", "x", "--max-new-tokens", "4", "--ignore-eos")
            text = server.get("/metrics")[1]
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        value = lambda start: [float(v) for name, v in samples.items() if name.startswith(start)]  # noqa: E731
        self.assertEqual(value("vllm:num_requests_running{model_name="), [0.0])
        self.assertEqual(value("vllm:num_requests_waiting{"), [0.0])
        self.assertEqual(value("vllm:kv_cache_usage_perc{"), [0.0])
        self.assertEqual(sum(value("vllm:generation_tokens_total{")), sum(value("liftserve_generation_tokens_total{")))
        self.assertGreaterEqual(sum(value("vllm:generation_tokens_total{")), 4)
        self.assertEqual(sum(value("vllm:e2e_request_latency_seconds_count")), sum(value("liftserve_e2e_request_latency_seconds_count")))


if __name__ == "__main__":
    unittest.main(verbosity=2)
