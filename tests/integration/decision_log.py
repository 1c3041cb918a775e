#!/usr/bin/env python3
"""The chain of a ledger's log of routing decisions, computed again without a line of the product: sqlite3, hashlib and the
layout in server/audit/README.md. usage: decision_log.py LEDGER [KEY_FILE]

Prints COUNT:HASH and exits 0, or prints the first fault and exits 1.
"""

import contextlib
import hashlib
import hmac
import pathlib
import sqlite3
import struct
import sys

FIELDS = """format position epoch sequence time_us request_id tenant model weights_sha256 policy pinned pinned_variant min_lambda
max_quality_loss allow_fallback score queue_pressure resident_variants prompt_tokens prompt_class language variant lambda
bits_per_weight reason fallback_from served_lambda generated_tokens outcome key_id previous hash""".split()


def encode(value):
    if isinstance(value, int):
        return struct.pack("<q", value)
    if isinstance(value, float):
        return struct.pack("<d", value)
    text = value.encode("utf-8")
    return struct.pack("<q", len(text)) + text


def digest(data, secret):
    return hmac.new(secret, data, hashlib.sha256).hexdigest() if secret else hashlib.sha256(data).hexdigest()


def key_id(secret):
    return hashlib.sha256(b"liftserve.key.1\n" + secret).hexdigest()[:16] if secret else ""


def rows_of(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = [dict(zip(FIELDS, row)) for row in db.execute(f"SELECT {', '.join(FIELDS)} FROM decisions ORDER BY position")]
        head = db.execute("SELECT log_id, count, hash, key_id, seal FROM decision_head").fetchone()
    return rows, head


def fault(path, secret=b""):
    """A sentence, or None: the log is whole. Rows before the key's first use are plain SHA-256."""
    rows, head = rows_of(path)
    if head is None:
        return "there is no head"
    log_id, count, last, sealed_by, seal = head
    previous = hashlib.sha256(f"liftserve.decisions.1\n{log_id}".encode()).hexdigest()
    keyed = False
    for expected, row in enumerate(rows, 1):
        if row["position"] != expected:
            return f"row {expected} is missing"
        if row["previous"] != previous:
            return f"row {expected} does not follow the one before"
        keyed = keyed or row["key_id"] != ""
        if row["key_id"] != (key_id(secret) if keyed else ""):
            return f"row {expected} has another key"
        data = b"liftserve.decision.1\n" + b"".join(encode(row[name]) for name in FIELDS[:-1])
        previous = digest(data, secret if keyed else b"")
        if row["hash"] != previous:
            return f"row {expected} was changed"
    if (count, last) != (len(rows), previous):
        return f"the head counts {count} rows, there are {len(rows)}"
    if sealed_by != key_id(secret) or seal != digest(f"liftserve.head.1\n{log_id}\n{count}\n{last}".encode(), secret):
        return "the head was changed"
    return None


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    secret = pathlib.Path(sys.argv[2]).read_bytes().strip() if len(sys.argv) == 3 else b""
    wrong = fault(sys.argv[1], secret)
    print(wrong or "{1}:{2}".format(*rows_of(sys.argv[1])[1]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
