"""One of lm-eval's tasks, asked and scored by its own `evaluate`, as our samples and scores."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.api.task
import lm_eval.utils
from lm_eval.evaluator import evaluate

from model.errors import DataError, HunyuanError
from model.evaluation.harness.lm import HarnessModel
from model.evaluation.intervals import bootstrap, interval
from model.evaluation.record import Sample, TaskScore

SHARES = ("acc", "exact_match", "em", "f1", "pass", "rouge")  # metrics of 0 to 1 begin or end so


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no notes of lm-eval's or of its data sets', and its templates compiled once."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    templates = lm_eval.utils.env
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    datasets.disable_progress_bars()
    # A task's few templates are compiled once, not for every document: a third of the time of a small model.
    templates.from_string = functools.lru_cache(maxsize=None)(type(templates).from_string.__get__(templates))
    try:
        yield
    finally:
        del templates.from_string
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def offline(on: bool) -> Iterator[None]:
    """Whether data sets may be fetched: with local files, none are, whatever a task asks for."""
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if on:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def run_task(
    lm: HarnessModel, loaded: dict[str, Any], *, limit: int | None, chat: bool, template: str
) -> tuple[list[TaskScore], list[Sample]]:
    """The scores and samples of what `load_tasks` has loaded; groups come first, with their tasks behind them."""
    begin = time.perf_counter()
    lm.chat = False
    try:
        found = evaluate(
            lm, loaded, limit=limit, bootstrap_iters=0, apply_chat_template=chat, confirm_run_unsafe_code=True
        )
    except HunyuanError:
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:300]
        names = ", ".join(loaded["tasks"])
        raise DataError(f"lm-eval cannot score {names} ({type(error).__name__}: {first}): look at its data") from error
    assert found is not None and "samples" in found, "one process, with samples"
    seconds = time.perf_counter() - begin
    samples, rows = [], []
    values: dict[str, dict[str, list[Any]]] = {}  # by task and metric
    group_of = {child: group for group, children in loaded["group_map"].items() for child in children}
    for name, task in loaded["tasks"].items():
        own, values[name] = _samples(name, found["samples"][name], lm)
        samples += own
        shared = {
            "shots": int(found["n-shot"].get(name) or 0),
            "template": template if chat else "none",
            "nulls": sum(sample.null for sample in own),
            "truncated": sum(sample.truncated for sample in own),
            "seconds": seconds * len(own) / sum(len(each) for each in found["samples"].values()),
        }
        for metric, each in values[name].items():
            higher = found["higher_is_better"].get(name, {}).get(metric.partition(",")[0])
            rows.append(_row(name, metric, each, task, group=group_of.get(name), higher=higher is not False, **shared))
    return _groups(loaded, rows, values) + rows, samples


def _samples(name: str, found: list[dict[str, Any]], lm: HarnessModel) -> tuple[list[Sample], dict[str, list[Any]]]:
    """One sample a document, with the metrics of all filters; and the values of each metric, as the task aggregates them."""
    filters = list(dict.fromkeys(entry["filter"] for entry in found))
    by_document: dict[int, list[dict[str, Any]]] = {}
    values: dict[str, list[Any]] = {}
    for entry in found:
        by_document.setdefault(entry["doc_id"], []).append(entry)
        for metric in entry["metrics"]:
            label = metric if len(filters) == 1 else f"{metric},{entry['filter']}"
            values.setdefault(label, []).append(entry[metric])
    samples = []
    for number, entries in by_document.items():
        first = entries[0]
        scores = {}
        for entry in entries:
            for metric in entry["metrics"]:
                label = metric if len(filters) == 1 else f"{metric},{entry['filter']}"
                if isinstance(entry[metric], (bool, int, float)):
                    scores[label] = float(entry[metric])
        answers = [answer for answers in first["resps"] for answer in answers]
        texts = [answer for answer in answers if isinstance(answer, str)]
        arguments = first["arguments"]
        samples.append(
            Sample(
                task=name,
                index=number,
                prompt=str(arguments[0][0]),
                answers=[list(answer) if isinstance(answer, tuple) else answer for answer in answers],
                target=first["target"],
                scores=scores,
                choices=[str(each[1]) for each in arguments] if not texts and len(arguments[0]) > 1 else (),
                truncated=lm.truncated[name, number] > 0,
                null=bool(texts) and not any(text.strip() for text in texts),
            )
        )
    return samples, values


def _row(name: str, metric: str, values: list[Any], task: Any, *, higher: bool, **facts: Any) -> TaskScore:
    """The score of a metric: of numbers their mean, of anything else what the task makes of it."""
    plain = all(isinstance(value, (bool, int, float)) for value in values)
    if plain and _is_share(metric, values):
        low, high = interval([float(value) for value in values])
        return TaskScore(name, metric, 100 * sum(values) / len(values), len(values), (100 * low, 100 * high), **facts)
    statistic = task.aggregation()[metric.partition(",")[0]]
    return TaskScore(
        name, metric, float(statistic(values)), len(values), bootstrap(values, lambda drawn: float(statistic(drawn))),
        unit="", higher_is_better=higher, **facts,
    )  # fmt: skip


def _is_share(metric: str, values: Sequence[float]) -> bool:
    name = metric.partition(",")[0]
    return (name.startswith(SHARES) or name.endswith(SHARES)) and all(0 <= value <= 1 for value in values)


def _groups(loaded: dict[str, Any], rows: list[TaskScore], values: dict[str, dict[str, list[Any]]]) -> list[TaskScore]:
    """A group's score over all documents of its tasks, as those of the report's benchmarks are averaged."""
    found = []
    for name, group in loaded["groups"].items():
        tasks = [task.task_name for task in group.get_all_tasks()]
        inside = [row for row in rows if row.task in tasks]
        for metric in dict.fromkeys(row.metric for row in inside if row.unit == "percent"):
            pooled = [float(value) for task in tasks for value in values[task].get(metric, [])]
            own = [row for row in inside if row.metric == metric]
            low, high = interval(pooled)
            found.append(
                TaskScore(
                    task=name,
                    metric=metric,
                    score=100 * sum(pooled) / len(pooled),
                    n=len(pooled),
                    interval=(100 * low, 100 * high),
                    nulls=sum(row.nulls for row in own),
                    truncated=sum(row.truncated for row in own),
                    shots=own[0].shots,
                    template=own[0].template,
                    seconds=sum(row.seconds for row in own),
                    group=next((outer for outer, names in loaded["group_map"].items() if name in names), None),
                )
            )
    return found
