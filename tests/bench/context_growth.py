#!/usr/bin/env python3
"""Memory and time per token while a context grows: a recurrent model beside one with attention, of about the same size.

Makes both with random weights (numpy), lets `lift-eval generate` write N tokens for growing N and takes differences: the time of
the tokens between two lengths, and the peak resident memory of the whole process.

  python tests/bench/context_growth.py --programs build/release/bin [--lengths 100,1000,4000,16000,32000] [--out growth]

Prints a table and writes growth.json and growth.svg. Needs numpy.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

import numpy as np

TINY = pathlib.Path(__file__).resolve().parent.parent / "golden/families"
HIDDEN, LAYERS, VOCAB = 128, 4, 331


def tensor(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype("<f4")


def mamba(rng):
    inner, state, rank = 2 * HIDDEN, 16, 8
    yield "backbone.embeddings.weight", tensor(rng, VOCAB, HIDDEN)
    yield "backbone.norm_f.weight", np.ones(HIDDEN, "<f4")
    for i in range(LAYERS):
        p = f"backbone.layers.{i}."
        yield p + "norm.weight", np.ones(HIDDEN, "<f4")
        yield p + "mixer.in_proj.weight", tensor(rng, 2 * inner, HIDDEN)
        yield p + "mixer.conv1d.weight", tensor(rng, inner, 1, 4)
        yield p + "mixer.conv1d.bias", np.zeros(inner, "<f4")
        yield p + "mixer.x_proj.weight", tensor(rng, rank + 2 * state, inner)
        yield p + "mixer.dt_proj.weight", tensor(rng, inner, rank)
        yield p + "mixer.dt_proj.bias", np.full(inner, -4, "<f4")
        yield p + "mixer.A_log", np.log(np.tile(np.arange(1, state + 1, dtype="<f4"), (inner, 1)))
        yield p + "mixer.D", np.ones(inner, "<f4")
        yield p + "mixer.out_proj.weight", tensor(rng, HIDDEN, inner)


def llama(rng):
    yield "model.embed_tokens.weight", tensor(rng, VOCAB, HIDDEN)
    yield "model.norm.weight", np.ones(HIDDEN, "<f4")
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield p + norm + ".weight", np.ones(HIDDEN, "<f4")
        for part in "qkvo":
            yield p + f"self_attn.{part}_proj.weight", tensor(rng, HIDDEN, HIDDEN)
        yield p + "mlp.gate_proj.weight", tensor(rng, HIDDEN, HIDDEN)
        yield p + "mlp.up_proj.weight", tensor(rng, HIDDEN, HIDDEN)
        yield p + "mlp.down_proj.weight", tensor(rng, HIDDEN, HIDDEN)


SHARED = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "tie_word_embeddings": True,
          "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 1 << 20}
CONFIGS = {
    "mamba": ({"model_type": "mamba", "state_size": 16, "time_step_rank": 8, "expand": 2, "conv_kernel": 4}, mamba),
    "llama": ({"model_type": "llama", "intermediate_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 4},
              llama),
}


def write_model(kind, folder):
    config, tensors = CONFIGS[kind]
    header, data, at = {}, [], 0
    for name, values in tensors(np.random.default_rng(1)):
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        data.append(values.astype("<f4").tobytes())
        at += values.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHARED | config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "mamba-1" / name, folder)


def run(program, model, tokens, threads):
    """Seconds and peak resident bytes of writing so many tokens."""
    start = time.monotonic()
    process = subprocess.Popen([program, "generate", "--model", model, "--prompt", "the", "--max-new-tokens", str(tokens),
                                "--ignore-eos", "--threads", str(threads)], stdout=subprocess.DEVNULL)
    peak = 0  # the kernel's own maximum counts what the process was before exec, so it is asked now and then
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak] + [1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")])
        time.sleep(0.005)
    if process.wait() != 0:
        raise RuntimeError(f"lift-eval exited {process.returncode}")
    return time.monotonic() - start, peak


def measure(program, folder, lengths, threads):
    points, before = [], (0, 0.0)
    for length in lengths:
        seconds, peak = run(program, folder, length, threads)
        points.append({"tokens": length, "ms_per_token": 1000 * (seconds - before[1]) / (length - before[0]),
                       "peak_mib": peak / 2**20})
        before = (length, seconds)
    return points


def plot(results, path):
    colors = {"mamba": "#1f77b4", "llama": "#d62728"}
    parts = ["<svg xmlns='http://www.w3.org/2000/svg' width='860' height='340' font-family='sans-serif' font-size='12'>"]
    for panel, (key, title) in enumerate((("ms_per_token", "ms per token"), ("peak_mib", "peak resident MiB"))):
        left, width, top, height = 60 + 430 * panel, 340, 40, 240
        most_x = max(p["tokens"] for points in results.values() for p in points)
        most_y = 1.1 * max(p[key] for points in results.values() for p in points)
        parts.append(f"<text x='{left}' y='24'>{title} by tokens in the context (to {most_x}); top is {most_y:.3g}</text>")
        parts.append(f"<path d='M{left} {top}v{height}h{width}' fill='none' stroke='#888'/>")
        for kind, points in results.items():
            line = " ".join(f"{left + width * p['tokens'] / most_x:.1f},{top + height * (1 - p[key] / most_y):.1f}"
                            for p in points)
            parts.append(f"<polyline points='{line}' fill='none' stroke='{colors[kind]}' stroke-width='2'/>")
    for i, (kind, color) in enumerate(colors.items()):
        parts.append(f"<text x='{60 + 80 * i}' y='320' fill='{color}'>{kind}</text>")
    path.write_text("\n".join(parts + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=pathlib.Path, help="folder of lift-eval")
    parser.add_argument("--lengths", default="100,1000,4000,16000,32000")
    parser.add_argument("--attention-most", type=int, default=8000, help="longest context of the model with attention")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("growth"), help="name of the files without ending")
    args = parser.parse_args()
    lengths = [int(n) for n in args.lengths.split(",")]
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in CONFIGS:
            folder = pathlib.Path(scratch) / kind
            write_model(kind, folder)
            most = args.attention_most if kind == "llama" else max(lengths)
            results[kind] = measure(args.programs / "lift-eval", folder, [n for n in lengths if n <= most], args.threads)
            for p in results[kind]:
                print(f"{kind:6} {p['tokens']:7} tokens  {p['ms_per_token']:8.3f} ms/token  {p['peak_mib']:8.1f} MiB peak", flush=True)
    args.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
