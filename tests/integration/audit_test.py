"""The log of routing decisions of a real server: what it says, that a second implementation closes its chain, that lift-client
finds damage offline and over gRPC, and who is told of whom. Run by CTest through LIFT_TEST_PYTHON."""

import contextlib
import json
import os
import pathlib
import sqlite3
import sys
import tempfile
import time
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import decision_log
import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)
MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name))
PROMPTS = ("What is the capital of France and why?", "Wie ist das Wetter heute, und was soll ich anziehen?",
           "def f(x): return x + 1", "Good morning to you")


def client(*arguments):
    return harness.run(harness.program("lift-client"), *arguments)


class Audit(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.scratch.name) / "ledger.db"
        self.key = pathlib.Path(self.scratch.name) / "audit.key"
        self.key.write_text("0123456789abcdef0123456789abcdef\n", encoding="utf-8")

    def tearDown(self):
        self.scratch.cleanup()

    def serve(self, *flags):
        return harness.Server(MODEL, "--ledger", str(self.path), *flags)

    def generate(self, server, tenant, prompt=PROMPTS[0], *flags):
        return server.client_json("--tenant", tenant, "generate", "--prompt", prompt, "--max-new-tokens", "3", "--ignore-eos", *flags)

    def sql(self, statement):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db, db:
            return db.execute(statement).rowcount

    def settled(self):
        """The file's bytes with what a killed server left beside it."""
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.read_bytes()

    def put_back(self, content):
        for suffix in ("", "-wal", "-shm"):
            pathlib.Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.path.write_bytes(content)

    def verify(self, *flags):
        return client("audit", "verify", "--ledger", str(self.path), *flags)

    def test_rows_say_what_the_answers_said(self):
        with self.serve("--escalate", "0.5") as server:
            answers = [self.generate(server, "acme", prompt, "--min-lambda", "0.4") for prompt in PROMPTS]
            self.generate(server, "acme", PROMPTS[0], "--variant", answers[0]["served_by"]["variant"])
            live = server.client("audit", "verify")
            self.assertEqual(live.returncode, 0, live.stderr)
        rows, head = decision_log.rows_of(self.path)
        self.assertEqual(len(rows), 5)
        for row, answer in zip(rows, answers):
            served = answer["served_by"]
            self.assertEqual((row["variant"], row["lambda"], row["score"], row["weights_sha256"], row["policy"]),
                             (served["variant"], served["lambda"], served["complexity_score"], served["weights_sha256"],
                              served["router_version"]))
            self.assertEqual((row["tenant"], row["min_lambda"], row["outcome"], row["generated_tokens"]), ("acme", 0.4, "OK", 3))
            self.assertGreaterEqual(row["served_lambda"], row["lambda"])
        self.assertEqual([row["language"] for row in rows[:2]], ["en", "de"])
        self.assertEqual([row["prompt_class"] for row in rows[:4]], ["question", "question", "code", "chat"])
        self.assertEqual((rows[4]["pinned"], rows[4]["reason"]), (1, "PINNED"))
        self.assertIn(f"{head[1]}:{head[2]}", live.stdout)
        content = self.settled()
        for prompt in PROMPTS:
            self.assertNotIn(prompt.encode(), content)

    def test_a_second_implementation_closes_the_chain_also_after_kill_and_with_a_key(self):
        with self.serve() as server:
            for i in range(4):
                self.generate(server, f"tenant-{i % 2}")
            server.process.kill()
            server.process.wait()
        with self.serve("--audit-key-file", str(self.key)) as server:
            for i in range(4):
                self.generate(server, f"tenant-{i % 2}")
        secret = self.key.read_bytes().strip()
        self.assertIsNone(decision_log.fault(self.path, secret))
        self.assertIsNotNone(decision_log.fault(self.path))
        self.assertIsNotNone(decision_log.fault(self.path, b"another secret of some length"))
        done = self.verify("--audit-key-file", str(self.key), "--unkeyed", "4", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["intact"], report["rows"], report["keyed_rows"]), (True, 8, 4))
        without = self.verify()
        self.assertEqual(without.returncode, 2)
        self.assertIn("--audit-key-file", without.stderr)
        refused = harness.run(harness.program("lift-server"), "--model", str(MODEL), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                              "--ledger", str(self.path))
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--audit-key-file", refused.stderr)

    def test_damage_is_found_by_both_and_named(self):
        with self.serve() as server:
            for i in range(6):
                self.generate(server, f"tenant-{i % 2}")
        head = json.loads(self.verify("--json").stdout)["head"]
        whole = self.settled()
        cases = (("UPDATE decisions SET tenant = 'else' WHERE position = 2", "row 2 was changed"),
                 ("DELETE FROM decisions WHERE position = 3", "row 3 is missing"),
                 ("DELETE FROM decisions WHERE position > 4", "the log was cut"),
                 ("UPDATE decisions SET position = 100 - position", "missing"))
        for statement, words in cases:
            self.put_back(whole)
            self.assertGreater(self.sql(statement), 0)
            done = self.verify()
            self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
            self.assertIn(words, done.stdout)
            self.assertIsNotNone(decision_log.fault(self.path))
            with self.serve() as server:  # the server goes on, and says so too
                self.generate(server, "acme")
                self.assertEqual(server.client("audit", "verify").returncode, 3)
        self.put_back(whole)
        self.assertEqual(self.verify("--head", head).returncode, 0)
        other = "5:" + head.split(":")[1]
        self.assertEqual(self.verify("--head", other).returncode, 3)
        self.assertEqual(self.verify("--head", "nonsense").returncode, 2)
        self.assertEqual(self.verify("--head", "7:" + head.split(":")[1]).returncode, 3)

    def test_parity_names_a_tenant_that_a_changed_log_shows_as_served_worse(self):
        with self.serve() as server:
            for i in range(24):
                self.generate(server, ("acme", "zenith")[i % 2], PROMPTS[i // 2 % 4])
            fair = server.client("audit", "parity")
            self.assertEqual(fair.returncode, 0, fair.stdout + fair.stderr)
            self.assertIn("no group is found", fair.stdout)
            by_language = server.client_json("audit", "parity", "--by", "language")
            self.assertEqual({g["group"] for g in by_language["groups"]}, {"en", "de", "und"})
            self.assertEqual(sum(g["rows"] for g in by_language["groups"]), 24)
        self.sql("UPDATE decisions SET served_lambda = served_lambda * 0.8 WHERE tenant = 'zenith'")
        done = client("audit", "parity", "--ledger", str(self.path))
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("tenant zenith is served", done.stdout)
        self.assertIn("worse", done.stdout)
        report = json.loads(client("audit", "parity", "--ledger", str(self.path), "--json").stdout)
        zenith = report["groups"][1]
        self.assertEqual((zenith["group"], zenith["verdict"], report["fair"]), ("zenith", "worse", False))
        chosen = client("audit", "parity", "--ledger", str(self.path), "--measure", "chosen")
        self.assertEqual(chosen.returncode, 0, chosen.stdout)

    def test_a_tenant_sees_only_its_own(self):
        keys = pathlib.Path(self.scratch.name) / "keys.json"
        secrets = {}
        for tenant, role in (("acme", "user"), ("zenith", "user"), ("ops", "admin")):
            done = harness.run(harness.program("lift-key"), "--file", str(keys), "--tenant", tenant, "--role", role)
            self.assertEqual(done.returncode, 0, done.stderr)
            secrets[tenant] = pathlib.Path(self.scratch.name) / f"{tenant}.key"
            secrets[tenant].write_text(done.stdout, encoding="utf-8")
        with self.serve("--auth-keys", str(keys)) as server:
            for tenant in ("acme", "zenith", "acme"):
                server.client_json("--api-key-file", str(secrets[tenant]), "generate", "--prompt", "hello", "--max-new-tokens", "2")
            own = server.client("--api-key-file", str(secrets["acme"]), "audit", "verify")
            self.assertEqual(own.returncode, 0, own.stderr)
            self.assertIn("each of the 2 rows you may see", own.stdout)
            everything = server.client("--api-key-file", str(secrets["ops"]), "audit", "verify")
            self.assertIn("INTACT: 3 rows", everything.stdout)
            foreign = server.client("--api-key-file", str(secrets["acme"]), "audit", "parity", "--of-tenant", "zenith")
            self.assertEqual(foreign.returncode, 1)
            self.assertIn("ADMIN_ONLY", foreign.stderr)

    def test_help_and_wrong_questions(self):
        for command, words in (("verify", "--head"), ("parity", "--by")):
            done = client("audit", command, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn(words, done.stdout)
            self.assertIn("Exit codes", done.stdout)
        self.assertEqual(client("audit").returncode, 2)
        self.assertEqual(client("audit", "parity", "--by", "colour").returncode, 2)
        missing = client("audit", "verify", "--ledger", str(self.path))
        self.assertEqual(missing.returncode, 1)
        self.assertIn("cannot be used", missing.stderr)
        with harness.Server(MODEL) as server:
            done = server.client("audit", "verify")
            self.assertEqual(done.returncode, 1)
            self.assertIn("--ledger FILE", done.stderr)

    def test_what_the_log_costs_a_request(self):
        """Printed, not judged: seconds a commit, with everything in it."""
        with self.serve() as server:
            start = time.monotonic()
            for _ in range(20):
                self.generate(server, "acme")
            lines = server.get("/metrics")[1].splitlines()
            value = lambda name: next(float(line.split()[1]) for line in lines if line.startswith(name + " "))  # noqa: E731
            commits = value("liftserve_ledger_commits_total")
            print(json.dumps({"commits": commits, "seconds_each": value("liftserve_ledger_commit_seconds_total") / commits,
                              "wall": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
