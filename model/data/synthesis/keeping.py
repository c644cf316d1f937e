"""Stage 4: the responses that all filters keep, and pairs of a kept and a dropped answer to one instruction.

    4_kept/part-*.jsonl   the records as they were, with scores, and `text`: the instruction, an empty line, the response
    pairs.jsonl           {"prompt", "chosen", "rejected"} where an instruction has answers of both kinds, for `hunyuan dpo`

The filters and their journal are those of `hunyuan synthesize filter` (filter_run.py); a part of stage 3 becomes one here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from model.data.synthesis.filter import FilterConfig, Verdict
from model.data.synthesis.filter_run import Critique, FilterRun
from model.data.synthesis.pipeline import Watcher, input_of
from model.data.synthesis.record import STAGES, Record, derived, record_id
from model.data.synthesis.store import OPEN, PAIRS, Done, StageStore
from model.files import sha256

# Filters whose reason is that the answer is worse than another: what they drop may stand as the rejected one of a pair.
ABOUT_THE_ANSWER = ("repetition", "language", "refusal", "check", "execution", "vote", "critique")


@dataclass(frozen=True)
class Judged:
    """A record of stage 4 and the response that it was, with the verdict on it."""

    record: Record
    verdict: Verdict


def keep(
    folder: Path,
    config: FilterConfig,
    watcher: Watcher,
    *,
    critique: Critique | None = None,
    threads: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Filters stage 3 into stage 4; False where it was stopped before its end."""
    began = monotonic()
    digest, before = input_of(folder, 3)
    against = [sha256(Path(path)) for path in config.against]
    store = StageStore(folder, 4, {"filters": config.as_dict(), "against": against, "input": digest})
    if store.complete:
        watcher.ended(4, store.manifest() or {}, 0.0)
        return True
    store.begin()
    watcher.begun(4, before["rows"], 0)
    parts = [folder / STAGES[2] / shard["file"] for shard in before["shards"]]
    work = FilterRun(
        parts, config, store.folder / OPEN / "filters", threads=threads, critique=critique,
        advanced=watcher.filtered, should_stop=should_stop,
    )  # fmt: skip
    if not work.run():
        work.lines.close()
        return False
    results = work.results()
    for number, shard in enumerate(before["shards"]):
        judged = [_judged(line, verdict) for line, verdict in _first(results, shard["rows"])]
        if not store.closed(number):
            journal = store.open_shard(number)
            journal.units = {one.record["id"]: Done(one.record["id"], [one.record]) for one in judged}
            store.close_shard(number, journal, sides={PAIRS: list(pairs_of(judged))})
    work.finish()
    watcher.ended(4, store.finish(), monotonic() - began)
    return True


def _first(results: Iterator[tuple[bytes, Verdict]], count: int) -> Iterator[tuple[bytes, Verdict]]:
    for _ in range(count):
        yield next(results)


def _judged(line: bytes, verdict: Verdict) -> Judged:
    response: Record = json.loads(line)
    id = record_id([response["id"]], 4, "filter", 0, 0)
    record = derived(response, id, stage=4, operation="filter", usage={}, scores=dict(verdict.scores))
    if verdict.kept:
        record["text"] = f"{response['instruction']}\n\n{response['response']}"
    else:
        record["reasons"] = [f"{verdict.filter}: {verdict.reason}"]
    return Judged(record, verdict)


def pairs_of(judged: list[Judged]) -> Iterator[dict[str, Any]]:
    """For every instruction with a kept answer and one that was dropped for what it says, the best and the worst of them.

    Among kept answers the critique ranks, where there is one, then the order of the records.
    """
    by_instruction: dict[str, list[Judged]] = {}
    for one in judged:
        by_instruction.setdefault(one.record["instruction"], []).append(one)
    for instruction, answers in by_instruction.items():
        kept = [one for one in answers if one.verdict.kept]
        dropped = [one for one in answers if one.verdict.filter in ABOUT_THE_ANSWER]
        if not (kept and dropped):
            continue
        chosen = max(kept, key=lambda one: one.record["scores"].get("critique", 0.0)).record
        rejected = dropped[0]
        yield {
            "id": chosen["id"], "stage": 4, "prompt": instruction, "chosen": chosen["response"],
            "rejected": rejected.record["response"], "rejected_id": rejected.record["id"],
            "reason": rejected.record["reasons"][0], "domain": chosen["domain"],
        }  # fmt: skip
