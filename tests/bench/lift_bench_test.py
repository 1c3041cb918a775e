"""lift-bench's contract: what --json prints for a synthetic model and a profile, and that its bytes add up. Speeds are not judged."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

PROGRAMS = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"])
FOLDER = tempfile.TemporaryDirectory()
# llama-tiny as tests/bench/synthetic.cc declares it; every size is a multiple of its tile.
VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 640, 128, 256, 2, 4, 2, 32
SITES = {  # name of the phase: weights of one call
    f"planes {(HEADS + 2 * KV_HEADS) * HEAD_DIM}x{HIDDEN}": (HEADS + 2 * KV_HEADS) * HEAD_DIM * HIDDEN,
    f"planes {HIDDEN}x{HEADS * HEAD_DIM}": HIDDEN * HEADS * HEAD_DIM,
    f"planes {2 * INNER}x{HIDDEN}": 2 * INNER * HIDDEN,
    f"planes {HIDDEN}x{INNER}": HIDDEN * INNER,
}


def bench(*arguments):
    return subprocess.run([str(PROGRAMS / "lift-bench"), *arguments], capture_output=True, text=True, check=False,
                          timeout=120)


def report(*arguments):
    done = bench(*arguments, "--json", "--seconds", "0.01", "--threads", "1")
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


class Synthetic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.path = str(pathlib.Path(FOLDER.name) / "tiny.lift")
        cls.made = report("--synthetic", "llama-tiny:2,3,4", "--save", cls.path, "--batch", "1,4", "--context", "0,40",
                          "--prefill", "8,20")

    def test_every_variant_batch_and_context_is_measured(self):
        decode = self.made["decode"]
        seen = {(p["variant"], p["batch"], p["context"]) for p in decode}
        self.assertEqual(seen, {(v, b, c) for v in ("q2", "q3", "q4") for b in (1, 4) for c in (0, 40)})
        for point in decode:
            self.assertGreater(point["tokens_per_second"], 0)
            self.assertGreater(point["bandwidth_fraction"], 0)
        self.assertEqual([p["tokens"] for p in self.made["prefill"]], [8, 20])
        self.assertGreater(self.made["read_bandwidth_bytes_per_second"], 0)
        self.assertGreater(self.made["peak_rss_bytes"], 1 << 20)

    def test_bytes_grow_by_the_planes_of_a_bit_and_are_shared_by_a_batch(self):
        weights = VOCAB * HIDDEN + LAYERS * sum(SITES.values())
        of = {(p["variant"], p["batch"]): p["bytes_per_token"] for p in self.made["decode"]}
        for low, high in (("q2", "q3"), ("q3", "q4")):
            self.assertEqual(of[high, 1] - of[low, 1], weights / 8)
        for variant in ("q2", "q3", "q4"):
            self.assertEqual(of[variant, 4] * 4, of[variant, 1])

    def test_a_mixed_batch_reads_what_its_finest_row_reads(self):
        made = report("--model", self.path, "--batch", "8", "--context", "4", "--prefill", "1", "--mixed")["decode"]
        of = {p["variant"]: p["bytes_per_token"] for p in made}
        self.assertEqual(set(of), {"q2", "q3", "q4", "mixed"})
        self.assertEqual(of["mixed"], of["q4"])

    def test_the_saved_file_is_a_model(self):
        again = report("--model", self.path, "--variant", "q3", "--batch", "1", "--context", "16", "--prefill", "4")
        self.assertEqual([p["variant"] for p in again["decode"]], ["q3"])
        done = subprocess.run([str(PROGRAMS / "lift-eval"), "generate", "--model", self.path, "--prompt", "hello",
                               "--max-new-tokens", "3", "--ignore-eos", "--json"], capture_output=True, text=True,
                              check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["prompt_tokens"], len(answer["token_ids"])), (5, 3))

    def test_without_save_nothing_is_left(self):
        before = set(os.listdir(FOLDER.name))
        done = subprocess.run([str(PROGRAMS / "lift-bench"), "--synthetic", "llama-tiny:2", "--plain", "--batch", "1",
                               "--context", "0", "--prefill", "1", "--seconds", "0.01", "--json"], check=True, timeout=60,
                              capture_output=True, env={**os.environ, "TMPDIR": FOLDER.name})
        self.assertEqual([p["variant"] for p in json.loads(done.stdout)["decode"]], ["q2"])
        self.assertEqual(set(os.listdir(FOLDER.name)), before)

    def test_wrong_input_is_named(self):
        for spec, words in (("llama-9b:3", "llama-7b"), ("llama-tiny", "SHAPE:BITS"), ("llama-tiny:99", "1 to 16"),
                            ("llama-tiny:2,x", "1 to 16")):
            done = bench("--synthetic", spec)
            self.assertEqual((done.returncode, done.stdout), (2, ""), spec)
            self.assertIn(words, done.stderr)
        self.assertEqual(bench("--synthetic", "llama-tiny:2", "--kernels").returncode, 2)
        self.assertEqual(bench("--model", self.path, "--kv-cache", "fp8").returncode, 2)
        self.assertEqual(bench("--model", self.path, "--isa", "mmx").returncode, 2)


class Tune(unittest.TestCase):
    def tune(self, *arguments, cache=FOLDER.name):
        done = subprocess.run([str(PROGRAMS / "lift-bench"), "tune", "--seconds", "0.01", "--threads", "1", *arguments],
                              capture_output=True, text=True, check=False, timeout=120,
                              env={**os.environ, "LIFTSERVE_CACHE": cache})
        return done

    def test_what_is_measured_is_printed_stored_and_taken(self):
        made = self.tune("--json")
        self.assertEqual(made.returncode, 0, made.stderr)
        made = json.loads(made.stdout)
        if not made["points"]:
            self.skipTest("these kernels look nothing up")
        for point in made["points"]:
            self.assertGreater(point["product_ns_per_512_signs"], 0)
            self.assertGreater(point["table_ns_per_512_signs"], 0)
            for way, most in made["most_columns"][point["code"]].items():
                self.assertEqual(point[way], "tables" if point["columns"] <= most else "products")
                self.assertTrue(0 <= most <= 32)
        (entry,) = json.loads(pathlib.Path(made["stored_in"]).read_text())["entries"]
        self.assertEqual(entry["most_columns"], {code: most["chosen"] for code, most in made["most_columns"].items()})
        self.assertEqual([entry[key] for key in ("isa", "cpu", "threads")], [made[key] for key in ("isa", "cpu", "threads")])
        taken = bench("--synthetic", "llama-tiny:2", "--batch", "1", "--prefill", "1", "--seconds", "0.01", "--threads", "1",
                      "--cpu-tuning", made["stored_in"])
        self.assertEqual(taken.returncode, 0, taken.stderr)
        self.assertIn("CPU tuning: of " + made["stored_in"], taken.stderr)

    def test_nothing_is_stored_where_it_should_or_can_not_be(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.tune("--dry-run", cache=folder)
            self.assertEqual((done.returncode, os.listdir(folder)), (0, []), done.stderr)
            path = pathlib.Path(folder) / "precious"
            path.write_text("precious")
            self.tune("--out", str(path))
            self.assertEqual(path.read_text(), "precious")
        self.assertEqual(self.tune("--isa", "mmx").returncode, 2)
        portable = self.tune("--isa", "portable")
        self.assertEqual(portable.returncode, 0)
        self.assertIn("no choice", portable.stdout)


class Experts(unittest.TestCase):
    """mixtral-tiny is llama-tiny with six experts, two a token."""

    def test_only_chosen_experts_are_read(self):
        made = report("--synthetic", "mixtral-tiny:2", "--batch", "1,64", "--context", "0", "--prefill", "64")
        of = {p["batch"]: p["bytes_per_token"] * p["batch"] for p in made["decode"]}
        expert = 3 * INNER * HIDDEN * 2 / 8 + (2 * INNER + HIDDEN) * 2  # planes, and a scale a row
        fewest, most = of[64] - of[1], LAYERS * 4 * expert  # 64 tokens choose nearly all of them
        self.assertLessEqual(fewest, most)
        self.assertGreater(fewest, most / 2)
        self.assertEqual(fewest % expert, 0)

    def test_memory_is_predicted(self):
        made = report("--synthetic", "mixtral-tiny:2", "--batch", "1", "--context", "0", "--prefill", "64")
        weights = (VOCAB * HIDDEN + LAYERS * (6 * 3 * INNER * HIDDEN + 2 * (HEADS + KV_HEADS) * HEAD_DIM * HIDDEN)) * 2 / 8
        self.assertGreater(made["predicted_resident_bytes"], weights)
        self.assertGreater(made["resident_bytes"], 0)


class Profile(unittest.TestCase):
    def phases(self, kv, context, batch=1):
        made = report("--synthetic", "llama-tiny:3", "--profile", "--batch", str(batch), "--context", str(context),
                      "--kv-cache", kv)
        self.assertGreater(made["read_bandwidth_bytes_per_second"], 0)
        self.assertEqual(made["profile"][-1]["phase"], "everything else")
        for phase in made["profile"]:
            self.assertGreaterEqual(phase["seconds"], 0)
        return {p["phase"]: p for p in made["profile"]}

    def test_planes_add_up(self):
        phases = self.phases("f32", 33)
        for name, weights in SITES.items():
            self.assertEqual(phases[name]["calls"], LAYERS, name)
            self.assertEqual(phases[name]["bytes"], LAYERS * weights * 3 / 8, name)
        head = phases[f"planes {VOCAB}x{HIDDEN}"]
        self.assertEqual((head["calls"], head["bytes"]), (1, VOCAB * HIDDEN * 3 / 8))
        self.assertEqual(phases["norm"]["calls"], 2 * LAYERS + 1)
        self.assertEqual(phases["attention"]["calls"], LAYERS)
        self.assertEqual(phases["attention"]["bytes"], LAYERS * 34 * 2 * KV_HEADS * 4 * HEAD_DIM)

    def test_multiply_adds_count_every_stream(self):
        for batch in (1, 3):
            phases = self.phases("f32", 33, batch)
            for name, weights in SITES.items():
                # 3 bits are 2+1p and 1 (or 1+1p): at least a product a bit, at most two.
                each = phases[name]["multiply_adds"] / (batch * LAYERS * weights)
                self.assertTrue(3 <= each <= 6 and each == int(each), (name, each))
            self.assertEqual(phases["attention"]["multiply_adds"], batch * LAYERS * 34 * 2 * HEADS * HEAD_DIM)
            self.assertEqual(phases["norm"]["multiply_adds"], 0)

    def test_roofline(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "roof.svg")
            made = report("--synthetic", "llama-tiny:3", "--profile", "--batch", "1", "--context", "33", "--plot", path)
            picture = xml.etree.ElementTree.parse(path).getroot()
        svg = "{http://www.w3.org/2000/svg}"
        shown = [p["phase"] for p in made["profile"] if p["bytes"]]
        self.assertEqual(len(picture.findall(svg + "circle")), len(shown))
        texts = " ".join(t.text for t in picture.findall(svg + "text"))
        for name in (*shown, "read loop"):
            self.assertIn(name, texts)
        for dot in picture.findall(svg + "circle"):
            self.assertTrue(80 <= float(dot.get("cx")) <= 640 and 70 <= float(dot.get("cy")) <= 470, dot.attrib)
        refused = bench("--synthetic", "llama-tiny:3", "--plot", "x.svg")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--profile", refused.stderr)

    def test_state_adds_up_in_every_format(self):
        for kv, head_bytes, context, batch in (("f16", 2 * HEAD_DIM, 33, 1), ("bf16", 2 * HEAD_DIM, 0, 1),
                                               ("int8", HEAD_DIM + 4, 7, 3)):
            attention = self.phases(kv, context, batch)["attention"]
            self.assertEqual(attention["bytes"], batch * LAYERS * (context + 1) * 2 * KV_HEADS * head_bytes, kv)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
