#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: small tokenizers, awkward strings with their ids, and rendered chat templates.

Needs: pip install tokenizers==0.23.3 transformers==5.23.0 jinja2==3.1.6 gguf==0.19.0
Usage: make_tokenizer_goldens.py [--gguf SmolLM2-135M-Instruct.Q4_1.gguf]

The vocabulary of SmolLM2 is not written, only the ids it gives (the test reads it from the GGUF file). Texts and ids over
LONG are stored as a recipe and a hash. Everything is seeded: the same versions give the same files.
"""
import argparse
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tokenizer_texts import awkward_texts, training_texts  # noqa: E402

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
LONG = 48  # ids beyond this are stored as {"n": count, "fnv": hash}

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern if isinstance(pattern, str) else Regex(pattern[0]), behavior, invert)


def seq(*steps):
    return pre_tokenizers.Sequence(list(steps))


def train(pre, vocab, normalizer=None, **model_options):
    tok = Tokenizer(models.BPE(**model_options))
    tok.pre_tokenizer = pre
    if normalizer is not None:
        tok.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.train_from_iterator(training_texts(), trainer)
    tok.decoder = decoders.ByteLevel()
    return tok


def small_tokenizers():
    out = {}
    out["gpt2"] = train(byte_level(), 900)
    out["smollm"] = train(seq(pre_tokenizers.Digits(individual_digits=True), byte_level()), 800)

    llama = train(seq(split([LLAMA3]), byte_level(regex=False)), 900, ignore_merges=True)
    llama.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|endoftext|> $A", pair="<|endoftext|> $A $B",
                                      special_tokens=[("<|endoftext|>", llama.token_to_id("<|endoftext|>"))])])
    # What ignore_merges is for: a word in the vocabulary that no merge makes.
    state = json.loads(llama.to_str())
    state["model"]["vocab"]["\u0120qqqq"] = len(state["model"]["vocab"])
    out["llama3"] = Tokenizer.from_str(json.dumps(state))

    out["qwen2"] = train(seq(split([QWEN2]), byte_level(regex=False)), 900, normalizers.NFC())

    flags = train(byte_level(prefix=True), 600, normalizers.Sequence([normalizers.NFKC()]))
    flags.add_tokens([
        AddedToken("<|x|>", normalized=False), AddedToken("<|xy|>", normalized=False), AddedToken("<l>", lstrip=True, normalized=False),
        AddedToken("<r>", rstrip=True, normalized=False), AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False), AddedToken("ﬁx", normalized=True),
        AddedToken("Å", normalized=True), AddedToken("two words", normalized=True), AddedToken("日本", normalized=False)])
    flags.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True, lstrip=True, rstrip=True)])
    flags.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>",
        special_tokens=[("<s>", flags.token_to_id("<s>")), ("</s>", flags.token_to_id("</s>"))])
    out["flags"] = flags

    mixed = seq(split(",", "merged_with_previous"), split([r"\s+"], "merged_with_next"), split("#", "removed"),
                split([r"[A-Z]+"], "contiguous", True), pre_tokenizers.Digits(individual_digits=False), byte_level())
    out["mixed"] = train(mixed, 500, normalizers.NFD())

    # Without every byte in the vocabulary: missing ones become <unk>, runs of them one.
    state = json.loads(train(byte_level(), 500).to_str())
    vocab, missing = state["model"]["vocab"], {"\u0120", "\u00e2", "\u0122", "z"}
    drop = {t for t in vocab if any(m in t for m in missing)}
    keep = [t for t, _ in sorted(vocab.items(), key=lambda kv: kv[1]) if t not in drop] + ["<unk>"]
    state["model"]["vocab"] = {t: i for i, t in enumerate(keep)}
    state["model"]["merges"] = [m for m in state["model"]["merges"] if not ({*m, "".join(m)} & drop)]
    state["model"]["unk_token"], state["model"]["fuse_unk"] = "<unk>", True
    out["unk"] = Tokenizer.from_str(json.dumps(state))
    return out


def smollm2_from_gguf(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    tokens, types, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = seq(pre_tokenizers.Digits(individual_digits=True), byte_level())
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return tok


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for shift in (0, 8, 16, 24):
            h = ((h ^ ((i >> shift) & 255)) * 0x100000001B3) & (2**64 - 1)
    return h


def pack(ids):
    return ids if len(ids) <= LONG else {"n": len(ids), "fnv": "%016x" % fnv(ids)}


def text_of(entry):
    return entry if isinstance(entry, str) else "".join(part * count for part, count in entry["repeat"])


def write_goldens(toks):
    with open(os.path.join(HERE, "encode.jsonl"), "w", encoding="utf-8") as f:
        for entry in awkward_texts():
            text = text_of(entry)
            row = {"text": entry, "ids": {}}
            for name, tok in toks.items():
                tok.encode_special_tokens = False
                row["ids"][name] = pack(tok.encode(text, add_special_tokens=True).ids)
            if "<" in text:  # the same with special tokens taken as plain text
                row["plain"] = {}
                for name, tok in toks.items():
                    tok.encode_special_tokens = True
                    row["plain"][name] = pack(tok.encode(text, add_special_tokens=False).ids)
            f.write(json.dumps(row, separators=(",", ":")) + "\n")
    rng = random.Random(7)
    with open(os.path.join(HERE, "decode.jsonl"), "w", encoding="utf-8") as f:
        for name, tok in toks.items():
            for i in range(60):
                # Low ids are single bytes, so that sequences are often cut or invalid.
                top = tok.get_vocab_size() if i % 2 else 260
                ids = [rng.randrange(top) for _ in range(rng.randrange(1, 12))]
                f.write(json.dumps({"tokenizer": name, "ids": ids, "all": tok.decode(ids, skip_special_tokens=False),
                                    "skip": tok.decode(ids, skip_special_tokens=True)}, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", help="the SmolLM2 GGUF file; without it the smollm2 column is left out")
    args = parser.parse_args()
    toks = small_tokenizers()
    for name, tok in toks.items():
        state = json.loads(tok.to_str())
        with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(state, f, ensure_ascii=False, separators=(",", ":"))
    if args.gguf:
        toks["smollm2"] = smollm2_from_gguf(args.gguf)
    write_goldens(toks)
    from chat_goldens import write_chat_goldens
    write_chat_goldens(HERE)


if __name__ == "__main__":
    main()
