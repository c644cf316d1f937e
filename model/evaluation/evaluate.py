"""An evaluation: tasks by name, ours and lm-eval's, asked of one model, with a score for each task and length."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.endpoint.client import Client
from model.errors import ConfigError, MissingExtraError
from model.evaluation import chinese, long_context, lveval, ruler
from model.evaluation.asking import Model, Stage, no_stage
from model.evaluation.documents import Document, ask_documents, prompt_ids
from model.evaluation.intervals import bootstrap, interval
from model.evaluation.judged.run import JUDGED, ask_and_judge
from model.evaluation.record import Record, Sample, TaskScore, scores_of

LM_EVAL_SEED = 1234  # of its worked examples
OWN = ("ruler", *ruler.NAMES, "lveval", *lveval.DATASETS, "c3", "cmath", *JUDGED)


@dataclass(frozen=True)
class Evaluation:
    """What is asked, and how."""

    tasks: tuple[str, ...]
    task_data: Path | None = None  # folder of local files; None: lm-eval fetches what it needs
    lengths: tuple[int, ...] = ()  # tokens, of long-context tasks; (): a quarter, half and all of the model's context
    samples: int = 20  # of each generated task and length
    limit: int | None = None  # documents of each task from files
    shots: int | None = None  # worked examples of lm-eval's tasks; None: each task's own number
    seed: int = LM_EVAL_SEED
    chat: bool = False  # put prompts through the model's chat template
    max_new_tokens: int | None = None  # at most, of any answer
    unconfined: bool = False  # run the programs of humaneval and mbpp where they can be confined in part only

    def __post_init__(self) -> None:
        problems = [] if self.tasks else ["no task was named: give --tasks, such as ruler or gsm8k"]
        problems += [f"{n} is {v}: it must be at least 1" for n, v in (("--samples", self.samples),) if v < 1]
        problems += (
            [f"--limit is {self.limit}: it must be at least 1"] if self.limit is not None and self.limit < 1 else []
        )
        if self.task_data is not None and not self.task_data.is_dir():
            problems.append(f"--task-data {self.task_data} is no folder: name the one that holds the tasks' files")
        if problems:
            raise ConfigError(problems)


def evaluate(
    model: Model,
    asked: Evaluation,
    record: Record | None = None,
    stage: Stage = no_stage,
    judge: Client | None = None,
) -> list[TaskScore]:
    """Scores in the order of the tasks. Samples go to the record as soon as their task is scored."""
    record = record or Record(None)
    marked = [name for name in asked.tasks if name in JUDGED]
    if marked and judge is None:
        raise ConfigError(
            [f"{marked[0]} is marked by a judge: name an endpoint with --judge and its model with --judge-model"]
        )
    foreign = [name for name in asked.tasks if name not in OWN]
    if foreign and find_spec("lm_eval") is None:
        raise MissingExtraError("lm_eval", "eval", f"the task {foreign[0]}")
    rows: list[TaskScore] = []
    for name in asked.tasks:
        if name in foreign:
            rows += _foreign(model, asked, name, record, stage)
        elif name in JUDGED and judge is not None:
            rows += _judged(model, asked, name, record, stage, judge)
        else:
            rows += _own(model, asked, name, record, stage)
    return rows


def _own(model: Model, asked: Evaluation, name: str, record: Record, stage: Stage) -> Iterator[TaskScore]:
    """Rows of one of our own tasks; those of several parts have a mean of them at each length."""
    template = template_name(model) if asked.chat else "none"
    parts: dict[int | None, list[TaskScore]] = {}
    of_parts: dict[int | None, list[Sample]] = {}
    group = name if name in ("ruler", "lveval") else None
    for documents in _documents(model, asked, name, stage):
        begin = time.perf_counter()
        title = f"{documents[0].task}" + (f" at {documents[0].length:,} tokens" if documents[0].length else "")
        documents = [_within(document, asked.max_new_tokens) for document in documents]
        with stage(title, len(documents)) as advance:
            model.advance = advance
            samples = ask_documents(model, documents, chat=asked.chat)
        record.add(samples)
        facts = {"template": template, "group": group, "seconds": time.perf_counter() - begin}
        rows = scores_of(samples, **facts)
        yield from rows
        parts.setdefault(documents[0].length, []).extend(rows)
        of_parts.setdefault(documents[0].length, []).extend(samples)
    if group is not None:
        for length, own in parts.items():
            yield _mean(group, own, of_parts[length])


def _judged(
    model: Model, asked: Evaluation, name: str, record: Record, stage: Stage, client: Client
) -> list[TaskScore]:
    """Rows of a benchmark that a judge marks."""
    begin = time.perf_counter()
    with stage(name, None) as advance:
        model.advance = advance
        rows, samples = ask_and_judge(
            model, client, name, _folder_of(asked, name), limit=asked.limit, room=asked.max_new_tokens, seed=asked.seed,
            advance=advance,
        )  # fmt: skip
    record.add(samples)
    seconds = time.perf_counter() - begin
    return [dataclasses.replace(row, template=template_name(model), seconds=seconds) for row in rows]


def _folder_of(asked: Evaluation, name: str) -> Path:
    if asked.task_data is None:
        raise ConfigError([f"{name} is read from local files: give their folder with --task-data"])
    return asked.task_data


def _within(document: Document, most: int | None) -> Document:
    return document if most is None or document.room <= most else dataclasses.replace(document, room=most)


def _documents(model: Model, asked: Evaluation, name: str, stage: Stage) -> Iterator[list[Document]]:
    if name == "ruler" or name in ruler.NAMES:
        lengths = asked.lengths or long_context.default_lengths(model.context)
        yield from long_context.ruler_documents(
            model.tokenizer, ruler.NAMES if name == "ruler" else [name], lengths=lengths, context=model.context,
            samples=asked.samples, seed=asked.seed, note=model.note, stage=stage,
            reserved=len(prompt_ids(model, "", chat=True)) if asked.chat else 0,
        )  # fmt: skip
        return
    folder = _folder_of(asked, name)
    if name in ("c3", "cmath"):
        read = chinese.c3_documents if name == "c3" else chinese.cmath_documents
        yield read(folder, asked.limit)
        return
    own = folder / "lveval"
    yield from long_context.lveval_documents(
        model, own if own.is_dir() else folder, () if name == "lveval" else (name,),
        lengths=asked.lengths or None, limit=asked.limit,
    )  # fmt: skip


def _mean(group: str, rows: list[TaskScore], samples: list[Sample]) -> TaskScore:
    """The mean of the parts at one length, each with the same weight; the interval is over documents."""
    values = [value for sample in samples for value in sample.scores.values()]
    by_task = [[value for s in samples if s.task == row.task for value in s.scores.values()] for row in rows]
    marked = [(number, value) for number, values in enumerate(by_task) for value in values]

    def mean_of_means(drawn: list[tuple[int, float]]) -> float:
        sums, counts = [0.0] * len(by_task), [0] * len(by_task)
        for number, value in drawn:
            sums[number] += value
            counts[number] += 1
        return sum(s / c for s, c in zip(sums, counts, strict=True) if c) / sum(map(bool, counts))

    alike = len({len(each) for each in by_task}) == 1 and all(value in (0, 1) for value in values)
    low, high = interval(values) if alike else bootstrap(marked, mean_of_means)
    return dataclasses.replace(
        rows[0], task=group, metric=rows[0].metric if len({row.metric for row in rows}) == 1 else "mean", group=None,
        score=sum(row.score or 0.0 for row in rows) / len(rows), n=len(samples), interval=(100 * low, 100 * high),
        nulls=sum(row.nulls for row in rows), truncated=sum(row.truncated for row in rows),
        seconds=sum(row.seconds for row in rows),
    )  # fmt: skip


def _foreign(model: Model, asked: Evaluation, name: str, record: Record, stage: Stage) -> list[TaskScore]:
    """Rows of one of lm-eval's tasks or groups."""
    from model.evaluation.harness.code_tests import confined
    from model.evaluation.harness.lm import HarnessModel
    from model.evaluation.harness.run import offline, quiet, run_task
    from model.evaluation.harness.tasks import load_tasks

    with quiet(), offline(asked.task_data is not None), confined(allow_weaker=asked.unconfined):
        loaded = load_tasks([name], data=asked.task_data, shots=asked.shots, seed=asked.seed)
        lm = HarnessModel(model, max_new_tokens=asked.max_new_tokens, seed=asked.seed)
        with stage(name, None) as advance:
            model.advance = advance
            rows, samples = run_task(lm, loaded, limit=asked.limit, chat=asked.chat, template=template_name(model))
    record.add(samples)
    return rows


def template_name(model: Model) -> str:
    """Which chat template stands around prompts."""
    return "the model's chat template" if model.engine.has_template else "plain transcript"


def results_of(model: Model, name: str, asked: Evaluation, rows: Sequence[TaskScore], **facts: Any) -> dict[str, Any]:
    """The content of results.json."""
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(asked).items()
        if value is not None
    }
    return {
        "model": name,
        "tasks": [row.to_dict() for row in rows],
        "notes": list(model.notes),
        "settings": settings | {"truncate": model.truncate},
        **facts,
    }
