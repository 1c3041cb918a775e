#!/usr/bin/env python3
"""Writes the off-grid twin of a Llama GGUF: the same function, with weights that lie on no quantization grid.

    pip install numpy gguf safetensors
    make_twin.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out FOLDER [--dtype f16|bf16|f32] [--seed 1]

A public file that is already quantized favours every format with the same grid: it copies the weights for free. The twin takes
that away without changing what the model computes:

  1. every tensor is dequantized to float32;
  2. RMSNorm gains are folded into the columns of the matrices that read the normalized activation (all gains become 1);
  3. the residual stream is rotated by a random orthogonal matrix Q (QR of a seeded Gaussian matrix): matrices that read it are
     multiplied by Q from the right, matrices that write it and the embedding table are rotated to match. RMSNorm without a gain
     commutes with Q, so the logits are the original's, up to rounding.

A tied embedding becomes two tensors. The head has to absorb the final norm's gain, head = E diag(g) Q, while the look-up table
is E Q; no gain on the rotated stream could undo the difference, for Q diag(g) Q^T is diagonal only where Q mixes equal gains.
So the twin is untied, for every method alike, and has vocabulary x width more parameters than a tied original.

Written: FOLDER/hf (config.json, model.safetensors, tokenizer.json, ...) and FOLDER/twin-<dtype>.gguf, with the same numbers.
"""
import argparse
import json
import pathlib
import re
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

READERS = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
WRITERS = ("attn_output", "ffn_down")
NORM_OF = {"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm"}
HF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
# What tokenizer.ggml.pre stands for; the same sequences as the models' own tokenizer.json.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRETOKENIZERS = {
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "gpt-2": BYTE_LEVEL,
    "default": BYTE_LEVEL,
}


class Unsupported(Exception):
    """The file is not one this tool can turn; the message says why."""


# ---- reading ----


