"""Gathers the Python sources and documentation of packages, each text once, into one jsonl file.

    python examples/sweep_corpus.py OUT.jsonl [FOLDER|ARCHIVE ...]     by default all of sys.path's folders

Of folders, wheels and source archives it takes .py, .rst and .md. A text is left out where it is not UTF-8, too short to say
anything, a machine-made table (lines of over 1,000 characters on average), or where half of what its lines say stands
in texts before it: packages carry copies of each other, and generated clients are one file many times over. Prints, as
JSON, how many there are of each, and how much text is left; --manifest writes what each place gave. The order is that of
the names, so the file depends on the archives alone.
"""

import argparse
import csv
import hashlib
import json
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

KINDS = (".py", ".rst", ".md")
SHORTEST = 200  # bytes
LONGEST_LINE = 1000  # characters, on average
TELLING = 16  # characters of a line that is one's own; shorter ones, such as `return None`, stand everywhere
REPEATED = 0.5  # of the characters in telling lines


def contents(place: Path) -> Iterator[bytes]:
    """The files of a folder or of an archive, in the order of their names."""
    if place.is_dir():
        found = {path.resolve() for kind in KINDS for path in place.rglob(f"*{kind}") if path.is_file()}
        for path in sorted(found):
            try:
                yield path.read_bytes()
            except OSError:
                yield b"\xff"  # counted as unreadable
        return
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as wheel:
            for name in sorted(wheel.namelist()):
                if name.endswith(KINDS):
                    yield wheel.read(name)
        return
    found_inside = {}
    with tarfile.open(place) as archive:
        for member in archive:  # in the order of the archive: going back would decompress it from its beginning again
            if member.isfile() and member.name.endswith(KINDS):
                file = archive.extractfile(member)
                assert file is not None, "a file has content"
                found_inside[member.name] = file.read()
    yield from (found_inside[name] for name in sorted(found_inside))


def telling_lines(text: str) -> dict[int, int]:
    """A number for each line of its own, however it is indented, and its length."""
    lines = {line.strip() for line in text.splitlines()}
    return {
        int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "little"): len(line)
        for line in lines
        if len(line) >= TELLING
    }


class Sieve:
    """Says what is wrong with a text, and remembers the lines of those that are kept."""

    def __init__(self) -> None:
        self.whole: set[bytes] = set()
        self.lines: set[int] = set()

    def fault(self, content: bytes) -> str:
        """One word, empty where the text is kept."""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return "unreadable"
        if len(content) < SHORTEST:
            return "short"
        if len(text) > LONGEST_LINE * (text.count("\n") + 1):
            return "tables"
        digest = hashlib.sha256(content).digest()
        if digest in self.whole:
            return "duplicates"
        self.whole.add(digest)
        lines = telling_lines(text)
        repeated = sum(length for line, length in lines.items() if line in self.lines)
        if repeated >= REPEATED * max(1, sum(lines.values())):
            return "repetitions"
        self.lines.update(lines)
        return ""


def gather(places: list[Path], out: Path) -> dict[str, dict[str, int]]:
    """Writes the texts; returns the counts of each place by its name."""
    counts: dict[str, Counter[str]] = {}
    sieve = Sieve()
    with out.open("w", encoding="utf-8") as lines:
        for place in sorted(places):
            here = counts.setdefault(place.name, Counter())
            for content in contents(place):
                fault = sieve.fault(content) or "kept"
                here.update({"files": 1, "bytes": len(content), fault: 1, f"{fault}_bytes": len(content)})
                if fault == "kept":
                    lines.write(json.dumps({"text": content.decode()}) + "\n")
    return {name: dict(found) for name, found in counts.items()}


def digest(path: Path) -> str:
    """The sha256 of an archive."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(path: Path, out: Path, places: list[Path], counts: dict[str, dict[str, int]]) -> None:
    """A line of CSV for each place, and one for the whole file: its sha256, and the files and bytes that are kept of it."""
    kept = {name: (found.get("kept", 0), found.get("kept_bytes", 0)) for name, found in counts.items()}
    rows = [(place.name, digest(place) if place.is_file() else "", *kept[place.name]) for place in sorted(places)]
    rows.append((out.name, digest(out), *(sum(column) for column in zip(*kept.values(), strict=True))))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("place", "sha256", "files", "bytes"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("places", type=Path, nargs="*", metavar="FOLDER|ARCHIVE")
    parser.add_argument("--manifest", type=Path, metavar="FILE.csv", help="what each place gave, with its sha256")
    given = parser.parse_intermixed_args()  # PLACES may follow an option
    for place in given.places:
        if not place.exists():
            parser.error(f"there is no {place}")
    places = given.places or [Path(name) for name in sys.path if name and Path(name).is_dir()]
    counts = gather(places, given.out)
    if given.manifest:
        write_manifest(given.manifest, given.out, places, counts)
    print(json.dumps(sum(map(Counter, counts.values()), Counter()), indent=2))


if __name__ == "__main__":
    main()
