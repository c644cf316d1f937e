"""A judged benchmark from its questions to its scores: the model answers turn by turn, the judge marks or compares.

A reply of the judge without a verdict is counted as a null and has no part in the mean; `n` counts all questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.endpoint.client import Client
from model.endpoint.judge import Judgement, Pair, Question, compare, judge, parse_score
from model.evaluation import penguinscrolls
from model.evaluation.asking import Model, Prompt, Reply
from model.evaluation.intervals import bootstrap, interval
from model.evaluation.judged import prompts
from model.evaluation.judged.items import READERS, REASONING, Item, read_items
from model.evaluation.judged.lengths import length_controlled
from model.evaluation.record import Sample, TaskScore

JUDGED = tuple(READERS)
PAIRWISE = ("arena_hard", "alpaca_eval")
ROOM = 1024  # tokens of an answer
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
NOTE = "marks of a judge compare models under that judge and this wording: they are no repetition of what others have published"


def ask_and_judge(
    model: Model, client: Client, task: str, folder: Path, *, limit: int | None = None, room: int | None = None
) -> tuple[list[TaskScore], list[Sample]]:
    """The scores and samples of one benchmark; prompts are messages of a user in the model's chat template."""
    model.note(NOTE)
    items = read_items(task, folder)[:limit]
    answers = _answers(model, items, room or ROOM)
    if task in PAIRWISE:
        return _pairwise(client, task, items, answers)
    if task == "penguinscrolls":
        return _penguinscrolls(client, items, answers)
    return _rated(client, task, items, answers)


def _answers(model: Model, items: Sequence[Item], room: int) -> list[list[Reply]]:
    """The answers to every turn: conversations that have a turn of that number are answered together."""
    template = model.engine.template
    talks: list[list[dict[str, str]]] = [[] for _ in items]
    answers: list[list[Reply]] = [[] for _ in items]
    for turn in range(max(len(item.turns) for item in items)):
        going = [number for number, item in enumerate(items) if turn < len(item.turns)]
        for number in going:
            talks[number].append({"role": "user", "content": items[number].turns[turn]})
        replies = model.generate([
            Prompt(template.encode(talks[number], model.tokenizer), room, template.stop_strings) for number in going
        ])  # fmt: skip
        for number, reply in zip(going, replies, strict=True):
            answers[number].append(reply)
            talks[number].append({"role": "assistant", "content": reply.text})
    return answers


# --- marks -----------------------------------------------------------------------------------------------------------


def _rated(
    client: Client, task: str, items: Sequence[Item], answers: list[list[Reply]]
) -> tuple[list[TaskScore], list[Sample]]:
    """Marks of 1 to 10. AlignBench's whole is the mean of its two sides, reasoning and language, as its authors have it."""
    questions = [
        Question(
            (number, turn),
            prompts.alignbench(item, answers[number][0].text)
            if task == "alignbench"
            else prompts.mt_bench(item, [reply.text for reply in answers[number]], turn),
        )
        for number, item in enumerate(items)
        for turn in range(len(item.turns))
    ]
    parse = prompts.parse_alignbench if task == "alignbench" else parse_score
    found = _asked(client, questions, parse)
    samples = []
    for number, item in enumerate(items):
        own = [found[number, turn] for turn in range(len(item.turns))]
        marks = [each.value for each in own if each.value is not None]
        scores = {"rating": sum(marks) / len(marks)} if len(marks) == len(own) else {}
        samples.append(_sample(task, number, item, answers[number], scores, judge=[each.text for each in own]))
    if task != "alignbench":
        return [_row(task, "rating", samples, bootstrap, 1.0)], samples
    sides: dict[str, list[Sample]] = {}
    for item, sample in zip(items, samples, strict=True):
        sides.setdefault("reasoning" if item.category in REASONING else "language", []).append(sample)
    parts = [
        replace(_row(task, "rating", own, bootstrap, 1.0), task=f"{task}: {side}", group=task)
        for side, own in sides.items()
    ]
    return [_mean_of(parts, _row(task, "rating", samples, bootstrap, 1.0)), *parts], samples


