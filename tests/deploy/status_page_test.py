"""The status page in a headless Chromium, against a real server under load."""

import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time
import unittest

import tools

tools.require("LIFT_TEST_PYTHON", "an interpreter with grpcio")
BROWSER = tools.require("LIFT_BROWSER", "a headless Chromium")

import harness  # noqa: E402

HOSTILE = '<img src=x onerror=alert(1)>'


def browse(folder, url, seconds, *flags):
    """Chromium's stdout and what the page wrote to its console, after `seconds` of the page's own time."""
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--enable-logging=stderr",
         "--v=0", f"--virtual-time-budget={seconds * 1000}", "--window-size=1180,1150", *flags, url],
        capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class StatusPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.server = harness.Server(harness.make_lifted_model(cls.folder))
        cls.variants = [v["name"] for v in cls.server.client_json("models")["models"][0]["variants"]]

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        cls.temporary.cleanup()

    def load(self):
        """Some work by two tenants on all variants, in the background until the returned function is called."""
        stopped = threading.Event()

        def work():
            while not stopped.is_set():
                for i, variant in enumerate(self.variants):
                    self.server.client("--tenant", ("acme", "zenith")[i % 2], "generate", "--prompt", "npm install",
                                       "--variant", variant, "--max-new-tokens", "24")

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def stop():
            stopped.set()
            thread.join()

        return stop

    def test_it_shows_the_server_without_errors(self):
        stop = self.load()
        try:
            time.sleep(1)
            page, console = browse(self.folder, f"http://{self.server.admin}/", 8, "--dump-dom")
            shot = pathlib.Path(os.environ.get("LIFT_SCREENSHOT", self.folder / "page.png"))
            browse(self.folder, f"http://{self.server.admin}/", 8, f"--screenshot={shot}")
        finally:
            stop()
        self.assertEqual(console, [])
        self.assertGreater(shot.stat().st_size, 20000)
        self.assertGreaterEqual(int(re.search(r'data-updates="(\d+)"', page).group(1)), 3)
        self.assertIn(">serving<", page)
        for variant in self.variants:
            self.assertRegex(page, rf"<tr><td>{re.escape(variant)}</td><td>[\d.]+</td>")
        for tenant in ("acme", "zenith", "__idle__"):
            self.assertRegex(page, rf"<tr><td>{tenant}</td><td>[\d.]+ \w*B·s</td>")
        self.assertEqual(len(re.findall(r'<path d="M', re.search(r'<svg id="routes".*?</svg>', page, re.S).group(0))),
                         len(self.variants))
        self.assertRegex(page, r'<b id="ttft">[\d.]+ (µs|ms|s)</b>')
        self.assertNotIn("NaN", re.sub(r"<script>.*?</script>", "", page, flags=re.S))

    def test_it_is_self_contained(self):
        status, page = self.server.get("/")
        self.assertEqual(status, 200)
        self.assertEqual(re.findall(r'(?:src|href)="(?!data:|metrics")[^"]*"|@import|url\(', page), [])
        self.assertEqual(set(re.findall(r"https?://[^\s\"']+", page)), {"http://www.w3.org/2000/svg"})  # a name, not a place
        self.assertNotIn("innerHTML", page)

    def test_hostile_labels_stay_text(self):
        """A page that reads a crafted /metrics: nothing in a label becomes markup."""
        import http.server

        html = self.server.get("/")[1]
        metrics = self.server.get("/metrics")[1] + (
            f'liftserve_memory_byte_seconds_total{{tenant="{HOSTILE}",variant="v",kind="weights",basis="b"}} 1e18\n')

        class Copy(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = (metrics if self.path == "/metrics" else html).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain" if self.path == "/metrics" else "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused):
                pass

        copy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Copy)
        threading.Thread(target=copy.serve_forever, daemon=True).start()
        try:
            page, console = browse(self.folder, f"http://127.0.0.1:{copy.server_port}/", 2, "--dump-dom")
        finally:
            copy.shutdown()
            copy.server_close()
        self.assertEqual(console, [])
        self.assertIn("<td>&lt;img src=x onerror=alert(1)&gt;</td>", page)

    def test_it_says_when_the_server_is_gone(self):
        with harness.Server(harness.TINY) as gone:
            html = gone.get("/")[1]
        path = self.folder / "gone.html"
        path.write_text(html)
        page, _ = browse(self.folder, path.as_uri(), 2, "--dump-dom")
        self.assertIn("no answer from the server", page)

    def test_off_by_configuration(self):
        with harness.Server(harness.TINY, "--no-status-page") as server:
            self.assertEqual(server.get("/")[0], 404)
            self.assertEqual(server.get("/metrics")[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
