"""A router is trained on prompts, judged on others and served: every answer says what it cost and what it was expected to lose.
Run by CTest through LIFT_TEST_PYTHON."""

import json
import os
import pathlib
import shutil
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

ROOT = pathlib.Path(FOLDER.name)
MODEL = harness.make_lifted_model(ROOT, harness.make_random_checkpoint(ROOT / "hf", hidden=128, intermediate=256, layers=2), bits="3,4.5,6,8")
EASY, HARD = "Hi!", "Explain step by step why this C++ code deadlocks and compare two ways to mend it: lock(a); lock(b);"


def make_prompts():
    """Templates only: needs no network."""
    done = harness.run(sys.executable, str(harness.SOURCE / "tests/bench/router/make_prompts.py"), "--packages", "none", "--out", str(ROOT / "prompts"),
                       "--train", "150", "--test", "60", "--ood", "20")
    assert done.returncode == 0, done.stderr
    for name in ("train", "test"):  # the tiny model's context holds short prompts only
        path = ROOT / "prompts" / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(json.dumps(p) + "\n" for p in lines if len(p.get("prompt", "x" * 999)) < 150), encoding="utf-8")
    return ROOT / "prompts"


PROMPTS = make_prompts()


def train(model, *flags):
    return harness.run_json(harness.program("lift-calibrate"), "router", "--file", str(model), "--prompts", str(PROMPTS / "train.jsonl"),
                            "--max-new-tokens", "12", "--folds", "3", "--quiet", "--json", *flags)


