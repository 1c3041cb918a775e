#!/usr/bin/env python3
"""Makes dequantize.bin: random blocks of every stored element type and what the gguf package decodes them to.

Needs: pip install gguf numpy
Run:   python make_dequantize.py

Records, little-endian, one after the other: 8 bytes type name (zero-padded) | u32 elements | u32 bytes | bytes | f32[elements].
Scales are random finite halves, subnormal and negative ones included; all other bits are uniformly random.
"""

import pathlib
import struct

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent / "dequantize.bin"
# Offsets of the binary16 scales in a block; everything else is payload.
SCALES = {
    "F32": (), "F16": (0,), "BF16": (), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}


def main():
    rng = np.random.default_rng(5)
    with OUT.open("wb") as out:
        for name, scales in SCALES.items():
            qtype = gguf.GGMLQuantizationType[name]
            elements, size = gguf.GGML_QUANT_SIZES[qtype]
            count = max(4, 64 // elements)
            blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
            if name in ("F32", "BF16"):
                blocks[:, -1] &= 0xBF  # no exponent of all ones: NaN has no one right answer
            for offset in scales:
                blocks[:, offset + 1] &= 0xBF
            data = blocks.reshape(1, -1)
            if name == "F32":
                values = data.view(np.float32)
            elif name == "F16":
                values = data.view(np.float16).astype(np.float32)
            else:
                values = gguf.quants.dequantize(data, qtype)
            values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            assert np.isfinite(values).all() and len(values) == count * elements
            out.write(struct.pack("<8sII", name.encode(), len(values), data.size))
            out.write(data.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
