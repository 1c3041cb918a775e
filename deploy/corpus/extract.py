"""Plain English text out of HTML, Mallard pages, man pages, fortune files and WordNet data.

Only the standard library. Every function takes the file's text and returns cleaned text: one paragraph a line, one blank
line between paragraphs, code kept as it is, navigation and tables dropped.
"""

import html.parser
import re
import xml.etree.ElementTree as ElementTree

_BLOCKS = {
    "p", "div", "section", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "ul", "ol", "dl", "blockquote", "br",
    "article", "main", "body",
}
_SKIPPED = {"script", "style", "nav", "head", "table", "footer", "form", "header"}
_SKIPPED_CLASSES = {
    "navheader", "navfooter", "sphinxsidebar", "related", "footer", "toc", "headerlink", "footnote-backref",
    "contents", "inline-language-switcher", "breadcrumbs", "clearer", "list-of-tables", "list-of-examples",
}
_VOID = {"br", "img", "hr", "meta", "link", "input", "col", "area", "base", "wbr", "source"}


class _HtmlText(html.parser.HTMLParser):
    """Collects paragraphs; `_skip` counts the open elements below the one being dropped."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self._line, self._skip, self._pre = [], [], 0, 0

    def _flush(self):
        text = "".join(self._line)
        text = text.strip("\n") if self._pre else " ".join(text.split())
        if text:
            self.paragraphs.append(text)
        self._line = []

    def handle_starttag(self, tag, attrs):
        if tag in _VOID:
            if tag == "br" and not self._skip:
                self._line.append("\n" if self._pre else " ")
            return
        if self._skip:
            self._skip += 1
            return
        values = dict(attrs)
        classes = set((values.get("class") or "").split())
        if tag in _SKIPPED or classes & _SKIPPED_CLASSES or values.get("role") in ("navigation", "search"):
            self._flush()
            self._skip = 1
        elif tag == "pre":
            self._flush()
            self._pre += 1
        elif tag in _BLOCKS and not self._pre:
            self._flush()

    def handle_endtag(self, tag):
        if tag in _VOID:
            return
        if self._skip:
            self._skip -= 1
            return
        if tag in _BLOCKS or tag == "pre":
            self._flush()
            if tag == "pre":
                self._pre = max(0, self._pre - 1)

    def handle_data(self, data):
        if not self._skip:
            self._line.append(data)

    def close(self):
        super().close()
        self._flush()


def from_html(text):
    # Unclosed <p>, <li>, <dt> and <dd> would unbalance the skip counter, so they are closed by dropping them inside
    # skipped parts only: the generators of these packages (DocBook, Sphinx, AsciiDoc) write well-formed XHTML.
    parser = _HtmlText()
    parser.feed(text)
    parser.close()
    return "\n\n".join(p.replace("\u00b6", "") for p in parser.paragraphs)


def faq_pairs(text):
    """(question, answer) for every heading that ends in a question mark."""
    parser = _HtmlText()
    parser.feed(text)
    parser.close()
    pairs, question, answer = [], None, []
    for paragraph in parser.paragraphs:
        paragraph = paragraph.replace("\u00b6", "").strip()
        heading = re.fullmatch(r"(?:[\d.]+\s+)?([A-Z][^\n]{12,140}\?)", paragraph)
        if heading:
            if question and answer:
                pairs.append((question, "\n\n".join(answer)))
            question, answer = heading.group(1), []
        elif question and sum(map(len, answer)) < 1200:
            answer.append(paragraph)
    if question and answer:
        pairs.append((question, "\n\n".join(answer)))
    return [(q, a) for q, a in pairs if 80 <= len(a) <= 4000]


def from_mallard(text):
    """GNOME help pages: titles, paragraphs and list items."""
    lines = []

    def local(element):
        return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""

    def walk(element):
        kind = local(element)
        if kind in ("info", "table", "media", "links"):
            return
        if kind in ("p", "title", "code", "screen"):
            line = " ".join("".join(element.itertext()).split())
            if line:
                lines.append(line)
            return
        for child in element:
            walk(child)

    try:
        walk(ElementTree.fromstring(text))
    except ElementTree.ParseError:
        return ""  # a page that needs entities declared elsewhere
    return "\n\n".join(lines)


_ROFF_NAMES = {
    "aq": "'", "dq": '"', "em": "\u2014", "en": "\u2013", "lq": "\u201c", "rq": "\u201d", "oq": "\u2018",
    "cq": "\u2019", "bu": "*", "co": "(c)", "ha": "^", "ti": "~", "rs": "\\", "mu": "x", "+-": "+/-", "<=": "<=",
    ">=": ">=", "->": "->", "<-": "<-", "!=": "!=", "ga": "`", "at": "@", "sh": "#", "de": " degrees", "bv": "|",
}


def _roff_line(line):
    line = re.sub(r'\\".*', "", line)
    line = re.sub(r"\\f(?:\[[^]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\s[-+]?\d", "", line)
    line = re.sub(r"\\\((..)", lambda m: _ROFF_NAMES.get(m.group(1), ""), line)
    line = re.sub(r"\\\[([^]]+)\]", lambda m: _ROFF_NAMES.get(m.group(1), ""), line)
    line = re.sub(r"\\[&:%/,|^]", "", line)
    line = line.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").replace("\\~", " ").replace("\\'", "'")
    return line.replace("\\c", "")


def _roff_words(rest):
    return re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)


def from_man(text):
    """A man(7) page: sections and paragraphs; tables and requests dropped."""
    paragraphs, words, verbatim, in_table, in_code = [], [], [], False, False

    def flush():
        if words:
            paragraphs.append(" ".join(" ".join(words).split()))
            words.clear()

    for raw in text.split("\n"):
        if raw.startswith((".TS", ".TE")):
            flush()
            in_table = raw.startswith(".TS")
            continue
        if in_table or raw.startswith(("'", '.\\"')):
            continue
        if not raw.startswith("."):
            line = _roff_line(raw)
            (verbatim if in_code else words).append(line)
            continue
        macro, _, rest = raw[1:].partition(" ")
        rest = _roff_line(rest)
        if macro in ("nf", "EX"):
            flush()
            in_code = True
        elif macro in ("fi", "EE"):
            if verbatim:
                paragraphs.append("\n".join(verbatim).strip("\n"))
            verbatim, in_code = [], False
        elif macro in ("SH", "SS"):
            flush()
            paragraphs.append(rest.strip().strip('"'))
        elif macro in ("PP", "P", "LP", "TP", "IP", "TQ", "HP", "sp"):
            flush()
            if macro == "IP" and rest.strip() and not rest.lstrip().startswith(('"*', "*", '""')):
                words.append(rest.split()[0].strip('"'))
        elif macro in ("B", "I", "SM", "SB"):
            (verbatim if in_code else words).append(rest.strip().strip('"'))
        elif macro in ("BR", "RB", "BI", "IB", "RI", "IR"):
            joined = "".join(a or b for a, b in _roff_words(rest))
            (verbatim if in_code else words).append(joined)
    flush()
    return "\n\n".join(p for p in paragraphs if p.strip())


def from_fortunes(text):
    """Entries separated by a line of '%'; tabs before an attribution become a dash."""
    entries = []
    for entry in text.split("\n%\n"):
        entry = entry.replace("\b", "").strip("\n")
        lines = [re.sub(r"^\s*--\s*", "-- ", line.expandtabs(4)).rstrip() for line in entry.split("\n")]
        entry = "\n".join(lines).strip()
        if 60 <= len(entry) <= 3000:
            entries.append(entry)
    return "\n\n".join(entries)


def wordnet_entries(text):
    """(term, gloss) of every synset line of a WordNet data file."""
    for line in text.split("\n"):
        if line.startswith(" ") or " | " not in line:
            continue
        head, gloss = line.split(" | ", 1)
        yield head.split(" ")[4].replace("_", " "), gloss.strip()


def from_plain(text):
    """Text wrapped by hand: paragraphs joined to one line unless indented or list-like."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if not lines or re.fullmatch(r"[\W_]+", "".join(lines)):
            continue
        flowing = all(len(line) > 45 for line in lines[:-1]) and not re.search(r" {4,}\S", block.strip())
        paragraphs.append(" ".join(" ".join(lines).split()) if flowing else "\n".join(lines))
    return "\n\n".join(paragraphs)
