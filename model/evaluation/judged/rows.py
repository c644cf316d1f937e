"""The scores of a judged benchmark and of its parts, as its authors average them.

alignbench       the mean of reasoning and language, each the mean of its categories (arXiv:2311.18743)
mt_bench         the mean mark of all turns (arXiv:2306.05685)
arena_hard       the share of questions won against the baseline, ties half; its authors fit weighted verdicts
alpaca_eval      the same, and at equal lengths (lengths.py)
penguinscrolls   the mean of the four groups, as the report has it, and of all questions, as the board has it
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from model.evaluation.intervals import bootstrap, interval
from model.evaluation.judged.items import REASONING
from model.evaluation.judged.lengths import length_controlled
from model.evaluation.record import Sample, TaskScore

OF_TEN = "1 to 10"
Scored = tuple[str, float]  # category and score of one question


def rows_of(task: str, samples: Sequence[Sample], **facts: Any) -> list[TaskScore]:
    """The whole first, then its parts, which are named "task: part" and have the task as their group.

    `n` counts all questions and `nulls` those without a verdict, which have no part in the mean.
    """
    part = facts | {"group": task}
    if task in ("alignbench", "mt_bench"):
        whole = _alignbench if task == "alignbench" else _mean
        rows = [_row(task, "rating", samples, whole, **facts)]
        if task == "alignbench":
            rows += [_row(name, "rating", own, _mean_of_categories, **part) for name, own in _sides(samples)]
            return rows + [_row(name, "rating", own, _mean, **part) for name, own in _parts(task, samples)]
        return rows + [_row(name, "rating", own, _mean, **part) for name, own in _turns(samples)]
    if task == "penguinscrolls":
        return [
            _row(task, "mean_of_groups", samples, _mean_of_categories, **facts),
            _row(task, "mean_of_items", samples, _mean, **facts),
            *(_row(name, "accuracy", own, _mean, **part) for name, own in _parts(task, samples)),
        ]
    rows = [_row(task, "win_rate", samples, _mean, **facts)]
    scored = [sample for sample in samples if sample.scores]
    return rows + ([_at_equal_lengths(rows[0], scored)] if scored else [])


def _row(
    task: str, metric: str, samples: Sequence[Sample], statistic: Callable[[Iterable[Scored]], float], **facts: Any
) -> TaskScore:
    pairs = [(str(sample.facts["category"]), _value(sample)) for sample in samples if sample.scores]
    facts |= {"nulls": len(samples) - len(pairs), "truncated": sum(sample.truncated for sample in samples)}
    scale = 100.0
    if metric == "rating":
        scale, facts = 1.0, facts | {"unit": OF_TEN}
    if not pairs:
        return TaskScore(task, metric, None, len(samples), None, **facts)
    if statistic is _mean:
        values = [value for _, value in pairs]
        low, high = bootstrap(values) if metric == "rating" else interval(values)
    else:
        low, high = bootstrap(pairs, statistic)
    return TaskScore(task, metric, scale * statistic(pairs), len(samples), (scale * low, scale * high), **facts)


def _value(sample: Sample) -> float:
    return next(iter(sample.scores.values()))


def _parts(task: str, samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    for category in dict.fromkeys(sample.facts["category"] for sample in samples):
        yield f"{task}: {category}", [sample for sample in samples if sample.facts["category"] == category]


def _sides(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """AlignBench's two: what has to be reasoned out, and what is a matter of language."""
    for side in ("reasoning", "language"):
        own = [sample for sample in samples if (sample.facts["category"] in REASONING) == (side == "reasoning")]
        if own:
            yield f"alignbench: {side}", own


def _turns(samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    """MT-Bench's samples with the mark of one turn as their score."""
    for turn in range(max((len(sample.facts["marks"]) for sample in samples), default=0)):
        own = [(sample, sample.facts["marks"][turn]) for sample in samples if turn < len(sample.facts["marks"])]
        marked = [replace(sample, scores={} if mark is None else {"rating": mark}) for sample, mark in own]
        yield f"mt_bench: turn {turn + 1}", marked


def _mean(pairs: Iterable[Scored]) -> float:
    values = [value for _, value in pairs]
    return sum(values) / len(values)


def _by_category(pairs: Iterable[Scored]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for category, value in pairs:
        found.setdefault(category, []).append((category, value))
    return found


def _mean_of_categories(pairs: Iterable[Scored]) -> float:
    means = [_mean(own) for own in _by_category(pairs).values()]
    return sum(means) / len(means)


def _alignbench(pairs: Iterable[Scored]) -> float:
    pairs = list(pairs)
    sides = [[pair for pair in pairs if (pair[0] in REASONING) == reasoning] for reasoning in (True, False)]
    means = [_mean_of_categories(side) for side in sides if side]
    return sum(means) / len(means)


def _at_equal_lengths(row: TaskScore, scored: Sequence[Sample]) -> TaskScore:
    pairs = [(_value(sample), float(sample.facts["longer"])) for sample in scored]

    def statistic(drawn: Sequence[tuple[float, float]]) -> float:
        wins, longer = zip(*drawn, strict=True)
        return length_controlled(wins, longer)

    low, high = bootstrap(pairs, statistic)
    score = 100 * statistic(pairs)
    return replace(row, metric="win_rate_at_equal_lengths", score=score, interval=(100 * low, 100 * high))
