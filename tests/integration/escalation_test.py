"""Precision that rises inside an answer of the real server: lift-eval repeats it, spans report it, the bill follows. Run by
CTest through LIFT_TEST_PYTHON."""

import json
import os
import pathlib
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
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, types_pb2  # noqa: E402

MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name))
PROMPT, TOKENS = "npm install the package", 40
ENTROPY = "0.5"  # nats: low, so that every answer that may rise does


class Escalation(unittest.TestCase):
    def answer(self, server, **precision):
        request = api.GenerateRequest(text=PROMPT, stopping={"max_new_tokens": TOKENS, "ignore_eos": True},
                                      output={"token_ids": True}, precision=precision)
        with grpc.insecure_channel(server.address) as channel:
            return generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)

    def offline(self, variant, *flags):
        done = harness.run(harness.program("lift-eval"), "generate", "--model", str(MODEL), "--prompt", PROMPT, "--variant", variant,
                           "--max-new-tokens", str(TOKENS), "--ignore-eos", "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["token_ids"]

    def test_served_equals_offline_and_every_span_has_its_reason(self):
        for speculate in ("0", "4"):
            with harness.Server(MODEL, "--escalate", ENTROPY, "--speculate", speculate) as server:
                answer = self.answer(server)
            first = answer.served_by.variant
            spans = answer.finished.spans
            self.assertGreater(len(spans), 1)
            self.assertEqual(spans[0].variant, first)
            for span in spans[1:]:
                self.assertEqual(span.reason, types_pb2.ROUTING_REASON_ESCALATED)
            self.assertEqual(sum(span.tokens for span in spans), TOKENS)
            self.assertEqual(list(answer.token_ids), self.offline(first, "--escalate", ENTROPY))

    def test_neither_pinned_requests_nor_servers_without_the_flag_rise(self):
        with harness.Server(MODEL, "--escalate", ENTROPY) as server:
            variants = [v["name"] for v in server.client_json("models")["models"][0]["variants"]]
            pinned = self.answer(server, mode=types_pb2.PRECISION_MODE_PINNED, variant=variants[0])
        self.assertEqual([span.variant for span in pinned.finished.spans], [variants[0]])
        self.assertEqual(list(pinned.token_ids), self.offline(variants[0]))
        with harness.Server(MODEL) as server:
            self.assertEqual(len(self.answer(server).finished.spans), 1)

    def test_a_wrong_threshold_is_refused(self):
        done = harness.run(harness.program("lift-server"), "--model", str(MODEL), "--escalate", "-1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--escalate", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
