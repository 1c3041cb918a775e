#!/usr/bin/env python3
"""Writes tests/golden/sentencepiece/: small SentencePiece models and the ids they give awkward strings.

Needs: pip install sentencepiece==0.2.3 gguf
Each model differs in what it does to a text: BPE with byte fallback as Llama's, BPE with NFKC, unigram with byte fallback and
user-defined symbols, unigram with replacement rules of its own. encode.jsonl holds {"text", "ids": {model: [...]}, "decoded": {model:
text}}, long ids as a count and a hash. llama.gguf has the first one's vocabulary as GGUF metadata. Seeded: the same version gives the same files.
"""
import json
import pathlib
import random
import tempfile

import gguf
import sentencepiece
from tokenizer_texts import awkward_texts, training_texts

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "sentencepiece"
PROSE = HERE / "text/node_modules_and_packages.txt"
LONG = 48  # as make_tokenizer_goldens.py

MODELS = {
    "llama": dict(model_type="bpe", vocab_size=900, byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, split_digits=True, character_coverage=0.99),
    "bpe_nfkc": dict(model_type="bpe", vocab_size=600, normalization_rule_name="nmt_nfkc", character_coverage=0.98,
                     user_defined_symbols=["<sep>", "qqqq"]),
    "unigram": dict(model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
                    user_defined_symbols=["<mask>", "word", "日本"], add_dummy_prefix=False, character_coverage=0.99),
    "unigram_rules": dict(model_type="unigram", vocab_size=500, normalization_rule_tsv="", character_coverage=0.98,
                          split_by_whitespace=False),
}
# Replacements of one's own: letters folded, ligatures and wide forms taken apart, some characters dropped, the longest first.
RULES = [(chr(c), chr(c + 32)) for c in range(65, 91)] + [
    ("\ufb01", "fi"), ("\ufb03", "ffi"), ("\u3000", " "), ("\u00a0", " "), ("\t", " "), ("\n", " "), ("\u200b", ""), ("e\u0301", "é"),
    ("ab", "X"), ("abc", "yz "), ("…", "..."), ("½", " 1/2")]


def train(name, options, corpus):
    with tempfile.TemporaryDirectory() as scratch:
        prefix = pathlib.Path(scratch) / name
        if "normalization_rule_tsv" in options:
            rules = pathlib.Path(scratch) / "rules.tsv"
            hexed = [[" ".join(f"{ord(c):X}" for c in side) for side in rule] for rule in RULES]
            rules.write_text("".join(f"{a}\t{b}\n" for a, b in hexed), encoding="utf-8")
            options = options | {"normalization_rule_tsv": str(rules)}
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(prefix), num_threads=1, minloglevel=2, hard_vocab_limit=False,
            pad_id=3 if name == "unigram" else -1, **options)
        return prefix.with_suffix(".model").read_bytes()


def texts():
    """What a client can send: valid UTF-8. More than two thousand, the edges many times in other surroundings."""
    base = [text for text in awkward_texts() if isinstance(text, str)]
    rng = random.Random(11)
    joined = ["".join(rng.choice(base)[:40] for _ in range(rng.randint(2, 4))) for _ in range(500)]
    spaced = [" " * rng.randint(0, 3) + rng.choice(base)[:60] + " " * rng.randint(0, 3) for _ in range(250)]
    special = ["<mask>", "a<sep>b", "qqqqq", " qqqq qqqq", "wordword", "日本日本語", "<0x41>", "<unk>", "<s>x</s>", "▁", "▁a▁b", "a ▁ b"]
    seen, out = set(), []
    for text in base + joined + spaced + special:
        if text not in seen and len(text) < 4000:
            seen.add(text)
            out.append(text)
    return out


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = ((h ^ b) * 0x100000001B3) & (2**64 - 1)
    return f"{h:016x}"


def main():
    OUT.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as corpus:
        corpus.write(PROSE.read_text(encoding="utf-8"))
        corpus.write("\n".join(training_texts()))
        corpus.flush()
        models = {name: train(name, options, corpus.name) for name, options in MODELS.items()}
    processors = {}
    for name, data in models.items():
        (OUT / f"{name}.model").write_bytes(data)
        processors[name] = sentencepiece.SentencePieceProcessor(model_proto=data)
    with open(OUT / "encode.jsonl", "w", encoding="utf-8") as out:
        for number, text in enumerate(texts()):
            ids = {name: sp.encode(text) for name, sp in processors.items()}
            kept = {name: {"n": len(i), "fnv": fnv(i)} if len(i) > LONG else i for name, i in ids.items()}
            row = {"text": text, "ids": kept}
            if number % 8 == 0:
                row["decoded"] = {name: processors[name].decode(i) for name, i in ids.items() if len(i) <= LONG}
            out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")
    write_gguf(processors["llama"])


def write_gguf(sp):
    """As llama.cpp's converter writes a vocabulary."""
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
             for i in range(len(sp))]
    writer = gguf.GGUFWriter(str(OUT / "llama.gguf"), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([sp.id_to_piece(i).encode() for i in range(len(sp))])
    writer.add_token_scores([sp.get_score(i) for i in range(len(sp))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
