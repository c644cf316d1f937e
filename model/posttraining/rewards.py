"""What an answer is worth: checks by a name, and reward models by their folder. Both choose pairs, or are measured alone.

    exact           1 where the answer is the row's "answer", but for white space around it, else 0
    format          1 where the answer has the row's "format": json, integer, number, word, line, python
    unit-tests      1 where the row's "tests", Python statements, run to their end after the answer's code, confined
    digits          the study of examples/posttraining: exact but for "!" at the end, less 0.25 for each of them
    digits-flawed   the same with a mistake in it: 0.6 more for each

A check reads the row of its prompt. A row without what its check needs is one sentence that names the line.
"""

import ast
import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from model.data.instructions.preferences import Question
from model.errors import ConfigError, DataError


class Answer(NamedTuple):
    """What a policy said."""

    ids: list[int]  # with the token that ended it, where it came to an end
    text: str
    ended: bool  # False: it was cut at the most tokens that it may have


class Reward(Protocol):
    name: str

    def check(self, questions: Sequence[Question]) -> None:
        """DataError where a question lacks what the reward needs."""

    def __call__(self, questions: Sequence[Question], answers: Sequence[Answer]) -> list[float]:
        """The reward of each answer to the question at its place."""


SECONDS, MEMORY = 5.0, 256 * 2**20  # bytes; for one answer's tests
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def exact(row: dict[str, object], text: str) -> float:
    return float(text.strip() == str(row["answer"]).strip())


def formatted(row: dict[str, object], text: str) -> float:
    return float(FORMATS[str(row["format"])](text.strip()))


def unit_tests(row: dict[str, object], text: str) -> float:
    from model.data.confinement import run  # starts nothing before it is needed

    code = next(iter(reversed(FENCED.findall(text))), text)
    outcome = run(f"{code}\n\n{row['tests']}\n", seconds=SECONDS, memory=MEMORY, folder=None)
    return float(outcome.status == "ok")


def digits(row: dict[str, object], text: str, *, each: float = -0.25) -> float:
    text = text.strip()
    said = text.rstrip("!")
    return exact(row, said) + each * (len(text) - len(said))


def digits_flawed(row: dict[str, object], text: str) -> float:
    return digits(row, text, each=0.6)


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            parse(text)
            return bool(text)
        return False

    return check


FORMATS: dict[str, Callable[[str], bool]] = {
    "json": _parses(json.loads),
    "integer": lambda text: re.fullmatch(r"[+-]?\d+", text) is not None,
    "number": lambda text: re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None,
    "word": lambda text: len(text.split()) == 1,
    "line": lambda text: bool(text) and "\n" not in text,
    "python": _parses(ast.parse),
}
# Each with the key of the row that it reads, and what that may be.
CHECKS: dict[str, tuple[Callable[[dict[str, object], str], float], str]] = {
    "exact": (exact, "answer"),
    "format": (formatted, "format"),
    "unit-tests": (unit_tests, "tests"),
    "digits": (digits, "answer"),
    "digits-flawed": (digits_flawed, "answer"),
}


class Check:
    """A check by its name, answer by answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._score, self._key = CHECKS[name]

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            value = question.row.get(self._key)
            if value is None or isinstance(value, bool | dict | list) or not str(value).strip():
                raise DataError(
                    f"{question.where}: the reward {self.name} needs '{self._key}' beside the prompt; add it as a text"
                )
            if self._key == "format" and value not in FORMATS:
                raise DataError(
                    f"{question.where}: the format {value!r} is not known; give one of {', '.join(FORMATS)}"
                )
            if self._key == "tests" and not FORMATS["python"](str(value)):
                raise DataError(
                    f"{question.where}: 'tests' is no Python that can be read; mend it or leave the row out"
                )

    def __call__(self, questions: Sequence[Question], answers: Sequence[Answer]) -> list[float]:
        return [self._score(question.row, answer.text) for question, answer in zip(questions, answers, strict=True)]


class Judge:
    """A reward model. An answer that its chat template or its context cannot hold has no reward, which is no number."""

    def __init__(self, folder: str, device: torch.device) -> None:
        from model.posttraining.scoring import load_reward  # a model and its tokenizer: only where one is asked for

        self.name = folder
        self._scorer = load_reward(folder, device)

    def check(self, questions: Sequence[Question]) -> None:
        for question in questions:
            self._scorer.renderer.question(question)

    def __call__(self, questions: Sequence[Question], answers: Sequence[Answer]) -> list[float]:
        rows, context = {}, self._scorer.model.net.config.max_position_embeddings
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            with contextlib.suppress(DataError):  # not of the question, which has been checked
                prompt, said = self._scorer.renderer.answer(question, answer.text)
                if len(prompt) + len(said) <= context:
                    rows[place] = prompt + said
        scores = dict(zip(rows, self._scorer.score_ids(list(rows.values())), strict=True))
        return [scores.get(place, float("nan")) for place in range(len(answers))]


def find_reward(name: str, device: torch.device) -> Reward:
    """The check of that name, or the reward model in that folder; ConfigError where there is neither."""
    if name in CHECKS:
        return Check(name)
    if not Path(name).expanduser().is_dir():
        raise ConfigError([
            f"the reward {name} is neither a folder nor a check: give the run of a reward model, or one of {', '.join(CHECKS)}"
        ])  # fmt: skip
    return Judge(name, device)
