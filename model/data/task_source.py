"""The spelling of a generated task as a source of text, in data.sources or in a stage: no numpy, no tokenizer.

    tasks:key_value:length=8K
    tasks:key_value:length=8K,pairs=64,questions=16,count=2000,loss=answer,seed=1
    tasks:copy:length=2K,words=300

model/data/tasks.py says what a document of a task is and makes it.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Self

from model.errors import ConfigError

PREFIX = "tasks:"
OWN = {"key_value": ("pairs", "questions"), "copy": ("words",)}  # options of one task alone
LOSSES = ("all", "answer")
EXAMPLE = "tasks:key_value:length=2K"
UNITS = {"": 1, "K": 1024, "M": 1024**2}


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """A task and its options; 0: as the length and the tokenizer have it (model/data/tasks.py)."""

    task: str
    length: int = 2048  # tokens of a document, its end included; the context should be a multiple of it
    count: int = 10_000  # documents for training; 16 more are held out
    pairs: int = 0  # keys with a value
    questions: int = 0  # of them, at the document's end, each about another key
    words: int = 0  # that are copied
    seed: int = 0
    loss: str = "all"  # what is learnt: every token, or "answer" alone

    @classmethod
    def parse(cls, spec: str) -> Self:
        """ConfigError, in one sentence, for a source that begins with tasks: and says something else."""
        task, _, options = spec.removeprefix(PREFIX).partition(":")
        if task not in OWN:
            raise ConfigError([f"{spec}: there is no task {task!r}: write one of {', '.join(OWN)}, as in {EXAMPLE}"])
        known = ("length", "count", *OWN[task], "seed", "loss")
        values: dict[str, str] = {}
        for option in filter(None, options.split(",")):
            name, equals, value = option.partition("=")
            if name not in known or not equals:
                raise ConfigError(
                    [f"{spec}: {option!r} is no option of {task}: it has {', '.join(known)}, as in {EXAMPLE}"]
                )
            if name in values:
                raise ConfigError([f"{spec} gives {name} twice: give it once"])
            values[name] = value
        loss = values.pop("loss", "all")
        if loss not in LOSSES:
            raise ConfigError([f"{spec}: loss is {loss!r}: choose {' or '.join(LOSSES)}"])
        numbers = {name: _number(spec, name, value) for name, value in values.items()}
        source = cls(task=task, loss=loss, **numbers)
        if source.pairs and source.questions > source.pairs:
            raise ConfigError(
                [f"{spec}: {source.questions} questions of {source.pairs} pairs: each pair is asked for once"]
            )
        return source

    def __str__(self) -> str:
        """Every option, in one order: what a cache or a fingerprint may go by."""
        values = dataclasses.asdict(self)
        return f"{PREFIX}{values.pop('task')}:" + ",".join(f"{name}={value}" for name, value in values.items())


def is_task(spec: object) -> bool:
    return isinstance(spec, str) and spec.startswith(PREFIX)


def _number(spec: str, name: str, text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([KM]?)", text)
    value = int(match[1]) * UNITS[match[2]] if match else -1
    if value < (0 if name == "seed" else 1):
        raise ConfigError([f"{spec}: {name} is {text!r}: give a whole number above 0, such as 512 or 8K"])
    return value
