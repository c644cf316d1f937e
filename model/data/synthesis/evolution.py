"""Stage 2: which evolutions an instruction meets, and which of them are no gain.

Rare domains are expanded: the wanted instructions are shared out in inverse proportion to how many a domain has, at most up to
the size of the largest domain, and at most MOST_EACH from one instruction. An evolution is dropped that adds nothing, speaks of
its prompt, or is a refusal (after Evol-Instruct, arXiv:2304.12244, section 3.2).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from random import Random

from model.data.synthesis.author import Evolution
from model.data.synthesis.record import Record
from model.data.synthesis.store import Done

MOST_EACH = 4  # expansions of one instruction
SAME = 0.95  # ROUGE-L to its parent from which an evolution adds nothing
_LEAKS = re.compile(r"\b(?:given|rewritten|original|new|created)[ -](?:prompt|instruction)\b|#[\w ]+#", re.IGNORECASE)
_REFUSES = re.compile(r"^\W*(?:i'?m sorry|sorry\b|i can(?:no|')t\b|i am unable|as an ai\b|抱歉|对不起)", re.IGNORECASE)


def entropy(domains: Mapping[str, int]) -> float:
    """Of the distribution over domains, in bits."""
    total = sum(domains.values())
    return 0.0 - sum(count / total * math.log2(count / total) for count in domains.values() if count) if total else 0.0


def expansions(domains: Mapping[str, int], share: float) -> dict[str, float]:
    """How many instructions each one of a domain is expected to be the model of, by domain; share: of all, in total."""
    inverse = {domain: 1 / count for domain, count in domains.items() if count}
    wanted = share * sum(domains.values())
    largest = max(domains.values(), default=0)
    return {
        domain: min(wanted * weight / sum(inverse.values()), largest - domains[domain], MOST_EACH * domains[domain])
        / domains[domain]
        for domain, weight in inverse.items()
    }


def evolutions_of(
    parents: Iterable[Record], seed: int, harder: float, each: Mapping[str, float]
) -> Iterator[Evolution]:
    """The units of stage 2: every parent is made clearer, some harder, those of rare domains multiplied."""
    for parent in parents:
        random = Random(f"{seed}:{parent['id']}")
        yield Evolution.of(parent, "clarity", seed, 0)
        if random.random() < harder:
            yield Evolution.of(parent, "difficulty", seed, 0)
        expected = each.get(parent["domain"], 0.0)
        for index in range(int(expected) + (random.random() < expected % 1)):
            yield Evolution.of(parent, "expansion", seed, index)


def judged(unit: Evolution, done: Done) -> Done:
    """What an evolution gave, with the reason where it is no gain; a parent that cannot be made clearer goes on as it was."""
    [record] = done.records
    if not record["reasons"] and (reason := no_gain(unit.parent["instruction"], record["instruction"])):
        record["reasons"] = [f"evolution: {reason}"]
    if not record["reasons"] or unit.operation != "clarity":
        return done
    goes_on: Record = {
        **unit.parent, "id": unit.original_id, "parents": [unit.parent["id"]], "stage": 2, "operation": "original", "usage": {}
    }  # fmt: skip
    return Done(done.unit, [record, goes_on], done.labels)


def no_gain(before: str, after: str) -> str:
    """Why an evolved instruction is worth nothing, or ""."""
    from model.data.synthesis.similarity import rouge_l

    if len(after.split()) < 2 and not re.search("[\u3400-\u9fff]{4}", after):
        return "it is empty"
    if _REFUSES.search(after):
        return "it is a refusal"
    if _LEAKS.search(after) and not _LEAKS.search(before):
        return "it speaks of its prompt"
    if " ".join(after.split()).casefold() == " ".join(before.split()).casefold() or rouge_l(before, after) >= SAME:
        return "it adds nothing"
    return ""
