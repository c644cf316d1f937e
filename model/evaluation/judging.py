"""Benchmarks whose answers a judge model marks: PenguinScrolls, MT-Bench, AlignBench, Arena-Hard and AlpacaEval 2.0.

Their questions come from local files; the judge is any endpoint that speaks OpenAI's chat completions. Comparisons are asked in
both orders. A reply without a verdict is counted as a null, and has no part in the mean. The wording of what a judge is asked
is ours, and judges differ: these marks are for comparing models under one judge, and are no repetition of published ones.

    DIR/penguinscrolls/*.jsonl        the released items
    DIR/mt_bench.jsonl                {"turns": ["...", "..."]}, with "reference" where there is one
    DIR/alignbench.jsonl              {"question": ..., "reference": ...}
    DIR/arena_hard.jsonl              {"prompt": ... or "turns": [...], "baseline": the answer to compare with}
    DIR/alpaca_eval.jsonl             {"instruction": ..., "output": the answer to compare with}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.endpoint.client import Client
from model.endpoint.judge import Pair, Question, compare, judge, parse_score, score_prompt
from model.errors import DataError
from model.evaluation import penguinscrolls
from model.evaluation.asking import Model, Prompt
from model.evaluation.documents import Document, ask_documents
from model.evaluation.intervals import bootstrap, interval
from model.evaluation.record import Sample, TaskScore
from model.evaluation.rows import rows

PAIRWISE = {"arena_hard": "baseline", "alpaca_eval": "output"}  # and where the answer to compare with stands
RATED = ("mt_bench", "alignbench")
JUDGED = ("penguinscrolls", *RATED, *PAIRWISE)
ROOM = 1024  # tokens of an answer, where its benchmark does not say
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
NOTE = "marks of a judge are for comparing models under that judge: other judges and other wordings give other marks"

Told = dict[str, Any]


def ask_and_judge(
    model: Model, client: Client, task: str, folder: Path, *, limit: int | None, room: int | None
) -> tuple[list[TaskScore], list[Sample]]:
    """The scores and samples of one benchmark; prompts are messages of a user."""
    model.note(NOTE)
    if task == "penguinscrolls":
        return _penguinscrolls(model, client, folder, limit, room)
    told = [row for _, row in zip(range(limit or 2**62), _read(folder, task), strict=False)]
    conversations = _converse(model, [_turns(row) for row in told], room or ROOM)
    if task in RATED:
        samples = _rated(client, task, told, conversations)
        return [_rating(task, samples)], samples
    samples = _compared(client, task, told, conversations)
    return [_shares(task, "win_rate", samples)], samples


def _read(folder: Path, task: str) -> Iterator[Told]:
    for stem in (folder / task, folder / task / "question", folder / task / "test"):
        for suffix in (".jsonl", ".json", ".parquet"):
            if (path := stem.with_name(stem.name + suffix)).is_file():
                for where, row in rows(path):
                    if not _turns(row) or (task in PAIRWISE and not isinstance(row.get(PAIRWISE[task]), str)):
                        needed = f" and the answer to compare with as `{PAIRWISE[task]}`" if task in PAIRWISE else ""
                        raise DataError(f"{where}: a document of {task} needs its question{needed}: add it")
                    yield row
                return
    raise DataError(f"{folder} has no data of {task}: put it there as {task}.jsonl")


def _turns(row: Mapping[str, Any]) -> list[str]:
    """The messages of a user, in whichever way the benchmark has them."""
    turns = row.get("turns")
    if isinstance(turns, list):
        turns = [turn.get("content") if isinstance(turn, dict) else turn for turn in turns]
    else:
        turns = [next((row[key] for key in ("prompt", "question", "instruction") if row.get(key)), None)]
    return turns if all(isinstance(turn, str) for turn in turns) else []


def _converse(model: Model, asked: Sequence[Sequence[str]], room: int) -> list[list[dict[str, str]]]:
    """Conversations, turn by turn: those that have a turn of that number are answered together."""
    template = model.engine.template
    conversations: list[list[dict[str, str]]] = [[] for _ in asked]
    for turn in range(max(map(len, asked), default=0)):
        going = [number for number, turns in enumerate(asked) if turn < len(turns)]
        for number in going:
            conversations[number].append({"role": "user", "content": asked[number][turn]})
        prompts = [
            Prompt(template.encode(conversations[number], model.tokenizer), room, template.stop_strings)
            for number in going
        ]
        for number, reply in zip(going, model.generate(prompts), strict=True):
            conversations[number].append({"role": "assistant", "content": reply.text})
    return conversations


def _rated(client: Client, task: str, told: list[Told], conversations: list[list[dict[str, str]]]) -> list[Sample]:
    """A mark of 1 to 10 for each answer, the last of the conversation so far; a document's is the mean over its answers."""
    questions = []
    for number, (row, messages) in enumerate(zip(told, conversations, strict=True)):
        for turn in range(1, len(messages), 2):
            asked = "\n\n".join(f"[{each['role']}]\n{each['content']}" for each in messages[:turn])
            reference = row.get("reference")
            reference = reference[turn // 2 : turn // 2 + 1] if isinstance(reference, list) else reference
            right = f"\n\n[reference answer]\n{reference}" if reference else ""
            questions.append(Question((number, turn), score_prompt(asked + right, messages[turn]["content"])))
    marks: dict[int, list[float]] = {}
    judged = {each.id: each for each in judge(client, questions, parse_score)}
    for question in questions:
        if (value := judged[question.id].value) is not None:
            marks.setdefault(question.id[0], []).append(value)
    return [
        _sample(
            task, number, messages, row.get("reference"),
            {"rating": sum(marks[number]) / len(marks[number])} if number in marks else {},
            {"category": row.get("category"), "judge": [judged[q.id].text for q in questions if q.id[0] == number]},
        )
        for number, (row, messages) in enumerate(zip(told, conversations, strict=True))
    ]  # fmt: skip


def _compared(client: Client, task: str, told: list[Told], conversations: list[list[dict[str, str]]]) -> list[Sample]:
    """1 where our answer wins in both orders, 0 where the other does, else 1/2."""
    pairs = [
        Pair(number, messages[-2]["content"], messages[-1]["content"], row[PAIRWISE[task]])
        for number, (row, messages) in enumerate(zip(told, conversations, strict=True))
    ]
    found = {each.id: each for each in compare(client, pairs)}
    return [
        _sample(
            task, number, messages, row[PAIRWISE[task]],
            {} if found[number].winner is None else {"win_rate": POINTS[str(found[number].winner)]},
            {"orders": list(found[number].orders), "judge": list(found[number].texts)},
        )
        for number, (row, messages) in enumerate(zip(told, conversations, strict=True))
    ]  # fmt: skip


def _sample(
    task: str, index: int, messages: list[dict[str, str]], target: Any, scores: Mapping[str, float], facts: Told
) -> Sample:
    asked, answers = ([m["content"] for m in messages if m["role"] == role] for role in ("user", "assistant"))
    return Sample(task, index, "\n\n".join(asked), answers, target, scores, null=not scores, facts=facts)


def _penguinscrolls(
    model: Model, client: Client, folder: Path, limit: int | None, room: int | None
) -> tuple[list[TaskScore], list[Sample]]:
    own = folder / "penguinscrolls"
    items = penguinscrolls.read(own if own.is_dir() else folder)[:limit]
    documents = [
        Document("penguinscrolls", number, item.prompt, item.answer, _no_score, room=room or ROOM)
        for number, item in enumerate(items)
    ]
    asked = ask_documents(model, documents, chat=True)
    questions = [
        Question(number, penguinscrolls.judge_prompt(item, sample.answers[0]))
        for number, (item, sample) in enumerate(zip(items, asked, strict=True))
    ]
    judged = {each.id: each for each in judge(client, questions, penguinscrolls.parse)}
    marks = {number: {"accuracy": each.value} for number, each in judged.items() if each.value is not None}
    samples = [
        replace(
            sample,
            scores=marks.get(number, {}),
            null=number not in marks,
            facts={"group": item.group, "subjective": item.subjective, "judge": judged[number].text},
        )
        for number, (item, sample) in enumerate(zip(items, asked, strict=True))
    ]
    groups = {
        group: [s for s in samples if s.facts["group"] == group] for group in dict.fromkeys(i.group for i in items)
    }
    parts = [
        replace(_shares("penguinscrolls", "accuracy", own), task=f"penguinscrolls: {group}", group="penguinscrolls")
        for group, own in groups.items()
    ]
    whole = _shares("penguinscrolls", "accuracy", samples)
    found = [part.score for part in parts if part.score is not None]
    mean = sum(found) / len(found) if found and len(found) == len(parts) else None
    return [
        replace(whole, metric="mean_of_groups", score=mean, interval=None),
        replace(whole, metric="mean_of_items"),
        *parts,
    ], samples


def _no_score(reply: str) -> Mapping[str, float]:
    return {}


def _shares(task: str, metric: str, samples: Sequence[Sample]) -> TaskScore:
    values = [sample.scores[metric] for sample in samples if metric in sample.scores]
    return _row(task, metric, samples, values, interval, scale=100.0)


def _rating(task: str, samples: Sequence[Sample]) -> TaskScore:
    values = [sample.scores["rating"] for sample in samples if "rating" in sample.scores]
    return replace(_row(task, "rating", samples, values, bootstrap, scale=1.0), unit="1 to 10")


def _row(
    task: str, metric: str, samples: Sequence[Sample], values: list[float],
    of: Callable[[list[float]], tuple[float, float]], *, scale: float,
) -> TaskScore:  # fmt: skip
    """`n` counts all documents; the mean is over those that have a mark."""
    low, high = of(values) if values else (0.0, 0.0)
    return TaskScore(
        task=task, metric=metric, score=scale * sum(values) / len(values) if values else None, n=len(samples),
        interval=(scale * low, scale * high) if values else None, nulls=sum(sample.null for sample in samples),
        truncated=sum(sample.truncated for sample in samples),
    )  # fmt: skip
