"""A second reader of the lifted file, written from kernels/format/README.md alone: the format's independent oracle.

Needs numpy. Checks nothing beyond magic and version: what a file must satisfy is the C++ reader's business.

  reader = LiftedFile("model.lift")
  reader.matrix("lm_head.weight", "q3.0")     float64 [rows, cols], strips stacked, in the model's own basis
  reader.vector("model.norm.weight")          float32 [n]

Run as a program it writes every tensor of the file at every plane variant, one after another, as raw float32:
  lifted_reader.py FILE OUT
"""

import json
import mmap
import struct
import sys

import numpy as np

META, TOKENIZER, VECTORS, SCALES, PLANES, SOURCE = range(1, 7)
TILE_ROWS, TILE_COLUMNS = 16, 32
ALIGNMENT = 64


def align(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def signs(seed, count):
    """The rotation's signs: the top bit of SplitMix64's outputs."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where((z ^ (z >> np.uint64(31))) >> np.uint64(63), -1.0, 1.0)


def rotation(seed, n):
    """R = (C_m (x) WHT_p) diag(signs) as a matrix [n, n]; n = p * m, p a power of two, m odd."""
    p = n & -n
    m = n // p
    hadamard = np.ones((1, 1))
    while len(hadamard) < p:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    angle = 2 * np.pi * np.outer(np.arange(m), np.arange(m)) / m
    hartley = (np.cos(angle) + np.sin(angle)) / np.sqrt(m)
    return np.kron(hartley, hadamard / np.sqrt(p)) * signs(seed, n)


def decode_stage(code, bits):
    """bits: bool [rows, padded columns, stored] -> the code's reconstruction, float64 [rows, padded columns]."""
    stored, streams = code["stored"], code["stored"] + code["derived"]
    planes = [bits[:, :, r] for r in range(stored)]
    for mask in code["masks"]:
        parity = np.zeros_like(planes[0])
        for position in range(64):
            if mask >> position & 1:
                back, stream = divmod(position, streams)
                parity = parity ^ np.roll(planes[stream], back, axis=1)
        planes.append(parity)
    taps = np.array(code["taps"]).reshape(code["steps"], streams)
    value = np.zeros(bits.shape[:2])
    for step in range(code["steps"]):
        for stream in range(streams):
            value += taps[step, stream] * np.roll(np.where(planes[stream], 1.0, -1.0), step, axis=1)
    return value


class LiftedFile:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.data[:8] != b"LIFTFILE" or struct.unpack_from("<I", self.data, 8)[0] != 1:
            raise ValueError(f"{path} is not a lifted file of version 1")
        self.sections = {}
        table, count = struct.unpack_from("<QI", self.data, 24)
        for i in range(count):
            kind, _, offset, size = struct.unpack_from("<IIQQ", self.data, table + 32 * i)
            self.sections[kind] = (offset, size)
        self.meta = json.loads(self.section(META))
        self.tensors = {tensor["name"]: tensor for tensor in self.meta["tensors"]}
        self.variants = {variant["name"]: variant for variant in self.meta["variants"]}
        self.scale_offsets, at = {}, 0
        for tensor in self.meta["tensors"]:
            self.scale_offsets[tensor["name"]] = at
            at += align(2 * tensor["rows"])
        self.vector_offsets, at = {}, 0
        for vector in self.meta["vectors"]:
            self.vector_offsets[vector["name"]] = (at, vector["count"])
            at += align(4 * vector["count"])

    def section(self, kind):
        offset, size = self.sections[kind]
        return self.data[offset:offset + size]

    def vector(self, name):
        at, count = self.vector_offsets[name]
        return np.frombuffer(self.data, "<f4", count, self.sections[VECTORS][0] + at)

    def stage_bits(self, tensor, stage, stored, prefix):
        """The stage's whole row tiles inside the prefix: bool [rows, padded columns, stored]."""
        blocks = -(-tensor["cols"] // TILE_COLUMNS)
        tile_bytes = blocks * stored * 64
        tiles = max(0, min(stage["bytes"], prefix - stage["offset"])) // tile_bytes
        words = np.frombuffer(self.data, "<u4", tiles * tile_bytes // 4, self.sections[PLANES][0] + stage["offset"])
        words = words.reshape(tiles, blocks, stored, TILE_ROWS)
        bits = (words[..., None] >> np.arange(TILE_COLUMNS, dtype=np.uint32) & 1).astype(bool)
        return bits.transpose(0, 3, 1, 4, 2).reshape(tiles * TILE_ROWS, blocks * TILE_COLUMNS, stored)

    def tensor(self, name, variant):
        """One stored tensor (a whole matrix or a strip of one): float64 [rows, cols]."""
        tensor, prefix = self.tensors[name], self.variants[variant]["plane_bytes"]
        rows, cols = tensor["rows"], tensor["cols"]
        total = np.zeros((rows, cols))
        for stage in tensor["stages"]:
            code = self.meta["codes"][stage["code"]]
            bits = self.stage_bits(tensor, stage, code["stored"], prefix)[:rows]
            if len(bits):
                total[:len(bits)] += stage["gain"] * decode_stage(code, bits)[:, :cols]
        scale = np.frombuffer(self.data, "<f2", rows, self.sections[SCALES][0] + self.scale_offsets[name])
        total *= scale.astype(np.float64)[:, None]
        if "rotation_seed" in tensor:  # rows are stored as w R^T
            total = total @ rotation(tensor["rotation_seed"], cols)
        return total

    def matrix(self, name, variant):
        if name in self.tensors:
            return self.tensor(name, variant)
        strips, k = [], 0
        while f"{name}#{k}" in self.tensors:
            strips.append(self.tensor(f"{name}#{k}", variant))
            k += 1
        return np.concatenate(strips)

    def matrix_names(self):
        names = []
        for name in self.tensors:
            whole = name.split("#")[0]
            if whole not in names:
                names.append(whole)
        return names


def main():
    file = LiftedFile(sys.argv[1])
    with open(sys.argv[2], "wb") as out:
        for variant in file.meta["variants"]:
            if not variant["full"]:
                for name in file.tensors:
                    out.write(file.tensor(name, variant["name"]).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
