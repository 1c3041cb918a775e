#!/usr/bin/env python3
"""Makes the tiny random models of every family beyond Llama under tests/golden/families, with goldens from transformers.

Needs: pip install torch transformers tokenizers safetensors gguf numpy
Run:   python make_family_models.py [FAMILY ...]     (rewrites the folders of these families, or of all)

Each model is what save_pretrained writes (values exact in bfloat16), of awkward sizes on purpose, with

  golden.json   token ids of one 256-token sequence, the vocabulary columns kept, five prompts with their greedy
                continuations of 128 tokens (every step's margin is far above the tolerance of the tests)
  logits.npy    float32 [256, columns + 1]: the logits of those columns and, last, the logsumexp over all of them

The first model of a family also has a tokenizer, and a GGUF twin of the same values where converters write one.
"""

import json
import math
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from make_tiny_models import VOCAB, make_tokenizer, permute, save_tokenizer, write_json

OUT = pathlib.Path(__file__).resolve().parent / "families"
TOKENS, COLUMNS, NEW_TOKENS, MIN_MARGIN = 256, 23, 128, 1e-2
PROMPT_LENGTHS = (1, 3, 9, 17, 40)


def rope(theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | more}


FAMILIES = {
    "qwen3": [
        dict(hidden_size=60, intermediate_size=59, num_attention_heads=6, num_key_value_heads=2, head_dim=10, **rope()),
        dict(hidden_size=40, intermediate_size=56, num_attention_heads=5, num_key_value_heads=1, head_dim=16,
             attention_bias=True, **rope(1e6)),
        dict(hidden_size=32, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=24,
             tie_word_embeddings=True, **rope(500.0)),
    ],
    "mistral": [
        dict(hidden_size=60, intermediate_size=59, num_attention_heads=6, num_key_value_heads=2, head_dim=14,
             sliding_window=37, **rope()),
        dict(hidden_size=40, intermediate_size=56, num_attention_heads=5, num_key_value_heads=1, head_dim=16,
             sliding_window=100, **rope(1e6)),
        dict(hidden_size=48, intermediate_size=72, num_attention_heads=3, num_key_value_heads=3, head_dim=8,
             sliding_window=None, tie_word_embeddings=True, **rope(500.0)),
    ],
    "mixtral": [
        dict(hidden_size=36, intermediate_size=29, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             num_local_experts=5, num_experts_per_tok=2, sliding_window=None, **rope()),
        dict(hidden_size=40, intermediate_size=24, num_attention_heads=5, num_key_value_heads=1, head_dim=8,
             num_local_experts=7, num_experts_per_tok=3, sliding_window=50, **rope(1e6)),
        dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
             num_local_experts=3, num_experts_per_tok=1, sliding_window=None, tie_word_embeddings=True, **rope(500.0)),
    ],
    "gpt_neox": [
        dict(hidden_size=60, intermediate_size=59, num_attention_heads=6, **rope(partial_rotary_factor=0.4)),
        dict(hidden_size=40, intermediate_size=56, num_attention_heads=5, hidden_act="gelu_new",
             use_parallel_residual=False, **rope(500.0, partial_rotary_factor=1.0)),
        dict(hidden_size=48, intermediate_size=72, num_attention_heads=3, attention_bias=False,
             tie_word_embeddings=True, **rope(partial_rotary_factor=0.25)),
    ],
    "starcoder2": [
        dict(hidden_size=60, intermediate_size=59, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=False,
             **rope()),
        dict(hidden_size=40, intermediate_size=56, num_attention_heads=5, num_key_value_heads=1, sliding_window=50,
             **rope(1e6)),
        dict(hidden_size=48, intermediate_size=72, num_attention_heads=3, num_key_value_heads=3, use_bias=False,
             tie_word_embeddings=True, **rope(500.0)),
    ],
    "gemma3": [
        dict(hidden_size=36, intermediate_size=29, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             num_hidden_layers=7, sliding_window=37, query_pre_attn_scalar=10, tie_word_embeddings=True),
        dict(hidden_size=40, intermediate_size=56, num_attention_heads=5, num_key_value_heads=1, head_dim=16,
             num_hidden_layers=3, sliding_window=50, query_pre_attn_scalar=24, attention_bias=True,
             layer_types=["full_attention", "sliding_attention", "full_attention"],
             rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}),
        dict(hidden_size=32, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=24,
             sliding_window=100, tie_word_embeddings=True, layer_types=["sliding_attention"] * 2),
    ],
    "mamba": [
        dict(hidden_size=36, expand=2, state_size=7, conv_kernel=4, time_step_rank=5, use_bias=True),
        dict(hidden_size=40, expand=3, state_size=16, conv_kernel=3, tie_word_embeddings=True),
        dict(hidden_size=52, expand=1, state_size=33, conv_kernel=2, time_step_rank=1, use_conv_bias=False),
    ],
    "mamba2": [
        dict(hidden_size=36, expand=2, state_size=11, conv_kernel=4, num_heads=6, head_dim=12, n_groups=2, chunk_size=64),
        dict(hidden_size=40, expand=3, state_size=32, conv_kernel=3, num_heads=5, head_dim=24, n_groups=1, chunk_size=256,
             use_bias=True, tie_word_embeddings=True),
        dict(hidden_size=52, expand=1, state_size=17, conv_kernel=2, num_heads=13, head_dim=4, n_groups=13, chunk_size=16,
             use_conv_bias=False, time_step_limit=[0.01, 0.7]),
    ],
}
CLASSES = {
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
    "starcoder2": (transformers.Starcoder2Config, transformers.Starcoder2ForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM),
    "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM),
}
RECURRENT = ("mamba", "mamba2")


