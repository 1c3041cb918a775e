"""The comparison's own parts: sizes, quantizers, the numpy model, row folding, and the table's arithmetic. Run by CTest."""
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

    import compare_quality
    import fold_rows
    import gguf_size
    import group_peers
    import group_quant
    import make_twin
except ImportError as error:
    print(f"skipped: {error}; tests/run.sh installs what tests/integration/requirements.txt lists")
    sys.exit(77)

TINY = pathlib.Path(os.environ["LIFT_SOURCE_DIR"]) / "tests/golden/tiny"
LIFT_EVAL = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"]) / "lift-eval"


class SizeTest(unittest.TestCase):
    def test_types_and_bytes_are_those_the_gguf_package_reads(self):
        for name in ("tiny-tied-mixed", "tiny-kquant", "tiny-gqa-f16"):
            path = TINY / f"{name}.gguf"
            found = {t.name: t for t in gguf_size.tensors(path)}
            expected = gguf.GGUFReader(path).tensors
            self.assertEqual(len(found), len(expected))
            for tensor in expected:
                self.assertEqual(found[tensor.name].type.lower(), tensor.tensor_type.name.lower())
                self.assertLess(found[tensor.name].bytes - tensor.n_bytes, 32)
                self.assertGreaterEqual(found[tensor.name].bytes, tensor.n_bytes)


class GroupQuantTest(unittest.TestCase):
    def setUp(self):
        random = np.random.default_rng(3)
        self.matrix = random.standard_normal((48, 300)).astype(np.float32)
        mix = random.standard_normal((300, 300)) * np.arange(300, 0, -1) ** 0.7
        self.inputs = (random.standard_normal((1500, 300)) @ mix.T).astype(np.float32)
        self.hessian, self.magnitude = group_peers.moments([self.inputs])

    def error(self, quantized):
        return group_quant.output_error(quantized - self.matrix, self.hessian) / group_quant.output_error(self.matrix, self.hessian)

    def test_gptq_beats_rounding_and_every_bit_helps(self):
        previous = 1
        for bits in (2, 3, 4):
            plain = self.error(group_quant.round_to_nearest(self.matrix, bits))
            ours = self.error(group_quant.gptq(self.matrix, self.hessian, bits))
            self.assertLess(ours, 0.65 * plain)
            self.assertLess(plain, 0.4 * previous)
            previous = plain

    def test_values_lie_on_the_grid_that_is_paid_for(self):
        for quantized in (group_quant.round_to_nearest(self.matrix, 3), group_quant.gptq(self.matrix, self.hessian, 3)):
            for start in range(0, 300, group_quant.GROUP):
                for row in quantized[:, start : start + group_quant.GROUP]:
                    self.assertLessEqual(len(np.unique(row)), 8)
        self.assertEqual(group_quant.group_bits((48, 300), 3), 48 * (900 + 3 * 19))

    def test_awq_gains_where_few_inputs_are_large(self):
        inputs = self.inputs / np.abs(self.inputs).mean(axis=0)
        inputs[:, :6] *= 40
        hessian, magnitude = group_peers.moments([inputs])
        plain = group_quant.round_to_nearest(self.matrix, 3)
        scaled = group_quant.awq([self.matrix], hessian, magnitude, 3)[0]
        self.assertLess(group_quant.output_error(scaled - self.matrix, hessian),
                        0.5 * group_quant.output_error(plain - self.matrix, hessian))


