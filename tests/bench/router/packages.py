"""Debian packages as a source of text: fetched without installing them and cut into pieces for the templates.

A piece is a dict of fields a template can name: always `text`; for code also `name`, `head` (its first half),
`signature` and `doc` where it has a docstring; for options of a program `name` and `option`; for dictionaries `term`.
"""

import ast
import gzip
import os
import pathlib
import re
import subprocess
import sys
import textwrap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "deploy/corpus"))
import extract  # noqa: E402

# Marks of a badly read page, and what belongs to no question: addresses, translators' notes, control characters.
_JUNK = re.compile(
    r"\\[f(*\[]|\ufffd|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ue000-\uf8ff]|\S@\S+\.\w|<\w+@"
)
_NOTICE = re.compile(
    r"General Public License|FSF|GPL|[Cc]opyright|Bản dịch|COPYRIGHT|\(c\) (19|20)\d\d|Licen[cçsz]\w* P"
    r"|Lizenz|Лицензи|许可证|(tradu|tłumacz|übersetz|перевод)\w*.{0,40}(libre|livre|frei|lista|liste|mail|рассылк|stron)",
    re.S,
)
_CAPTION = re.compile(r"(Table|Figure|Example|Tabelle|Tabla|Tabella|Tabela)\s[\d.]+")
_MDOC = re.compile(r"^\.(Sh|Nm|Dd) ", re.M)
_UNICODE = re.compile(r"\\\[u([0-9A-F]{4,5})\]")


def words(text):
    """Words; in scripts without spaces two characters count as one."""
    wide = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", text))
    return len(re.sub(r"[\u3040-\u30ff\u3400-\u9fff]+", " ", text).split()) + wide // 2


# ---- fetching ----


def _apt(cache, private):
    options = ["-qq", "-o", f"APT::Sandbox::User={subprocess.getoutput('id -un')}"]
    if private:
        for folder in ("apt/lists/partial", "apt/cache/archives/partial"):
            (cache / folder).mkdir(parents=True, exist_ok=True)
        options += ["-o", f"Dir::State::Lists={cache}/apt/lists", "-o", f"Dir::Cache={cache}/apt/cache"]
    return options


def _download(name, cache, private):
    command = ["apt-get", *_apt(cache, private), "download", name]
    result = subprocess.run(command, cwd=cache / "debs", capture_output=True, text=True, check=False)
    return result.returncode == 0


def _find(name, cache):
    return sorted((cache / "debs").glob(f"{name}_*.deb"))


