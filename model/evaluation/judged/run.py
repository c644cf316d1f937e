"""A judged benchmark from its questions to its scores: the model answers through its chat template, the judge marks.

    rows, samples = ask_and_judge(model, client, "mt_bench", folder, limit=None, room=None)

A reply of the judge in which nothing can be read leaves its question without a score: it is counted as null, stands in
samples.jsonl with the judge's words, and a note says what the score is if all of these are taken as the worst.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model.evaluation.judged.prompts as prompts
from model.endpoint.client import Client
from model.endpoint.judge import Comparison, Judgement, Pair, Question, Tally, compare, judge, parse_score
from model.evaluation import penguinscrolls
from model.evaluation.asking import Advance, Model, Prompt, Reply
from model.evaluation.judged.items import Item, read_items
from model.evaluation.judged.rows import rows_of
from model.evaluation.record import Sample, TaskScore

Answers = list[Reply]  # of one item, a turn each
ROOM = {"alignbench": 2048, "mt_bench": 1024, "arena_hard": 4096, "alpaca_eval": 2048, "penguinscrolls": 2048}  # tokens
# Temperatures of MT-Bench's categories; the others are greedy.
WARM = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
SHARES: Mapping[str | None, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


def ask_and_judge(
    model: Model,
    client: Client,
    task: str,
    folder: Path,
    *,
    limit: int | None,
    room: int | None,
    seed: int = 0,
    advance: Advance = lambda count: None,
) -> tuple[list[TaskScore], list[Sample]]:
    """Scores of the whole and of its parts, and a sample for each question; notes of the model say what should be known.

    `room` is the most tokens of an answer, where it is less than the benchmark's own. `advance` is told of judgements.
    """
    items = read_items(task, folder)[:limit]
    answers = answer(model, task, items, seed, room)
    texts = [[reply.text for reply in replies] for replies in answers]
    verdicts = (_compared if task in PAIRWISE else _marked)(task, items, texts, client, advance)
    samples = [
        _sample(task, index, item, replies, verdict)
        for index, (item, replies, verdict) in enumerate(zip(items, answers, verdicts, strict=True))
    ]
    for note in _notes(task, client, samples, verdicts):
        model.note(note)
    return rows_of(task, samples), samples


def answer(model: Model, task: str, items: Sequence[Item], seed: int, most: int | None) -> list[Answers]:
    """The model's answers, a turn after the other; an answer is part of the next turn's conversation."""
    template, room = model.engine.template, min(ROOM[task], most or ROOM[task])
    answers: list[Answers] = [[] for _ in items]
    for turn in range(max(len(item.turns) for item in items)):
        asked = [index for index, item in enumerate(items) if turn < len(item.turns)]
        wanted = []
        for index in asked:
            talk = _conversation(items[index].turns[: turn + 1], answers[index])
            warmth = WARM.get(items[index].category, 0.0) if task == "mt_bench" else 0.0
            wanted.append(
                Prompt(
                    template.encode(talk, model.tokenizer), room, tuple(template.stop_strings),
                    {"temperature": warmth} if warmth else {}, seed + index if warmth else 0,
                )
            )  # fmt: skip
        for index, reply in zip(asked, model.generate(wanted), strict=True):
            answers[index].append(reply)
    return answers


def _conversation(turns: Sequence[str], answers: Answers) -> list[dict[str, str]]:
    messages = []
    for number, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        if number < len(answers):
            messages.append({"role": "assistant", "content": answers[number].text})
    return messages


# --- verdicts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What the judge made of one item; `scores` is empty where a mark is missing."""

    scores: Mapping[str, float]
    facts: Mapping[str, Any]
    worst: float  # what the score is at least