def make_model(family, options):
    config_class, model_class = CLASSES[family]
    options = dict(tie_word_embeddings=False, num_hidden_layers=2) | options
    if family not in RECURRENT:
        options |= dict(max_position_embeddings=512, attn_implementation="eager", experts_implementation="eager")
    config = config_class(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=3, **options)
    model = model_class(config).eval().float()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("A_log", "dt_bias", "dt_proj.bias")):
                value.add_(0.3 * torch.randn_like(value))  # around the paper's start
            elif name.endswith((".bias", ".D")):
                value.copy_(0.3 * torch.randn_like(value))
            elif "norm" in name:
                value.copy_((family != "gemma3") + 0.2 * torch.randn_like(value))  # Gemma adds the one
            elif "embed" in name or "lm_head" in name:
                value.copy_(0.7 * torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) * (1.5 / math.sqrt(value.shape[-1])))
            value.copy_(value.to(torch.bfloat16).float())
    return model


def greedy(model, rng, length):
    """A prompt whose whole continuation is decided by clear margins, and the continuation."""
    for _ in range(300):
        ids = rng.integers(4, VOCAB, length).tolist()
        for _ in range(NEW_TOKENS):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            if float(best.values[0] - best.values[1]) < MIN_MARGIN:
                break
            ids.append(int(best.indices[0]))
        else:
            return {"prompt": ids[:length], "continuation": ids[length:]}
    raise RuntimeError("no prompt with clear margins was found")


def write_goldens(model, folder, rng):
    ids = rng.integers(0, VOCAB, TOKENS).tolist()
    logits = model(torch.tensor([ids])).logits[0].double()
    columns = sorted(rng.choice(VOCAB, COLUMNS, replace=False).tolist())
    kept = torch.cat([logits[:, columns], logits.logsumexp(1, keepdim=True)], 1)
    np.save(folder / "logits.npy", kept.numpy().astype(np.float32))
    golden = {"token_ids": ids, "columns": columns, "greedy": [greedy(model, rng, n) for n in PROMPT_LENGTHS]}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


# ---- GGUF twins, as llama.cpp's converter writes them ----

LLAMA_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
NEOX_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}
GEMMA_LAYER = LLAMA_LAYER | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOPS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
}


MAMBA_LAYER = {
    "norm": "attn_norm", "mixer.in_proj": "ssm_in", "mixer.x_proj": "ssm_x", "mixer.dt_proj": "ssm_dt",
    "mixer.out_proj": "ssm_out", "mixer.conv1d": "ssm_conv1d", "mixer.norm": "ssm_norm",
}


def mamba_gguf_tensors(family, model):
    """A instead of its logarithm; Mamba-2's vectors as columns, its gated norm by groups."""
    config = model.config
    tops = {"backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm", "lm_head": "output"}
    for key, tensor in model.state_dict().items():
        module, suffix = key.rsplit(".", 1)
        values = tensor.numpy()
        if module in tops:
            if not (config.tie_word_embeddings and tops[module] == "output"):
                yield f"{tops[module]}.{suffix}", values
            continue
        _, _, layer, rest = key.split(".", 3)
        if suffix in ("A_log", "D"):
            values = -np.exp(values) if suffix == "A_log" else values
            yield f"blk.{layer}.ssm_{suffix[0].lower()}", values[:, None] if family == "mamba2" else values
        elif suffix == "dt_bias":
            yield f"blk.{layer}.ssm_dt.bias", values
        else:
            name = MAMBA_LAYER[rest.rsplit(".", 1)[0]]
            if name == "ssm_conv1d" and suffix == "weight":
                values = values[:, 0]
            if name == "ssm_norm":
                values = values.reshape(config.n_groups, -1)
            yield f"blk.{layer}.{name}.{suffix}", np.ascontiguousarray(values)


