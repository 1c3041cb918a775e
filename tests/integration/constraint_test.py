"""Constrained answers of the real server: validators judge them, lift-eval repeats them. Run by CTest through
LIFT_TEST_PYTHON."""

import concurrent.futures
import json
import os
import pathlib
import re
import sys
import tempfile
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)
try:
    import jsonschema
except ImportError:
    print("SKIPPED: no jsonschema; tests/run.sh makes an environment that has it")
    sys.exit(77)

import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)

import grpc  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, types_pb2  # noqa: E402

MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name))
PROMPT = "npm install the package"

SCHEMAS = [
    {"type": "object",
     "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 8},
                    "age": {"type": "integer", "minimum": 0, "maximum": 130},
                    "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "maxItems": 3},
                    "score": {"type": "number", "exclusiveMinimum": -2, "maximum": 2}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}], "items": {"type": "null"}, "minItems": 2,
     "maxItems": 4},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "date"}, "on": {"type": "string", "format": "date"}},
                "required": ["kind", "on"], "additionalProperties": False},
               {"type": "object", "properties": {"kind": {"const": "id"}, "id": {"type": "string", "format": "uuid"}},
                "required": ["kind", "id"], "additionalProperties": False}]},
    {"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object",
        "properties": {"v": {"type": "string", "pattern": "^[a-c\"\\\\]{1,3}$"}, "next": {"$ref": "#/$defs/node"}},
        "required": ["v"], "additionalProperties": False}}},
    {"anyOf": [{"type": "boolean"},
               {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 4}]},
    {"type": ["integer", "null"], "minimum": 17, "exclusiveMaximum": 1024},
]


def error_info(error):
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return info


class Constraints(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(MODEL, "--max-batch", "8", "--speculate", "4")
        cls.channel = grpc.insecure_channel(cls.server.address)
        cls.stub = generation_pb2_grpc.GenerationServiceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.__exit__()

    def generate(self, constraint, seed, tokens=100, temperature=1.0):
        return self.stub.Generate(api.GenerateRequest(
            text=PROMPT, constraint=constraint, stopping=types_pb2.StoppingOptions(max_new_tokens=tokens),
            sampling=types_pb2.SamplingOptions(temperature=temperature, seed=seed)))

    def test_random_json_validates(self):
        jobs = [(schema, seed) for schema in SCHEMAS for seed in range(30)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(
                lambda job: self.generate(types_pb2.Constraint(json_schema=json.dumps(job[0])), job[1]), jobs))
        whole = {}
        for (schema, _), answer in zip(jobs, answers):
            if answer.finished.reason != types_pb2.FINISH_REASON_STOP:
                continue
            jsonschema.validate(json.loads(answer.text), schema,
                                cls=jsonschema.Draft202012Validator,
                                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            whole.setdefault(json.dumps(schema), set()).add(answer.text)
        self.assertGreaterEqual(sum(len(texts) for texts in whole.values()), 50)
        self.assertEqual(len(whole), len(SCHEMAS))

    def test_regex_grammar_and_choices(self):
        pattern = r"[A-Z][a-z]{2,6}( \d{1,3}|é)*\."
        grammar = 'root ::= pair ("," pair)*\npair ::= [a-z]{1,3} "=" ("(" root ")" | [0-9]{1,2})'
        for seed in range(12):
            answer = self.generate(types_pb2.Constraint(regex=pattern), seed)
            if answer.finished.reason == types_pb2.FINISH_REASON_STOP:
                self.assertRegex(answer.text, "^" + pattern + "$")
            answer = self.generate(types_pb2.Constraint(grammar=grammar), seed)
            if answer.finished.reason == types_pb2.FINISH_REASON_STOP:
                text, previous = answer.text, None
                while text != previous:  # innermost brackets first
                    previous, text = text, re.sub(r"\([a-z]{1,3}=\d{1,2}(,[a-z]{1,3}=\d{1,2})*\)", "0", text)
                self.assertRegex(text, r"^[a-z]{1,3}=\d{1,2}(,[a-z]{1,3}=\d{1,2})*$")
            choices = types_pb2.ConstraintChoices(texts=["yes", "no", "perhaps not"])
            answer = self.generate(types_pb2.Constraint(choices=choices), seed)
            self.assertIn(answer.text, choices.texts)

    def test_served_tokens_are_offline_tokens_under_every_option(self):
        schema = pathlib.Path(FOLDER.name) / "schema.json"
        schema.write_text(json.dumps(SCHEMAS[0]), encoding="utf-8")
        options = [
            ["--regex", "[a-z ]{5,40}", "--temperature", "1", "--frequency-penalty", "0.7"],
            ["--json-schema", f"@{schema}", "--temperature", "0.8", "--logit-bias", "5:4,9:-3"],
            ["--grammar", 'root ::= "a"+ ("b" | root)', "--min-new-tokens", "6", "--temperature", "1"],
            ["--choice", "left", "--choice", "right"],
            ["--json-object", "--temperature", "0.5"],
            ["--regex", "[a-e]+", "--stop", "ab", "--stop", "dd", "--temperature", "1"],
            ["--stop", "e", "--min-new-tokens", "4", "--temperature", "1", "--presence-penalty", "1"],
            ["--stop-token-ids", "40,41,42,43,44,45,46", "--temperature", "1", "--repetition-penalty", "1.2"],
        ]
        common = ["--prompt", PROMPT, "--variant", "q4.5", "--max-new-tokens", "40", "--seed", "11"]

        def served(extra):
            return self.server.client_json("generate", *common, *extra)["token_ids"]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(served, options * 2))  # all at once, the second time from the prefix cache
        for extra, first, second in zip(options, answers, answers[len(options):]):
            offline = harness.run_json(harness.program("lift-eval"), "generate", "--model", str(MODEL), *common, *extra,
                                       "--json")["token_ids"]
            self.assertEqual(first, offline, extra)
            self.assertEqual(second, offline, extra)

    def test_what_cannot_be_met_is_refused(self):
        for constraint, reason in (
                (types_pb2.Constraint(regex="(a"), "INVALID_FIELD"),
                (types_pb2.Constraint(json_schema='{"not": {}}'), "INVALID_FIELD"),
                (types_pb2.Constraint(regex="(a|b)*a(a|b){25}"), "CONSTRAINT_TOO_LARGE")):
            with self.assertRaises(grpc.RpcError) as caught:
                self.generate(constraint, 1)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(error_info(caught.exception).reason, reason)
        refused = self.server.client("generate", "--prompt", "x", "--json-schema", '{"uniqueItems": true}')
        self.assertEqual(refused.returncode, 2)
        self.assertIn("uniqueItems", refused.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
