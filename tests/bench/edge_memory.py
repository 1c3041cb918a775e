#!/usr/bin/env python3
"""A 7B model on a device of 4 GiB: peak memory by format of the attention state, start-up, and shared pages.

usage: edge_memory.py BUILD_DIR [--synthetic llama-7b:3] [--context 2048] [--limit-gib 4] [--out FOLDER]

Each row is one lift-bench process that decodes one sequence at the context, its address space limited (RLIMIT_AS, so the
mapped weights count even where they are not resident). The read loop's 256 MiB are freed before the state is allocated.
Start-up: seconds from exec to ready of lift-server on the same file, with its pages in the page cache, by --verify; then two
servers at once, and what each of them adds to memory (Pss: shared pages count by half). Needs the size of the model on disk.
"""

import argparse
import pathlib
import subprocess
import tempfile
import time

import bench_report

GIB = 1 << 30


def memory_rows(programs, model, flags):
    rows = []
    for kv in ("f32", "f16", "bf16", "int8"):
        command = [programs / "lift-bench", "--model", model, "--batch", "1", "--context", flags.context, "--prefill", "16",
                   "--seconds", flags.seconds, "--kv-cache", kv, "--json"]
        row = {"kv_cache": kv, "fits": False, "peak_rss_gib": 0.0, "tokens_per_second": 0.0, "read_gib_per_second": 0.0}
        try:
            report, peak, _ = bench_report.run_json(command, int(flags.limit_gib * GIB))
            row.update(fits=True, peak_rss_gib=peak / GIB, tokens_per_second=report["decode"][0]["tokens_per_second"],
                       read_gib_per_second=report["read_bandwidth_bytes_per_second"] / GIB)
        except RuntimeError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


class Server:
    def __init__(self, programs, model, verify):
        self.folder = tempfile.TemporaryDirectory()
        ready = pathlib.Path(self.folder.name) / "ready"
        start = time.monotonic()
        self.process = subprocess.Popen(
            [programs / "lift-server", "--model", model, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file",
             ready, "--verify", verify, "--kv-tokens", "2048"], stderr=subprocess.DEVNULL)
        while not ready.exists():
            if self.process.poll() is not None:
                raise RuntimeError("lift-server did not start")
            time.sleep(0.002)
        self.ready_seconds = time.monotonic() - start

    def memory(self):
        """(Rss, Pss) in bytes."""
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="utf-8")
        fields = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
        return int(fields["Rss"]) * 1024, int(fields["Pss"]) * 1024

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)
        self.folder.cleanup()


def start_rows(programs, model):
    rows = []
    start = time.monotonic()
    with open(model, "rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass
    rows.append({"start": "reading the file once", "seconds": time.monotonic() - start})
    for verify in ("start", "background"):
        server = Server(programs, model, verify)
        rows.append({"start": f"lift-server --verify {verify}, to the first token", "seconds": server.ready_seconds})
        server.stop()
    return rows


def shared_rows(programs, model):
    servers = [Server(programs, model, "start") for _ in range(2)]
    rows = []
    for i, server in enumerate(servers):
        rss, pss = server.memory()
        rows.append({"server": i + 1, "rss_gib": rss / GIB, "pss_gib": pss / GIB})
    for server in servers:
        server.stop()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--synthetic", default="llama-7b:3")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--limit-gib", type=float, default=4)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    programs = flags.build / "bin"
    model = bench_report.synthetic(programs, flags.synthetic)
    memory = memory_rows(programs, model, flags)
    starts = start_rows(programs, model)
    shared = shared_rows(programs, model)
    shown = [{k: v for k, v in row.items() if k != "error"} for row in memory]
    plot = bench_report.bars_svg(f"Peak memory, {flags.synthetic}, context {flags.context}",
                                 [(row["kv_cache"], row["peak_rss_gib"]) for row in memory], "GiB", flags.limit_gib)
    bench_report.publish(
        "edge_memory",
        {"synthetic": flags.synthetic, "context": flags.context, "limit_gib": flags.limit_gib, "memory": memory,
         "start": starts, "shared": shared},
        [(f"Decoding one sequence at context {flags.context} within {flags.limit_gib:g} GiB of address space", shown),
         ("Start-up, file in the page cache", starts), ("Two servers on one file", shared)], {"memory": plot}, flags.out)


if __name__ == "__main__":
    main()
