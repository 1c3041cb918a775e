"""Rules, dashboards and alert delivery with the real Prometheus, promtool and Alertmanager, scraping a real server under
load."""

import http.server
import json
import pathlib
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.parse
import urllib.request

import tools

tools.require("LIFT_TEST_PYTHON", "an interpreter with grpcio")
PROMETHEUS, PROMTOOL, ALERTMANAGER = tools.tool("prometheus"), tools.tool("promtool"), tools.tool("alertmanager")

import harness  # noqa: E402

RULES = sorted((tools.CHART / "files/rules").glob("*.yaml"))
RULE_TESTS = sorted((tools.SOURCE / "tests/deploy/rules").glob("*.yaml"))
DASHBOARDS = sorted((tools.CHART / "files/dashboards").glob("*.json"))
ALERT_NAMES = re.findall(r"- alert: (\w+)", "".join(p.read_text() for p in RULES))


class Rules(unittest.TestCase):
    def test_promtool_accepts_the_rules(self):
        tools.run(PROMTOOL, "check", "rules", "--lint=all", "--lint-fatal", *RULES)

    def test_promtool_runs_their_unit_tests(self):
        tools.run(PROMTOOL, "test", "rules", *RULE_TESTS)

    def test_a_wrong_rule_would_be_noticed(self):
        """The unit tests bite: with one threshold moved they fail."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path in RULES + RULE_TESTS:
                copy = root / path.relative_to(tools.SOURCE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(path.read_text().replace("0.001 * sum", "0.1 * sum"))
            done = tools.run(PROMTOOL, "test", "rules", *[root / p.relative_to(tools.SOURCE) for p in RULE_TESTS], ok=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("LiftServeLedgerDrift", done.stdout + done.stderr)

    def test_every_alert_fires_in_a_unit_test_and_has_its_row_in_the_incident_table(self):
        checks = "".join(p.read_text() for p in RULE_TESTS)
        guide = (tools.SOURCE / "deploy/README.md").read_text(encoding="utf-8")
        self.assertGreater(len(ALERT_NAMES), 10)
        for name in ALERT_NAMES:
            fired = re.search(rf'alertname="{name}", alertstate="firing"(, severity="\w+", [^}}]+}}|}}\)\'\n.*\n.*\n.*value: 2)',
                              checks)
            self.assertTrue(fired, f"no unit test makes {name} fire")
            self.assertIn(f'<a id="{name}"></a>', guide, f"deploy/README.md has no row for {name}")

    def test_dashboards_are_what_their_script_writes(self):
        tools.run(sys.executable, tools.SOURCE / "deploy/dashboards/make_dashboards.py", "--check")


class Hook(http.server.BaseHTTPRequestHandler):
    """Where Alertmanager delivers."""
    alerts = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Hook.alerts.extend(json.loads(body)["alerts"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *unused):
        pass


class Stack:
    """Prometheus with the chart's rules, made impatient, and an Alertmanager that posts to Hook."""

    def __init__(self, folder, target):
        self.processes, self.log = [], open(folder / "log", "w+", encoding="utf-8")
        self.port, alert_port = tools.free_port(), tools.free_port()
        self.hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=self.hook.serve_forever, daemon=True).start()
        for path in RULES:
            text = re.sub(r"for: \w+", "for: 1s", re.sub(r"interval: \w+", "interval: 1s", path.read_text()))
            (folder / path.name).write_text(text)
        (folder / "alertmanager.yml").write_text(json.dumps({
            "route": {"receiver": "hook", "group_wait": "0s", "group_interval": "1s", "group_by": ["alertname"]},
            "receivers": [{"name": "hook", "webhook_configs": [
                {"url": f"http://127.0.0.1:{self.hook.server_port}/"}]}]}))
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["recording.yaml", "alerts.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alert_port}"]}]}]},
            "scrape_configs": [{"job_name": "liftserve", "static_configs": [
                {"targets": [target], "labels": {"namespace": "ml"}}]}]}))
        self.start(ALERTMANAGER, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am",
                   f"--web.listen-address=127.0.0.1:{alert_port}", "--cluster.listen-address=")
        self.start(PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                   f"--web.listen-address=127.0.0.1:{self.port}", "--rules.alert.resend-delay=1s")

    def start(self, *command):
        self.processes.append(subprocess.Popen(command, stdout=self.log, stderr=self.log))

    def query(self, expr):
        """Values of an instant query; raises with Prometheus' own words if it is refused."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return [float(r["value"][1]) for r in json.load(reply)["data"]["result"]]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # still starting
                return []
            raise AssertionError(f"{expr}: {error.read().decode()}") from error
        except OSError:
            return []  # not up yet

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)
        self.hook.shutdown()
        self.hook.server_close()
        self.log.close()


class Load(threading.Thread):
    """Every kind of traffic the dashboards show, until stopped."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.stopped, self.rounds = server, threading.Event(), 0

    def run(self):
        ask = ["generate", "--prompt"]
        while not self.stopped.is_set():
            self.rounds += 1
            for tenant, words in (("acme", "One, two, three,"), ("zenith", "Prove that sqrt(2) is irrational in C++:")):
                self.server.client("--tenant", tenant, *ask, words, "--max-new-tokens", "16")
            self.server.client(*ask, "x", "--variant", self.server.first_variant, "--max-new-tokens", "2")
            self.server.client(*ask, "x", "--variant", self.server.first_variant, "--min-lambda", "0.9")

    def stop(self):
        self.stopped.set()
        self.join()


