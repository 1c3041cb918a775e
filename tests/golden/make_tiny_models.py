#!/usr/bin/env python3
"""Makes the tiny random models under tests/golden/tiny and their golden logits.

Needs: pip install torch transformers tokenizers safetensors gguf numpy
Run:   python make_tiny_models.py        (rewrites tests/golden/tiny; the same versions give the same bytes)

Every model has awkward sizes on purpose. The logits come from transformers in float32 on exactly the values that the
files hold (for quantized GGUF: on the values that gguf.quants decodes).
"""

import json
import math
import pathlib
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

OUT = pathlib.Path(__file__).resolve().parent / "tiny"
VOCAB = 331  # prime: no kernel's tile divides it
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
SEQUENCE_LENGTHS = (21, 5)
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the other dogs think the fox is there again.",
    "for (int i = 0; i < 100; ++i) { total += values[i]; }  // the sum of the values",
    "In the beginning there was the tensor; then there were the other tensors and the rest of it.",
    "Das ist ein kleiner Text, der nichts sagt. C'est la vie, n'est-ce pas? \u00bfQu\u00e9 tal est\u00e1s?",
] * 4
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# ---- tokenizer ----


def make_tokenizer(kind):
    """kind: "smollm" (single digits, then the GPT-2 pattern) or "llama-bpe" (the Llama-3 pattern)."""
    tokenizer = Tokenizer(models.BPE())
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def save_tokenizer(folder, tokenizer):
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS[1],
            "eos_token": SPECIALS[2],
            "pad_token": SPECIALS[3],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHATML,
        },
    )


# ---- weights and logits ----


def make_model(config, kind=LlamaForCausalLM, round_to=torch.float32):
    """A random float32 model whose values are exact in `round_to`."""
    config._attn_implementation = "eager"
    model = kind(config).eval().float()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(1.0 + 0.2 * torch.randn_like(value))
            elif name.endswith(".bias"):
                value.copy_(0.3 * torch.randn_like(value))
            elif "embed" in name or "lm_head" in name:
                value.copy_(0.7 * torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) * (1.5 / math.sqrt(value.shape[1])))
            value.copy_(value.to(round_to).float())
    return model


def state(model):
    tensors = {k: v.detach().contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors


def golden_logits(model, sequences):
    with torch.no_grad():
        rows = [model(torch.tensor([ids])).logits[0].numpy() for ids in sequences]
    return np.concatenate(rows).astype(np.float32)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n")


# ---- Hugging Face folders ----


def save_folder(name, model, dtype, tokenizer, shards=1, old_style_rope=None, eos=2):
    folder = OUT / name
    folder.mkdir(parents=True)
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = (
        "architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim hidden_act max_position_embeddings rms_norm_eps rope_parameters tie_word_embeddings "
        "attention_bias mlp_bias use_sliding_window sliding_window layer_types"
    ).split()
    config = {k: config[k] for k in keep if k in config}
    config |= {"architectures": [type(model).__name__], "bos_token_id": 1, "eos_token_id": eos}
    config["dtype"] = str(dtype).removeprefix("torch.")
    if old_style_rope is not None:  # as written before transformers 5
        config.pop("rope_parameters")
        config |= old_style_rope
        config["torch_dtype"] = config.pop("dtype")
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [eos, 0]})
    save_tokenizer(folder, tokenizer)
    tensors = {k: v.to(dtype) for k, v in state(model).items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= {n: file for n in part}
    write_json(folder / "model.safetensors.index.json", index)


# ---- GGUF, as llama.cpp's converter writes it ----

GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    module, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_LAYER_NAMES[module]}.{suffix}"


def permute(rows, heads):
    """Reorders a head's rows from halves (i, i + d/2) to neighbours (2i, 2i + 1)."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def unpermute(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def heads_to_permute(config, name):
    if config.model_type == "qwen2":
        return 0
    return {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(
        name.split("self_attn.")[-1][0] if "_proj" in name and "self_attn" in name else "", 0
    )


def random_k_blocks(rng, qtype, rows, cols):
    """Random K-quant bytes with small finite scales: the gguf package decodes these types but does not encode them."""
    size = gguf.GGML_QUANT_SIZES[qtype][1]
    blocks = rng.integers(0, 256, (rows * cols // 256, size), dtype=np.uint8)
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[qtype.name]
    target = {"Q2_K": 2e-2, "Q3_K": 2e-3, "Q4_K": 6e-4, "Q5_K": 3e-4, "Q6_K": 6e-5}[qtype.name]
    for i, offset in enumerate(at):
        scale = target * (1.0 if i == 0 else {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}[qtype.name])
        values = (scale * rng.uniform(0.6, 1.4, len(blocks))).astype(np.float16)
        blocks[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def encode(rng, values, qtype):
    """values [rows, cols] f32 -> (stored array, the values that it decodes to)."""
    if qtype == gguf.GGMLQuantizationType.F32:
        return values, values
    if qtype.name.endswith("_K"):
        stored = random_k_blocks(rng, qtype, *values.shape)
    else:
        stored = gguf.quants.quantize(values, qtype)
    return stored, gguf.quants.dequantize(stored, qtype).astype(np.float32)


def llama3_factors(config):
    rope = config.rope_parameters
    old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    dim = config.head_dim
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def write_metadata(writer, config, name, tokenizer, pre):
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    spec = json.loads(tokenizer.to_str())
    vocab = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in vocab])
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def save_gguf(name, model, pick_type, tokenizer, pre):
    """Writes OUT/name.gguf and returns a model holding the values that it decodes to."""
    rng = np.random.default_rng(7)
    config = model.config
    arch = config.model_type
    writer = gguf.GGUFWriter(str(OUT / f"{name}.gguf"), arch)
    write_metadata(writer, config, name, tokenizer, pre)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    decoded = {}
    for key, tensor in state(model).items():
        values, heads = tensor.numpy(), heads_to_permute(config, key)
        if heads:
            values = np.ascontiguousarray(permute(values, heads))
        qtype = pick_type(key) if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored, values = encode(rng, values, qtype)
        writer.add_tensor(gguf_name(key), stored, raw_dtype=qtype)
        decoded[key] = torch.from_numpy(np.ascontiguousarray(unpermute(values, heads) if heads else values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    twin = type(model)(config).eval().float()
    missing, unexpected = twin.load_state_dict(decoded, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    twin.tie_weights()
    return twin


def save_exact_gguf(name, model, qtype, tokenizer, pre):
    """For values that `qtype` holds exactly: the model's own golden logits serve the GGUF too."""
    twin = save_gguf(name, model, lambda key: qtype, tokenizer, pre)
    assert all(torch.equal(a, state(model)[k]) for k, a in state(twin).items())


