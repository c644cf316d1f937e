"""Spans of documents, the seeds of stage 1: pieces of text, Markdown and code, each with its domain.

    read_spans(sources) -> Span(source {"name", "sha256", "start", "end"}, text, domain), in the order of the documents

Python is parted where functions and classes begin, other text between paragraphs, Markdown also before headings. A span keeps
its place: text == document[start:end]. The domain comes from the file's ending, then from what stands in the span.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from model.data.readers import Document
from model.data.sources import read_source
from model.data.synthesis.record import Source

LEAST, MOST = 200, 2000  # characters: shorter pieces are joined, longer ones cut at line ends
_DEFINITION = re.compile(r"^(?:@|def |class |async def )|^    (?:def |async def |@)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n+")
_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
_CJK = re.compile("[\u3400-\u9fff]")
_CODE_LINE = re.compile(
    r"^\s*(?:def |class |import |from \S+ import |#include|function |public |return\b|\}|.*[;{]\s*$)", re.M
)
_MATHEMATICS = re.compile(
    r"\\(?:frac|sum|int)\b|\b(?:theorem|equation|integer|fraction|percent)s?\b|\d+\s*[-+*/=×÷]\s*\d+", re.I
)


@dataclass(frozen=True)
class Span:
    source: Source
    text: str
    domain: str  # code, documentation, mathematics, chinese, prose


def read_spans(
    sources: Iterable[str], text_key: str = "text", encoding: str = "utf-8", names: dict[str, str] | None = None
) -> Iterator[Span]:
    """The spans of every document of the sources; a document that was there before under any name is passed over.

    `names` is filled with the sha256 of every document by its name. Raises DataError as read_source does.
    """
    seen: set[bytes] = set()
    for spec in sources:
        for document in read_source(spec, text_key, encoding):
            digest = hashlib.sha256(document.text.encode())
            if digest.digest() in seen:
                continue
            seen.add(digest.digest())
            if names is not None:
                names[document.name] = digest.hexdigest()
            yield from spans_of(document, digest.hexdigest())


def spans_of(document: Document, sha256: str) -> Iterator[Span]:
    """The spans of one document, without those of blanks."""
    name, text = document
    kind = _kind(name)
    boundary = {"python": _DEFINITION, "markdown": _HEADING}.get(kind)
    starts = {match.start() for match in boundary.finditer(text)} if boundary else set()
    if kind != "python":
        starts |= {match.end() for match in _PARAGRAPH.finditer(text)}
    for start, end in _joined(text, sorted(starts | {0})):
        piece = text[start:end]
        if piece.strip():
            yield Span(Source(name=name, sha256=sha256, start=start, end=end), piece, domain_of(kind, piece))


def domain_of(kind: str, text: str) -> str:
    """By the kind of the file, then by rules over the text."""
    if kind == "python":
        return "code"
    if len(_CJK.findall(text)) > 0.2 * len(text):
        return "chinese"
    if 3 * len(_CODE_LINE.findall(text)) > text.count("\n") + 3:
        return "code"
    if len(_MATHEMATICS.findall(text)) >= 2:
        return "mathematics"
    return "documentation" if kind == "markdown" else "prose"


def _kind(name: str) -> str:
    base = name.partition(", ")[0].lower().removesuffix(".gz").removesuffix(".zst")
    return "python" if base.endswith(".py") else "markdown" if base.endswith(".md") else "text"


def _joined(text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring pieces joined while they are short, and cut at line ends (or anywhere) where they are long."""
    begin = 0
    for end in [*starts[1:], len(text)]:
        if end - begin < LEAST and end < len(text):
            continue
        while end - begin > MOST:
            at = text.rfind("\n", begin + LEAST, begin + MOST) + 1 or begin + MOST
            yield begin, at
            begin = at
        if end > begin:
            yield begin, end
        begin = end
