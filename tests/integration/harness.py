"""Starts the real programs and stops them again. Requires: requirements.txt beside this file."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SOURCE = pathlib.Path(os.environ["LIFT_SOURCE_DIR"])
PROGRAMS = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"])
TINY = SOURCE / "tests/golden/tiny/tiny-gqa"
SLOW_START_SECONDS = 120  # under a sanitizer on a busy machine


def program(name):
    return str(PROGRAMS / name)


def generate_stubs(folder):
    """Makes Python stubs from proto/ exactly as a user would, and puts them on the path."""
    from grpc_tools import protoc

    files = sorted(str(p) for p in (SOURCE / "proto/liftserve").rglob("*.proto"))
    standard = SOURCE / "proto/standard"
    files += [str(standard / name) for name in (
        "google/rpc/error_details.proto", "google/rpc/status.proto", "inference/grpc_predict_v2.proto",
        "vllm/grpc/vllm_engine.proto", "xds/data/orca/v3/orca_load_report.proto")]
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        ["protoc", f"-I{SOURCE / 'proto/standard'}", f"-I{SOURCE / 'proto'}", f"-I{well_known}",
         f"--python_out={folder}", f"--grpc_python_out={folder}", *files])
    if code != 0:
        raise RuntimeError(f"protoc failed with {code}")
    sys.path.insert(0, str(folder))


def run(*arguments, timeout=SLOW_START_SECONDS):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)


def run_json(*arguments):
    done = run(*arguments)
    if done.returncode != 0:
        raise AssertionError(f"{arguments} exited {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def make_lifted_model(folder):
    """A lifted file of the tiny model: three plane variants and the source."""
    text = folder / "calibration.txt"
    words = (SOURCE / "tests/golden/text/node_modules_and_packages.txt").read_text(encoding="utf-8")
    text.write_text(words[:20000], encoding="utf-8")
    out = folder / "tiny.lift"
    done = run(program("lift-calibrate"), "--model", str(TINY), "--calib", str(text), "--bits", "2.5,4.5,6.5",
               "--lambda", "1", "--samples", "4", "--context", "64", "--quality", "fast", "--beam", "16",
               "--eval-tokens", "256", "--out", str(out), "--json")
    if done.returncode != 0:
        raise AssertionError(f"lift-calibrate exited {done.returncode}: {done.stderr}")
    return out


class Server:
    """A lift-server process; `with Server(model) as server:` waits until it is ready."""

    def __init__(self, model, *flags):
        self.folder = tempfile.TemporaryDirectory()
        ready = pathlib.Path(self.folder.name) / "ready"
        self.stderr = open(pathlib.Path(self.folder.name) / "stderr", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [program("lift-server"), "--model", str(model), "--listen", "127.0.0.1:0", "--admin",
             "127.0.0.1:0", "--ready-file", str(ready), *flags], stderr=self.stderr)
        deadline = time.monotonic() + SLOW_START_SECONDS
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"lift-server did not start: {self.log()}")
            time.sleep(0.02)
        self.address, self.admin, *health = ready.read_text().split()
        self.health = health[0] if health else None

    def log(self):
        self.stderr.seek(0)
        return self.stderr.read()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def client(self, *arguments):
        return run(program("lift-client"), "--server", self.address, *arguments)

    def client_json(self, *arguments):
        return run_json(program("lift-client"), "--server", self.address, *arguments, "--json")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.stderr.close()
        self.folder.cleanup()