# ---- the models ----


def llama(**options):
    base = dict(vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1)
    return LlamaConfig(**(base | dict(eos_token_id=2, pad_token_id=3) | options))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    torch.manual_seed(20240229)
    types = gguf.GGMLQuantizationType
    rng = np.random.default_rng(11)
    sequences = [rng.integers(0, VOCAB, n).tolist() for n in SEQUENCE_LENGTHS]
    smollm, llama_bpe = make_tokenizer("smollm"), make_tokenizer("llama-bpe")
    golden = {}

    gqa = make_model(
        llama(
            hidden_size=60, intermediate_size=59, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False,
        ),
        round_to=torch.float16,
    )
    save_folder("tiny-gqa", gqa, torch.float32, smollm)
    golden["tiny-gqa"] = gqa
    save_exact_gguf("tiny-gqa-f16", gqa, types.F16, smollm, "smollm")

    bias = make_model(
        llama(
            hidden_size=40, intermediate_size=56, num_attention_heads=5, num_key_value_heads=1, head_dim=16,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
            attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
        ),
        round_to=torch.bfloat16,
    )
    save_folder("tiny-bias", bias, torch.bfloat16, llama_bpe, shards=3)
    golden["tiny-bias"] = bias

    tied = make_model(
        llama(
            hidden_size=32, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
            rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}, tie_word_embeddings=True,
        ),
        round_to=torch.float16,
    )
    old_rope = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    save_folder("tiny-tied", tied, torch.float16, smollm, old_style_rope=old_rope)
    golden["tiny-tied"] = tied
    golden["tiny-tied-q8_0.gguf"] = save_gguf("tiny-tied-q8_0", tied, lambda key: types.Q8_0, smollm, "smollm")
    mixed = {"q_proj": types.Q4_0, "k_proj": types.Q5_0, "v_proj": types.Q5_1, "embed_tokens": types.BF16}
    golden["tiny-tied-mixed.gguf"] = save_gguf(
        "tiny-tied-mixed", tied, lambda key: next((t for n, t in mixed.items() if n in key), types.Q4_1), smollm, "smollm"
    )

    wide = make_model(
        llama(
            hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1,
            head_dim=64, tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        )
    )
    k_types = {
        "embed_tokens": types.Q6_K, "q_proj": types.Q4_K, "k_proj": types.Q5_K, "v_proj": types.Q6_K, "o_proj": types.Q3_K,
        "gate_proj": types.Q2_K, "up_proj": types.Q3_K, "down_proj": types.Q5_K,
    }
    golden["tiny-kquant.gguf"] = save_gguf(
        "tiny-kquant", wide, lambda key: next(t for n, t in k_types.items() if n in key), llama_bpe, "llama-bpe"
    )

    qwen = make_model(
        Qwen2Config(
            vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=1, num_attention_heads=3,
            num_key_value_heads=1, max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, use_sliding_window=False,
        ),
        kind=Qwen2ForCausalLM, round_to=torch.bfloat16,
    )
    save_folder("tiny-qwen2", qwen, torch.bfloat16, llama_bpe)
    golden["tiny-qwen2"] = qwen
    save_exact_gguf("tiny-qwen2-bf16", qwen, types.BF16, llama_bpe, "llama-bpe")

    (OUT / "logits").mkdir()
    for name, model in golden.items():
        np.save(OUT / "logits" / f"{name}.npy", golden_logits(model, sequences))
    # The logits hold the sequences one after the other: f32 [sum of lengths, VOCAB].
    logits = {name: f"logits/{name}.npy" for name in golden}
    logits |= {"tiny-gqa-f16.gguf": logits["tiny-gqa"], "tiny-qwen2-bf16.gguf": logits["tiny-qwen2"]}
    write_json(OUT / "golden.json", {"sequences": sequences, "logits": logits})


if __name__ == "__main__":
    main()
