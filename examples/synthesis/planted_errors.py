"""How many planted errors each filter finds, and how much of what it drops is an error, by kind of problem and of error.

    python examples/synthesis/planted_errors.py --out runs/planted --count 1000 --samples 5 --critic runs/critic

The embedded writer answers each instruction several times, a share of the answers wrong on purpose; the labels are read here
alone, after the filters. Beside recomputation and execution stand two filters that need no check: the vote of the samples,
and, with --critic, the likelihood ratio of a local model, which drops as many as there are errors, those of the lowest score.
OUT/planted_errors.csv has, for each rate and filter, all problems together, each family and each kind of error; the intervals
are Wilson's, at 95%. Precision has no kind of error: what is dropped wrongly has none.
"""

import argparse
import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from model.data.synthesis.config import SynthesisConfig
from model.data.synthesis.embedded import EmbeddedWriter
from model.data.synthesis.filter import FilterConfig
from model.data.synthesis.filter_run import FilterRun
from model.data.synthesis.pipeline import Synthesis

COLUMNS = (
    "rate", "filter", "group", "records", "errors", "dropped", "found", "precision", "precision_low", "precision_high",
    "recall", "recall_low", "recall_high",
)  # fmt: skip
# Each by itself: near duplicates, which samples are, are not looked for.
CHECKS = FilterConfig(duplicates=0, allow_weaker=True)  # the programs are the embedded writer's own
VOTE = FilterConfig(duplicates=0, repetition=0, refusals=False, checks=False, execute=False, vote=True)


class Quiet:
    """A watcher of a synthesis that says nothing."""

    def begun(self, stage: int, total: int, done: int) -> None: ...
    def advanced(self, done: Any) -> None: ...
    def filtered(self, name: str, count: int) -> None: ...
    def ended(self, stage: int, manifest: Mapping[str, Any], seconds: float) -> None: ...


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share, Wilson 1927; 0 to 1 where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / count + spread / count / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def make(folder: Path, rate: float, count: int, samples: int, seed: int) -> tuple[list[Path], dict[str, str]]:
    """The responses of stage 3, and the kind of error of each wrong one by its id."""
    config = SynthesisConfig(count=count, samples=samples, seed=seed)
    Synthesis(folder, config, {"embedded": EmbeddedWriter(error_rate=rate)}, "embedded", Quiet()).run(range(1, 4))
    labels = (json.loads(line) for line in (folder / "labels.jsonl").open(encoding="utf-8"))
    return sorted((folder / "3_responses").glob("part-*.jsonl")), {label["id"]: label["error"] for label in labels}


def dropped(paths: list[Path], config: FilterConfig, folder: Path) -> set[str]:
    """The ids of the records that these filters drop."""
    work = FilterRun(paths, config, folder)
    work.run()
    found = {json.loads(line)["id"] for line, verdict in work.results() if not verdict.kept}
    work.finish()
    return found


def least_likely(paths: list[Path], critic: Path, count: int) -> set[str]:
    """The ids of so many records whose instruction tells the model least about the response."""
    from model.data.synthesis.critique import LikelihoodRatio

    score = LikelihoodRatio(critic).score
    records = list(read(paths))
    records.sort(key=lambda record: score(record["instruction"], record["response"]))
    return {record["id"] for record in records[:count]}


def read(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def rows(
    rate: float, name: str, paths: list[Path], labels: Mapping[str, str], gone: set[str]
) -> Iterator[dict[str, Any]]:
    """All together, each family, each kind of error."""
    counts: dict[str, Counter[str]] = {}
    for record in read(paths):
        error = labels.get(record["id"])
        groups = ["all", f"family {record['task']['family']}"] + ([f"error {error}"] if error else [])
        for group in groups:
            count = counts.setdefault(group, Counter())
            count["records"] += 1
            count["errors"] += error is not None
            count["dropped"] += record["id"] in gone
            count["found"] += error is not None and record["id"] in gone
    for group, count in sorted(counts.items()):
        row: dict[str, Any] = {"rate": rate, "filter": name, "group": group}
        row |= {column: count[column] for column in ("records", "errors", "dropped", "found")}
        for share, of in (("precision", "dropped"), ("recall", "errors")):
            if share == "recall" or not group.startswith("error"):
                low, high = wilson(count["found"], count[of])
                value = f"{count['found'] / count[of]:.4f}" if count[of] else ""
                row |= {share: value, f"{share}_low": f"{low:.4f}", f"{share}_high": f"{high:.4f}"}
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    parser.add_argument("--count", type=int, default=1000, help="instructions of stage 1, before their evolution")
    parser.add_argument("--samples", type=int, default=5, help="answers to each instruction, which vote")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.2, 0.4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--critic", type=Path, help="a run folder or Hugging Face folder for the likelihood ratio")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for rate in given.rates:
        folder = given.out / f"rate-{rate:g}"
        paths, labels = make(folder, rate, given.count, given.samples, given.seed)
        began = monotonic()
        work = folder / ".filtering"
        gone = {
            "recomputation and execution": dropped(paths, CHECKS, work),
            f"vote of {given.samples}": dropped(paths, VOTE, work),
        }
        if given.critic:
            gone["likelihood ratio"] = least_likely(paths, given.critic, len(labels))
        for name, ids in gone.items():
            found += rows(rate, name, paths, labels, ids)
        print(f"rate {rate:g}: {len(labels):,} errors, {monotonic() - began:.0f} s")
    with (given.out / "planted_errors.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