def _penguinscrolls(
    client: Client, items: Sequence[Item], answers: list[list[Reply]]
) -> tuple[list[TaskScore], list[Sample]]:
    """Shares of what is right: by group, the report's mean of the groups, and the public board's mean of all items."""
    task = "penguinscrolls"
    questions = [
        Question(number, penguinscrolls.judge_prompt(item.origin, answers[number][0].text))
        for number, item in enumerate(items)
        if item.origin is not None
    ]
    found = _asked(client, questions, penguinscrolls.parse)
    samples = [
        _sample(task, number, item, answers[number], _scores("accuracy", found[number].value), judge=found[number].text)
        for number, item in enumerate(items)
    ]
    parts = [
        replace(
            _row(task, "accuracy", [s for s in samples if s.facts["category"] == group], interval, 100.0),
            task=f"{task}: {group}", group=task,
        )
        for group in dict.fromkeys(item.category for item in items)
    ]  # fmt: skip
    whole = _row(task, "accuracy", samples, interval, 100.0)
    return [
        _mean_of(parts, replace(whole, metric="mean_of_groups")),
        replace(whole, metric="mean_of_items"),
        *parts,
    ], samples


def _asked(
    client: Client, questions: Sequence[Question], parse: Callable[[str], float | None]
) -> dict[Any, Judgement[float]]:
    return {each.id: each for each in judge(client, questions, parse)}


def _scores(metric: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {metric: value}


# --- comparisons -----------------------------------------------------------------------------------------------------


def _pairwise(
    client: Client, task: str, items: Sequence[Item], answers: list[list[Reply]]
) -> tuple[list[TaskScore], list[Sample]]:
    """1 where our answer wins in both orders, 0 where the baseline does, else 1/2; also at equal lengths."""
    pairs = [Pair(number, item.turns[0], answers[number][0].text, item.baseline) for number, item in enumerate(items)]
    found = {each.id: each for each in compare(client, pairs, prompt=prompts.comparison)}
    samples = []
    for number, item in enumerate(items):
        verdict = found[number]
        scores = _scores("win_rate", None if verdict.winner is None else POINTS[verdict.winner])
        samples.append(
            _sample(task, number, item, answers[number], scores, orders=list(verdict.orders), judge=list(verdict.texts))
        )
    row = _row(task, "win_rate", samples, interval, 100.0)
    judged = [
        (sample.scores["win_rate"], float(len(answers[sample.index][0].text) - len(items[sample.index].baseline)))
        for sample in samples
        if sample.scores
    ]
    if not judged:
        return [row], samples
    fair = replace(
        row, metric="win_rate_at_equal_lengths", score=100 * length_controlled(*zip(*judged, strict=True)),
        interval=_scaled(bootstrap(judged, lambda drawn: length_controlled(*zip(*drawn, strict=True))), 100.0),
    )  # fmt: skip
    return [row, fair], samples


# --- rows ------------------------------------------------------------------------------------------------------------


def _sample(
    task: str, index: int, item: Item, answers: Sequence[Reply], scores: dict[str, float], **facts: Any
) -> Sample:
    return Sample(
        task=task,
        index=index,
        prompt="\n\n".join(item.turns),
        answers=[reply.text for reply in answers],
        target=item.baseline or list(item.references),
        scores=scores,
        truncated=any(reply.cut for reply in answers),
        null=not scores,
        facts={"id": item.id, "category": item.category, **facts},
    )


def _row(
    task: str, metric: str, samples: Sequence[Sample], of: Callable[[list[float]], tuple[float, float]], scale: float
) -> TaskScore:
    """The mean of what has a mark."""
    values = [value for sample in samples for value in sample.scores.values()]
    return TaskScore(
        task=task,
        metric=metric,
        score=scale * sum(values) / len(values) if values else None,
        n=len(samples),
        interval=_scaled(of(values), scale) if values else None,
        nulls=sum(sample.null for sample in samples),
        truncated=sum(sample.truncated for sample in samples),
        unit="percent" if scale == 100 else "1 to 10",
    )


def _mean_of(parts: Sequence[TaskScore], whole: TaskScore) -> TaskScore:
    """`whole` with the mean of its parts, each with the same weight, as its score.

    The distances to the ends of their intervals add up as independent errors do (MOVER, Zou and Donner 2008).
    """
    scores = [part.score for part in parts if part.score is not None]
    ends = [part.interval for part in parts if part.interval is not None]
    if len(scores) < len(parts) or len(ends) < len(parts):
        return replace(whole, score=None, interval=None)
    mean = sum(scores) / len(parts)
    down, up = (
        sum((score - end[side]) ** 2 for score, end in zip(scores, ends, strict=True)) ** 0.5 / len(parts)
        for side in (0, 1)
    )
    return replace(whole, score=mean, interval=(mean - down, mean + up))


def _scaled(ends: tuple[float, float], scale: float) -> tuple[float, float]:
    return scale * ends[0], scale * ends[1]
