"""What lift-calibrate export writes: the values that the independent reader decodes, and models that compute our logits.

Run by CTest (LIFT_PROGRAM_DIR, LIFT_SOURCE_DIR); needs numpy, and onnxruntime for the ONNX part.
check_exports.py beside this file does the same with transformers.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}; tests/run.sh installs what tests/integration/requirements.txt lists")
    sys.exit(77)
try:
    import onnxruntime
except ImportError as error:
    print(f"the ONNX part is skipped: {error}; pip install onnxruntime")
    onnxruntime = None

SOURCE = pathlib.Path(os.environ["LIFT_SOURCE_DIR"])
PROGRAMS = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"])
GOLDEN = SOURCE / "tests/golden"
TEXT = GOLDEN / "text/node_modules_and_packages.txt"
sys.path.insert(0, str(SOURCE / "tests/model"))
from lifted_reader import LiftedFile  # noqa: E402

MODELS = ["tiny/tiny-bias", "tiny/tiny-gqa-f16.gguf", "families/qwen3-1", "families/mistral-1", "families/mixtral-1",
          "families/gpt_neox-1", "families/starcoder2-1", "families/gemma3-1", "families/mamba-1",
          "families/mamba2-1"]
TOLERANCE = 1e-3  # of logits of a few units


def run(name, *arguments):
    return subprocess.run([str(PROGRAMS / name), *map(str, arguments)], capture_output=True, text=True, timeout=300)


def check(name, *arguments):
    done = run(name, *arguments)
    if done.returncode != 0:
        raise AssertionError(f"{name} {arguments} exited {done.returncode}: {done.stderr}")
    return done.stdout


def calibrate(model, out):
    check("lift-calibrate", "--model", model, "--calib", TEXT, "--bits", "4,5", "--lambda", "1", "--chain", "2,1,2",
          "--samples", "4", "--context", "64", "--quality", "fast", "--beam", "16", "--no-measure", "--out", out)
    return out


def export(model, variant, to, folder):
    check("lift-calibrate", "export", "--file", model, "--variant", variant, "--to", to, folder)
    return folder


def logits(model, ids, variant=None):
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "logits.npy"
        more = ["--variant", variant] if variant else []
        check("lift-eval", "logits", "--kv-cache", "f32", "--model", model, "--token-ids", ",".join(map(str, ids)), "--out", out, *more)
        return np.load(out)


def load_safetensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(data[8 + size + begin:8 + size + end], "<f4")
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_wide_model(folder):
    """A Llama with a vocabulary large enough to be stored in strips of rows."""
    tiny = GOLDEN / "tiny/tiny-tied"
    config = json.loads((tiny / "config.json").read_text()) | {
        "vocab_size": 4500, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True}
    shapes = {"embed_tokens": (4500, 48), "norm": (48,), "layers.0.input_layernorm": (48,),
              "layers.0.post_attention_layernorm": (48,), "layers.0.self_attn.q_proj": (48, 48),
              "layers.0.self_attn.k_proj": (16, 48), "layers.0.self_attn.v_proj": (16, 48),
              "layers.0.self_attn.o_proj": (48, 48), "layers.0.mlp.gate_proj": (40, 48), "layers.0.mlp.up_proj": (40, 48),
              "layers.0.mlp.down_proj": (48, 40)}
    rng = np.random.default_rng(3)
    header, data, at = {}, [], 0
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype("<f4")
        header[f"model.{name}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + values.nbytes]}
        data.append(values.tobytes())
        at += values.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tiny / name).exists():
            shutil.copy(tiny / name, folder)


def canonical(tensors, config):
    """Exported tensors under the names and in the row order of the lifted file."""
    out = {}
    for name, values in tensors.items():
        name = name.replace("block_sparse_moe.gate", "mlp.gate").replace("block_sparse_moe", "mlp")
        for theirs, ours in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            name = name.replace(f".{theirs}.", f".{ours}.")
        for theirs, ours in (("gpt_neox.embed_in", "model.embed_tokens"), ("embed_out", "lm_head"),
                             ("gpt_neox.final_layer_norm", "model.norm"), ("gpt_neox.", "model."),
                             ("backbone.embeddings", "model.embed_tokens"), ("backbone.norm_f", "model.norm"),
                             ("backbone.", "model."),
                             ("attention.dense", "self_attn.o_proj"), ("dense_h_to_4h", "up_proj"),
                             ("dense_4h_to_h", "down_proj"), ("mlp.c_fc", "mlp.up_proj"), ("mlp.c_proj", "mlp.down_proj")):
            name = name.replace(theirs, ours)
        if config["model_type"].startswith("mamba") and name.endswith(".norm.weight") and "mixer" not in name:
            name = name.replace(".norm.", ".input_layernorm.") if "layers" in name else name
        if config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if "query_key_value" not in name:
            out[name] = values
            continue
        heads = config["num_attention_heads"]
        split = values.reshape(heads, 3, -1, *values.shape[1:])
        for i, part in enumerate("qkv"):
            out[name.replace("attention.query_key_value", f"self_attn.{part}_proj")] = \
                split[:, i].reshape(-1, *values.shape[1:])
    return out


def paired(values, heads):
    """Halves of each head to neighbouring pairs, as GGUF's llama files order the rows of q and k."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


class ExportTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def check_values(self, lifted, variant, folder):
        reader = LiftedFile(lifted)
        config = json.loads((folder / "config.json").read_text())
        interleaved = json.loads(reader.meta["model_config"])["rope"]["interleaved"]
        tensors = canonical(load_safetensors(folder / "model.safetensors"), config)
        names = reader.matrix_names()
        vectors = [vector["name"] for vector in reader.meta["vectors"]]
        self.assertEqual(sorted(tensors), sorted(names + vectors))
        for name in names + vectors:
            got = tensors[name].astype(np.float64)
            if interleaved and (".q_proj." in name or ".k_proj." in name):
                got = paired(got, config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"])
            if name in names:
                want = reader.matrix(name, variant)
                tolerance = 2e-5 * np.abs(want).max()
            else:
                want, tolerance = reader.vector(name).reshape(got.shape), 0
            self.assertEqual(got.shape, want.shape)
            self.assertLessEqual(np.abs(got - want).max(), tolerance, name)

    def check_onnx(self, lifted, variant, folder):
        """On a batch of two: an ONNX Runtime session and our own graph on the exported weights."""
        if onnxruntime is None:
            return
        model = export(lifted, variant, "onnx", self.folder / f"onnx-{variant}") / "model.onnx"
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        ids = np.random.default_rng(5).integers(4, 300, (2, 90))
        got = session.run(None, {"input_ids": ids})[0]
        for row in range(2):
            self.assertLessEqual(np.abs(got[row] - logits(folder, ids[row])).max(), TOLERANCE)

    def check_full(self, model, lifted, folder):
        """lambda 1 is the source: in our graph on the export as in the source's own logits."""
        ids = np.random.default_rng(6).integers(4, 300, 90)
        self.assertLessEqual(np.abs(logits(folder, ids) - logits(model, ids)).max(), TOLERANCE)
        self.assertLessEqual(np.abs(logits(folder, ids) - logits(lifted, ids, "full")).max(), TOLERANCE)

    def check_model(self, model):
        lifted = calibrate(model, self.folder / "model.lift")
        variants = list(LiftedFile(lifted).variants)
        self.assertEqual(len(variants), 3)
        for variant in variants:
            folder = export(lifted, variant, "safetensors", self.folder / variant)
            if variant == "full":
                self.check_full(model, lifted, folder)
            else:
                self.check_values(lifted, variant, folder)
            if variant != variants[0]:
                self.check_onnx(lifted, variant, folder)

    def test_scans_and_windows_in_onnx_give_the_logits_of_transformers(self):
        """Every shape of state and kind of layer; the committed logits are some columns and the logsumexp over all."""
        if onnxruntime is None:
            return
        for name in ("mamba-1", "mamba-2", "mamba-3", "mamba2-1", "mamba2-2", "mamba2-3", "gemma3-1", "gemma3-2",
                     "gemma3-3"):
            source = GOLDEN / "families" / name
            model = export(source, "full", "onnx", self.folder / name) / "model.onnx"
            golden = json.loads((source / "golden.json").read_text())
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            got = session.run(None, {"input_ids": np.array([golden["token_ids"]])})[0][0].astype(np.float64)
            want = np.load(source / "logits.npy")
            self.assertLessEqual(np.abs(got[:, golden["columns"]] - want[:, :-1]).max(), TOLERANCE, name)
            self.assertLessEqual(np.abs(np.log(np.exp(got).sum(1)) - want[:, -1]).max(), TOLERANCE, name)

    def test_strips_of_a_wide_vocabulary(self):
        write_wide_model(self.folder / "wide")
        lifted = calibrate(self.folder / "wide", self.folder / "wide.lift")
        reader = LiftedFile(lifted)
        self.assertIn("model.embed_tokens.weight#1", reader.tensors)
        variant = list(reader.variants)[1]
        self.check_values(lifted, variant, export(lifted, variant, "safetensors", self.folder / "out"))

    def test_wrong_input_is_refused(self):
        model = GOLDEN / "tiny/tiny-bias"
        unknown = run("lift-calibrate", "export", "--file", model, "--variant", "q9", "--to", "onnx", self.folder / "a")
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("no variant 'q9'", unknown.stderr)
        export(model, "full", "safetensors", self.folder / "b")
        again = run("lift-calibrate", "export", "--file", model, "--to", "safetensors", self.folder / "b")
        self.assertEqual(again.returncode, 2)
        self.assertIn("already holds config.json", again.stderr)
        self.assertEqual(run("lift-calibrate", "export", "--file", model, "--to", "tensorrt", "c").returncode, 2)

    def test_frequency_factors_are_refused(self):
        lifted = calibrate(GOLDEN / "tiny/tiny-kquant.gguf", self.folder / "model.lift")
        done = run("lift-calibrate", "export", "--file", lifted, "--to", "safetensors", self.folder / "out")
        self.assertEqual(done.returncode, 2)
        self.assertIn("frequency factors", done.stderr)
        self.assertFalse((self.folder / "out").exists())
        export(lifted, "full", "onnx", self.folder / "onnx")

    def test_fixture_of_version_1(self):
        reader = LiftedFile(GOLDEN / "lifted_v1.lift")
        want = np.fromfile(GOLDEN / "lifted_v1.values", "<f4")
        got = np.concatenate([reader.tensor(name, variant).astype("<f4").ravel()
                              for variant in reader.variants for name in reader.tensors])
        np.testing.assert_allclose(got, want, atol=1e-6)  # what the C++ kernels are compared with, too
        self.assertEqual(reader.vector("norm").tolist(), [1, 2, 3])


def model_test(model):
    return lambda self: self.check_model(GOLDEN / model)


for path in MODELS:
    name = path.split("/")[1].replace("-", "_").replace(".", "_")
    setattr(ExportTest, f"test_{name}", model_test(path))

if __name__ == "__main__":
    unittest.main()
