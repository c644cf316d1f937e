"""A million records through the filters, near duplicates included: how fast, in how much memory, and whether all are found.

    python examples/synthesis/many_records.py --records 1000000 --work runs/many --out many_records.json

Random words in texts of about sixty; every tenth record repeats an earlier one with one word changed, which is 85% like it
or more. The peak of resident memory is that of the whole process, Python and numpy's 34 MB included.
"""

import argparse
import json
import random
import resource
from pathlib import Path
from time import monotonic
from typing import Any

from model.data.synthesis.filter import FilterConfig
from model.data.synthesis.filter_files import filter_file

WORDS, VOCABULARY = 60, 20_000
EVERY, BACK = 10, 7  # each tenth record repeats the one seven before it


def record(number: int) -> dict[str, str]:
    """The record of this number; a repetition has another third word."""
    repeats = number % EVERY == 0 and number >= EVERY
    draw = random.Random(number - BACK if repeats else number)
    words = [f"w{draw.randrange(VOCABULARY)}" for _ in range(WORDS)]
    if repeats:
        words[2] = "changed"
    return {"id": str(number), "instruction": " ".join(words[:10]), "response": " ".join(words[10:])}


def measure(count: int, work: Path) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    pairs = work / "pairs.jsonl"
    with pairs.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record(number)) + "\n" for number in range(count))
    memory = {"before": peak_mb()}
    started = monotonic()

    def advanced(name: str, seen: int) -> None:
        memory[name] = peak_mb()

    counts = filter_file(pairs, FilterConfig(duplicates=0.8), work / "out", advanced=advanced)
    assert counts is not None
    seconds = monotonic() - started
    planted = max(0, (count - 1) // EVERY)
    return {
        "records": count, "bytes": pairs.stat().st_size, "planted": planted, "found": counts["dropped"].get("duplicate", 0),
        "seconds": round(seconds, 1), "records_per_second": round(count / seconds),
        "peak_memory_mb": memory | {"end": peak_mb()},
    }  # fmt: skip


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--work", type=Path, default=Path("runs/many"))
    parser.add_argument("--out", type=Path, default=Path("many_records.json"))
    given = parser.parse_args()
    rows = []
    for count in sorted(given.records):
        rows.append(measure(count, given.work))
        given.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()
