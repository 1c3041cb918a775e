"""Builds calib.txt, eval.txt, calib.jsonl and contents.txt from unpacked Debian documentation packages.

usage: mix.py PACKAGES_DIR OUT_DIR     (PACKAGES_DIR holds one unpacked folder a package)

A document goes to calibration or to evaluation as a whole, decided by a hash of its path, so the two share no source
document. Both files interleave pieces of all categories, so every prefix of them is a mixture too. The result depends
only on the packages' content.
"""

import gzip
import hashlib
import json
import pathlib
import sys

import extract

CALIB_BYTES = 1_500_000
EVAL_BYTES = 300_000
PIECE_BYTES = 6_000
EVAL_SHARE = 5  # one document in five

FORTUNE_TOPICS = (
    "art computers education food fortunes goedel humorists law literature love medicine miscellaneous news people "
    "pets science songs-poems sports wisdom work linux tao riddles"
).split()

# category -> (share of the bytes, globs below PACKAGES_DIR, extractor)
CATEGORIES = {
    "debian-books": (0.20, [
        "debian-reference-en/usr/share/debian-reference/*.en.html",
        "debian-faq/usr/share/doc/debian/FAQ/*.en.html",
        "developers-reference/usr/share/developers-reference/*.html",
        "developers-reference/usr/share/doc/developers-reference/*.html",
        "debian-history/usr/share/doc/debian-history/docs/*.en.html",
    ], extract.from_html),
    "charters": (0.03, [
        "doc-debian/usr/share/doc/debian/constitution.txt.gz",
        "doc-debian/usr/share/doc/debian/debian-manifesto.gz",
        "doc-debian/usr/share/doc/debian/social-contract.txt.gz",
        "doc-debian/usr/share/doc/debian/bug-reporting.txt.gz",
    ], extract.from_plain),
    "python": (0.17, [
        "python3*-doc/usr/share/doc/python3*/html/tutorial/*.html",
        "python3*-doc/usr/share/doc/python3*/html/howto/*.html",
        "python3*-doc/usr/share/doc/python3*/html/faq/*.html",
        "python3*-doc/usr/share/doc/python3*/html/whatsnew/3.[0-9].html",
    ], extract.from_html),
    "git": (0.10, [
        "git-doc/usr/share/doc/git/html/git*.html",
        "git-doc/usr/share/doc/git/html/user-manual.html",
        "git-doc/usr/share/doc/git/html/My*.html",
    ], extract.from_html),
    "manual-pages": (0.12, ["manpages/usr/share/man/man[4578]/*.gz"], extract.from_man),
    "desktop-help": (0.10, ["gnome-user-docs/usr/share/help/C/*/*.page"], extract.from_mallard),
    "quotations": (0.15, [f"fortunes*/usr/share/games/fortunes/{topic}" for topic in FORTUNE_TOPICS],
                   extract.from_fortunes),
    "adventure": (0.04, ["colossal-cave-adventure/usr/share/colossal-cave-adventure/adventure/tests/walkthrough*.txt"],
                  extract.from_plain),
    "dictionary": (0.09, ["wordnet-base/usr/share/wordnet/data.*"], None),
}
FAQ_GLOBS = [
    "python3*-doc/usr/share/doc/python3*/html/faq/*.html",
    "debian-faq/usr/share/doc/debian/FAQ/*.en.html",
]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read(path):
    data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8", "replace").replace("\ufffd", "")


def is_eval(name):
    return int(digest(name)[:8], 16) % EVAL_SHARE == 0


def documents(root, globs):
    """(stable name, path) of the files, without links and without what a package ships twice."""
    seen, found = set(), []
    for pattern in globs:
        for path in sorted(root.glob(pattern)):
            if path.is_symlink() or not path.is_file():
                continue
            content = hashlib.sha256(path.read_bytes()).digest()
            if content not in seen:
                seen.add(content)
                found.append((path.relative_to(root).as_posix(), path))
    return found


