#!/usr/bin/env python3
"""GPTQ with groups of 128 on a trained tiny model of any family, as a Hugging Face folder that lift-eval measures.

    gptq_family.py --model ~/.cache/liftserve/families/mamba --calib calib.txt --bits 4 --out FOLDER

Prints one JSON object: bytes and bits per weight. The quantizer is ../quality/group_quant.py's: activation order, static groups, ranges
searched. Matrices are quantized in the order of the forward pass, each with the inputs that the model quantized so far gives it; the
head likewise; the embedding rounds to nearest at no fewer than 4 bits. Vectors, routers, convolutions and A stay as they are, for 32 bits a
number. An expert's inputs are those of the tokens that chose it.
"""

import argparse
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from transformers.models.mamba import modeling_mamba

import train_tiny

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "quality"))
from group_quant import gptq, group_bits, round_to_nearest  # noqa: E402

ATTENTION = ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "self_attn.o_proj")
SITES = {  # modules that share an input, in order; "experts" stands for all of a layer's
    "llama": (*ATTENTION, "mlp.gate_proj mlp.up_proj", "mlp.down_proj"),
    "mistral": (*ATTENTION, "mlp.gate_proj mlp.up_proj", "mlp.down_proj"),
    "mixtral": (*ATTENTION, "experts gate_up_proj", "experts down_proj"),
    "gpt_neox": ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "mamba": ("mixer.in_proj", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"),
}


class Moments:
    """Sum of x x^T over the inputs seen."""

    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, x):
        x = x.reshape(-1, x.shape[-1]).numpy()
        self.total = self.total + x.T @ x
        self.count += len(x)

    def mean(self):
        return self.total / self.count


def watch(layer, site, moments):
    """Hooks that add this site's inputs to `moments` (by module, or by expert); returns what removes them."""
    if site.startswith("experts"):
        experts = layer.mlp.experts
        original = experts.forward

        def forward(hidden, index, weights):
            for e in range(experts.num_experts):
                x = hidden[(index == e).any(-1)]
                if site.endswith("down_proj"):
                    gate, up = torch.nn.functional.linear(x, experts.gate_up_proj[e]).chunk(2, -1)
                    x = experts.act_fn(gate) * up
                if len(x):
                    moments.setdefault(e, Moments()).add(x)
            return original(hidden, index, weights)

        experts.forward = forward
        return lambda: setattr(experts, "forward", original)
    if site == "mixer.dt_proj":  # used as a bare matrix; its input is the head of x_proj's output
        mixer = layer.mixer
        return mixer.x_proj.register_forward_hook(
            lambda module, args, out: moments.setdefault(site, Moments()).add(out[..., : mixer.time_step_rank])).remove
    module = layer.get_submodule(site.split()[0])
    return module.register_forward_pre_hook(lambda module, args: moments.setdefault(site, Moments()).add(args[0])).remove


def quantize_site(layer, site, moments, bits):
    """Replaces the site's matrices; returns their bits."""
    total = 0
    if site.startswith("experts"):
        stack = getattr(layer.mlp.experts, site.split()[1])
        for e in range(len(stack)):
            matrix = stack[e].numpy()
            new = gptq(matrix, moments[e].mean(), bits) if e in moments else round_to_nearest(matrix, bits)
            stack[e].copy_(torch.from_numpy(new))
            total += group_bits(matrix.shape, bits)
        return total
    for name in site.split():
        weight = layer.get_submodule(name).weight
        weight.copy_(torch.from_numpy(gptq(weight.numpy(), moments[site].mean(), bits)))
        total += group_bits(weight.shape, bits)
    return total


def layers_of(model):
    body = model.base_model
    return body.layers, next(getattr(body, n) for n in ("norm", "final_layer_norm", "norm_f") if hasattr(body, n))


def layer_calls(model, batch):
    """The keyword arguments every layer is called with; they do not depend on weights."""
    layers, _ = layers_of(model)
    calls = []
    hooks = [layer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True) for layer in layers]
    model(input_ids=batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [{k: v for k, v in call.items() if k != "hidden_states"} for call in calls]


def output_of(layer, x, call):
    out = layer(x, **call)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def quantize_model(model, windows, bits, progress=True):
    """windows: [n, tokens]. Returns the model's bits; its weights are replaced by what they decode to."""
    layers, norm = layers_of(model)
    sites = SITES[model.config.model_type]
    batches = windows.split(16)
    calls = [layer_calls(model, batch) for batch in batches]
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding.copy_(torch.from_numpy(round_to_nearest(embedding.numpy(), max(bits, 4))))
    total = group_bits(embedding.shape, max(bits, 4))
    states = [model.get_input_embeddings()(batch) for batch in batches]
    for i, layer in enumerate(layers):
        for site in sites:
            moments = {}
            remove = watch(layer, site, moments)
            for x, call in zip(states, calls):
                output_of(layer, x, call[i])
            remove()
            total += quantize_site(layer, site, moments, bits)
        states = [output_of(layer, x, call[i]) for x, call in zip(states, calls)]
        if progress:
            print(f"layer {i + 1} of {len(layers)}", file=sys.stderr, flush=True)
    final = Moments()
    for x in states:
        final.add(norm(x))
    head.copy_(torch.from_numpy(gptq(head.numpy(), final.mean(), bits)))
    total += group_bits(head.shape, bits)
    matrices = sum(p.numel() for p in quantized_matrices(model, sites))
    return total + 32 * (sum(p.numel() for p in model.parameters()) - matrices)


def quantized_matrices(model, sites):
    yield model.get_input_embeddings().weight
    yield model.get_output_embeddings().weight
    for layer in layers_of(model)[0]:
        for site in sites:
            if site.startswith("experts"):
                yield getattr(layer.mlp.experts, site.split()[1])
            else:
                yield from (layer.get_submodule(name).weight for name in site.split())


def calibration_windows(folder, text, windows, window):
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    starts = np.linspace(0, len(ids) - window, windows).astype(int)
    return torch.tensor([ids[s : s + window] for s in starts])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--calib", type=pathlib.Path, required=True)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--window", type=int, default=256, help="tokens of a calibration window")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    modeling_mamba.mamba_selective_scan = train_tiny.selective_scan
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval().requires_grad_(False)
    windows = calibration_windows(args.model, args.calib.read_text(), args.windows, args.window)
    bits = quantize_model(model, windows, args.bits)
    model.save_pretrained(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.model / name, args.out)
    print(json.dumps({"bytes": bits // 8, "bits_per_weight": bits / sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
