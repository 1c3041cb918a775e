#!/usr/bin/env python3
"""Makes the small seeds under corpus/ that no other fixture serves for; those that are plain text were written by hand.

Needs: pip install gguf safetensors numpy
Run:   python make_corpus.py
"""

import json
import pathlib
import re
import shutil

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "corpus"
TINY = HERE.parent / "golden" / "tiny"
PROTO = HERE.parents[1] / "proto"


def gguf_model(path, arch, linear, bias):
    """A whole model of one layer, hidden 32, one head pair, 8 tokens."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name("seed")
    writer.add_context_length(16)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if linear:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if arch == "llama" else "qwen2")
    writer.add_token_list(["<|endoftext|>", "<|im_end|>", "a", "b", "c", "ab", "\u0120", "\u0120a"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "\u0120 a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages[0].content }}")
    rng = np.random.default_rng(3)

    def matrix(name, rows, cols, qtype):
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, qtype), raw_dtype=qtype)

    types = gguf.GGMLQuantizationType
    matrix("token_embd.weight", 8, 32, types.Q8_0)
    for name, rows, qtype in (("attn_q", 32, types.Q4_0), ("attn_k", 16, types.Q5_1), ("attn_v", 16, types.Q5_0),
                              ("attn_output", 32, types.Q4_1), ("ffn_gate", 32, types.Q4_0), ("ffn_up", 32, types.Q4_0),
                              ("ffn_down", 32, types.Q4_0)):
        matrix(f"blk.0.{name}.weight", rows, 32, qtype)
        if bias and name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.0.{name}.bias", np.zeros(rows, np.float32))
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(32, np.float32))
    if not linear:
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def field(number, value):
    """One protobuf field: an int as varint, bytes, text or a list of fields as length-delimited."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = b"".join(value) if isinstance(value, list) else value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def rpc_messages(out):
    """A byte for the call (see rpc_fuzz.cc), then its message."""
    common = [field(6, [field(3, 5), field(8, 7)]), field(7, [field(1, 4), field(3, "stop")]),
              field(8, [field(1, 1), field(2, 3)]), field(9, [field(1, 2), field(2, "middle")])]
    seeds = {
        "generate": (0, [field(1, "id"), field(3, "some text"), *common]),
        "generate_ids": (0, [field(4, [field(1, bytes([1, 2, 3]))]), *common]),
        "chat": (1, [field(3, [field(1, "user"), field(2, "hello <|im_end|>")]), *common]),
        "infer": (2, [field(1, "fake"), field(2, "fine"), field(4, [field(1, "max_tokens"), field(2, [field(2, 3)])]),
                      field(5, [field(1, "text_input"), field(2, "BYTES"), field(5, [field(8, "hi")])]),
                      field(5, [field(1, "sampling_parameters"), field(2, "BYTES"),
                                field(5, [field(8, '{"top_k": 3, "stop": ["a"]}')])])]),
        "infer_raw": (2, [field(5, [field(1, "text_input"), field(2, "BYTES")]),
                          field(5, [field(1, "stream"), field(2, "BOOL")]), field(6, [field(1, "token_ids")]),
                          field(7, b"\x02\0\0\0hi"), field(7, b"\1")]),
        "vllm": (3, [field(1, "r"), field(2, [field(2, bytes([1, 2]))]), field(5, 1),
                     field(4, [field(3, 4), field(8, 2), field(10, "end"), field(22, 2)])]),
        "explain": (4, [field(4, [field(1, [field(1, "user"), field(2, "why?")])])]),
        "keys": (5, [json.dumps({
            "keys": [{"id": "0a1b2c3d", "tenant": "a", "role": "admin", "salt": "00" * 16, "hash": "00" * 32}],
            "certificates": [{"name": "x", "tenant": "b"}], "quotas": {"a": {"tokens_per_second": 2.5}}}).encode()]),
    }
    for name, (kind, parts) in seeds.items():
        (out / name).write_bytes(bytes([kind]) + b"".join(parts))


