#!/usr/bin/env python3
"""Builds the prompts the router is trained and judged on: train.jsonl, test.jsonl, ood.jsonl and manifest.json.

    make_prompts.py --out FOLDER [--cache FOLDER] [--train 1600] [--test 600] [--ood 600] [--seed 1] [--packages all]

Prompts come from the committed templates (templates/) and from Debian packages, which are downloaded into the cache and
unpacked there, never installed. No template group and no package serves two files, and no prompt resembles one of
another file. The result depends only on the seed, the sizes, the templates and the packages' versions.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import re
import sys

import expand
import packages

SPLITS = ("train", "test", "ood")
TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
SHINGLE = 3  # words, or characters of a script that has no spaces
ACROSS, WITHIN = 0.5, 0.9  # largest part of the shorter prompt's shingles that another prompt may share
PATIENCE = 80  # failed draws after which a group counts as exhausted
CHATTERS = ("user", "assistant")


class BadInput(Exception):
    """The templates or the options are wrong; the message says how."""


# ---- templates ----


def load(split, folder=TEMPLATES):
    """(share by kind, groups) of templates/SPLIT.json and templates/SPLIT-*.json."""
    kinds, groups = {}, []
    for path in sorted([folder / f"{split}.json", *folder.glob(f"{split}-*.json")]):
        document = json.loads(path.read_text(encoding="utf-8"))
        kinds |= document.get("kinds", {})
        for group in document["groups"]:
            if isinstance(group["templates"], str):
                group["templates"] = document["phrases"][group["templates"]]
            group["slots"] = document.get("slots", {}) | group.get("slots", {})
            group.setdefault("language", "en")
            group["source"] = group.get("package") or f"templates:{group['name']}"
            groups.append(group)
    for group in groups:
        if group["kind"] not in kinds:
            raise BadInput(f"{split}: the group {group['source']} is of the kind {group['kind']}, which has no share")
    return kinds, groups


def check_disjoint(sources):
    """No source serves two splits. `sources` holds a set for each."""
    for first, second in (("train", "test"), ("train", "ood"), ("test", "ood")):
        both = sources[first] & sources[second]
        assert not both, f"in {first} and in {second}: {sorted(both)}"


# ---- near-duplicates ----


def tokens(text):
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", text.lower())


def content(record):
    return record["prompt"] if "prompt" in record else "\n".join(turn["content"] for turn in record["messages"])


def shingles(text):
    found = tokens(text)
    return {tuple(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def digest(text):
    return hashlib.sha256(" ".join(tokens(text)).encode()).hexdigest()


class Seen:
    """The prompts taken so far, and whether a new one resembles one of them."""

    def __init__(self):
        self._digests, self._sizes, self._splits, self._where = set(), [], [], collections.defaultdict(list)

    def resembles(self, text, split):
        if digest(text) in self._digests:
            return True
        mine = shingles(text)
        shared = collections.Counter(index for shingle in mine for index in self._where.get(shingle, ()))
        for index, count in shared.items():
            limit = WITHIN if self._splits[index] == split else ACROSS
            if count >= limit * min(len(mine), self._sizes[index]):
                return True
        return False

    def add(self, text, split):
        mine = shingles(text)
        for shingle in mine:
            self._where[shingle].append(len(self._sizes))
        self._digests.add(digest(text))
        self._sizes.append(len(mine))
        self._splits.append(split)


# ---- drawing ----


class Drawer:
    """Draws the prompts of one group; every piece of a package is used once."""

    def __init__(self, group, split, seed, folder):
        self.group, self.split = group, split
        self._random = random.Random(f"{seed}:{split}:{group['source']}:{group['kind']}:{group.get('reader')}")
        self._pieces = None
        if "package" in group:
            self._pieces = packages.Pieces(group, folder, self._random)
        self._deck = []

    def _template(self, fields):
        known = fields.keys() | self.group["slots"].keys()
        for _ in range(2):
            for index, template in enumerate(self._deck):
                if expand.names(template) <= known:
                    return self._deck.pop(index)
            # Every template once before any comes again.
            fresh = list(self.group["templates"])
            self._random.shuffle(fresh)
            self._deck += fresh
        return None

    def _draw(self, tokens_wanted):
        fields = {}
        if self._pieces is not None:
            fields = self._pieces.next()
            if fields is None:
                return None
        template = self._template(fields)
        if template is None:
            return {}
        turns = [template] if isinstance(template, str) else template
        chosen = {}
        turns = [expand.expand(turn, self.group["slots"], fields, self._random, chosen).strip() for turn in turns]
        record = {} if len(turns) > 1 else {"prompt": turns[0]}
        if len(turns) > 1:
            record["messages"] = []
            if turns[0].startswith("system: "):
                record["messages"].append({"role": "system", "content": turns.pop(0)[8:]})
            record["messages"] += [{"role": CHATTERS[i % 2], "content": turn} for i, turn in enumerate(turns)]
        return record | {
            "kind": self.group["kind"],
            "source": self.group["source"],
            "language": self.group["language"],
            "max_new_tokens": tokens_wanted,
        }

    def next(self, seen, tokens_wanted):
        """The next prompt that resembles none of the others, or None when there are no more."""
        for _ in range(PATIENCE):
            record = self._draw(tokens_wanted)
            if record is None:
                return None
            if record and not seen.resembles(content(record), self.split):
                seen.add(content(record), self.split)
                return record
        return None


def quotas(kinds, drawers, wanted):
    """How many prompts each drawer is first asked for: by the share of its kind, then its own."""
    present = {kind: [d for d in drawers if d.group["kind"] == kind] for kind in kinds}
    total = sum(share for kind, share in kinds.items() if present[kind])
    result = {}
    for kind, members in present.items():
        weights = sum(d.group.get("share", 1) for d in members)
        for drawer in members:
            result[drawer] = wanted * kinds[kind] / total * drawer.group.get("share", 1) / weights
    return result


def draw(split, kinds, drawers, wanted, seen, seed, tokens_wanted):
    """`wanted` prompts in a random order; what an exhausted group lacks comes from the rest in turn, its kind first."""
    records, taken, have = [], dict.fromkeys(drawers, 0), collections.Counter()
    goal = quotas(kinds, drawers, wanted)
    due = {kind: sum(goal[d] for d in drawers if d.group["kind"] == kind) for kind in kinds}
    open_drawers = list(drawers)
    while len(records) < wanted and open_drawers:
        # Of the kind that is farthest behind its goal, in proportion, the group that is.
        drawer = min(open_drawers, key=lambda d: (have[d.group["kind"]] / due[d.group["kind"]], taken[d] / goal[d]))
        record = drawer.next(seen, tokens_wanted)
        if record is None:
            open_drawers.remove(drawer)
            continue
        taken[drawer] += 1
        have[record["kind"]] += 1
        records.append(record)
    if len(records) < wanted:
        raise BadInput(f"{split}: only {len(records)} of {wanted} prompts; ask for fewer or allow more packages")
    random.Random(f"{seed}:{split}").shuffle(records)
    return records


# ---- writing ----


def table(splits):
    rows = [f"{'file':6} {'kind':14} {'count':>6} {'mean words':>11}"]
    for split, records in splits.items():
        sizes = collections.defaultdict(list)
        for record in records:
            sizes[record["kind"]].append(packages.words(content(record)))
        sizes["(all)"] = [size for kind in list(sizes) for size in sizes[kind]]
        for kind, values in sizes.items():
            rows.append(f"{split:6} {kind:14} {len(values):6} {sum(values) / max(1, len(values)):11.1f}")
    return "\n".join(rows)


def write(out, splits, versions, options):
    """The three files, then the manifest that describes them."""
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, records in splits.items():
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        (out / f"{split}.jsonl").write_bytes(data)
        files[f"{split}.jsonl"] = {
            "prompts": len(records),
            "sha256": hashlib.sha256(data).hexdigest(),
            "kinds": dict(sorted(collections.Counter(record["kind"] for record in records).items())),
            "languages": dict(sorted(collections.Counter(record["language"] for record in records).items())),
            "sources": dict(sorted(collections.Counter(record["source"] for record in records).items())),
        }
    manifest = {"seed": options.seed, "packages": versions, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build(options):
    """{split: records} and {package: version}."""
    loaded = {split: load(split) for split in SPLITS}
    check_disjoint({split: {group["source"] for group in groups} for split, (_, groups) in loaded.items()})
    allowed = None if options.packages == "all" else set(options.packages.split(",")) - {"none", ""}
    wanted = {g["package"] for _, groups in loaded.values() for g in groups if "package" in g}
    if allowed is not None and allowed - wanted:
        raise BadInput(f"no template uses the packages {sorted(allowed - wanted)}; known are {sorted(wanted)}")
    names = wanted if allowed is None else allowed
    found = packages.fetch(names, options.cache) if names else {}
    seen, splits = Seen(), {}
    for split, (kinds, groups) in loaded.items():
        usable = [g for g in groups if "package" not in g or g["package"] in found]
        drawers = [Drawer(g, split, options.seed, found.get(g.get("package"), (None, None))[1]) for g in usable]
        count = getattr(options, split)
        splits[split] = draw(split, kinds, drawers, count, seen, options.seed, options.max_new_tokens)
    check_disjoint({split: {record["source"] for record in records} for split, records in splits.items()})
    return splits, {name: version for name, (version, _) in sorted(found.items())}


def main(arguments=None):
    cache = os.environ.get("LIFTSERVE_CACHE") or pathlib.Path.home() / ".cache/liftserve"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write, made if missing")
    parser.add_argument(
        "--cache", type=pathlib.Path, default=pathlib.Path(cache) / "router-prompts", help="packages (%(default)s)"
    )
    parser.add_argument("--train", type=int, default=1600, help="prompts to train on (%(default)s)")
    parser.add_argument("--test", type=int, default=600, help="held-out prompts of the same kinds (%(default)s)")
    parser.add_argument("--ood", type=int, default=600, help="prompts of other kinds and languages (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of every choice (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="written into every line (%(default)s)")
    parser.add_argument(
        "--packages", default="all", help="all, none (templates only, no network) or names by commas (%(default)s)"
    )
    options = parser.parse_args(arguments)
    options.cache = options.cache.resolve()
    try:
        splits, versions = build(options)
    except BadInput as error:
        print(f"make_prompts.py: {error}", file=sys.stderr)
        return 1
    write(options.out, splits, versions, options)
    print(table(splits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