def fetch(names, cache):
    """{name: (version, folder)} of the packages that could be had; the rest are reported on stderr."""
    for part in ("debs", "unpacked"):
        (cache / part).mkdir(parents=True, exist_ok=True)
    private, found = False, {}
    for name in sorted(names):
        if not _find(name, cache) and not _download(name, cache, private):
            if not private:
                # The system's lists are missing or out of date: use our own from here on.
                private = True
                subprocess.run(["apt-get", *_apt(cache, True), "update"], stdout=sys.stderr, check=False)
            if not _download(name, cache, private):
                print(f"warning: the package {name} cannot be downloaded; going on without it", file=sys.stderr)
                continue
        deb = _find(name, cache)[-1]
        version = subprocess.run(
            ["dpkg-deb", "-f", str(deb), "Version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        folder = cache / "unpacked" / deb.stem
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial.{os.getpid()}")
            subprocess.run(["dpkg-deb", "-x", str(deb), str(partial)], check=True)
            partial.rename(folder)
        found[name] = (version, folder)
    return found


# ---- reading ----


def _read(path, encoding):
    data = gzip.decompress(path.read_bytes()) if path.suffix in (".gz", ".dz") else path.read_bytes()
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _sound(text):
    letters = sum(c.isalpha() for c in text)
    return letters >= 0.55 * len(re.sub(r"\s", "", text)) and not _JUNK.search(text)


def _flows(passage, paragraphs):
    """Sentences in paragraphs: no list of names, links or menu entries."""
    size = words(passage)
    return paragraphs * 8 <= size <= 60 * len(re.findall(r"[.!?:](?=\s|$)", passage))


def _passages(text, low, high, notices=False):
    """Runs of whole paragraphs of one document, `low` to `high` words long; they do not overlap."""
    run, size = [], 0
    for paragraph in text.split("\n\n"):
        if _CAPTION.match(paragraph):
            continue
        length = words(paragraph)
        if length > high or not _sound(paragraph) or (not notices and _NOTICE.search(paragraph)):
            run, size = [], 0
            continue
        if size + length > high:
            run, size = [], 0
        run.append(paragraph)
        size += length
        if size >= low:
            # No heading that belongs to what follows.
            while run and words(run[-1]) < 6:
                run.pop()
            passage = "\n\n".join(run).strip()
            if words(passage) >= low:
                if low < 100 or _flows(passage, len(run)):
                    yield {"text": passage}
                run, size = [], 0


def _flat(text):
    """Every paragraph on one line: indented clauses are no code."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _man(text):
    return "" if _MDOC.search(text) else extract.from_man(_UNICODE.sub(lambda m: chr(int(m[1], 16)), text))


def _options(text, name):
    for paragraph in _man(text).split("\n\n"):
        match = re.match(r"(--?[A-Za-z][\w-]*)(?:, (--[\w-]+))?", paragraph)
        if match and 8 <= words(paragraph) <= 80 and not _JUNK.search(paragraph):
            yield {"text": paragraph, "name": name, "option": match[2] or match[1]}


def _functions(text):
    """Functions and methods of a Python file, with a docstring or without."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    all_lines = text.replace("\f", " ").split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("__"):
            continue
        source = textwrap.dedent("\n".join(all_lines[node.lineno - 1 : node.end_lineno]))
        lines = source.split("\n")
        if not 6 <= len(lines) <= 40 or len(source) > 1800 or not source.isascii():
            continue
        piece = {"text": source, "name": node.name, "head": "\n".join(lines[: max(4, len(lines) // 2)])}
        piece["signature"] = f"{node.name}({ast.unparse(node.args)})"
        doc = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if 5 <= len(doc.split()) <= 60 and len(piece["signature"]) < 100:
            piece["doc"] = doc
        yield piece


def _blocks(text, low, high):
    """Blocks of C, Go, Ruby, shell ...: what starts in the first column, up to what ends it there."""
    block = []
    for line in text.replace("\t", "    ").split("\n"):
        if not block and not re.match(r"[A-Za-z_@\[][^;]*$", line):
            continue
        block.append(line.rstrip())
        if re.match(r"(\}|end\b|\)|</)", line) or (not line.strip() and len(block) > high):
            source = "\n".join(block).strip()
            if low <= len(block) <= high and len(source) < 2400 and source.isascii() and not _JUNK.search(source):
                half = "\n".join(block[: max(4, len(block) // 2)])
                yield {"text": source, "head": half}
            block = []


def _chunks(text, low, high):
    """Runs of lines of a configuration or listing, cut at empty lines; comment headers with a notice are dropped."""
    chunk = []
    for part in re.split(r"\n\s*\n", text):
        lines = [line.rstrip().replace("\t", "    ") for line in part.split("\n") if line.strip()]
        if _NOTICE.search(part) or len(lines) > high or _JUNK.search(part.replace("\t", " ")):
            chunk = []
            continue
        chunk = chunk + [""] + lines if chunk else lines
        if low <= len(chunk) <= high and max(map(len, chunk)) < 160:
            yield {"text": "\n".join(chunk)}
        if len(chunk) >= low:
            chunk = []


def _terms(text):
    for line in text.split("\n"):
        term = line.split("\t")[0]
        if re.fullmatch(r"[A-Za-z][A-Za-z -]{4,28}", term) and not term.startswith(("00", "--")):
            yield {"text": term, "term": term}


def _wordnet(text):
    for term, gloss in extract.wordnet_entries(text):
        sentence = re.search(r'"([A-Za-z][^"]{25,120})"', gloss)
        if re.fullmatch(r"[a-z][a-z -]{4,24}", term):
            yield {"text": term, "term": term} | ({"sentence": sentence[1]} if sentence else {})


def _verses(text, low, high):
    """Fortunes that keep their lines, blank ones too."""
    for entry in text.split("\n%\n"):
        lines = entry.replace("\b", "").strip("\n").split("\n")
        entry = "\n".join(line.expandtabs(4).rstrip() for line in lines).strip()
        if low <= words(entry) <= high and _sound(entry):
            yield {"text": entry}


_READERS = {
    "html": lambda text, name, low, high: _passages(extract.from_html(text), low, high),
    "plain": lambda text, name, low, high: _passages(extract.from_plain(text), low, high),
    "notice": lambda text, name, low, high: _passages(_flat(extract.from_plain(text)), low, high, notices=True),
    "man": lambda text, name, low, high: _passages(_man(text), low, high),
    "mallard": lambda text, name, low, high: _passages(extract.from_mallard(text), low, high),
    "options": lambda text, name, low, high: _options(text, name),
    "python": lambda text, name, low, high: _functions(text),
    "blocks": lambda text, name, low, high: _blocks(text, low, high),
    "chunks": lambda text, name, low, high: _chunks(text, low, high),
    "terms": lambda text, name, low, high: _terms(text),
    "wordnet": lambda text, name, low, high: _wordnet(text),
    "verses": lambda text, name, low, high: _verses(text, low, high),
}


_NOT_LATIN = {"bg", "el", "ja", "ko", "ru", "uk", "zh"}


def _not_latin(text):
    """Whether enough of the letters are: translations leave paragraphs in English."""
    return 2 * sum(c.isalpha() and c > "\u0300" for c in text) >= sum(c.isalpha() for c in text)


class Pieces:
    """The pieces of a group's files, each once: one of every file in a random order, then the rest. Reads no more files
    than it has to."""

    def __init__(self, group, folder, random):
        self._read, self._random = _READERS[group["reader"]], random
        self._low, self._high = group.get("words", (40, 160))
        self._foreign = group.get("language") in _NOT_LATIN
        self._encoding = group.get("encoding", "utf-8")
        skipped = re.compile(group.get("skip", r"(?!)"))
        found = {path for pattern in group["files"] for path in folder.glob(pattern) if path.is_file()}
        self._files = sorted(path for path in found if path.suffix != ".dat" and not skipped.search(path.name))
        random.shuffle(self._files)
        self._rest = []

    def _take(self, pieces):
        index = self._random.randrange(len(pieces))
        pieces[index], pieces[-1] = pieces[-1], pieces[index]
        return pieces.pop()

    def next(self):
        """A piece, or None when all are used."""
        while self._files:
            path = self._files.pop()
            found = list(self._read(_read(path, self._encoding), path.name.split(".")[0], self._low, self._high))
            if self._foreign:
                found = [piece for piece in found if _not_latin(piece["text"])]
            if found:
                piece = self._take(found)
                self._rest += found
                return piece
        return self._take(self._rest) if self._rest else None
