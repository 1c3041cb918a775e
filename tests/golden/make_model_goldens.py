#!/usr/bin/env python3
"""Makes the goldens of the real model under tests/golden/smollm2 with Hugging Face transformers.

    pip install torch==2.15.* transformers==5.23.* accelerate gguf safetensors numpy
    python3 make_model_goldens.py --model SmolLM2-135M-Instruct.Q4_1.gguf

The GGUF's weights are dequantized by transformers to float32, so the goldens hold for exactly the values that this project
reads. Written:

  golden.json   token ids of the first 512 tokens of the text; top-1 id, top-2 margin and logsumexp after each of them; the
                vocabulary columns kept in logits.npy; the negative log-likelihood of every 1024-token window of 20,480 tokens
                and the perplexity over all of them (windows as `lift-eval` cuts them: no overlap, first token not scored)
  logits.npy    float32 [512, 64]: the logits of those columns
"""
import argparse
import json
import math
import pathlib

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
TEXT = HERE / "text" / "node_modules_and_packages.txt"
TOKENS, COLUMNS, CONTEXT, WINDOWS = 512, 64, 1024, 20


def logit_golden(model, ids, out):
    logits = model(torch.tensor([ids])).logits[0].double().numpy()
    columns = np.sort(np.random.default_rng(1).choice(logits.shape[1], COLUMNS, replace=False))
    np.save(out / "logits.npy", np.ascontiguousarray(logits[:, columns], dtype=np.float32))
    best = np.sort(logits, axis=1)[:, -2:]
    peak = best[:, 1]
    return {
        "token_ids": ids,
        "columns": columns.tolist(),
        "top1": logits.argmax(axis=1).tolist(),
        "margin": [round(float(m), 6) for m in best[:, 1] - best[:, 0]],
        "logsumexp": [round(float(v), 6) for v in peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))],
    }


def window_nll(model, ids):
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the GGUF file")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "smollm2")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    folder, name = str(args.model.parent), args.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # transformers ignores the GGUF's tokenizer.ggml.pre = smollm: single digits, then GPT-2's pattern, as SmolLM2's own
    # tokenizer.json has it.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.eval()
    ids = tokenizer(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).input_ids[: CONTEXT * WINDOWS]
    assert len(ids) == CONTEXT * WINDOWS
    args.out.mkdir(exist_ok=True)
    golden = logit_golden(model, ids[:TOKENS], args.out)
    nll = [window_nll(model, ids[i : i + CONTEXT]) for i in range(0, len(ids), CONTEXT)]
    golden["context"] = CONTEXT
    golden["window_nll"] = nll
    golden["window_first_ids"] = [ids[i] for i in range(0, len(ids), CONTEXT)]
    golden["perplexity"] = math.exp(sum(nll) / (len(ids) - len(nll)))
    (args.out / "golden.json").write_text(json.dumps(golden) + "\n")
    print(f"perplexity over {len(ids)} tokens in windows of {CONTEXT}: {golden['perplexity']:.6f}")


if __name__ == "__main__":
    main()