def read_model(path):
    """(fields by name, float32 tensors by GGUF name); a matrix is [outputs, inputs]."""
    reader = gguf.GGUFReader(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = fields["general.architecture"].contents()
    if architecture != "llama":
        raise Unsupported(f"architecture '{architecture}': only 'llama' is known here")
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    for name in tensors:
        block = BLOCK.fullmatch(name)
        known = name in ("token_embd.weight", "output.weight", "output_norm.weight") or (block and block[2] in HF_NAMES)
        if not known:
            raise Unsupported(f"tensor '{name}': not a part of a plain Llama")
        if block and block[3] == "bias" and block[2] in WRITERS:
            raise Unsupported(f"tensor '{name}': a bias on the residual stream is not handled")
    return fields, tensors


# ---- the twin ----


def random_orthogonal(size, seed):
    """Haar-distributed: the QR factor of a Gaussian matrix, its signs fixed by R's diagonal. float64 [size, size]."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def make_twin(tensors, seed):
    """The folded and rotated float32 tensors; the head is always a tensor of its own."""
    embedding = tensors["token_embd.weight"]
    rotation = random_orthogonal(embedding.shape[1], seed).astype(np.float32)
    head = tensors.get("output.weight", embedding)
    twin = {}
    for name, value in tensors.items():
        block = BLOCK.fullmatch(name)
        kind = block[2] if block else name.removesuffix(".weight")
        if kind == "token_embd":
            twin[name] = value @ rotation
        elif kind == "output":
            continue
        elif kind.endswith("_norm"):
            twin[name] = np.ones_like(value)
        elif block[3] == "bias":
            twin[name] = value
        elif kind in READERS:
            twin[name] = (value * tensors[f"blk.{block[1]}.{NORM_OF[kind]}.weight"]) @ rotation
        else:
            twin[name] = rotation.T @ value
    twin["output.weight"] = (head * tensors["output_norm.weight"]) @ rotation
    return twin


def round_to_bf16(values):
    """float32 -> uint16, to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


# ---- GGUF ----


def write_gguf(path, fields, twin, dtype):
    writer = gguf.GGUFWriter(path, arch="llama")
    file_type = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}
    for name, field in fields.items():
        if name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(file_type[dtype])
    for name, value in twin.items():
        if value.ndim == 1 or dtype == "f32":
            writer.add_tensor(name, value)
        elif dtype == "f16":
            writer.add_tensor(name, value.astype(np.float16))
        else:
            writer.add_tensor(name, round_to_bf16(value).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- Hugging Face folder ----


def unpermute(rows, heads):
    """Rows of q or k from GGUF's interleaved rotary pairs to Hugging Face's halves."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def hf_name(name):
    block = BLOCK.fullmatch(name)
    if block:
        return f"model.layers.{block[1]}.{HF_NAMES[block[2]]}.{block[3]}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight"}[name]


def hf_config(fields, twin, dtype):
    def get(key, default=None):
        field = fields.get(f"llama.{key}")
        return default if field is None else field.contents()

    heads = get("attention.head_count")
    if fields.get("llama.rope.scaling.type") is not None and get("rope.scaling.type") not in ("none", "linear"):
        raise Unsupported(f"rope scaling '{get('rope.scaling.type')}' is not handled")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": twin["token_embd.weight"].shape[0],
        "hidden_size": get("embedding_length"), "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"), "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": twin["blk.0.attn_q.weight"].shape[0] // heads, "hidden_act": "silu",
        "max_position_embeddings": get("context_length"), "rms_norm_eps": round(get("attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": get("rope.freq_base", 10000.0), "tie_word_embeddings": False,
        "attention_bias": "blk.0.attn_q.bias" in twin, "mlp_bias": False,
        "torch_dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype],
    }
    if get("rope.scaling.type") == "linear":
        config["rope_scaling"] = {"type": "linear", "factor": get("rope.scaling.factor")}
    for end in ("bos", "eos"):
        field = fields.get(f"tokenizer.ggml.{end}_token_id")
        config[f"{end}_token_id"] = None if field is None else field.contents()
    return config


def tokenizer_files(fields):
    """The contents of tokenizer.json and tokenizer_config.json for a byte-level BPE vocabulary."""
    def get(key, default=None):
        field = fields.get(f"tokenizer.{key}")
        return default if field is None else field.contents()

    if get("ggml.model") != "gpt2" or get("ggml.pre", "default") not in PRETOKENIZERS:
        raise Unsupported(f"tokenizer '{get('ggml.model')}' with pre-tokenizer '{get('ggml.pre')}' is not handled")
    tokens = get("ggml.tokens")
    types = get("ggml.token_type", [1] * len(tokens))
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind == CONTROL} for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": PRETOKENIZERS[get("ggml.pre", "default")], "post_processor": None, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [m.split(" ") for m in get("ggml.merges")]},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": bool(get("ggml.add_bos_token", False)),
              "clean_up_tokenization_spaces": False}
    for end in ("bos", "eos", "unknown", "padding"):
        index = get(f"ggml.{end}_token_id")
        if index is not None:
            config[{"unknown": "unk", "padding": "pad"}.get(end, end) + "_token"] = tokens[index]
    if get("chat_template"):
        config["chat_template"] = get("chat_template")
    return tokenizer, config


def save_bf16(tensors, path):
    """safetensors.numpy has no bfloat16: the 16-bit words are written under a header that names them so."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, words in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(words.shape), "data_offsets": [offset, offset + words.nbytes]}
        offset += words.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for words in tensors.values():
            file.write(words.tobytes())


def write_hf(folder, fields, twin, dtype):
    folder.mkdir(parents=True, exist_ok=True)
    config = hf_config(fields, twin, dtype)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for name, value in twin.items():
        kind = name.split(".")[2] if name.startswith("blk.") else ""
        value = unpermute(value, heads[kind]) if kind in heads else value
        convert = {"f32": lambda v: v, "f16": lambda v: v.astype(np.float16), "bf16": round_to_bf16}[dtype]
        tensors[hf_name(name)] = np.ascontiguousarray(convert(value))
    if dtype == "bf16":
        save_bf16(tensors, folder / "model.safetensors")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer, tokenizer_config = tokenizer_files(fields)
    for name, content in (("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokenizer_config)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a Llama GGUF")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument("--dtype", choices=("f16", "bf16", "f32"), default="f16", help="of the matrices; norms are f32 in the GGUF")
    parser.add_argument("--seed", type=int, default=1, help="of the rotation")
    args = parser.parse_args()
    try:
        fields, tensors = read_model(args.model)
        twin = make_twin(tensors, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        write_gguf(args.out / f"twin-{args.dtype}.gguf", fields, twin, args.dtype)
        write_hf(args.out / "hf", fields, twin, args.dtype)
    except (OSError, ValueError, KeyError, Unsupported) as error:
        print(f"error: {args.model}: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {sum(v.size for v in twin.values()):,} parameters, {args.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
