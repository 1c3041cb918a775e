#!/usr/bin/env python3
"""Decode and prompt speed of llama.cpp on random weights of a known shape, beside lift-bench on the same shape and threads.

usage: cpu_peers.py BUILD_DIR [--shape llama-1b] [--types Q4_0,Q3_K,Q2_K] [--bits 2,3,4] [--threads 2] [--prompt 512]
                    [--context 512] [--new 32] [--sequences 8] [--build] [--out FOLDER]
                    [--fork FOLDER] [--fork-types Q4_K,IQ4_K,IQ3_K,IQ2_K]

--build makes ~/.cache/liftserve/peers/venv with llama-cpp-python compiled from PyPI's source for this machine (once; nice, one
job: half an hour or more). --fork takes the programs of another build of llama.cpp, such as ik_llama.cpp's: a folder with
llama-batched-bench, run on --fork-types (which may be of its own). Which type of the peer compares with which bits is a matter of quality: tests/bench/quality/PEERS.md.
Each engine runs in a process of its own, one after the other, with the read loop's bandwidth at that time beside it.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import bench_report

PEERS = pathlib.Path.home() / ".cache/liftserve/peers"
# vocab, hidden, inner, layers, heads, KV heads, head size, tied: as tests/bench/synthetic.cc has them.
SHAPES = {"llama-tiny": (640, 128, 256, 2, 4, 2, 32, True), "llama-1b": (128256, 2048, 8192, 16, 32, 8, 64, True),
          "llama-3b": (128256, 3072, 8192, 28, 24, 8, 128, True), "llama-7b": (32000, 4096, 11008, 32, 32, 32, 128, False)}
# Bytes of a block, weights of a block, and where its binary16 factors lie: they are set, the rest is random.
BLOCKS = {"Q4_0": (18, 32, [0]), "Q8_0": (34, 32, [0]), "Q2_K": (84, 256, [80, 82]), "Q3_K": (110, 256, [108]),
          "Q4_K": (144, 256, [0, 2]), "Q5_K": (176, 256, [0, 2]), "Q6_K": (210, 256, [208]), "IQ2_K": (76, 256, [0]),
          "IQ3_K": (110, 256, [0]), "IQ4_K": (144, 256, [0])}
FORK_TYPES = {"IQ2_K": 137, "IQ3_K": 138, "IQ4_K": 139}  # ggml_type numbers of ik_llama.cpp


def write_gguf(path, shape, kind):
    """Random weights in the blocks of `kind`; norms are ones."""
    import gguf
    import numpy as np

    vocab, hidden, inner, layers, heads, kv_heads, head_dim, tied = SHAPES[shape]
    block_bytes, block_weights, factors = BLOCKS[kind]
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(f"random-{shape}")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    raw = FORK_TYPES.get(kind) or gguf.GGMLQuantizationType[kind]
    gguf.constants.GGML_QUANT_SIZES[raw] = (block_weights, block_bytes)

    def matrix(name, rows, cols):
        blocks = random.integers(0, 256, (rows, cols // block_weights, block_bytes), dtype=np.uint8)
        scale = np.frombuffer(np.float16(0.5 / cols**0.5 / (16 if "K" in kind else 1)).tobytes(), dtype=np.uint8)
        for at in factors:
            blocks[:, :, at:at + 2] = scale
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=raw)

    def ones(name, size):
        writer.add_tensor(name, np.ones(size, dtype=np.float32))

    matrix("token_embd.weight", vocab, hidden)
    for i in range(layers):
        ones(f"blk.{i}.attn_norm.weight", hidden)
        matrix(f"blk.{i}.attn_q.weight", heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_k.weight", kv_heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_v.weight", kv_heads * head_dim, hidden)
        matrix(f"blk.{i}.attn_output.weight", hidden, heads * head_dim)
        ones(f"blk.{i}.ffn_norm.weight", hidden)
        matrix(f"blk.{i}.ffn_gate.weight", inner, hidden)
        matrix(f"blk.{i}.ffn_up.weight", inner, hidden)
        matrix(f"blk.{i}.ffn_down.weight", hidden, inner)
    ones("output_norm.weight", hidden)
    if not tied:
        matrix("output.weight", vocab, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_llama_cpp(path, threads, prompt, context, new, sequences):
    """Speed of reading a prompt and of decoding one and several sequences at the context, through the library's C interface."""
    import llama_cpp as ll

    ll.llama_backend_init()
    model_params = ll.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = ll.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise SystemExit("llama.cpp cannot load the file")
    each = max(prompt, context) + new + 16
    params = ll.llama_context_default_params()
    params.n_ctx = each * sequences
    params.n_seq_max = sequences
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    running = ll.llama_init_from_model(model, params)
    batch = ll.llama_batch_init(512, 0, 1)

    def feed(entries):
        """entries: (token, position, sequence, wants logits)."""
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, logits) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
            batch.seq_id[i][0] = sequence
        start = time.monotonic()
        if ll.llama_decode(running, batch) != 0:
            raise SystemExit("llama_decode failed")
        ll.llama_synchronize(running)
        return time.monotonic() - start

    def read(sequence, begin, end):
        """Reads tokens; returns the seconds."""
        seconds = 0
        while begin < end:
            count = min(512, end - begin)
            seconds += feed([(i * 7919 % 640, i, sequence, i == end - 1) for i in range(begin, begin + count)])
            begin += count
        return seconds

    def decode(count):
        """Median seconds of a step that adds a token to each of `count` sequences."""
        times = []
        for _ in range(new):
            times.append(feed([(position[s] * 31 % 640, position[s], s, True) for s in range(count)]))
            for s in range(count):
                position[s] += 1
        return sorted(times)[new // 2]

    def read_afresh(count):
        seconds = read(0, 0, count)
        ll.llama_memory_clear(ll.llama_get_memory(running), True)
        return seconds

    read_afresh(8)  # pages the weights in
    prefill = min(read_afresh(prompt) for _ in range(2))
    for s in range(sequences):
        read(s, 0, context)
    position = [context] * sequences
    result = {"prefill_tokens_per_second": prompt / prefill, "decode_tokens_per_second": 1 / decode(1)}
    result[f"batch_{sequences}_tokens_per_second"] = sequences / decode(sequences)
    return result


def run_fork(folder, path, threads, prompt, new, sequences):
    """The same speeds by llama-batched-bench: its rows of one and of several sequences, each behind a prompt of its own."""
    done = subprocess.run([folder / "llama-batched-bench", "-m", path, "-t", str(threads), "-c", str((prompt + new) * sequences + 256),
                           "-npp", str(prompt), "-ntg", str(new), "-npl", f"1,{sequences}"], capture_output=True, text=True, check=True)
    rows = {}
    for line in (done.stdout + done.stderr).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            rows[int(cells[2])] = (float(cells[5]), float(cells[7]))
    return {"prefill_tokens_per_second": rows[1][0], "decode_tokens_per_second": rows[1][1],
            f"batch_{sequences}_tokens_per_second": rows[sequences][1]}


def peer_python(build):
    python = PEERS / "venv/bin/python"
    if build and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS / "venv"], check=True)
    has = python.exists() and subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True, check=False)
    if not has or has.returncode != 0:
        if not build:
            raise SystemExit(f"no llama-cpp-python in {PEERS}/venv: run once with --build")
        pip = ["nice", "-n", "10", python, "-m", "pip", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "numpy", "gguf"], check=True)
        subprocess.run(["env", "CMAKE_ARGS=-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF",
                        "CMAKE_BUILD_PARALLEL_LEVEL=1", *pip, "--no-binary", "llama-cpp-python", "llama-cpp-python"], check=True)
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--shape", default="llama-1b", choices=sorted(SHAPES))
    parser.add_argument("--types", default="Q4_0,Q4_K,Q3_K,Q2_K")
    parser.add_argument("--bits", default="2,3,4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=8, help="decoded side by side, besides one alone")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--fork", type=pathlib.Path)
    parser.add_argument("--fork-types", default="Q4_K,IQ4_K,IQ3_K,IQ2_K")
    parser.add_argument("--write-only", metavar="FILE", help="write FILE with the first of --types and stop")
    parser.add_argument("--child", metavar="GGUF", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(run_llama_cpp(flags.child, flags.threads, flags.prompt, flags.context, flags.new,
                                       flags.sequences)))
        return
    if flags.write_only:
        write_gguf(flags.write_only, flags.shape, flags.types.split(",")[0])
        return
    python = peer_python(flags.build)
    rows = []

    def file_of(kind):
        path = bench_report.CACHE / f"{flags.shape}-{kind}.gguf"
        if not path.exists():
            subprocess.run([python, __file__, flags.build_dir, "--shape", flags.shape, "--types", kind, "--write-only", path],
                           check=True)
        return path

    for kind in flags.fork_types.split(",") if flags.fork else []:
        path = file_of(kind)
        done = run_fork(flags.fork, path, flags.threads, flags.prompt, flags.new, flags.sequences)
        rows.append({"engine": "fork", "weights": kind, "file_gb": path.stat().st_size / 1e9, **done})
    for kind in flags.types.split(",") if flags.types else []:
        path = file_of(kind)
        done, _, _ = bench_report.run_json(
            [python, __file__, flags.build_dir, "--child", path, "--threads", flags.threads, "--prompt", flags.prompt,
             "--context", flags.context, "--new", flags.new, "--sequences", flags.sequences])
        rows.append({"engine": "llama.cpp", "weights": kind, "file_gb": path.stat().st_size / 1e9, **done})
    model = bench_report.synthetic(flags.build_dir / "bin", f"{flags.shape}:{flags.bits}")
    report, _, _ = bench_report.run_json(
        [flags.build_dir / "bin/lift-bench", "--model", model, "--batch", f"1,{flags.sequences}", "--context", flags.context, "--prefill",
         flags.prompt, "--threads", flags.threads, "--seconds", 3, "--json"])
    prefill = report["prefill"][0]["tokens_per_second"]
    points = {(p["variant"], p["batch"]): p for p in report["decode"]}
    for variant in dict.fromkeys(p["variant"] for p in report["decode"]):
        alone = points[variant, 1]
        rows.append({"engine": "LiftServe", "weights": variant, "file_gb": alone["bytes_per_token"] / 1e9,
                     "prefill_tokens_per_second": prefill, "decode_tokens_per_second": alone["tokens_per_second"],
                     f"batch_{flags.sequences}_tokens_per_second": points[variant, flags.sequences]["tokens_per_second"]})
    result = {"shape": flags.shape, "threads": flags.threads, "read_bandwidth": report["read_bandwidth_bytes_per_second"],
              "rows": rows}
    plot = bench_report.bars_svg(f"Decode of {flags.shape}, {flags.threads} threads, context {flags.context}",
                                 [(f"{r['engine']} {r['weights']}", r["decode_tokens_per_second"]) for r in rows], "tokens/s")
    bench_report.publish("cpu_peers", result, [("Random weights; prompts of LiftServe are read at its finest variant", rows)],
                         {"decode": plot}, flags.out)


if __name__ == "__main__":
    main()
