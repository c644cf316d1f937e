"""Long documents made of the files of one folder, which belong together as the parts of a long text do.

A folder's files come in the order of their names, each after a line "# PATH", a comment in Python and a heading in Markdown,
and become one document. A file goes whole into the document that is open, or begins the next one where that would have more
than LONGEST characters with it. Folders come in the order of their paths; folders inside a folder are documents of their own.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from model.data.readers import Document

LONGEST = 1_000_000  # characters: about the 256K tokens of the report's longest context


def by_folder(files: Iterable[Path]) -> list[Path]:
    """Sorted, those of a folder side by side."""
    return sorted(files, key=lambda file: (file.parent, file.name))


def joined(documents: Iterable[Document], longest: int = LONGEST) -> Iterator[Document]:
    """One document for the neighbours that have one folder; it has the name of that, and a number from the second one on."""
    folder, number, parts, chars = "", 1, list[str](), 0
    for name, text in documents:
        part = f"# {name}\n{text}" if text.endswith("\n") else f"# {name}\n{text}\n"
        here = Path(name).parent.as_posix()
        if parts and (here != folder or chars + len(part) > longest):
            yield Document(_name(folder, number), "".join(parts))
            number = number + 1 if here == folder else 1
            parts, chars = [], 0
        folder, chars = here, chars + len(part)
        parts.append(part)
    if parts:
        yield Document(_name(folder, number), "".join(parts))


def _name(folder: str, number: int) -> str:
    return folder if number == 1 else f"{folder} ({number})"
