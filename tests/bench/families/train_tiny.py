#!/usr/bin/env python3
"""Trains a small model of every family on Debian's documentation, so that quality after lifting means something.

    pip install torch transformers tokenizers safetensors
    train_tiny.py --corpus "$(bash deploy/fetch_corpus.sh)" --out ~/.cache/liftserve/families [--minutes 6] [FAMILY ...]

Writes OUT/FAMILY/: a Hugging Face folder in bfloat16 with its own byte-level BPE tokenizer, and train.json: tokens seen and the loss on
the held-out eval.txt beside that of a unigram and of a bigram model (nats per token). Time is
the processor's, so a busy machine takes longer and trains as well; the learning rate follows it.
"""

import argparse
import collections
import json
import math
import pathlib
import sys
import time

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.mamba import modeling_mamba

VOCAB, CONTEXT, BATCH = 2048, 256, 4
WARM_UP = 0.05  # of the time
HEADS = ("lm_head", "embed_out")
SPECIALS = ["<|endoftext|>", "<|pad|>"]

COMMON = dict(vocab_size=VOCAB, hidden_size=256, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=1)
ATTENTION = COMMON | dict(max_position_embeddings=512, intermediate_size=704, num_hidden_layers=6)
FAMILIES = {
    "llama": transformers.LlamaConfig(**ATTENTION, num_attention_heads=8, num_key_value_heads=4),
    "mistral": transformers.MistralConfig(**ATTENTION, num_attention_heads=6, num_key_value_heads=2, head_dim=48, sliding_window=96),
    "mixtral": transformers.MixtralConfig(
        **ATTENTION | dict(intermediate_size=448, num_hidden_layers=4), num_attention_heads=8, num_key_value_heads=4,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=None, output_router_logits=True, router_aux_loss_coef=0.02),
    "gpt_neox": transformers.GPTNeoXConfig(**ATTENTION | dict(intermediate_size=1024), num_attention_heads=8),
    "mamba": transformers.MambaConfig(**COMMON, num_hidden_layers=8, state_size=8, expand=2, conv_kernel=4, time_step_rank=16),
}


class LinearScan(torch.autograd.Function):
    """h[t] = decay[t] * h[t-1] + x[t] over the first axis, without a graph node for each step."""

    @staticmethod
    def forward(ctx, decay, x):
        h = torch.empty_like(x)
        h[0] = x[0]
        for t in range(1, len(x)):
            torch.addcmul(x[t], decay[t], h[t - 1], out=h[t])
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx, grad):
        decay, h = ctx.saved_tensors
        grad = grad.clone()
        for t in range(len(h) - 2, -1, -1):
            grad[t].addcmul_(decay[t + 1], grad[t + 1])
        grad_decay = torch.zeros_like(decay)
        torch.mul(grad[1:], h[:-1], out=grad_decay[1:])
        return grad_decay, grad


def selective_scan(u, delta, a, b, c, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, **_):
    """What modeling_mamba's function of this name computes; u, delta, z: [batch, channels, time]; b, c: [batch, states, time]."""
    assert delta_softplus and not return_last_state
    u, delta, b, c = (v.float().permute(2, 0, 1).contiguous() for v in (u, delta, b, c))
    delta = torch.nn.functional.softplus(delta + delta_bias)
    # [time, batch, states, channels]: the long axis last.
    decay = torch.exp(delta[:, :, None] * a.T.contiguous())
    h = LinearScan.apply(decay, (delta * u)[:, :, None] * b[..., None])
    y = torch.einsum("tbnd,tbn->tbd", h, c) + D * u
    return y.permute(1, 2, 0) * torch.nn.functional.silu(z.float())


def make_tokenizer(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text.split("\n\n"), trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    return tokenizer


def count_baselines(train, held_out):
    """Nats per token of a unigram and an interpolated bigram model counted on `train`; the mixture that suits `held_out` best."""
    ones, twos = collections.Counter(train), collections.Counter(zip(train, train[1:]))
    share = [(ones[i] + 0.5) / (len(train) + 0.5 * VOCAB) for i in range(VOCAB)]
    unigram = -sum(math.log(share[b]) for b in held_out[1:]) / (len(held_out) - 1)

    def bigram(weight):
        terms = (math.log((twos[a, b] + weight * share[b]) / (ones[a] + weight)) for a, b in zip(held_out, held_out[1:]))
        return -sum(terms) / (len(held_out) - 1)

    return {"unigram": unigram, "bigram": min(bigram(w) for w in (3, 10, 30, 100))}


@torch.no_grad()
def held_out_loss(model, ids):
    model.eval()
    losses = []
    for window in ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)[:64].split(BATCH):
        logits = model(input_ids=window, use_cache=False).logits.float()
        losses.append(torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), window[:, 1:].reshape(-1)))
    model.train()
    return float(sum(losses) / len(losses))


def make_optimizers(model):
    """Muon for the layers' matrices, which learns more from the same tokens, AdamW for the rest."""
    body = [m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name not in HEADS]
    chosen = {id(p) for p in body}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return (torch.optim.Muon(body, lr=0.02, weight_decay=0.1, momentum=0.95),
            torch.optim.AdamW(rest, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95)))


def train(model, ids, seconds):
    """Returns (steps, last losses' mean). Warm-up and cosine over `seconds` of processor time."""
    optimizers = make_optimizers(model)
    groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    start, step, recent = time.process_time(), 0, collections.deque(maxlen=50)
    while (done := (time.process_time() - start) / seconds) < 1:
        share = min(done / WARM_UP, 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group, peak in groups:
            group["lr"] = peak * share
        starts = torch.randint(len(ids) - CONTEXT, (BATCH,))
        window = torch.stack([ids[s : s + CONTEXT] for s in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=window, labels=window).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        recent.append(float(loss.detach()))
        if step % 50 == 0:
            print(f"{done:5.0%} step {step} loss {sum(recent) / len(recent):.3f}", file=sys.stderr, flush=True)
    return step, sum(recent) / len(recent)


def train_family(family, corpus, out, minutes):
    torch.manual_seed(1)
    text = {kind: (corpus / f"{kind}.txt").read_text() for kind in ("calib", "eval")}
    tokenizer = make_tokenizer(text["calib"])
    ids = {kind: tokenizer.encode(value).ids for kind, value in text.items()}
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family])
    steps, loss = train(model, torch.tensor(ids["calib"]), 60 * minutes)
    model.to(torch.bfloat16).save_pretrained(out)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIALS[0], eos_token=SPECIALS[0], pad_token=SPECIALS[1]).save_pretrained(out)
    report = {"family": family, "parameters": sum(p.numel() for p in model.parameters()), "steps": steps,
              "tokens": steps * BATCH * CONTEXT, "corpus_tokens": len(ids["calib"]), "train_loss": loss,
              "eval_loss": held_out_loss(model.float(), torch.tensor(ids["eval"]))} | count_baselines(ids["calib"], ids["eval"])
    (out / "train.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder with calib.txt (trained on) and eval.txt")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=6, help="of processor time for each family")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    modeling_mamba.mamba_selective_scan = selective_scan
    for family in args.families:
        train_family(family, args.corpus, args.out / family, args.minutes)


if __name__ == "__main__":
    main()