def dictionary_text(path):
    """Every 20th entry, in hash order: neighbours in the file are too much alike (page after page of fungi)."""
    entries = []
    for index, (term, gloss) in enumerate(extract.wordnet_entries(read(path))):
        if index % 20 == 7 and len(gloss) > 60:
            entries.append(f"{term}: {gloss}.")
    return "\n\n".join(sorted(entries, key=digest))


def without_repeats(text, seen):
    """Drops paragraphs met before: manuals include the same option descriptions and hints in many pages."""
    kept = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) >= 60:
            if paragraph in seen:
                continue
            seen.add(paragraph)
        kept.append(paragraph)
    return "\n\n".join(kept)


def pieces(text):
    """Cuts at paragraph ends into about PIECE_BYTES."""
    piece, size = [], 0
    for paragraph in text.split("\n\n"):
        if size > PIECE_BYTES:
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph)
        size += len(paragraph.encode()) + 2
    if size > 400:
        yield "\n\n".join(piece)


def fill(budget, candidates):
    """Pieces in hash order until the budget in bytes is used."""
    chosen, used = [], 0
    for key, text in sorted(candidates):
        size = len(text.encode()) + 2
        if used + size <= budget:
            chosen.append((key, text))
            used += size
    return chosen


def build_texts(root):
    selected, report = {"calib": [], "eval": []}, []
    for category, (share, globs, extractor) in CATEGORIES.items():
        by_kind = {"calib": [], "eval": []}
        for name, path in documents(root, globs):
            # Few, large documents would all fall on one side by hash: the adverbs and adjectives evaluate.
            held_out = name.endswith(("data.adv", "data.adj")) if extractor is None else is_eval(name)
            by_kind["eval" if held_out else "calib"].append((name, path))
        candidates, seen = {"calib": [], "eval": []}, set()
        for kind in ("calib", "eval"):  # calibration first: evaluation must not repeat any paragraph of it
            for name, path in by_kind[kind]:
                text = dictionary_text(path) if extractor is None else extractor(read(path))
                for index, piece in enumerate(pieces(without_repeats(text, seen))):
                    candidates[kind].append((digest(f"{name}#{index}"), piece))
        for kind, total in (("calib", CALIB_BYTES), ("eval", EVAL_BYTES)):
            part = fill(total * share, candidates[kind])
            selected[kind] += part
            report.append((kind, category, len(part), sum(len(t.encode()) for _, t in part)))
    texts = {kind: "\n\n".join(text for _, text in sorted(parts)) + "\n" for kind, parts in selected.items()}
    return texts, report


def build_chats(root):
    """Question and answer turns from FAQ pages, and definitions asked for; calibration documents only."""
    chats = []
    for name, path in documents(root, FAQ_GLOBS):
        if not is_eval(name):
            chats += [(q, a) for q, a in extract.faq_pairs(read(path))]
    for path in sorted(root.glob("wordnet-base/usr/share/wordnet/data.noun")):
        for index, (term, gloss) in enumerate(extract.wordnet_entries(read(path))):
            if index % 600 == 11 and len(gloss) > 80:
                chats.append((f'What does "{term}" mean?', gloss[0].upper() + gloss[1:] + "."))
    chats.sort(key=lambda pair: digest(pair[0]))
    return [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in chats]


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    texts, report = build_texts(root)
    chats = build_chats(root)
    if len(texts["calib"]) < CALIB_BYTES // 2 or len(texts["eval"]) < EVAL_BYTES // 2:
        print("mix.py: the packages held too little text; are all of them unpacked?", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for kind, text in texts.items():
        (out / f"{kind}.txt").write_text(text, encoding="utf-8")
    contents = [f"{kind:5} {category:13} {count:4} pieces {size:8} bytes" for kind, category, count, size in report]
    (out / "contents.txt").write_text("\n".join(contents) + "\n", encoding="utf-8")
    with open(out / "calib.jsonl", "w", encoding="utf-8") as file:
        for chat in chats:
            file.write(json.dumps(chat, ensure_ascii=False) + "\n")
    print(f"   calib.txt {len(texts['calib'].encode())} bytes, eval.txt {len(texts['eval'].encode())} bytes, "
          f"{len(chats)} chats in calib.jsonl", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
