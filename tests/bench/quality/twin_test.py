"""The twin computes what the original computes, as GGUF and as HF folder, and its weights lie on no grid.

Run by CTest (LIFT_PROGRAM_DIR, LIFT_SOURCE_DIR, and LIFT_TEST_MODEL for the real model); needs numpy, gguf and safetensors.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import gguf
    import numpy as np
    from safetensors.numpy import load_file
except ImportError as error:
    print(f"skipped: {error}; tests/run.sh installs what tests/integration/requirements.txt lists")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = pathlib.Path(os.environ["LIFT_SOURCE_DIR"])
LIFT_EVAL = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"]) / "lift-eval"
TEXT = SOURCE / "tests/golden/text/node_modules_and_packages.txt"


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"{arguments} exited {done.returncode}: {done.stderr}")
    return done.stdout


def make_twin(model, out, *options):
    run(sys.executable, HERE / "make_twin.py", "--model", model, "--out", out, *options)
    return next(out.glob("twin-*.gguf")), out / "hf"


def token_ids(model, text):
    return json.loads(run(LIFT_EVAL, "tokenize", "--model", model, "--text", text, "--json"))["token_ids"]


def logits(model, ids, folder):
    out = folder / "logits.npy"
    run(LIFT_EVAL, "logits", "--kv-cache", "f32", "--model", model, "--token-ids", ",".join(map(str, ids)), "--out", out)
    return np.load(out).astype(np.float64)


def mean_kl(reference, other):
    p, q = (v - np.logaddexp.reduce(v, axis=1, keepdims=True) for v in (reference, other))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


class TwinTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.text = self.folder / "text.txt"

    def check(self, model, options, max_relative, max_kl, characters):
        self.text.write_text(TEXT.read_text(encoding="utf-8")[:characters], encoding="utf-8")
        paths = make_twin(model, self.folder / "twin", *options)
        ids = token_ids(model, self.text)[:96]
        self.assertGreater(len(ids), 60)
        expected = logits(model, ids, self.folder)
        for path in paths:
            self.assertEqual(token_ids(path, self.text)[:96], ids, path)
            found = logits(path, ids, self.folder)
            self.assertLess(np.abs(found - expected).max(), max_relative * expected.std(), path)
            self.assertLess(mean_kl(expected, found), max_kl, path)
        return paths

    def test_a_tied_quantized_model_keeps_its_logits(self):
        for name in ("tiny-tied-mixed", "tiny-tied-q8_0", "tiny-gqa-f16"):
            with self.subTest(name):
                self.check(SOURCE / f"tests/golden/tiny/{name}.gguf", ("--dtype", "f32"), 2e-4, 1e-7, 200)

    def test_sixteen_bits_cost_only_rounding(self):
        model = SOURCE / "tests/golden/tiny/tiny-tied-q8_0.gguf"
        for dtype, relative, kl in (("f16", 0.02, 2e-5), ("bf16", 0.15, 2e-3)):
            with self.subTest(dtype):
                (self.folder / "twin").mkdir(exist_ok=True)
                for old in (self.folder / "twin").glob("*.gguf"):
                    old.unlink()
                self.check(model, ("--dtype", dtype), relative, kl, 200)

    def test_weights_leave_the_grid_and_depend_on_the_seed(self):
        model = SOURCE / "tests/golden/tiny/tiny-tied-q8_0.gguf"
        name = "model.layers.0.mlp.gate_proj.weight"
        first, again, other = (
            load_file(make_twin(model, self.folder / f"twin{i}", "--dtype", "f32", "--seed", seed)[1] / "model.safetensors")
            for i, seed in enumerate((1, 1, 2)))
        np.testing.assert_array_equal(first[name], again[name])
        self.assertGreater(np.abs(first[name] - other[name]).max(), 0.01)
        # The original is on Q8_0's grid: encoding it again loses nothing. The twin is not.
        source = {t.name: t for t in gguf.GGUFReader(model).tensors}["blk.0.ffn_gate.weight"]
        original = gguf.quants.dequantize(source.data, source.tensor_type)
        for values, on_grid in ((original, True), (first[name], False)):
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            error = np.abs(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0) - values).max() / np.abs(values).max()
            self.assertEqual(error < 3e-4, on_grid, error)

    def test_gains_are_folded(self):
        model = SOURCE / "tests/golden/tiny/tiny-tied-q8_0.gguf"
        tensors = load_file(make_twin(model, self.folder / "twin", "--dtype", "f32")[1] / "model.safetensors")
        norms = [v for k, v in tensors.items() if "norm" in k]
        self.assertEqual(len(norms), 5)
        self.assertTrue(all((v == 1).all() for v in norms))
        self.assertIn("lm_head.weight", tensors)

    def test_another_architecture_is_refused(self):
        done = subprocess.run(
            [sys.executable, HERE / "make_twin.py", "--model", SOURCE / "tests/golden/tiny/tiny-qwen2-bf16.gguf",
             "--out", self.folder / "twin"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("qwen2", done.stderr)

    @unittest.skipUnless(os.environ.get("LIFT_TEST_MODEL"), "LIFT_TEST_MODEL is not set: run tests/run.sh")
    def test_the_real_model_keeps_its_logits(self):
        model = pathlib.Path(os.environ["LIFT_TEST_MODEL"])
        _, folder = self.check(model, (), 0.03, 2e-5, 1000)
        self.assertFalse(json.loads((folder / "config.json").read_text())["tie_word_embeddings"])


if __name__ == "__main__":
    unittest.main()