class ModelTest(unittest.TestCase):
    def test_the_numpy_model_gives_lift_evals_logits(self):
        path = TINY / "tiny-gqa-f16.gguf"
        fields, tensors = make_twin.read_model(path)
        ids = np.random.default_rng(5).integers(4, 300, 40)
        model = group_peers.Llama(fields, tensors, len(ids))
        x = tensors["token_embd.weight"][ids]
        for block in range(model.blocks):
            x = x + model.attention(model.norm(x, model.weight(block, "attn_norm")), block) @ model.weight(block, "attn_output").T
            x = x + model.gated(model.norm(x, model.weight(block, "ffn_norm")), block) @ model.weight(block, "ffn_down").T
        head = tensors.get("output.weight", tensors["token_embd.weight"])
        found = model.norm(x, tensors["output_norm.weight"]) @ head.T
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "logits.npy"
            subprocess.run([LIFT_EVAL, "logits", "--kv-cache", "f32", "--model", path, "--token-ids", ",".join(map(str, ids)),
                            "--out", out], check=True, capture_output=True, timeout=60)
            expected = np.load(out)
        self.assertLess(np.abs(found - expected).max(), 1e-3 * expected.std())

    def test_gptq_on_a_model_costs_the_bytes_and_keeps_the_function(self):
        fields, tensors = make_twin.read_model(TINY / "tiny-gqa-f16.gguf")
        tensors = make_twin.make_twin(tensors, 1)
        windows = np.random.default_rng(6).integers(4, 300, (4, 48))
        quantized, bits = group_peers.quantize_model(fields, tensors, windows, "gptq", 8, "same")
        matrices = [n for n, v in tensors.items() if v.ndim == 2]
        for name in matrices:
            self.assertFalse(np.array_equal(quantized[name], tensors[name]), name)
            self.assertLess(np.abs(quantized[name] - tensors[name]).max(), 0.05 * np.abs(tensors[name]).max(), name)
        self.assertEqual(bits, sum(group_quant.group_bits(v.shape, 8) if v.ndim == 2 else 32 * v.size for v in tensors.values()))


class FoldTest(unittest.TestCase):
    def test_folding_rows_is_undone_exactly(self):
        self.assertEqual([fold_rows.factor(*s) for s in ((192, 576), (576, 1536), (331, 576), (64, 384))], [4, 1, 1, 2])
        model = TINY / "tiny-tied-q8_0.gguf"
        _, tensors = make_twin.read_model(model)
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            importance = {n: (7, np.arange(v.shape[1], dtype="<f4")) for n, v in tensors.items() if v.ndim == 2}
            fold_rows.write_imatrix(folder / "i.dat", importance, b"rest")
            folded, matrix = fold_rows.fold(model, folder / "i.dat", folder)
            entries, rest = fold_rows.read_imatrix(matrix)
            self.assertEqual(rest, b"rest")
            shapes = {t.name: t.shape for t in gguf_size.tensors(folded)}
            changed = 0
            for name, value in tensors.items():
                if value.ndim == 2:
                    self.assertEqual(shapes[name][0], len(entries[name][1]))
                    changed += shapes[name][0] != value.shape[1]
            self.assertGreater(changed, 0)
            fold_rows.unfold(model, folded, folder / "back.gguf")
            for name, value in make_twin.read_model(folder / "back.gguf")[1].items():
                expected = tensors[name].astype(np.float16) if value.ndim == 2 else tensors[name]  # the folded file is f16
                np.testing.assert_array_equal(value, expected)


class TableTest(unittest.TestCase):
    def entries(self):
        def entry(method, size, kl, lifted=False):
            return {"method": method, "bytes": size, "kl": kl, "perplexity": 10 + kl, "top1_agreement": 1 - kl, "tokens": 7, "lifted": lifted}

        return [entry("small", 100, 0.5), entry("large", 200, 0.1), entry("beaten", 210, 0.2),
                entry("ours a", 90, 0.25, True), entry("ours b", 205, 0.05, True)]

    def test_peers_meet_the_best_variant_that_is_no_larger(self):
        rows = {e["method"]: e for e in compare_quality.compare(self.entries(), 400, 10)}
        self.assertEqual(rows["small"]["lifted_match"]["method"], "ours a")
        self.assertAlmostEqual(rows["small"]["lifted_match"]["factor"], 2)
        self.assertAlmostEqual(rows["large"]["lifted_match"]["factor"], 0.4)  # ours b is larger: a loss is shown as one
        self.assertAlmostEqual(rows["beaten"]["lifted_match"]["factor"], 4)
        self.assertEqual([rows[n]["best"] for n in ("small", "large", "beaten")], [True, True, False])
        self.assertAlmostEqual(rows["large"]["bits_per_weight"], 4)
        self.assertAlmostEqual(rows["large"]["perplexity_excess"], 0.01)

    def test_runs_on_different_tokens_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "peers.json"
            rows = self.entries()[:2]
            path.write_text(json.dumps(rows))
            script = pathlib.Path(__file__).resolve().parent / "compare_quality.py"
            command = [sys.executable, script, "--peers", path, "--json", pathlib.Path(folder) / "out.json"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("| **small** | 100 |", done.stdout)
            rows[0]["tokens"] = 8
            path.write_text(json.dumps(rows))
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2)
            self.assertIn("different numbers of tokens", done.stderr)


if __name__ == "__main__":
    unittest.main()
