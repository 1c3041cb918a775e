#!/usr/bin/env python3
"""Memory that calibrating a large checkpoint takes: random weights of TinyLlama-1.1B's or Qwen2-7B's shape, calibrated while the
resident set is watched by kind. Time grows with the parameters, memory must not.

usage: calibrate_memory.py BUILD_DIR TOKENIZER_FOLDER CALIB_TEXT [--shape qwen2-7b] [--layers 22] [--bits 2,3] [--beam 16]
                           [--samples 32] [--context 256]

TOKENIZER_FOLDER is a Hugging Face folder whose tokenizer.json is taken (its vocabulary, too). Prints one JSON object: the peaks of the
anonymous and the file-backed part, the largest block, and the bar: largest block x 4 + activations + 500 MB.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time

import numpy as np


@dataclasses.dataclass
class Shape:
    hidden: int
    inner: int
    heads: int
    kv_heads: int


SHAPES = {"tinyllama-1.1b": Shape(2048, 5632, 32, 4), "qwen2-7b": Shape(3584, 18944, 28, 4)}


def tensors(shape, layers, vocab):
    yield "model.embed_tokens.weight", (vocab, shape.hidden)
    kv = shape.hidden // shape.heads * shape.kv_heads
    for i in range(layers):
        block = f"model.layers.{i}."
        yield block + "input_layernorm.weight", (shape.hidden,)
        for name, rows, cols in (
                ("self_attn.q_proj", shape.hidden, shape.hidden), ("self_attn.k_proj", kv, shape.hidden),
                ("self_attn.v_proj", kv, shape.hidden), ("self_attn.o_proj", shape.hidden, shape.hidden),
                ("mlp.gate_proj", shape.inner, shape.hidden), ("mlp.up_proj", shape.inner, shape.hidden),
                ("mlp.down_proj", shape.hidden, shape.inner)):
            yield f"{block}{name}.weight", (rows, cols)
        yield block + "post_attention_layernorm.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (vocab, shape.hidden)


def write_checkpoint(folder, source, shape, layers):
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    vocab = config["vocab_size"]
    config.update(hidden_size=shape.hidden, intermediate_size=shape.inner, num_attention_heads=shape.heads,
                  num_key_value_heads=shape.kv_heads, num_hidden_layers=layers, head_dim=shape.hidden // shape.heads,
                  tie_word_embeddings=False, torch_dtype="bfloat16", max_position_embeddings=2048)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in source.glob("tokenizer*"):
        shutil.copy(file, folder)
    header, at = {}, 0
    for name, size_of in tensors(shape, layers, vocab):
        size = 2 * int(np.prod(size_of))
        header[name] = {"dtype": "BF16", "shape": list(size_of), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, size_of in tensors(shape, layers, vocab):
            if len(size_of) == 1:
                values = np.ones(size_of, np.float32)
            else:
                values = random.standard_normal(size_of, np.float32) * size_of[1] ** -0.5
            out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    one_layer = sum(int(np.prod(size)) for name, size in tensors(shape, 1, vocab) if ".layers." in name and len(size) == 2)
    return at, max(2 * one_layer, 2 * vocab * shape.hidden)


def resident(pid):
    """(anonymous, file-backed) bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kinds = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("Rss")}
    return kinds.get("RssAnon", 0), kinds.get("RssFile", 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("calib", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--bits", default="2,3")
    parser.add_argument("--beam", type=int, default=16)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--context", type=int, default=256)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bytes_all, block = write_checkpoint(folder, flags.tokenizer, SHAPES[flags.shape], flags.layers)
        command = [flags.build / "bin/lift-calibrate", "--model", folder, "--calib", flags.calib, "--bits", flags.bits, "--beam",
                   str(flags.beam), "--samples", str(flags.samples), "--context", str(flags.context), "--quality", "fast",
                   "--no-measure", "--out", folder / "out.lift", "--json"]
        start = time.monotonic()
        peaks = {"rss": 0, "anonymous": 0, "file": 0}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            while process.poll() is None:
                try:
                    anonymous, file = resident(process.pid)
                except (FileNotFoundError, ProcessLookupError):
                    break
                for kind, value in (("rss", anonymous + file), ("anonymous", anonymous), ("file", file)):
                    peaks[kind] = max(peaks[kind], value)
                time.sleep(0.05)
            report = json.loads(process.stdout.read() or "{}")
        seconds = time.monotonic() - start
    tokens = flags.samples * flags.context
    activations = tokens * SHAPES[flags.shape].hidden * 4
    print(json.dumps({"exit_code": process.returncode, "checkpoint_bytes": bytes_all, "largest_block_bytes": block,
                      "activation_bytes": activations, "bar_bytes": 4 * block + activations + 500_000_000,
                      **{f"peak_{kind}_bytes": value for kind, value in peaks.items()}, "seconds": seconds,
                      "phases": report.get("phases")}, indent=2))


if __name__ == "__main__":
    main()
