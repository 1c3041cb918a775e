"""What the deployment tests share: where the tools are, skipping with a reason, and running until something holds."""

import os
import pathlib
import socket
import subprocess
import sys
import time

SOURCE = pathlib.Path(os.environ["LIFT_SOURCE_DIR"])
CHART = SOURCE / "deploy/chart"
sys.path.insert(0, str(SOURCE / "tests/integration"))


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def require(variable, what):
    """The value of an environment variable that tests/run.sh sets, or the end of this test with a reason."""
    value = os.environ.get(variable)
    if not value:
        skip(f"{variable} is unset: tests/run.sh sets it to {what}, where that can be fetched")
    return value


def tool(name):
    folder = require("LIFT_DEPLOY_TOOLS", "the folder with prometheus, alertmanager and helm")
    return str(pathlib.Path(folder) / "bin" / name)


def run(*command, ok=True, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, condition, seconds=60, every=0.2):
    """Waits for a true value of `condition()` and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still waiting for: {what}")
        time.sleep(every)
