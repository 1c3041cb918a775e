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


def until(what, condition, seconds=60):
    """Waits for a true value of `condition()` and returns it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still waiting for {what}")
        time.sleep(0.02)
    return value


def mapped_bytes(pid, path):
    """Resident bytes of a file that a process has mapped."""
    total, ours = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def make_random_checkpoint(folder, hidden=320, intermediate=960, layers=6):
    """The tiny model's tokenizer on random weights of some megabytes: its planes are many pages."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((TINY / name).read_bytes())
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    config.update(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=4,
                  num_key_value_heads=1, head_dim=hidden // 4, max_position_embeddings=2048)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(5)
    matrix = lambda rows, columns: (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)  # noqa: E731
    tensors = {"lm_head.weight": matrix(config["vocab_size"], hidden),
               "model.embed_tokens.weight": matrix(config["vocab_size"], hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name, rows, columns in (("self_attn.q", hidden, hidden), ("self_attn.k", hidden // 4, hidden), ("self_attn.v", hidden // 4, hidden),
                                    ("self_attn.o", hidden, hidden), ("mlp.gate", intermediate, hidden),
                                    ("mlp.up", intermediate, hidden), ("mlp.down", hidden, intermediate)):
            tensors[f"{layer}{name}_proj.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = np.ones(hidden, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def make_lifted_model(folder, source=TINY, bits="2.5,4.5,6.5"):
    """A lifted file of the tiny model: three plane variants and the source. Of another source the variants alone."""
    text = folder / "calibration.txt"
    words = (SOURCE / "tests/golden/text/node_modules_and_packages.txt").read_text(encoding="utf-8")
    text.write_text(words[:20000], encoding="utf-8")
    out = folder / "tiny.lift"
    done = run(program("lift-calibrate"), "--model", str(source), "--calib", str(text), "--bits", bits,
               *(["--lambda", "1"] if source == TINY else []), "--samples", "4", "--context", "64", "--quality", "fast", "--beam", "16",
               "--eval-tokens", "256", "--out", str(out), "--json")
    if done.returncode != 0:
        raise AssertionError(f"lift-calibrate exited {done.returncode}: {done.stderr}")
    return out


class Server:
    """A lift-server process; `with Server(model) as server:` waits until it is ready."""

    def __init__(self, model, *flags, listen="127.0.0.1:0"):
        self.folder = tempfile.TemporaryDirectory()
        ready = pathlib.Path(self.folder.name) / "ready"
        self.stderr = open(pathlib.Path(self.folder.name) / "stderr", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [program("lift-server"), "--model", str(model), "--listen", listen, "--admin",
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
