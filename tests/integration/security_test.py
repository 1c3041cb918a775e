"""TLS, client certificates, reload, API keys and the plaintext health port, with a stock Python client and OpenSSL's own tool.

Exit code 77: what it needs (grpcio, openssl) is not here.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)
try:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    import grpc_tools  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}; tests/run.sh makes an environment that has it")
    sys.exit(77)
if shutil.which("openssl") is None:
    print("skipped: no openssl program")
    sys.exit(77)

import certificates
import harness

WORK = tempfile.TemporaryDirectory()
FOLDER = pathlib.Path(WORK.name)
SECRET_PROMPT = "a prompt nobody may log"


def make_certificate(name, ca, subject, alternative):
    certificates.make(FOLDER, name, ca, subject, alternative)


def read(name):
    return (FOLDER / name).read_bytes()


def make_key(tenant, role="user"):
    done = harness.run(harness.program("lift-key"), "--file", str(FOLDER / "keys.json"), "--tenant", tenant,
                       "--role", role)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Secure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.generate_stubs(FOLDER)
        global model_pb2, model_pb2_grpc, generation_pb2, generation_pb2_grpc
        from liftserve.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
        make_certificate("ca", None, "test authority", "")
        make_certificate("server", "ca", "localhost", "DNS:localhost,IP:127.0.0.1")
        make_certificate("client", "ca", "worker", "DNS:worker.test")
        make_certificate("otherca", None, "another authority", "")
        make_certificate("stranger", "otherca", "worker", "DNS:worker.test")
        cls.key = make_key("acme")
        keys = (FOLDER / "keys.json").read_text(encoding="utf-8")
        cls.mode = (FOLDER / "keys.json").stat().st_mode & 0o777
        cls.keys_text = keys
        (FOLDER / "keys.json").write_text(
            keys.rstrip()[:-1] + ', "certificates": [{"name": "worker.test", "tenant": "worker"}]}', encoding="utf-8")
        cls.server = harness.Server(
            harness.TINY, "--tls-cert", str(FOLDER / "server.pem"), "--tls-key", str(FOLDER / "server.key"),
            "--tls-client-ca", str(FOLDER / "ca.pem"), "--tls-client-auth", "optional", "--auth-keys",
            str(FOLDER / "keys.json"), "--tls-reload-seconds", "1", "--health-listen", "127.0.0.1:0")
        cls.server.__enter__()
        cls.address = "localhost:" + cls.server.address.rsplit(":", 1)[1]

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def channel(self, client=None, root="ca.pem"):
        credentials = grpc.ssl_channel_credentials(
            read(root), *((read(f"{client}.key"), read(f"{client}.pem")) if client else ()))
        # Each its own connection: handshakes are what is tested.
        return grpc.secure_channel(self.address, credentials, [("grpc.use_local_subchannel_pool", 1)])

    def ask(self, channel, key=None):
        """The status code of a call; None for OK."""
        stub = model_pb2_grpc.ModelServiceStub(channel)
        metadata = [("authorization", f"Bearer {key}")] if key else []
        try:
            stub.ListModels(model_pb2.ListModelsRequest(), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return error.code()
        return None

    def test_keys_over_tls(self):
        with self.channel() as channel:
            self.assertIsNone(self.ask(channel, self.key))
            self.assertEqual(self.ask(channel), grpc.StatusCode.UNAUTHENTICATED)
            self.assertEqual(self.ask(channel, self.key[:-2] + "zz"), grpc.StatusCode.UNAUTHENTICATED)
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            answer = stub.Generate(
                generation_pb2.GenerateRequest(text=SECRET_PROMPT, stopping={"max_new_tokens": 3}),
                metadata=[("x-api-key", self.key)], timeout=60)
            self.assertEqual(answer.finished.usage.generated_tokens, 3)

    def test_plaintext_and_unknown_authorities_are_refused(self):
        with grpc.insecure_channel(self.address) as channel:
            self.assertEqual(self.ask(channel, self.key), grpc.StatusCode.UNAVAILABLE)
        with self.channel(root="otherca.pem") as channel:
            self.assertEqual(self.ask(channel, self.key), grpc.StatusCode.UNAVAILABLE)

    def test_client_certificates(self):
        with self.channel("client") as channel:
            self.assertIsNone(self.ask(channel))
            call = generation_pb2_grpc.GenerationServiceStub(channel).Generate
            request = generation_pb2.GenerateRequest(text="x", stopping={"max_new_tokens": 1})
            call(request, metadata=[("x-liftserve-tenant", "worker")], timeout=60)
            with self.assertRaises(grpc.RpcError) as refused:
                call(request, metadata=[("x-liftserve-tenant", "acme")], timeout=60)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
        with self.channel("stranger") as channel:
            self.assertIn(self.ask(channel), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED))

    def test_health_port_is_plain_and_alone(self):
        address = self.server.health
        with grpc.insecure_channel(address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            self.assertEqual(reply.status, health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(self.ask(channel, self.key), grpc.StatusCode.UNIMPLEMENTED)

    def test_own_client(self):
        key_file = FOLDER / "acme.key"
        key_file.write_text(self.key + "\n", encoding="utf-8")
        flags = ["--server", self.address, "--tls-ca", str(FOLDER / "ca.pem")]
        client = harness.program("lift-client")
        self.assertEqual(harness.run(client, *flags, "--api-key-file", str(key_file), "models").returncode, 0)
        done = harness.run(client, *flags, "models")
        self.assertEqual(done.returncode, 1)
        self.assertIn("MISSING_CREDENTIALS", done.stderr)
        self.assertEqual(harness.run(client, *flags, "--tls-cert", str(FOLDER / "client.pem"), "--tls-key",
                                     str(FOLDER / "client.key"), "models").returncode, 0)

    def test_secrets_stay_secret(self):
        self.assertEqual(self.mode, 0o600)
        secret = self.key.split("_", 2)[2]
        self.assertNotIn(secret, self.keys_text)
        self.assertNotIn(secret, self.server.log())
        self.assertNotIn(SECRET_PROMPT, self.server.log())
        pid = self.server.process.pid
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        self.assertEqual(line.split()[4:6], ["0", "0"])
        self.assertNotIn(secret, harness.run(harness.program("lift-server"), "--help").stdout)

    def test_zz_reload(self):
        """Last: a new certificate from a new authority, and a key taken away, without a restart."""
        make_certificate("server2", "otherca", "localhost", "DNS:localhost,IP:127.0.0.1")
        old = self.channel()
        self.assertIsNone(self.ask(old, self.key))  # a live connection, which must survive
        for suffix in ("key", "pem"):
            (FOLDER / f"server2.{suffix}").replace(FOLDER / f"server.{suffix}")
        deadline = time.monotonic() + 30
        code = grpc.StatusCode.UNAVAILABLE
        while code is not None and time.monotonic() < deadline:
            with self.channel(root="otherca.pem") as channel:
                code = self.ask(channel, self.key)
        self.assertIsNone(code, "the new certificate is never shown")
        self.assertIsNone(self.ask(old, self.key))
        (FOLDER / "keys.json").write_text('{"keys": []}', encoding="utf-8")
        while self.ask(old, self.key) is None and time.monotonic() < deadline + 30:
            time.sleep(0.1)
        self.assertEqual(self.ask(old, self.key), grpc.StatusCode.UNAUTHENTICATED)
        old.close()


class WrongFiles(unittest.TestCase):
    def test_are_refused_at_the_start(self):
        server = harness.program("lift-server")
        empty = FOLDER / "empty"
        empty.write_text("", encoding="utf-8")
        for flags, named in (
                (["--tls-cert", str(empty), "--tls-key", str(empty)], "no PEM certificate chain"),
                (["--auth-keys", str(empty)], "not JSON"), (["--tls-cert", str(empty)], "--tls-key")):
            done = harness.run(server, "--model", str(harness.TINY), "--listen", "127.0.0.1:0", "--admin",
                               "127.0.0.1:0", *flags)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(named, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