def gguf_tensors(family, model):
    """(name, values) of every tensor in the converter's form."""
    config = model.config
    for key, tensor in model.state_dict().items():
        module, suffix = key.rsplit(".", 1)
        values = tensor.numpy()
        if family == "gemma3" and module.endswith("norm"):
            values = values + 1
        if module in TOPS:
            if not (config.tie_word_embeddings and TOPS[module] == "output"):
                yield f"{TOPS[module]}.{suffix}", values
            continue
        _, _, layer, rest = key.split(".", 3)
        if family == "mixtral" and ".mlp." in key:
            if rest == "mlp.gate.weight":
                yield f"blk.{layer}.ffn_gate_inp.weight", values
            elif rest == "mlp.experts.gate_up_proj":
                gate, up = np.split(values, 2, axis=1)
                yield f"blk.{layer}.ffn_gate_exps.weight", np.ascontiguousarray(gate)
                yield f"blk.{layer}.ffn_up_exps.weight", np.ascontiguousarray(up)
            else:
                assert rest == "mlp.experts.down_proj", rest
                yield f"blk.{layer}.ffn_down_exps.weight", values
            continue
        name = {"gpt_neox": NEOX_LAYER, "gemma3": GEMMA_LAYER}.get(family, LLAMA_LAYER)[rest.rsplit(".", 1)[0]]
        if name == "attn_qkv":  # [heads, 3, dim, ...] -> [3, heads, dim, ...]
            heads = config.num_attention_heads
            values = values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        if family == "mixtral" and name in ("attn_q", "attn_k"):
            values = permute(values, config.num_attention_heads if name == "attn_q" else config.num_key_value_heads)
        yield f"blk.{layer}.{name}.{suffix}", np.ascontiguousarray(values)


def save_mamba_gguf(family, model, path):
    config = model.config
    writer = gguf.GGUFWriter(str(path), family)
    writer.add_name(path.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(2**20)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(int(config.expand * config.hidden_size))
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank if family == "mamba" else config.num_heads)
    if family == "mamba2":
        writer.add_ssm_group_count(config.n_groups)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    write_gguf(writer, mamba_gguf_tensors(family, model))


def save_gguf(family, model, path):
    if family in RECURRENT:
        return save_mamba_gguf(family, model, path)
    config = model.config
    writer = gguf.GGUFWriter(str(path), {"mixtral": "llama", "gpt_neox": "gptneox"}.get(family, family))
    writer.add_name(path.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotation = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rotation["rope_theta"])
    if family == "gemma3":  # the pattern of six and the local base are understood
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_dimension_count(int(head_dim * rotation.get("partial_rotary_factor", 1.0)))
    if family == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        if family == "starcoder2":
            writer.add_layer_norm_eps(config.norm_epsilon)
        else:
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    write_gguf(writer, gguf_tensors(family, model))


def write_gguf(writer, tensors):
    for name, values in tensors:
        kept = gguf.GGMLQuantizationType.F32
        if values.ndim > 1 and not any(part in name for part in ("gate_inp", "ssm_a", "ssm_d", "conv1d", "ssm_norm")) or \
                name.endswith("ssm_dt.weight"):
            kept = gguf.GGMLQuantizationType.BF16
            values = gguf.quants.quantize(values, kept)
        writer.add_tensor(name, values, raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    wanted = sys.argv[1:] or list(FAMILIES)
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for family in wanted:
        for number, options in enumerate(FAMILIES[family], 1):
            name = f"{family}-{number}"
            folder = OUT / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            torch.manual_seed(sum(map(ord, name)))
            rng = np.random.default_rng(sum(map(ord, name)))
            model = make_model(family, options)
            write_goldens(model, folder, rng)
            if number == 1:
                save_tokenizer(folder, make_tokenizer("smollm"))
                if family != "mistral":
                    save_gguf(family, model, OUT / f"{name}.gguf")
            model.to(torch.bfloat16).save_pretrained(folder)
            print(name, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
