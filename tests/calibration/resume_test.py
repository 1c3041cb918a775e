"""A calibration that is killed goes on where it was and writes the same file, to the byte.

Run by CTest (LIFT_PROGRAM_DIR, LIFT_SOURCE_DIR); standard library only.
"""
import hashlib
import os
import pathlib
import random
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ["LIFT_SOURCE_DIR"])
PROGRAM = pathlib.Path(os.environ["LIFT_PROGRAM_DIR"]) / "lift-calibrate"
GOLDEN = SOURCE / "tests/golden"
KILLS = int(os.environ.get("LIFT_RESUME_KILLS", "10"))


class Resume(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = pathlib.Path(self.folder.name) / "model.lift"
        self.journal = pathlib.Path(f"{self.out}.journal")

    def tearDown(self):
        self.folder.cleanup()

    def start(self, *more, model="tiny/tiny-gqa"):
        return subprocess.Popen(
            [str(PROGRAM), "--model", str(GOLDEN / model), "--calib", str(GOLDEN / "text/node_modules_and_packages.txt"),
             "--bits", "4,5", "--chain", "2,1,2", "--beam", "256", "--samples", "16", "--context", "96", "--threads", "2",
             "--prefix-bits", "3", "--no-measure", "--out", str(self.out), *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill_midway(self):
        process = self.start()
        while process.poll() is None and (not self.journal.exists() or self.journal.stat().st_size < 20000):
            time.sleep(0.001)
        process.kill()
        process.communicate()

    def finish(self, *more, **which):
        process = self.start(*more, **which)
        errors = process.communicate(timeout=300)[1].decode()
        self.assertEqual(process.returncode, 0, errors)
        self.assertFalse(self.journal.exists())
        return hashlib.sha256(self.out.read_bytes()).hexdigest(), errors

    def test_killed_at_random_moments(self):
        began = time.monotonic()
        expected, _ = self.finish()
        whole = time.monotonic() - began
        moments = random.Random(5)
        resumed = 0
        for kill in range(KILLS):
            self.out.unlink()
            process = self.start()
            time.sleep(moments.random() * whole)
            process.kill()
            process.communicate()
            again, errors = self.finish() if not self.out.exists() else (expected, "")
            self.assertEqual(again, expected, f"kill {kill}")
            resumed += "going on after" in errors
        print(f"{KILLS} kills over {whole:.2f} s, {resumed} found work to go on from")

    def test_a_torn_record_is_cut_off(self):
        expected, _ = self.finish()
        self.out.unlink()
        self.kill_midway()
        if not self.journal.exists():
            self.skipTest("the calibration was done before it could be killed")
        kept = self.journal.read_bytes()
        for damaged in (kept[:-7], kept[:-7] + b"\0" * 7, kept + b"\xff" * 30):
            self.journal.write_bytes(damaged)
            again, errors = self.finish()
            self.assertEqual(again, expected)
            self.assertIn("going on after", errors)
            self.out.unlink()

    def test_other_inputs_begin_anew(self):
        expected, _ = self.finish("--seed", "2")
        self.out.unlink()
        self.kill_midway()
        again, errors = self.finish("--seed", "2")
        self.assertEqual(again, expected)
        self.assertNotIn("going on after", errors)

    def test_an_unwritable_journal_is_named(self):
        self.journal.mkdir()
        process = self.start()
        errors = process.communicate(timeout=300)[1].decode()
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn(str(self.journal), errors)


if __name__ == "__main__":
    unittest.main(verbosity=2)