def queries_of(path):
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in (("$namespace", "ml"), ("$job", ".*"), ("$__rate_interval", "15s"), ("$__range", "1m")):
                expr = expr.replace(name, value)
            yield panel["title"], expr


class LiveStack(unittest.TestCase):
    def test_every_query_returns_data_and_an_alert_is_delivered(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            with harness.Server(harness.make_lifted_model(folder), "--ledger", str(folder / "ledger.db"),
                                "--ledger-drift-check-seconds", "1", "--ledger-interval-seconds", "0.2") as server:
                server.first_variant = server.client_json("models")["models"][0]["variants"][0]["name"]
                stack = Stack(folder, server.admin)
                try:
                    self.check_metrics_style(server)
                    self.check_dashboards(stack, server)
                    self.check_ledger(stack, server, folder / "ledger.db")
                    self.check_delivery(stack, server)
                finally:
                    stack.stop()

    def check_metrics_style(self, server):
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=server.get("/metrics")[1], capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stderr.strip()), (0, ""))

    def check_dashboards(self, stack, server):
        load = Load(server)
        load.start()
        try:
            expected = [(path.name, *each) for path in DASHBOARDS for each in queries_of(path)]
            self.assertGreater(len(expected), 40)
            missing = lambda: [e for e in expected if not any(v == v for v in stack.query(e[2]))]  # noqa: E731
            remaining = []

            def all_there():
                remaining[:] = missing()
                return not remaining

            try:
                tools.until("data for every panel", all_there, seconds=120, every=1)
            except AssertionError as error:
                raise AssertionError("queries without data:\n" + "\n".join(map(str, remaining))) from error
            print(f"{len(expected)} dashboard queries returned data after {load.rounds} rounds of load", flush=True)
        finally:
            load.stop()

    def check_ledger(self, stack, server, path):
        """Prometheus and the ledger agree on every tenant; a fault planted in the file reaches a pager."""
        usage = server.client_json("usage")
        self.assertTrue(usage["durable"])
        for tenant in ("acme", "zenith", "default"):
            ledger = sum(e["weightByteSeconds"] + e["kvByteSeconds"] for e in usage["entries"] if e["tenant"] == tenant)
            self.assertGreater(ledger, 0)
            shown = lambda: sum(stack.query(f'liftserve_memory_byte_seconds_total{{tenant="{tenant}"}}'))  # noqa: E731,B023
            tools.until(f"Prometheus to agree about {tenant}", lambda: abs(shown() / ledger - 1) < 1e-6)  # noqa: B023
        self.assertEqual(stack.query("liftserve_ledger_drift_bytes_seconds"), [0.0])
        self.assertFalse([a for a in Hook.alerts if a["labels"]["alertname"] == "LiftServeLedgerDrift"])
        with sqlite3.connect(path, timeout=10) as db:
            db.execute("UPDATE lines SET weight_s = weight_s * 10 WHERE sequence > 0")
        fired = tools.until("LiftServeLedgerDrift at the receiver", lambda: [
            a for a in Hook.alerts if a["labels"]["alertname"] == "LiftServeLedgerDrift"])
        self.assertIn("byte-seconds", fired[0]["annotations"]["summary"])

    def check_delivery(self, stack, server):
        def delivered(name, status):
            return [a for a in Hook.alerts if a["labels"]["alertname"] == name and a["status"] == status]

        refused = tools.until("the alert about floors", lambda: delivered("LiftServePrecisionFloorRefusals", "firing"))
        self.assertIn("more precision than is resident", refused[0]["annotations"]["summary"])
        self.assertFalse(delivered("LiftServeDown", "firing"))
        server.process.kill()
        down = tools.until("LiftServeDown at the receiver", lambda: delivered("LiftServeDown", "firing"))
        self.assertEqual(down[0]["labels"]["severity"], "page")
        self.assertEqual(down[0]["labels"]["instance"], server.admin)
        self.assertIn(server.admin, down[0]["annotations"]["summary"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
