#!/usr/bin/env python3
"""Exports of every family against transformers, at a plane variant and at full precision.

Needs: pip install numpy torch transformers; run by hand, since tests/run.sh installs no torch:
  LIFT_SOURCE_DIR=. LIFT_PROGRAM_DIR=build/release/bin python tests/calibration/check_exports.py
Prints the largest difference of logits over 256 tokens and exits 1 if one is over 1e-3.
"""
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from export_test import GOLDEN, LiftedFile, TOLERANCE, calibrate, export, logits


def worst_differences(model, scratch):
    lifted = calibrate(model, scratch / "model.lift")
    ids = np.random.default_rng(7).integers(4, 300, 128 if "tiny" in str(model) else 256)
    for variant in list(LiftedFile(lifted).variants)[1:]:
        folder = export(lifted, variant, "safetensors", scratch / variant)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager",
                                                                   experts_implementation="eager").eval().float()
        got = theirs(torch.tensor(ids)[None]).logits[0].numpy()
        yield variant, float(np.abs(got - logits(folder, ids)).max())


def main():
    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()
    models = sorted((GOLDEN / "families").iterdir()) + sorted(p for p in (GOLDEN / "tiny").iterdir() if "tiny-" in p.name)
    failed = False
    for model in models:
        if model.parent.name == "families" and not (model / "tokenizer.json").exists():
            continue  # calibration reads text
        if model.name == "tiny-kquant.gguf":
            continue  # frequency factors: refused, see export_test.py
        with tempfile.TemporaryDirectory() as scratch:
            for variant, worst in worst_differences(model, pathlib.Path(scratch)):
                print(f"{model.name:24} {variant:6} {worst:.2e}")
                failed |= not worst <= TOLERANCE
    return failed


if __name__ == "__main__":
    sys.exit(main())
