"""Gathers the Python sources of every package installed on a machine, each text once, into one jsonl file.

    python examples/sweep_corpus.py OUT.jsonl [FOLDER ...]     by default all of sys.path's folders

Prints, as JSON, how many files there are, how many repeat another to the byte, and how much text is left. Files that are
not UTF-8, too short to say anything, or machine-made tables (lines of over 1,000 characters on average) are counted and
left out.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

SHORTEST = 200  # bytes
LONGEST_LINE = 1000  # characters, on average


def gather(folders: list[Path], out: Path) -> dict[str, int]:
    """Writes the texts in the order of their paths; returns the counts."""
    files = sorted({path.resolve() for folder in folders for path in folder.rglob("*.py") if path.is_file()})
    counts: Counter[str] = Counter(files=len(files))
    seen: set[bytes] = set()
    with out.open("w", encoding="utf-8") as lines:
        for path in files:
            try:
                content = path.read_bytes()
                text = content.decode()
            except (OSError, UnicodeDecodeError):
                counts["unreadable"] += 1
                continue
            counts["bytes"] += len(content)
            digest = hashlib.sha256(content).digest()
            if len(content) < SHORTEST:
                counts["short"] += 1
            elif len(text) > LONGEST_LINE * (text.count("\n") + 1):
                counts["tables"] += 1
            elif digest in seen:
                counts["duplicates"] += 1
                counts["duplicate_bytes"] += len(content)
            else:
                seen.add(digest)
                counts["kept"] += 1
                counts["kept_bytes"] += len(content)
                lines.write(json.dumps({"text": text}) + "\n")
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    given = parser.parse_args()
    for folder in given.folders:
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    folders = given.folders or [Path(name) for name in sys.path if name and Path(name).is_dir()]
    print(json.dumps(gather(folders, given.out), indent=2))


if __name__ == "__main__":
    main()
