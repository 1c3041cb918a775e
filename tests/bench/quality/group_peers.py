#!/usr/bin/env python3
"""GPTQ, AWQ and round-to-nearest at group size 128 on a float GGUF, each measured with lift-eval.

    pip install numpy gguf safetensors
    group_peers.py --lift-eval build/release/bin/lift-eval --model twin-f16.gguf --calib calib.txt --text eval.txt \
        --methods gptq-4,gptq-3,awq-4,rtn-4 --out peers.json

Hessians come from the calibration text; GPTQ's from the model as quantized so far, matrix by matrix ("true sequential"), AWQ's
from the float model. These methods define nothing for the embedding and the head, which are usually left at 16 bits. Here every
method is given something better, named by --tables:
  8      both tables round to nearest at 8 bits
  same   the head by the method itself at its own width, the embedding round to nearest at 4 bits or the method's, if wider
Bytes: integers, float16 scales and integer zeros of every group, float32 norms; activation order and AWQ's scales are free.
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

import ggml_peers
import make_twin
from group_quant import awq, gptq, group_bits, round_to_nearest

SITES = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))


class Llama:
    """The model's blocks in numpy, one window of activations [tokens, width] at a time; weights by GGUF name."""

    def __init__(self, fields, tensors, context):
        def get(key):
            return fields[f"llama.{key}"].contents()

        if "llama.rope.scaling.type" in fields and get("rope.scaling.type") != "none":
            raise make_twin.Unsupported("rope scaling is not handled")
        if any(name.endswith(".bias") for name in tensors):
            raise make_twin.Unsupported("biases are not handled")
        self.tensors = tensors
        self.blocks, self.heads, self.kv_heads = get("block_count"), get("attention.head_count"), get("attention.head_count_kv")
        self.epsilon = get("attention.layer_norm_rms_epsilon")
        self.size = tensors["blk.0.attn_q.weight"].shape[0] // self.heads
        angles = np.outer(np.arange(context), get("rope.freq_base") ** (-np.arange(0, self.size, 2) / self.size))
        self.cos, self.sin = np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]
        self.mask = np.triu(np.full((context, context), -np.inf, np.float32), 1)

    def weight(self, block, kind):
        return self.tensors[f"blk.{block}.{kind}.weight"]

    def norm(self, x, gain):
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + self.epsilon) * gain

    def rotate(self, x):
        """Rotary positions on x [tokens, heads, size]; GGUF keeps the two halves of a pair side by side."""
        even, odd = x[..., ::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., ::2], out[..., 1::2] = even * self.cos - odd * self.sin, even * self.sin + odd * self.cos
        return out

    def attention(self, x, block):
        q, k, v = (x @ self.weight(block, kind).T for kind in SITES[0])
        q = self.rotate(q.reshape(len(x), self.heads, self.size)).swapaxes(0, 1)
        k = self.rotate(k.reshape(len(x), self.kv_heads, self.size)).swapaxes(0, 1)
        v = v.reshape(len(x), self.kv_heads, self.size).swapaxes(0, 1)
        out = np.empty((len(x), self.heads, self.size), np.float32)
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            scores = q[head] @ k[shared].T / np.float32(np.sqrt(self.size)) + self.mask
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = scores @ v[shared] / scores.sum(axis=1, keepdims=True)
        return out.reshape(len(x), -1)

    def gated(self, x, block):
        gate = x @ self.weight(block, "ffn_gate").T
        return gate / (1 + np.exp(-gate)) * (x @ self.weight(block, "ffn_up").T)


def moments(inputs):
    """(mean of x x^T, mean of |x|) over windows of inputs."""
    count = sum(len(x) for x in inputs)
    return sum(x.T @ x for x in inputs) / count, sum(np.abs(x).sum(axis=0) for x in inputs) / count


def quantize_site(matrices, inputs, method, bits, scaled):
    if method == "rtn":
        return [round_to_nearest(m, bits) for m in matrices]
    hessian, magnitude = moments(inputs)
    if method == "gptq":
        return [gptq(m, hessian, bits) for m in matrices]
    return awq(matrices, hessian, magnitude, bits, scaled)


