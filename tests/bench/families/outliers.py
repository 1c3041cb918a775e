#!/usr/bin/env python3
"""Which projections of a model are hard to quantize and what helps: outliers of weights and inputs, and the KL each kind costs at 4 bits.

    outliers.py --corpus "$(bash deploy/fetch_corpus.sh)" ~/.cache/liftserve/families/mamba ~/.cache/liftserve/families/llama

For each kind of projection (means over the layers), before and after a random rotation of its input space: kurtosis of the weights'
rows (3 for a Gaussian) and their largest value over the row's root mean square; the same of the inputs, over tokens. Then the KL (nats
per token, held-out text) of the model with only that kind rounded to nearest at 4 bits, one scale a row: as it is, rotated, and with
GPTQ's feedback on the rotated matrix. Inputs are not quantized. Rotations are random orthogonal matrices.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers.models.mamba import modeling_mamba

import gptq_family
import train_tiny

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "quality"))
import group_quant  # noqa: E402

BITS = 4


def rotation(size):
    """Random orthogonal [size, size]."""
    q, r = np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def shape_of(rows):
    """(kurtosis, largest over root mean square), each the mean over rows."""
    rows = rows - rows.mean(1, keepdims=True)
    variance = (rows**2).mean(1) + 1e-30
    return float(((rows**4).mean(1) / variance**2).mean()), float((np.abs(rows).max(1) / np.sqrt(variance)).mean())


@torch.no_grad()
def log_shares(model, windows):
    return torch.cat([model(input_ids=part, use_cache=False).logits.log_softmax(-1) for part in windows.split(8)])


def divergence(model, reference, windows):
    other = log_shares(model, windows)
    return float((reference.exp() * (reference - other)).sum(-1).mean())


@torch.no_grad()
def inputs_of(model, windows, site):
    """Inputs of a site in every layer: sums of x x^T, and some of the rows."""
    found, removes = [], []

    class Rows(gptq_family.Moments):
        def __init__(self):
            super().__init__()
            self.rows = None

        def add(self, x):
            super().add(x)
            if self.rows is None:
                self.rows = x.reshape(-1, x.shape[-1])[:1024].numpy().copy()

    original, gptq_family.Moments = gptq_family.Moments, Rows
    for layer in gptq_family.layers_of(model)[0]:
        found.append({})
        removes.append(gptq_family.watch(layer, site, found[-1]))
    log_shares(model, windows)
    for remove in removes:
        remove()
    gptq_family.Moments = original
    return [moments[site] for moments in found]


def rounded(matrix, seen, way):
    """The matrix at BITS with one scale a row."""
    if way == "plain":
        return group_quant.round_to_nearest(matrix, BITS)
    turn = rotation(matrix.shape[1])
    if way == "rotated":
        return group_quant.round_to_nearest(matrix @ turn, BITS) @ turn.T
    return group_quant.gptq(matrix @ turn, turn.T @ seen.mean() @ turn, BITS) @ turn.T


@torch.no_grad()
def cost(model, name, seen, way, reference, windows):
    """KL with this projection of every layer rounded."""
    kept = []
    for layer, moments in zip(gptq_family.layers_of(model)[0], seen):
        weight = layer.get_submodule(name).weight
        kept.append(weight.clone())
        weight.copy_(torch.from_numpy(rounded(weight.numpy(), moments, way)))
    result = divergence(model, reference, windows)
    for layer, weight in zip(gptq_family.layers_of(model)[0], kept):
        layer.get_submodule(name).weight.copy_(weight)
    return result


def study(folder, calib, held_out):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    family = model.config.model_type
    windows = gptq_family.calibration_windows(folder, calib, 16, 256)
    tests = gptq_family.calibration_windows(folder, held_out, 32, 256)
    reference = log_shares(model, tests)
    for site in gptq_family.SITES[family]:
        seen = inputs_of(model, windows, site)
        for name in site.split():
            turn, before, after = None, [], []
            for layer, moments in zip(gptq_family.layers_of(model)[0], seen):
                weight = layer.get_submodule(name).weight.numpy()
                turn = rotation(weight.shape[1])
                before.append(shape_of(weight) + shape_of(moments.rows))
                after.append(shape_of(weight @ turn) + shape_of(moments.rows @ turn))
            figures = [f"{b:.1f} / {a:.1f}" for b, a in zip(np.mean(before, 0), np.mean(after, 0))]
            kl = [f"{cost(model, name, seen, way, reference, tests):.5f}" for way in ("plain", "rotated", "feedback")]
            print("| " + " | ".join([family, name.split(".")[-1], *figures, *kl]) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path, help="what train_tiny.py wrote, no Mixtral")
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    args = parser.parse_args()
    modeling_mamba.mamba_selective_scan = train_tiny.selective_scan
    group_quant.GROUP = 1 << 20  # a row is one group
    print("| model | projection | weights: kurtosis | max / rms | inputs: kurtosis | max / rms | KL plain | rotated | and feedback |")
    print("|---|---|---|---|---|---|---|---|---|")
    for folder in args.models:
        study(folder, (args.corpus / "calib.txt").read_text(), (args.corpus / "eval.txt").read_text())


if __name__ == "__main__":
    main()
