"""The real lift-server and lift-client, and stock Python clients against them. Run by CTest through LIFT_TEST_PYTHON."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
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
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase)
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc, types_pb2  # noqa: E402

MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name))
PROMPT = "npm install the package"


def error_info(error):
    """ErrorInfo of a failed call, from grpc-status-details-bin."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return info


END_OF_TEXT = {0, 2}  # of the tiny model


def answer_tokens(ids):
    """The server reports the end-of-text token it generated (and billed); lift-eval prints the answer without it."""
    ids = list(ids)
    return ids[:-1] if ids and ids[-1] in END_OF_TEXT else ids


def offline_tokens(variant, prompt, tokens, *flags):
    return harness.run_json(
        harness.program("lift-eval"), "generate", "--model", str(MODEL), "--prompt", prompt, "--variant",
        variant, "--max-new-tokens", str(tokens), "--seed", "1", "--temperature", "0", "--json", *flags)


class ServedModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(MODEL, "--max-batch", "16")
        cls.channel = grpc.insecure_channel(cls.server.address)
        cls.stub = generation_pb2_grpc.GenerationServiceStub(cls.channel)
        cls.models = model_pb2_grpc.ModelServiceStub(cls.channel)
        listed = cls.models.ListModels(model_pb2.ListModelsRequest()).models
        cls.model = listed[0]
        cls.variants = [v.name for v in cls.model.variants]

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.__exit__()

    def request(self, kind, prompt, variant, tokens, **extra):
        return kind(text=prompt,
                    stopping=types_pb2.StoppingOptions(max_new_tokens=tokens),
                    output=types_pb2.OutputOptions(token_ids=True),
                    precision=types_pb2.PrecisionOptions(mode=types_pb2.PRECISION_MODE_PINNED, variant=variant),
                    **extra)

    def stream(self, prompt, variant, tokens, **extra):
        ids, started, finished = [], None, None
        for event in self.stub.GenerateStream(
                self.request(api.GenerateStreamRequest, prompt, variant, tokens, **extra)):
            if event.HasField("started"):
                started = event.started
            ids.extend(event.delta.token_ids)
            if event.HasField("finished"):
                finished = event.finished
        return ids, started, finished

    def test_several_variants_are_resident_in_rising_precision(self):
        self.assertGreaterEqual(len(self.variants), 4)
        lambdas = [getattr(v, "lambda") for v in self.model.variants]
        self.assertEqual(lambdas, sorted(lambdas))
        self.assertEqual(sum(v.incremental_bytes for v in self.model.variants), self.model.resident_bytes)

    def test_served_tokens_equal_offline_tokens_alone_and_in_a_mixed_batch(self):
        prompts = [f"{PROMPT} number {i}" for i in range(8)]
        chosen = [self.variants[i % len(self.variants)] for i in range(8)]
        offline = [answer_tokens(offline_tokens(v, p, 24)["token_ids"]) for v, p in zip(chosen, prompts)]
        self.assertGreater(len({tuple(ids) for ids in offline}), 1)
        for variant, prompt, expected in zip(chosen, prompts, offline):
            ids, started, _ = self.stream(prompt, variant, 24)
            self.assertEqual(answer_tokens(ids), expected, variant)
            self.assertEqual(started.served_by.variant, variant)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            batch = list(pool.map(lambda pair: answer_tokens(self.stream(pair[0], pair[1], 24)[0]),
                                  zip(prompts, chosen)))
        self.assertEqual(batch, offline)

    def test_unary_and_stream_agree_and_metadata_tells_what_served(self):
        variant = self.variants[1]
        answer, call = self.stub.Generate.with_call(
            self.request(api.GenerateRequest, PROMPT, variant, 12), metadata=[("x-liftserve-tenant", "acme")])
        self.assertEqual(list(answer.token_ids), self.stream(PROMPT, variant, 12)[0])
        metadata = dict(call.initial_metadata())
        self.assertEqual(metadata["liftserve-variant"], variant)
        self.assertEqual(answer.served_by.weights_sha256, self.model.weights_sha256)
        self.assertGreater(answer.finished.usage.weight_byte_seconds, 0)

    def test_seeded_sampling_repeats(self):
        sampling = types_pb2.SamplingOptions(temperature=1.0, top_p=0.9, seed=42)
        first = self.stream(PROMPT, self.variants[0], 16, sampling=sampling)
        self.assertEqual(first[0], self.stream(PROMPT, self.variants[0], 16, sampling=sampling)[0])
        self.assertEqual(first[2].seed_used, 42)

    def test_chat_and_explain(self):
        chat = api.ChatRequest(messages=[types_pb2.ChatMessage(role="user", content="hi <|im_end|>")],
                               stopping=types_pb2.StoppingOptions(max_new_tokens=4))
        answer = self.stub.Chat(chat)
        self.assertEqual(answer.message.role, "assistant")
        explained = self.stub.ExplainRoute(api.ExplainRouteRequest(text="prove that 2 is prime"))
        self.assertEqual([v.variant for v in explained.variants], self.variants)
        self.assertEqual(sum(v.chosen for v in explained.variants), 1)

    def test_errors_carry_a_reason(self):
        cases = [
            (self.request(api.GenerateRequest, PROMPT, "nonesuch", 4), grpc.StatusCode.NOT_FOUND, None),
            (api.GenerateRequest(text=PROMPT, precision=types_pb2.PrecisionOptions(max_quality_loss=1e-12)),
             None, None),
            (api.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
            (api.GenerateRequest(text=PROMPT, model="other"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ]
        for request, code, reason in cases:
            if code is None:  # the source variant satisfies any cap
                self.assertEqual(self.stub.Generate(request).served_by.variant, self.variants[-1])
                continue
            with self.assertRaises(grpc.RpcError) as caught:
                self.stub.Generate(request)
            self.assertEqual(caught.exception.code(), code)
            info = error_info(caught.exception)
            self.assertEqual(info.domain, "liftserve.dev")
            if reason:
                self.assertEqual(info.reason, reason)

    def test_health_check_and_watch(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in ["", "liftserve.v1.GenerationService", f"{self.model.name}/{self.variants[0]}"]:
            self.assertEqual(stub.Check(health_pb2.HealthCheckRequest(service=name)).status, serving)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nonesuch"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        self.assertEqual(next(watch).status, serving)
        watch.cancel()

    def test_a_reflection_client_finds_everything(self):
        database = ProtoReflectionDescriptorDatabase(self.channel)
        services = database.get_services()
        for name in ["liftserve.v1.GenerationService", "liftserve.v1.ModelService", "liftserve.v1.UsageService",
                     "grpc.reflection.v1alpha.ServerReflection"]:
            self.assertIn(name, services)
        described = database.FindFileContainingSymbol("liftserve.v1.GenerationService")
        methods = [m.name for s in described.service for m in s.method]
        self.assertIn("GenerateStream", methods)
        self.assertIn("CancelGeneration", methods)

    def test_client_program(self):
        server, variant = self.server, self.variants[0]
        models = server.client_json("models")["models"]
        self.assertEqual([v["name"] for v in models[0]["variants"]], self.variants)
        for key in ["name", "lambda", "bitsPerWeight", "bytes"]:
            self.assertIn(key, models[0]["variants"][0])
        answer = server.client_json("generate", "--prompt", PROMPT, "--variant", variant, "--max-new-tokens", "8",
                                    "--seed", "3", "--temperature", "0")
        for key in ["text", "token_ids", "served_by", "usage", "timings"]:
            self.assertIn(key, answer)
        offline = offline_tokens(variant, PROMPT, 8)
        self.assertEqual(answer_tokens(answer["token_ids"]), answer_tokens(offline["token_ids"]))
        self.assertEqual(answer["text"], offline["text"])
        self.assertEqual(answer["served_by"]["variant"], variant)
        self.assertEqual(answer["served_by"]["reason"], "PINNED")
        text = server.client("generate", "--prompt", PROMPT, "--variant", variant, "--max-new-tokens", "8")
        self.assertEqual(text.returncode, 0)
        self.assertEqual(text.stdout.rstrip("\n"), offline["text"].rstrip("\n"))
        self.assertIn(f"served by {variant}", text.stderr)
        self.assertIn("servedBy", server.client_json("explain", "--prompt", "hello"))
        self.assertIn("entries", server.client_json("usage"))
        self.assertEqual(server.client_json("health")["status"], "SERVING")
        self.assertEqual(server.client_json("cancel", "--request-id", "none")["cancelled"], False)
        chat = server.client_json("chat", "--prompt", "hello", "--system", "be brief", "--max-new-tokens", "4")
        self.assertIn("text", chat)
        tokens = server.client_json("tokenize", "--text", PROMPT)["tokenIds"]
        ids = ",".join(str(t) for t in tokens)
        self.assertEqual(server.client_json("detokenize", "--token-ids", ids)["text"], PROMPT)

    def test_client_exit_codes(self):
        self.assertEqual(self.server.client("nonesuch").returncode, 2)
        self.assertEqual(self.server.client("generate").returncode, 2)
        wrong = self.server.client("generate", "--prompt", "x", "--variant", "nonesuch")
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("NOT_FOUND", wrong.stderr)
        floor = self.server.client("--deadline", "0.000001", "generate", "--prompt", "x")
        self.assertEqual(floor.returncode, 1)
        nobody = harness.run(harness.program("lift-client"), "--server", "127.0.0.1:1", "--deadline", "2", "models")
        self.assertEqual(nobody.returncode, 1)

    def test_metrics_tell_of_the_work(self):
        self.server.client_json("--tenant", "metered", "generate", "--prompt", PROMPT, "--variant",
                                self.variants[0], "--max-new-tokens", "4")
        status, text = self.server.get("/metrics")
        self.assertEqual(status, 200)
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                self.assertNotIn(name, samples)
                samples[name] = float(value)
        done = f'liftserve_requests_total{{code="OK",tenant="metered",variant="{self.variants[0]}"}}'
        self.assertEqual(samples[done], 1)
        weights = sum(v for k, v in samples.items() if k.startswith('liftserve_memory_resident_bytes{kind="weights"'))
        self.assertEqual(weights, self.model.resident_bytes)
        self.assertTrue(any(k.startswith("liftserve_memory_byte_seconds_total{") and 'tenant="metered"' in k
                            for k in samples))
        if shutil.which("promtool"):
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            self.assertNotEqual(checked.returncode, 1, checked.stderr)  # 1: not parsed; 3: matters of style
        self.assertEqual(self.server.get("/healthz")[0], 200)
        self.assertEqual(self.server.get("/readyz")[0], 200)


class OwnServer(unittest.TestCase):
    """Tests that need a server of their own."""

    def test_sigterm_lets_streams_finish_and_refuses_new_ones(self):
        with harness.Server(MODEL, "--drain-seconds", "60", "--threads", "1") as server:
            channel = grpc.insecure_channel(server.address)
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            request = api.GenerateStreamRequest(
                text="a", stopping=types_pb2.StoppingOptions(max_new_tokens=120, ignore_eos=True),
                output=types_pb2.OutputOptions(token_ids=True))
            streams = [stub.GenerateStream(request) for _ in range(6)]
            for stream in streams:
                self.assertTrue(next(stream).HasField("started"))
            server.terminate()
            for stream in streams:
                ids, reason = [], None
                for event in stream:
                    ids.extend(event.delta.token_ids)
                    if event.HasField("finished"):
                        reason = event.finished.reason
                self.assertEqual(len(ids), 120)
                self.assertEqual(reason, types_pb2.FINISH_REASON_LENGTH)
            self.assertEqual(server.wait(), 0)
            self.assertIn("draining", server.log())
            channel.close()

    def test_sigint_of_an_idle_server_exits_at_once(self):
        with harness.Server(MODEL) as server:
            start = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            self.assertEqual(server.wait(), 0)
            self.assertLess(time.monotonic() - start, 10)
            self.assertEqual(server.log().count("listening on"), 1)

    def test_a_subset_of_variants_and_a_config_file(self):
        config = pathlib.Path(FOLDER.name) / "config.json"
        config.write_text('{"max_batch": 2}')
        names = [v["name"] for v in self.all_variants()]
        with harness.Server(MODEL, "--config", str(config), "--variants", ",".join(names[:2])) as server:
            served = server.client_json("models")["models"][0]
            self.assertEqual([v["name"] for v in served["variants"]], names[:2])
            self.assertEqual(int(served["residentBytes"]), int(served["variants"][1]["bytes"]))
            self.assertEqual(server.client("generate", "--prompt", "x", "--variant", names[-1]).returncode, 2)

    def test_a_checkpoint_is_served_as_full(self):
        with harness.Server(harness.TINY) as server:
            answer = server.client_json("generate", "--prompt", PROMPT, "--max-new-tokens", "4")
            self.assertEqual(answer["served_by"]["variant"], "full")

    def test_every_kv_format_serves_what_offline_computes(self):
        """In a pool so small that sequences are preempted, and again from the prefix cache."""
        names = [v["name"] for v in self.all_variants()]
        prompts = [f"{PROMPT} number {i} " * 4 for i in range(6)]
        bytes_per_token = {}
        for kv in ("f32", "f16", "bf16", "int8"):
            offline = [answer_tokens(offline_tokens(names[i % len(names)], p, 24, "--kv-cache", kv)["token_ids"])
                       for i, p in enumerate(prompts)]
            with self.subTest(kv), harness.Server(MODEL, "--kv-cache", kv, "--kv-tokens", "256") as server:
                model = server.client_json("models")["models"][0]
                self.assertEqual(model["kvFormat"], kv)
                bytes_per_token[kv] = int(model["stateBytesPerToken"])
                self.assertIn(f'format="{kv}"', server.get("/metrics")[1])
                for _ in range(2):
                    with concurrent.futures.ThreadPoolExecutor(6) as pool:
                        served = list(pool.map(
                            lambda pair: server.client_json("generate", "--prompt", pair[1], "--variant",
                                                            names[pair[0] % len(names)], "--max-new-tokens", "24",
                                                            "--temperature", "0", "--seed", "1"),
                            enumerate(prompts)))
                    self.assertEqual([answer_tokens(s["token_ids"]) for s in served], offline)
                    self.assertEqual({s["served_by"]["kv_format"] for s in served}, {kv})
                state = sum(float(line.split()[-1]) for line in server.get("/metrics")[1].splitlines()
                            if line.startswith("liftserve_memory_resident_bytes") and 'kind="state"' in line)
                self.assertEqual(state, 256 * bytes_per_token[kv])
        self.assertEqual(bytes_per_token["f16"] * 2, bytes_per_token["f32"])
        self.assertEqual(bytes_per_token["bf16"], bytes_per_token["f16"])
        self.assertLess(bytes_per_token["int8"], bytes_per_token["f16"])

    def test_damage_is_found_in_what_is_served_and_nowhere_else(self):
        """The file's last byte belongs to the source alone."""
        good, names = MODEL.read_bytes(), [v["name"] for v in self.all_variants()]
        bad = pathlib.Path(FOLDER.name) / "damaged.lift"
        bad.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with harness.Server(bad, "--variants", ",".join(names[:-1])) as server:
            self.assertEqual(server.client("generate", "--prompt", "x", "--max-new-tokens", "2").returncode, 0)
        done = harness.run(harness.program("lift-server"), "--model", str(bad), "--listen", "127.0.0.1:0", "--admin",
                           "127.0.0.1:0")
        self.assertEqual(done.returncode, 2)
        self.assertIn("SOURCE is damaged", done.stderr)
        with harness.Server(MODEL, "--verify", "background") as server:
            self.assertEqual(server.client("generate", "--prompt", "x", "--max-new-tokens", "2").returncode, 0)
            server.terminate()
            self.assertEqual(server.wait(), 0)
        # In the background: the process starts, finds it and ends. It may be faster than its own readiness.
        process = subprocess.Popen(
            [harness.program("lift-server"), "--model", str(bad), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
             "--verify", "background"], stderr=subprocess.PIPE, text=True)
        _, log = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("SOURCE is damaged", log)

    def all_variants(self):
        with harness.Server(MODEL) as server:
            return server.client_json("models")["models"][0]["variants"]


class WrongInput(unittest.TestCase):
    """One sentence and exit code 2, whatever is wrong with the file or the flags."""

    def refused(self, *flags):
        done = harness.run(harness.program("lift-server"), *flags, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        return done.stderr

    def test_broken_files(self):
        good = MODEL.read_bytes()
        bad = pathlib.Path(FOLDER.name) / "bad.lift"
        broken = {
            "empty": b"", "truncated": good[:len(good) // 2], "short": good[:20],
            "one byte missing": good[:-1],
            "flipped in the middle": good[:len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1:],
            "flipped in the head": good[:9] + bytes([good[9] ^ 0xFF]) + good[10:],
            "not a model": b"hello" * 100,
        }
        for name, data in broken.items():
            with self.subTest(name):
                bad.write_bytes(data)
                self.refused("--model", str(bad))

    def test_wrong_flags(self):
        self.assertIn("--model", self.refused())
        self.refused("--model", "/nonexistent")
        self.refused("--model", str(MODEL), "--threads", "0x")
        self.assertIn("nonesuch", self.refused("--model", str(MODEL), "--variants", "nonesuch"))
        if not pathlib.Path("/dev/nvidiactl").exists():
            self.assertIn("--device cuda", self.refused("--model", str(MODEL), "--device", "cuda"))

    def test_version_says_what_was_built(self):
        done = harness.run(harness.program("lift-server"), "--version")
        self.assertEqual(done.returncode, 0)
        for word in ["lift-server", "build:", "CUDA:", "CPU:"]:
            self.assertIn(word, done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