class Router(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.trained = ROOT / "trained.lift"
        cls.report = train(MODEL, "--out", str(cls.trained), "--traces", str(ROOT / "train.cbor"))
        cls.version = cls.report["version"]

    def explain(self, server, text, **precision):
        with grpc.insecure_channel(server.address) as channel:
            return generation_pb2_grpc.GenerationServiceStub(channel).ExplainRoute(api.ExplainRouteRequest(text=text, precision=precision))

    def answer(self, server, text, **precision):
        request = api.GenerateRequest(text=text, stopping={"max_new_tokens": 8, "ignore_eos": True}, output={"token_ids": True},
                                      precision=precision)
        with grpc.insecure_channel(server.address) as channel:
            return generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)

    def test_training_reports_and_leaves_the_weights_alone(self):
        self.assertTrue(self.version.startswith("trained-"))
        self.assertGreaterEqual(self.report["prompts"], 100)
        self.assertEqual(len(self.report["reliability"]), 10)
        self.assertLessEqual(len(self.report["features"]), 5)
        ask = ("generate", "--prompt", EASY, "--max-new-tokens", "8", "--json")
        before = harness.run_json(harness.program("lift-eval"), *ask, "--model", str(MODEL))
        self.assertEqual(harness.run_json(harness.program("lift-eval"), *ask, "--model", str(self.trained)), before)

    def test_training_again_gives_the_same_file(self):
        again = ROOT / "again.lift"
        train(MODEL, "--out", str(again), "--threads", "1")  # traces anew, on one thread
        self.assertEqual(again.read_bytes(), self.trained.read_bytes())
        copy = ROOT / "copy.lift"
        shutil.copy(MODEL, copy)
        train(copy, "--traces", str(ROOT / "train.cbor"))  # in place, from what was measured
        self.assertEqual(copy.read_bytes(), self.trained.read_bytes())

    def test_it_is_judged_on_other_prompts(self):
        plot = ROOT / "curves.svg"
        ask = ("router", "--model", str(self.trained), "--prompts", str(PROMPTS / "test.jsonl"), "--max-new-tokens", "12",
               "--traces", str(ROOT / "test.cbor"), "--resamples", "100", "--exact", "--kept-state", "--json")
        done = harness.run_json(harness.program("lift-eval"), *ask, "--plot", str(plot))
        self.assertEqual(done["router_version"], self.version)
        self.assertEqual(len(done["levels"]), 3)
        for level in done["levels"]:
            self.assertLessEqual(level["gain_95"][0], level["gain"])
            self.assertLessEqual(level["oracle_kl"], level["router"]["kl"] * 1.05)
        self.assertEqual([c["name"] for c in done["curves"]], ["router", "static", "random", "oracle", "cascade"])
        self.assertIn("<polyline", plot.read_text(encoding="utf-8"))
        kept = done["kept_state"]
        self.assertEqual([k["variant"] for k in kept], [v["name"] for v in done["variants"]])
        self.assertLess(kept[-1]["kept_kl"], 1e-6)  # the finest variant's own state, computed as before
        for k in kept[:-1]:
            self.assertGreater(k["kept_kl"], kept[-1]["kept_kl"])
            self.assertLess(k["kept_kl"], k["staying_kl"])

        # With guesses a token costs what is read, and nothing else changes.
        guessing = harness.run_json(harness.program("lift-eval"), *ask, "--speculate", "4")
        self.assertEqual(done["drafted"], [])
        self.assertIn("guessing", [c["name"] for c in guessing["curves"]])
        for row, variant in zip(guessing["drafted"][::-1], guessing["variants"][::-1]):
            self.assertEqual(row["variant"], variant["name"])
            self.assertLessEqual(row["expected_bits"], variant["bits_per_weight"])
            self.assertAlmostEqual(row["bits"] / row["expected_bits"], 1, delta=0.15)
            self.assertAlmostEqual(row["right"], row["expected_right"], delta=0.15)
        curves = [{c["name"]: c for c in d["curves"]} for d in (done, guessing)]
        self.assertEqual(curves[0]["static"], curves[1]["static"])

    def test_guesses_are_counted_on_and_change_no_answer(self):
        plain, guessing = ["--route", "budget:4.5"], ["--route", "budget:4.5", "--speculate", "4"]
        with harness.Server(self.trained, *plain) as server:
            for v in self.explain(server, HARD).variants:
                self.assertEqual((v.read_bits_per_weight, v.draft_variant, v.draft_tokens), (v.bits_per_weight, "", 0))
        with harness.Server(self.trained, *guessing) as server:
            seen = self.explain(server, HARD).variants
            names = [v.variant for v in seen]
            for i, v in enumerate(seen):
                self.assertLessEqual(v.read_bits_per_weight, v.bits_per_weight)
                self.assertEqual(v.draft_variant != "", v.draft_tokens > 0)
                if v.draft_variant:
                    self.assertIn(v.draft_variant, names[:i])
                    self.assertLess(v.read_bits_per_weight, v.bits_per_weight)
            self.assertTrue(seen[-1].draft_variant)
            for text in (EASY, HARD):
                answer = self.answer(server, text)
                self.assertEqual(answer.served_by.router_version, f"{self.version}/budget:4.5/guess:4")
                offline = harness.run_json(harness.program("lift-eval"), "generate", "--model", str(MODEL), "--prompt", text, "--variant",
                                           answer.served_by.variant, "--max-new-tokens", "8", "--ignore-eos", "--json")
                self.assertEqual(list(answer.token_ids), offline["token_ids"])

    def test_served_answers_say_who_decided_and_what_to_expect(self):
        with harness.Server(self.trained, "--route", "budget:4.5") as server:
            variants = [v["name"] for v in server.client_json("models")["models"][0]["variants"]]
            answer = self.answer(server, HARD)
            self.assertEqual(answer.served_by.router_version, f"{self.version}/budget:4.5")
            self.assertTrue(answer.served_by.HasField("expected_kl"))
            losses = [v.expected_kl for v in self.explain(server, HARD).variants]
            self.assertEqual(losses, sorted(losses, reverse=True))
            self.assertEqual(losses[-1], 0)
            capped = self.answer(server, HARD, min_lambda=0.74)
            self.assertEqual((capped.served_by.variant, capped.served_by.reason), (variants[-1], types_pb2.ROUTING_REASON_FLOOR))
            pinned = self.answer(server, HARD, mode=types_pb2.PRECISION_MODE_PINNED, variant=variants[0])
            self.assertEqual(pinned.served_by.variant, variants[0])
            offline = harness.run_json(harness.program("lift-eval"), "generate", "--model", str(MODEL), "--prompt", HARD, "--variant", variants[0],
                                       "--max-new-tokens", "8", "--ignore-eos", "--json")
            self.assertEqual(list(pinned.token_ids), offline["token_ids"])

    def test_policies_are_the_operators_and_the_same_for_everybody(self):
        with harness.Server(self.trained, "--route", "fixed:q3.0") as server:
            for text in (EASY, HARD):
                self.assertEqual(self.answer(server, text).served_by.variant, "q3.0")
        with harness.Server(self.trained, "--route", "quality:1e-9") as server:
            self.assertEqual(self.answer(server, EASY).served_by.expected_kl, 0)
        with harness.Server(self.trained, "--route", "quality:100") as server:
            coarse = self.answer(server, HARD).served_by
            self.assertGreater(coarse.expected_kl, 0)
        with harness.Server(MODEL) as server:
            untrained = self.answer(server, EASY).served_by
            self.assertEqual(untrained.router_version, "heuristic-1/balanced")
            self.assertFalse(untrained.HasField("expected_kl"))

    def test_what_is_wrong_is_said_before_anything_is_served(self):
        for route in ("cheap", "budget:0", "fixed:q99"):
            done = harness.run(harness.program("lift-server"), "--model", str(self.trained), "--route", route)
            self.assertEqual(done.returncode, 2, route)
            self.assertIn("--route", done.stderr)
        for prompts, words in (("{}\n", ":1 has neither"), ("x\n", ":1 is not a JSON object"), ('{"prompt": "hi"}\n', "at least 100")):
            path = ROOT / "wrong.jsonl"
            path.write_text(prompts, encoding="utf-8")
            done = harness.run(harness.program("lift-calibrate"), "router", "--file", str(MODEL), "--prompts", str(path), "--out", str(ROOT / "no.lift"))
            self.assertEqual(done.returncode, 2, prompts)
            self.assertIn(words, done.stderr)
        self.assertFalse((ROOT / "no.lift").exists())
        done = harness.run(harness.program("lift-eval"), "router", "--model", str(MODEL), "--prompts", str(PROMPTS / "test.jsonl"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("lift-calibrate router", done.stderr)
        done = harness.run(harness.program("lift-calibrate"), "router", "--file", str(MODEL), "--prompts", str(PROMPTS / "train.jsonl"),
                           "--seed", "9", "--traces", str(ROOT / "train.cbor"), "--out", str(ROOT / "no.lift"))
        self.assertIn("are of other draws", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
