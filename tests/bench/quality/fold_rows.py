"""Gives llama.cpp's types of 256-value blocks to matrices whose rows are no multiple of 256, so that they need not fall back.

A matrix [rows, 576] becomes [rows / 4, 2304]: four rows are stored as one, and blocks may cross from one row into the next. The
values, their order and their importances stay what they are, so the quantizer reaches its own quality at its own nominal bits.
No program could run such a file; it answers what a peer would reach on a model with better dimensions, and favours it.
"""
import math
import pathlib
import struct

import gguf
import numpy as np

import make_twin

BLOCK = 256


def factor(rows, columns):
    """How many rows make one of whole blocks; 1 where that is so already or cannot be."""
    wanted = math.lcm(columns, BLOCK) // columns
    return wanted if rows % wanted == 0 else 1


def read_imatrix(path):
    """ik_llama.cpp's .dat: {name: (calls, float32 sums)} and what follows the entries."""
    data = pathlib.Path(path).read_bytes()
    (count,), at = struct.unpack_from("<i", data), 4
    entries = {}
    for _ in range(count):
        (size,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + size].decode()
        calls, values = struct.unpack_from("<ii", data, at + 4 + size)
        at += 12 + size
        entries[name] = (calls, np.frombuffer(data, "<f4", values, at))
        at += 4 * values
    return entries, data[at:]


def write_imatrix(path, entries, rest):
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, (calls, values) in entries.items():
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes())
        file.write(rest)


def fold(model, imatrix, folder):
    """Writes the folded model and importance matrix; returns their paths."""
    fields, tensors = make_twin.read_model(model)
    factors = {name: factor(*value.shape) for name, value in tensors.items() if value.ndim == 2}
    folded = {name: value.reshape(value.shape[0] // factors[name], -1) if name in factors else value
              for name, value in tensors.items()}
    paths = folder / "folded.gguf", folder / "folded.dat"
    make_twin.write_gguf(paths[0], fields, folded, "f16")
    entries, rest = read_imatrix(imatrix)
    write_imatrix(paths[1], {name: (calls, np.tile(values, factors.get(name, 1))) for name, (calls, values) in entries.items()}, rest)
    return paths


def unfold(model, folded, out):
    """Writes the F32 file `folded` with the shapes of `model`."""
    shapes = {t.name: tuple(int(n) for n in t.shape[::-1]) for t in gguf.GGUFReader(model).tensors}
    fields, tensors = make_twin.read_model(folded)
    make_twin.write_gguf(out, fields, {name: value.reshape(shapes[name]) for name, value in tensors.items()}, "f32")