def call_messages(out):
    """A byte for the call (its place among all of call_fuzz.cc's files), then its messages."""
    files = ("liftserve/v1/generation", "liftserve/v1/model", "liftserve/v1/usage", "standard/inference/grpc_predict_v2",
             "standard/vllm/grpc/vllm_engine")
    calls = [name for file in files for name in re.findall(r"^  rpc (\w+)", (PROTO / f"{file}.proto").read_text(), re.MULTILINE)]
    short = [field(7, [field(1, 4)]), field(8, [field(1, 1)])]
    infer = [field(1, "fake"), field(4, [field(1, "max_tokens"), field(2, [field(2, 3)])]),
             field(5, [field(1, "text_input"), field(2, "BYTES"), field(5, [field(8, "hi")])])]
    hour = [field(1, 3600)]
    seeds = {
        "Generate": [field(3, "text"), *short], "GenerateStream": [field(3, "text"), *short], "Chat": [field(3, [field(1, "user"), field(2, "hi")]), *short],
        "ChatStream": [field(3, [field(1, "user"), field(2, "hi")]), *short], "Tokenize": [field(2, "some <s> text"), field(4, 1)],
        "Detokenize": [field(2, bytes([104, 105]))], "ExplainRoute": [field(2, "why?")], "CancelGeneration": [field(1, "id")],
        "ListModels": [], "GetModel": [field(1, "fake")], "GetLoad": [], "LoadVariant": [field(2, "fine")],
        "UnloadVariant": [field(2, "fine")], "SetMemoryBudget": [field(2, 600000)], "SwapModel": [field(2, "file")],
        "GetUsage": [field(1, "default"), field(3, hour), field(4, hour), field(5, 1)],
        "ListUsageRecords": [field(1, "default"), field(6, "1.2")],
        "ListRoutingDecisions": [field(1, "default"), field(3, hour), field(5, 2), field(6, "1")], "ModelReady": [field(1, "fake"), field(2, "fine")],
        "ModelMetadata": [field(1, "fake")], "ModelInfer": infer, "ModelStreamInfer": [*infer, b"\xff\0", *infer], "Abort": [field(1, "id")],
    }
    for name, parts in seeds.items():
        (out / name).write_bytes(bytes([calls.index(name)]) + b"".join(parts))


def main():
    for name in ("gguf", "safetensors", "config", "text", "rpc", "call"):
        shutil.rmtree(OUT / name, ignore_errors=True)
        (OUT / name).mkdir(parents=True)
    gguf_model(OUT / "gguf" / "llama.gguf", "llama", linear=True, bias=False)
    gguf_model(OUT / "gguf" / "qwen2.gguf", "qwen2", linear=False, bias=True)

    rpc_messages(OUT / "rpc")
    call_messages(OUT / "call")

    small = {"w": np.ones((3, 2), np.float32), "h": np.ones(5, np.float16), "i": np.ones((), np.int64)}
    save_file(small, OUT / "safetensors" / "three.safetensors", metadata={"format": "np"})
    save_file({"x": np.zeros((0, 4), np.float32)}, OUT / "safetensors" / "empty.safetensors")

    for name in ("tiny-gqa", "tiny-bias", "tiny-tied", "tiny-qwen2"):
        parts = [TINY / name / file for file in ("config.json", "generation_config.json", "tokenizer_config.json")]
        tokenizer = {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
                                        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}}
        texts = [part.read_text() for part in parts] + [json.dumps(tokenizer)]
        (OUT / "config" / name).write_text("\0".join(texts))
    own = {
        "architecture": "llama", "name": "seed", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_layers": 1,
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "max_context": 16, "rms_norm_eps": 1e-5, "tie_embeddings": True,
        "attention_bias": False, "output_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_ids": [1],
        "add_bos": True,
        "rope": {"theta": 10000.0, "scaling": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_context": 8, "dimension": 4, "interleaved": True, "frequency_factors": [1.0, 2.0]},
    }
    (OUT / "config" / "own.json").write_text(json.dumps(own))

    (OUT / "text" / "mixed.txt").write_text(
        "Hello, world! I'll pay 12345 \u20ac for caf\u00e9s\r\n\r\n  \U0001f469\u200d\U0001f469\u200d\U0001f467 <|im_start|>"
        "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d e\u0301\t\x01 <|im_end|>", encoding="utf-8")
    (OUT / "text" / "broken.txt").write_bytes(b"ok \xf0\x9f\x98 \xc3 \xff\xfe \xed\xa0\x80 end")


if __name__ == "__main__":
    main()