def quantize_blocks(model, windows, method, bits, progress):
    """Replaces the weights of every block; returns the final activations that the head sees."""
    float_model = method == "awq"  # its statistics are the float model's: replace weights behind the activations
    x = [model.tensors["token_embd.weight"][ids] for ids in windows]
    for block in range(model.blocks):
        late = {}

        def step(site, inputs):
            if method == "awq" and site == SITES[1]:
                scaled = model.heads == model.kv_heads  # the reference skips it: v has no room for the scales
            else:
                scaled = True
            names = [f"blk.{block}.{kind}.weight" for kind in site]
            new = quantize_site([model.tensors[n] for n in names], inputs, method, bits, scaled)
            (late if float_model else model.tensors).update(zip(names, new))

        normed = [model.norm(v, model.weight(block, "attn_norm")) for v in x]
        step(SITES[0], normed)
        mixed = [model.attention(v, block) for v in normed]
        step(SITES[1], mixed)
        x = [a + b @ model.weight(block, "attn_output").T for a, b in zip(x, mixed)]
        normed = [model.norm(v, model.weight(block, "ffn_norm")) for v in x]
        step(SITES[2], normed)
        hidden = [model.gated(v, block) for v in normed]
        step(SITES[3], hidden)
        x = [a + b @ model.weight(block, "ffn_down").T for a, b in zip(x, hidden)]
        model.tensors.update(late)
        if progress:
            end = "\n" if block + 1 == model.blocks else ""
            print(f"\r{method}-{bits}: block {block + 1} of {model.blocks}", end=end, file=sys.stderr, flush=True)
    return [model.norm(v, model.tensors["output_norm.weight"]) for v in x]


def quantize_model(fields, tensors, windows, method, bits, tables, progress=False):
    """(dequantized tensors, bits in all)."""
    model = Llama(fields, dict(tensors), windows.shape[1])
    embedding_bits, head_bits = (8, 8) if tables == "8" else (max(bits, 4), bits)
    model.tensors["token_embd.weight"] = round_to_nearest(tensors["token_embd.weight"], embedding_bits)
    final = quantize_blocks(model, windows, method, bits, progress)
    head_method = "rtn" if tables == "8" else method
    model.tensors["output.weight"] = quantize_site([tensors["output.weight"]], final, head_method, head_bits, True)[0]
    total = 0
    for name, value in tensors.items():
        width = {"token_embd.weight": embedding_bits, "output.weight": head_bits}.get(name, bits)
        total += 32 * value.size if value.ndim == 1 else group_bits(value.shape, width)
    return model.tensors, total


def calibration_windows(args):
    report = json.loads(ggml_peers.run(args.lift_eval, "tokenize", "--model", args.model, "--text", args.calib, "--json"))
    ids = np.array(report["token_ids"])
    starts = np.linspace(0, len(ids) - args.window, args.windows).astype(int)
    return np.stack([ids[s : s + args.window] for s in starts])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lift-eval", required=True)
    parser.add_argument("--model", required=True, help="float GGUF with an untied head, such as the twin; also the reference")
    parser.add_argument("--calib", required=True, help="calibration text")
    parser.add_argument("--text", required=True, help="evaluation text, disjoint from it")
    parser.add_argument("--methods", required=True, help="comma-separated, such as gptq-3,awq-4,rtn-4")
    parser.add_argument("--tables", choices=("8", "same"), default="8")
    parser.add_argument("--windows", type=int, default=64, help="calibration windows, spread over the text")
    parser.add_argument("--window", type=int, default=512, help="tokens of a calibration window")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON list, extended by every method")
    args = parser.parse_args()
    fields, tensors = make_twin.read_model(args.model)
    if "output.weight" not in tensors:
        raise SystemExit("error: the model's head is tied; make_twin.py writes one that is not")
    windows = calibration_windows(args)
    for method in args.methods.split(","):
        kind, bits = method.split("-")
        name = f"{method} g128, tables {args.tables}"
        if ggml_peers.has_result(args.out, name):
            continue
        quantized, total = quantize_model(fields, tensors, windows, kind, int(bits), args.tables, progress=True)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "peer-f32.gguf"
            make_twin.write_gguf(path, fields, quantized, "f32")
            figures = ggml_peers.evaluate(args.lift_eval, path, args.model, args.text, args.context, args.max_tokens, args.threads)
        parameters = sum(v.size for v in tensors.values())
        result = {"method": name, "parameters": parameters, "bytes": total // 8, "bits_per_weight": total / parameters} | figures
        ggml_peers.append_result(args.out, result)


if __name__ == "__main__":
    main()