def _marked(
    task: str, items: Sequence[Item], answers: Sequence[list[str]], client: Client, advance: Advance
) -> list[Verdict]:
    """Each turn's mark; an item's is the mean of its turns."""
    ask, parse, metric, worst = MARKED[task]
    found: dict[tuple[int, int], Judgement[float]] = {}
    asked = (
        Question((index, turn), ask(item, answers[index], turn))
        for index, item in enumerate(items)
        for turn in range(len(item.turns))
    )
    for judgement in judge(client, asked, parse):
        found[judgement.id] = judgement
        advance(1)
    verdicts = []
    for index, item in enumerate(items):
        own = [found[index, turn] for turn in range(len(item.turns))]
        marks = [judgement.value for judgement in own]
        given = [mark for mark in marks if mark is not None]
        scores = {metric: sum(given) / len(given)} if len(given) == len(marks) else {}
        facts = {"marks": marks, "judge": [judgement.text for judgement in own]}
        problems = [judgement.problem for judgement in own if judgement.problem]
        verdicts.append(Verdict(scores, facts | ({"problem": problems[0]} if problems else {}), worst))
    return verdicts


def _compared(
    task: str, items: Sequence[Item], answers: Sequence[list[str]], client: Client, advance: Advance
) -> list[Verdict]:
    """The model's answer against the baseline's, in both orders; disagreement is a tie."""
    pairs = (Pair(index, item.turns[0], answers[index][0], item.baseline) for index, item in enumerate(items))
    found: dict[int, Comparison] = {}
    for comparison in compare(client, pairs, prompt=prompts.comparison):
        found[comparison.id] = comparison
        advance(2)
    verdicts = []
    for index, item in enumerate(items):
        comparison = found[index]
        scores = {} if comparison.winner is None else {"win_rate": SHARES[comparison.winner]}
        facts = {
            "winner": comparison.winner, "orders": list(comparison.orders), "judge": list(comparison.texts),
            "longer": len(answers[index][0]) - len(item.baseline),
        }  # fmt: skip
        verdicts.append(Verdict(scores, facts | ({"problem": comparison.problem} if comparison.problem else {}), 0.0))
    return verdicts


Ask = Callable[[Item, list[str], int], str]
RATED = ("alignbench", "mt_bench")  # from 1 to 10; the others in percent
PAIRWISE = ("arena_hard", "alpaca_eval")
MARKED: Mapping[str, tuple[Ask, Callable[[str], float | None], str, float]] = {
    "alignbench": (lambda item, answers, turn: prompts.alignbench(item, answers[0]), prompts.parse_alignbench, "rating", 1.0),
    "mt_bench": (prompts.mt_bench, parse_score, "rating", 1.0),
    "penguinscrolls": (
        lambda item, answers, turn: penguinscrolls.judge_prompt(item.question, answers[0]),
        penguinscrolls.parse, "accuracy", 0.0,
    ),
}  # fmt: skip
JUDGED = (*MARKED, *PAIRWISE)


def _sample(task: str, index: int, item: Item, replies: Answers, verdict: Verdict) -> Sample:
    references = [text for text in item.references if text]
    return Sample(
        task=task, index=index, prompt="\n\n".join(item.turns), answers=[reply.text for reply in replies],
        target=item.baseline or references, scores=verdict.scores, truncated=any(reply.cut for reply in replies),
        null=not verdict.scores, facts={"id": item.id, "category": item.category, **verdict.facts},
    )  # fmt: skip


def _notes(task: str, client: Client, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> list[str]:
    """What somebody who reads the scores should know."""
    notes = [f"{task} is judged by {client.config.model} in this program's words: scores by other judges differ"]
    scored = [value for sample in samples for value in sample.scores.values()]
    if nulls := len(samples) - len(scored):
        worst = (sum(scored) + sum(v.worst for v in verdicts if not v.scores)) / len(samples)
        notes.append(
            f"{task}: no verdict can be read of {nulls:,} of {len(samples):,} questions (samples.jsonl has the judge's words); "
            f"with the worst for each of them the mean is {worst if task in RATED else 100 * worst:.4g}"
        )
    if empty := sum(not text.strip() for sample in samples for text in sample.answers):
        notes.append(f"{task}: {empty:,} answers of the model are empty, and were judged as they are")
    if task in PAIRWISE and scored:
        tally = Tally()
        for sample in samples:
            facts = sample.facts
            tally.add(Comparison(sample.index, facts["winner"], tuple(facts["orders"]), ("", "")))
        notes.append(
            f"{task}: {tally.disagreements:,} of {len(scored):,} verdicts changed with the order of the answers and count as "
            f"ties, {tally.position_a:,} of them because the judge took the first answer both times"
        )
    return notes
