"""What a GGUF file really holds: each tensor's type and bytes, for types that the gguf package does not know as well.

gguf_size.py FILE prints the parameters, the bytes of all tensors and how many matrices have which type.
"""
import collections
import dataclasses
import math
import struct
import sys

# ggml_type numbers of llama.cpp and of its fork ik_llama.cpp (133 and above).
TYPE_NAMES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_K", 11: "q3_K", 12: "q4_K", 13: "q5_K",
    14: "q6_K", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs",
    29: "iq1_m", 30: "bf16", 39: "mxfp4", 133: "q6_0", 134: "iq1_bn", 135: "iq2_bn", 137: "iq2_k", 138: "iq3_k", 139: "iq4_k",
    140: "iq5_k", 141: "iq6_k", 144: "iq4_ks", 145: "iq2_ks", 146: "iq4_kss", 151: "q8_KV", 152: "iq5_ks", 153: "iq2_kt",
    154: "iq3_kt", 155: "iq4_kt", 156: "iq3_ks", 157: "iq2_kl", 158: "iq1_kt",
}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclasses.dataclass
class Tensor:
    name: str
    shape: tuple
    type: str
    bytes: int  # up to the next tensor, alignment included


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def read(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self):
        size = self.read("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item, count = self.read("I"), self.read("Q")
            return [self.value(item) for _ in range(count)]
        return self.read(SCALARS[kind])


def tensors(path):
    """Every tensor of the file, in the file's order."""
    with open(path, "rb") as file:
        data = file.read()
    cursor = Cursor(data)
    if data[:4] != b"GGUF":
        raise ValueError(f"{path} is no GGUF file")
    cursor.at = 8
    count, keys = cursor.read("Q"), cursor.read("Q")
    metadata = {}
    for _ in range(keys):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.read("I"))
    found = []
    for _ in range(count):
        name = cursor.string()
        shape = tuple(cursor.read("Q") for _ in range(cursor.read("I")))
        found.append((name, shape, cursor.read("I"), cursor.read("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    ends = sorted([offset for *_, offset in found] + [len(data) - start])
    return [Tensor(name, shape, TYPE_NAMES.get(kind, str(kind)), ends[ends.index(offset) + 1] - offset)
            for name, shape, kind, offset in found]


def summary(path):
    """{"parameters", "bytes", "bits_per_weight", "types": {kind of matrix: {type: count}}}."""
    all_tensors = tensors(path)
    kinds = collections.defaultdict(collections.Counter)
    for tensor in all_tensors:
        if len(tensor.shape) > 1:
            kinds[tensor.name.removesuffix(".weight").split(".")[-1]][tensor.type] += 1
    parameters = sum(math.prod(t.shape) for t in all_tensors)
    size = sum(t.bytes for t in all_tensors)
    return {"parameters": parameters, "bytes": size, "bits_per_weight": 8 * size / parameters,
            "types": {kind: dict(types) for kind, types in kinds.items()}}


if __name__ == "__main__":
    report = summary(sys.argv[1])
    print(f"{report['parameters']:,} parameters, {report['bytes']:,} bytes, {report['bits_per_weight']:.3f} bits per weight")
    for matrix, types in report["types"].items():
        print(f"  {matrix:12} " + ", ".join(f"{count} x {name}" for name, count in types.items()))
