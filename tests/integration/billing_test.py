"""The ledger of a real server: bills that add up, kill -9, full disks, files of newer programs. Run by CTest through
LIFT_TEST_PYTHON."""

import csv
import decimal
import io
import json
import os
import pathlib
import resource
import sqlite3
import sys
import tempfile
import time
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import crash
import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)
MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name))
D = decimal.Decimal
MONTH = time.strftime("%Y-%m", time.gmtime())


def micros_of(path, where="1"):
    """Byte-microseconds of the ledger's lines, summed by Python and not by SQLite: they need more than 64 bits."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT weight_s, weight_us, kv_s, kv_us FROM lines JOIN requests USING (epoch, sequence) "
                          f"WHERE {where}").fetchall()
    return sum((a + c) * 1000000 + b + d for a, b, c, d in rows)


def resident_micros_of(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        return sum(a * 1000000 + b for a, b in db.execute("SELECT byte_s, byte_us FROM residency"))


def metric(server, name):
    for line in server.get("/metrics")[1].splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


class Ledger(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.scratch.name) / "ledger.db"

    def tearDown(self):
        self.scratch.cleanup()

    def serve(self, *flags):
        return harness.Server(MODEL, "--ledger", str(self.path), *flags)

    def generate(self, server, tenant, tokens=8, variant=None):
        extra = ["--variant", variant] if variant else []
        return server.client_json("--tenant", tenant, "generate", "--prompt", "One, two,", "--max-new-tokens", str(tokens),
                                  "--ignore-eos", *extra)

    def refused(self, *flags):
        done = harness.run(harness.program("lift-server"), "--model", str(MODEL), "--listen", "127.0.0.1:0", "--admin",
                           "127.0.0.1:0", *flags)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_the_bill_adds_up_to_the_ledger_to_the_last_byte_second(self):
        with self.serve() as server:
            variants = [v["name"] for v in server.client_json("models")["models"][0]["variants"]]
            for tenant, variant in (("acme", variants[0]), ("acme", variants[-1]), ("zenith", variants[1])):
                self.generate(server, tenant, 12, variant)
            ask = ["bill", "--tenant", "acme", "--month", MONTH, "--price", "12.5", "--tiers", "economy=0.6:0.8,premium=1:1.25"]
            bill = server.client_json(*ask)
            as_text = server.client(*ask).stdout
            as_csv = list(csv.DictReader(io.StringIO(server.client(*ask, "--format", "csv").stdout)))
            focus = list(csv.DictReader(io.StringIO(server.client(*ask, "--format", "focus").stdout)))
            records = server.client("records", "--of-tenant", "acme", "--format", "csv").stdout
            everything = server.client_json("usage")
        lines = bill["lines"]
        self.assertGreater(len(lines), 3)
        self.assertEqual(sum(D(line["byte_seconds"]) for line in lines), D(bill["byte_seconds"]))
        self.assertEqual(sum(D(line["amount"]) for line in lines), D(bill["amount"]))
        self.assertEqual(int(D(bill["byte_seconds"]) * 1000000), micros_of(self.path, "tenant = 'acme'"))
        unit = D(2**30) * 3600
        for line in lines:
            self.assertEqual(D(line["unit_price"]), D("10") if line["lambda"] <= 0.6 else D("15.625"))
            exact = D(line["byte_seconds"]) * D(line["unit_price"]) / unit
            self.assertLessEqual(abs(D(line["amount"]) - exact), D("0.0000000005"))
        self.assertIn(bill["byte_seconds"], as_text)
        self.assertIn(f"To pay: {bill['amount']} USD", as_text)
        self.assertEqual([row["amount"] for row in as_csv], [line["amount"] for line in lines])
        self.assertEqual(sum(D(row["BilledCost"]) for row in focus), D(bill["amount"]))
        self.assertEqual({row["SubAccountId"] for row in focus}, {"acme"})
        rows = list(csv.DictReader(io.StringIO(records)))
        self.assertEqual(sum(D(r["weight_byte_seconds"]) + D(r["kv_byte_seconds"]) for r in rows), D(bill["byte_seconds"]))
        self.assertEqual({r["state"] for r in rows}, {"FINISHED"})
        self.assertTrue(everything["durable"])
        self.assertEqual(micros_of(self.path), resident_micros_of(self.path))

    def test_kill_loses_nothing_that_was_told_and_at_most_an_interval_of_the_rest(self):
        report = crash.crash(harness, MODEL, rounds=6, seed=7)
        self.assertEqual(report["broken"], [])
        self.assertGreater(report["finished_and_told"], 10)
        print(json.dumps(report), flush=True)

    def test_usage_goes_on_after_a_kill(self):
        with self.serve() as server:
            self.generate(server, "acme")
            server.process.kill()
            server.process.wait()
        before = micros_of(self.path, "tenant = 'acme'")
        with self.serve() as server:
            self.generate(server, "acme")
            usage = server.client_json("usage", "--of-tenant", "acme")
        self.assertEqual(sum(int(e["requests"]) for e in usage["entries"]), 2)
        self.assertGreater(micros_of(self.path, "tenant = 'acme'"), before)
        self.assertEqual(micros_of(self.path), resident_micros_of(self.path))

    def test_a_full_disk_stops_no_answer_and_is_caught_up_with(self):
        with self.serve("--ledger-interval-seconds", "0.1") as server:
            self.generate(server, "acme")
            room = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1024, room[1]))
            for _ in range(3):
                self.generate(server, "acme")
            harness.until("the metric", lambda: metric(server, "liftserve_ledger_healthy") == 0)
            self.assertGreater(metric(server, "liftserve_ledger_commit_failures_total"), 0)
            self.assertIn("answers go on", server.log())
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, room)
            harness.until("the ledger to be written again", lambda: metric(server, "liftserve_ledger_healthy") == 1)
            harness.until("all rows", lambda: metric(server, "liftserve_ledger_unwritten_requests") == 0)
            usage = server.client_json("usage", "--of-tenant", "acme")
            server.terminate()
            self.assertEqual(server.wait(), 0)
        self.assertEqual(sum(int(e["requests"]) for e in usage["entries"]), 4)
        self.assertEqual(micros_of(self.path), resident_micros_of(self.path))

    def test_what_cannot_be_opened_is_refused_with_its_reason(self):
        self.assertIn("No such file or directory", self.refused("--ledger", str(self.path.parent / "absent" / "x.db")))
        self.assertIn("cannot be used", self.refused("--ledger", self.scratch.name))
        self.path.write_bytes(b"not a database, but long enough to have a header" * 100)
        self.assertIn("file is not a database", self.refused("--ledger", str(self.path)))
        self.path.unlink()
        with self.serve():
            self.assertIn("another running lift-server", self.refused("--ledger", str(self.path)))
        with sqlite3.connect(self.path) as db:
            db.execute("PRAGMA user_version = 99")
        self.assertIn("start the newer lift-server", self.refused("--ledger", str(self.path)))
        self.assertIn("--ledger-sync", self.refused("--ledger", str(self.path), "--ledger-sync", "never"))

    def test_a_fault_in_the_file_shows_as_drift(self):
        with self.serve("--ledger-drift-check-seconds", "1", "--ledger-interval-seconds", "0.1") as server:
            self.generate(server, "acme", 20)
            time.sleep(2)
            self.assertEqual(metric(server, "liftserve_ledger_drift_bytes_seconds"), 0)
            with sqlite3.connect(self.path, timeout=10) as db:
                rows = db.execute("UPDATE lines SET weight_s = weight_s + 5000000 WHERE sequence IN (SELECT MAX(sequence) FROM "
                                  "lines)").rowcount
            harness.until("drift", lambda: metric(server, "liftserve_ledger_drift_bytes_seconds") == -5000000 * rows)

    def test_wrong_questions_say_what_to_change(self):
        with harness.Server(MODEL) as server:
            done = server.client("bill", "--month", MONTH, "--price", "1")
            self.assertEqual(done.returncode, 1)
            self.assertIn("--ledger FILE", done.stderr)
            for flags, words in ((("--month", "11-2026", "--price", "1"), "YYYY-MM"),
                                 (("--month", MONTH, "--begin", "2026-01-01", "--price", "1"), "excludes"),
                                 (("--begin", "2026-01-02", "--end", "2026-01-01", "--price", "1"), "after --begin"),
                                 (("--month", MONTH), "--price")):
                done = server.client("bill", *flags)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(words, done.stderr)
        with self.serve() as server:
            for flags, words in ((("--price", "cheap"), "decimal number"), (("--price", "1", "--tiers", "a=2:1"), "rising lambdas")):
                done = server.client("bill", "--month", MONTH, *flags)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
