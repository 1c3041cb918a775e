"""Prompts from the committed templates alone, without a network. Run by CTest."""

import contextlib
import io
import json
import pathlib
import random
import tempfile
import unittest

import expand
import make_prompts
import packages

SIZES = {"train": 150, "test": 90, "ood": 90}


def make(folder, seed=1, sizes=SIZES, more=()):
    arguments = ["--packages", "none", "--out", str(folder), "--cache", str(folder / "cache"), "--seed", str(seed)]
    for split, size in sizes.items():
        arguments += [f"--{split}", str(size)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        return make_prompts.main([*arguments, *more]), errors.getvalue()


def read(folder):
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in make_prompts.SPLITS
    }


class TemplateSetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls._scratch.name)
        cls.status, _ = make(cls.folder / "one")
        cls.splits = read(cls.folder / "one")

    @classmethod
    def tearDownClass(cls):
        cls._scratch.cleanup()

    def test_gives_the_sizes_asked_for_without_packages(self):
        self.assertEqual(self.status, 0)
        self.assertEqual({split: len(records) for split, records in self.splits.items()}, SIZES)
        self.assertFalse((self.folder / "one/cache").exists())

    def test_one_seed_gives_the_same_bytes_and_another_does_not(self):
        make(self.folder / "again")
        make(self.folder / "other", seed=2)
        for name in ("train.jsonl", "test.jsonl", "ood.jsonl", "manifest.json"):
            first = (self.folder / "one" / name).read_bytes()
            self.assertEqual(first, (self.folder / "again" / name).read_bytes())
            self.assertNotEqual(first, (self.folder / "other" / name).read_bytes())

    def test_every_line_keeps_the_schema(self):
        for records in self.splits.values():
            for record in records:
                body = {"prompt", "messages"} & record.keys()
                self.assertEqual(len(body), 1, record)
                self.assertEqual(record.keys() - body, {"kind", "source", "language", "max_new_tokens"})
                self.assertEqual(record["max_new_tokens"], 64)
                self.assertTrue(make_prompts.content(record).strip())
                if "messages" in record:
                    roles = [turn["role"] for turn in record["messages"]]
                    self.assertIn(record["kind"], ("chat", "role-play"))
                    self.assertEqual(roles[-1], "user")
                    turns = [role for role in roles if role != "system"]
                    self.assertEqual(turns, ["user", "assistant"] * (len(turns) // 2) + ["user"])

    def test_no_slot_is_left_open(self):
        for split in make_prompts.SPLITS:
            slots = {name for group in make_prompts.load(split)[1] for name in group["slots"]}
            for record in self.splits[split]:
                self.assertFalse(expand.names(make_prompts.content(record)) & slots, record)

    def test_sources_and_kinds_are_as_disjoint_as_promised(self):
        sources = {split: {record["source"] for record in records} for split, records in self.splits.items()}
        make_prompts.check_disjoint(sources)
        kinds = {split: {record["kind"] for record in records} for split, records in self.splits.items()}
        self.assertEqual(kinds["train"], kinds["test"])
        self.assertFalse(kinds["train"] & kinds["ood"])

    def test_no_prompt_resembles_one_of_another_file(self):
        everything = [(s, make_prompts.content(r)) for s, records in self.splits.items() for r in records]
        self.assertEqual(len({make_prompts.digest(text) for _, text in everything}), len(everything))
        cut = [(split, make_prompts.shingles(text)) for split, text in everything]
        for index, (split, one) in enumerate(cut):
            for other_split, other in cut[:index]:
                limit = make_prompts.WITHIN if split == other_split else make_prompts.ACROSS
                self.assertLess(len(one & other), limit * min(len(one), len(other)))

    def test_the_manifest_describes_the_files(self):
        manifest = json.loads((self.folder / "one/manifest.json").read_text(encoding="utf-8"))
        self.assertEqual((manifest["seed"], manifest["packages"]), (1, {}))
        for split, records in self.splits.items():
            entry = manifest["files"][f"{split}.jsonl"]
            self.assertEqual(entry["prompts"], len(records))
            self.assertEqual(sum(entry["kinds"].values()), len(records))
            self.assertEqual(len(entry["sha256"]), 64)

    def test_says_what_it_cannot_do(self):
        status, errors = make(self.folder / "never", more=["--packages", "no-such-package"])
        self.assertEqual(status, 1)
        self.assertIn("no-such-package", errors)
        with self.assertRaisesRegex(make_prompts.BadInput, "ood: only 0 of 5"):
            make_prompts.draw("ood", {"logs": 1}, [], 5, make_prompts.Seen(), 1, 64)


class DisjointTest(unittest.TestCase):
    def test_no_template_group_or_package_serves_two_files(self):
        sources, phrases = {}, {}
        for split in make_prompts.SPLITS:
            groups = make_prompts.load(split)[1]
            sources[split] = {group["source"] for group in groups}
            bare = ("{text}", "{head}")
            phrases[split] = {json.dumps(t) for group in groups for t in group["templates"] if t not in bare}
        make_prompts.check_disjoint(sources)
        make_prompts.check_disjoint(phrases)
        with self.assertRaises(AssertionError):
            make_prompts.check_disjoint({"train": {"a"}, "test": {"b"}, "ood": {"a"}})


class ExpandTest(unittest.TestCase):
    def test_fills_slots_numbers_lines_and_fields(self):
        slots = {"a": ["x{b}"], "b": ["y"], "line": ["{1..1}"]}
        template = "{a} {a} {line*3} {2..2} {0.5..0.5} {code} {C} {}"
        expanded = expand.expand(template, slots, {"code": "{a}"}, random.Random(1))
        self.assertEqual(expanded, "xy xy 1\n1\n1 2 0.5 {a} {C} {}")
        self.assertEqual(expand.names(["{a} {2..3}", "{b|c*2}"]), {"a", "b", "c"})


class PackageTest(unittest.TestCase):
    def test_passages_keep_to_their_size_and_leave_junk_out(self):
        good = "\n\n".join(f"Paragraph number {i} says something useful about the program." for i in range(40))
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            bad = "Written by someone@example.org.\n\nCopyright 1999.\n\n\\fBroff\\fR"
            (folder / "a.txt").write_text(f"{good}\n\n{bad}", encoding="utf-8")
            (folder / "b.txt").write_bytes(b"\xff\xfe broken")
            group = {"reader": "plain", "files": ["*.txt"], "words": (30, 60)}
            source, found = packages.Pieces(group, folder, random.Random(1)), []
            while piece := source.next():
                found.append(piece["text"])
        self.assertGreaterEqual(len(found), 8)
        for text in found:
            self.assertTrue(30 <= packages.words(text) <= 60)
            self.assertNotRegex(text, r"@|\\f")

    def test_functions_come_whole_with_their_first_half_and_description(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            body = "\n".join(f"        self.x += {i}" for i in range(6))
            doc = '"""Adds several numbers to what is stored here."""'
            text = f"class A:\n    def grow(self, y=1):\n        {doc}\n{body}\n"
            (folder / "a.py").write_text(text, encoding="utf-8")
            piece = packages.Pieces({"reader": "python", "files": ["*.py"]}, folder, random.Random(1)).next()
        self.assertEqual(piece["signature"], "grow(self, y=1)")
        self.assertEqual(piece["doc"], "Adds several numbers to what is stored here.")
        self.assertTrue(piece["text"].startswith("def grow") and piece["text"].startswith(piece["head"]))


if __name__ == "__main__":
    unittest.main()
