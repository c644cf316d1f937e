"""What an evaluation leaves: a score for each task and length, and a sample for each document.

DIR/results.json    the model, how it was asked, and the scores                      written at the end
DIR/samples.jsonl   each document: prompt, answer, target, scores                    grows task by task, in order at the end
DIR/requests.jsonl  what was answered, from which a run that was killed goes on      model/evaluation/ledger.py
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.evaluation.intervals import interval
from model.files import read_json, write_file, write_json

RESULTS, SAMPLES = "results.json", "samples.jsonl"
Place = tuple[str, int | None, int]  # of a sample: task, length, index


@dataclass(frozen=True)
class Sample:
    """One document of one task, with all that was asked and answered."""

    task: str
    index: int
    prompt: str
    answers: Sequence[Any]  # a text each, or [log-likelihood in nats, is greedy] of each choice
    target: Any
    scores: Mapping[str, float]  # by metric, 0 to 1 where it is a share
    length: int | None = None  # tokens of the prompt and its answer, where the task has one
    depth: Sequence[float] = ()  # where in the text the answer lies: 0 the beginning, 1 the end
    choices: Sequence[str] = ()
    truncated: bool = False  # the prompt lost its beginning
    null: bool = False  # the answer is empty, or a judge's reply has no mark
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the task records

    @property
    def place(self) -> Place:
        return self.task, self.length, self.index

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in ((), {}, [])}


@dataclass(frozen=True)
class TaskScore:
    """One row of results.json."""

    task: str
    metric: str
    score: float | None  # percent where `unit` says so
    n: int  # documents
    interval: tuple[float, float] | None  # 95%
    length: int | None = None
    nulls: int = 0
    truncated: int = 0
    shots: int = 0
    template: str = "none"  # how the prompt was put: none, or which chat template
    unit: str = "percent"
    group: str | None = None  # the task that this one is a part of
    higher_is_better: bool = True
    seconds: float = 0.0  # spent on the task, at all its metrics

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def scores_of(samples: Sequence[Sample], **facts: Any) -> list[TaskScore]:
    """The means of each metric over the samples of one task and length, in percent."""
    metrics = dict.fromkeys(name for sample in samples for name in sample.scores)
    rows = []
    for metric in metrics:
        values = [sample.scores[metric] for sample in samples if metric in sample.scores]
        low, high = interval(values)
        rows.append(
            TaskScore(
                task=samples[0].task,
                metric=metric,
                score=100 * sum(values) / len(values),
                n=len(values),
                interval=(100 * low, 100 * high),
                length=samples[0].length,
                nulls=sum(sample.null for sample in samples),
                truncated=sum(sample.truncated for sample in samples),
                **facts,
            )
        )
    return rows


class Record:
    """The samples of an evaluation, by place; with a folder each is on the disk as soon as its task is scored."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.samples: dict[Place, dict[str, Any]] = {}
        self._written: dict[Place, str] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{folder} cannot be made: {error.strerror}; choose another with --out") from error
            self._written = {place: json.dumps(row) for place, row in read_samples(folder).items()}

    def add(self, samples: Iterable[Sample]) -> None:
        """Appends what is new; a sample that was there with other content is replaced at the end."""
        rows = {sample.place: json_safe(sample.to_dict()) for sample in samples}
        self.samples |= rows
        if self.folder is None:
            return
        lines = {place: json.dumps(row) for place, row in rows.items() if place not in self._written}
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines.values()))
        self._written |= lines

    def finish(self, results: Mapping[str, Any]) -> None:
        """Leaves results.json and, in order, the samples of this evaluation alone."""
        if self.folder is None:
            return
        lines = (json.dumps(self.samples[place]) for place in sorted(self.samples, key=_order))
        write_file(self.folder / SAMPLES, "".join(f"{line}\n" for line in lines))
        write_json(self.folder / RESULTS, json_safe(results))


def _order(place: Place) -> tuple[str, int, int]:
    return place[0], place[1] or 0, place[2]


def read_samples(folder: Path) -> dict[Place, dict[str, Any]]:
    """The samples of an evaluation; a last line that was cut short is dropped, also from the file."""
    path = folder / SAMPLES
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found = {}
    for number, line in enumerate(whole.decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["task"], row.get("length"), row["index"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is damaged: remove the line, or the file") from error
    return found


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation."""
    path = folder / RESULTS
    try:
        results = read_json(path)
        if not isinstance(results["tasks"], list):
            raise ValueError("it holds no list of tasks")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name the --out folder of an evaluation") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no evaluation's record ({error}): run it again") from error
    return dict(results)


def json_safe(value: Any) -> Any:
    """The same in what JSON knows: numpy's numbers as Python's, what is not finite as null, anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [json_safe(item) for item in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
