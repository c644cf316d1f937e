"""The questions of the judged benchmarks, from the files that their authors publish: DIR/NAME.jsonl, or in DIR/NAME or DIR.

alignbench       question, reference, category                  data_v1.1_release.jsonl
mt_bench         turns, category, perhaps reference             question.jsonl, reference_answer/*.jsonl
arena_hard       turns or prompt, perhaps baseline              question.jsonl, model_answer/*.jsonl or baseline.jsonl
alpaca_eval      instruction, output (the baseline's)           a .json list
penguinscrolls   as model/evaluation/penguinscrolls.py says     its .jsonl or .parquet files
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.evaluation import penguinscrolls
from model.evaluation.rows import Record, field, rows

ARENA_BASELINE = "gpt-4-0314"  # whose answers Arena-Hard's authors compare with
REASONING = ("数学计算", "逻辑推理")  # AlignBench's categories; the others are of language


@dataclass(frozen=True)
class Item:
    """One question. `turns` are what the user says; the model answers each before it sees the next."""

    id: str
    turns: tuple[str, ...]
    category: str = ""
    references: tuple[str, ...] = ()  # one for each turn, where there are some; "" for none
    baseline: str = ""  # another model's answer, to compare with
    origin: penguinscrolls.Question | None = None  # of PenguinScrolls, for its judge

    @property
    def question(self) -> penguinscrolls.Question:
        assert self.origin is not None, "an item of PenguinScrolls has its question"
        return self.origin

    def reference(self, turn: int) -> str:
        return self.references[turn] if turn < len(self.references) else ""


def read_items(task: str, folder: Path) -> list[Item]:
    """DataError names what is missing or damaged."""
    items = list(READERS[task](folder, _questions(task, folder)))
    if not items:
        raise DataError(f"{folder} holds no question of {task}: give the benchmark's own files")
    if len({item.id for item in items}) < len(items):
        raise DataError(f"{folder} has a question of {task} twice: leave one file out")
    return items


def _questions(task: str, folder: Path) -> list[Path]:
    """The files of the questions: one with the task's name, or those that the benchmark's own folder has."""
    for suffix in (".jsonl", ".json", ".parquet"):
        if (alone := folder / f"{task}{suffix}").is_file():
            return [alone]
    pattern = PATTERNS[task]
    for place in (folder / task, folder):
        if found := sorted(path for kind in pattern.split() for path in place.glob(kind)):
            return found
    raise DataError(f"{folder} has no data of {task}: put it there as {task}.jsonl, or its own files into {task}/")


def _alignbench(folder: Path, files: list[Path]) -> Iterator[Item]:
    for where, row in _rows(files):
        yield Item(
            _id(row, where), (field(row, "question", str, where),), str(row.get("category") or ""),
            (field(row, "reference", str, where),),
        )  # fmt: skip


def _mt_bench(folder: Path, files: list[Path]) -> Iterator[Item]:
    references: dict[str, tuple[str, ...]] = {}
    for place in (files[0].parent, folder / "mt_bench"):
        for where, row in _rows(sorted((place / "reference_answer").glob("*.jsonl"))):
            references[_id(row, where)] = _answers(row, where)
    for where, row in _rows(files):
        id, given = _id(row, where), row.get("reference")
        given = [given] if isinstance(given, str) else given
        known = tuple(_texts(given, where)) if isinstance(given, list) and given else references.get(id, ())
        yield Item(id, tuple(_texts(field(row, "turns", list, where), where)), str(row.get("category") or ""), known)


def _arena_hard(folder: Path, files: list[Path]) -> Iterator[Item]:
    questions = list(_rows(files))
    answers: dict[str, str] = {}
    path = files[0]
    if not all(isinstance(row.get("baseline"), str) for _, row in questions):
        path = _baseline(folder if (folder / "baseline.jsonl").exists() else files[0].parent)
        answers = {_id(row, where): _answers(row, where)[-1] for where, row in _rows([path])}
    for where, row in questions:
        id = _id(row, where)
        prompt = next(
            (row[key] for key in ("prompt", "question", "instruction") if isinstance(row.get(key), str)), None
        )
        if prompt is None:
            prompt = _texts(field(row, "turns", list, where), where)[0]
        baseline = answers.get(id) if answers else row["baseline"]
        if baseline is None:
            raise DataError(f"{path} has no answer to the question {id} of {where}: get the baseline's whole file")
        yield Item(id, (prompt,), str(row.get("category") or ""), baseline=baseline)


def _baseline(folder: Path) -> Path:
    """Whose answers are compared with: baseline.jsonl, Arena-Hard's own choice, or the one file that is there."""
    found = sorted((folder / "model_answer").glob("*.jsonl"))
    for path in (
        folder / "baseline.jsonl",
        folder / "model_answer" / f"{ARENA_BASELINE}.jsonl",
        *found[: len(found) == 1],
    ):
        if path.exists():
            return path
    raise DataError(
        f"{folder} has no baseline to compare with: put its answers there as baseline.jsonl, such as Arena-Hard's "
        f"model_answer/{ARENA_BASELINE}.jsonl"
    )


def _alpaca_eval(folder: Path, files: list[Path]) -> Iterator[Item]:
    for number, (where, row) in enumerate(_rows(files), start=1):
        yield Item(
            str(number), (field(row, "instruction", str, where),), str(row.get("dataset") or ""),
            baseline=field(row, "output", str, where),
        )  # fmt: skip


def _penguinscrolls(folder: Path, files: list[Path]) -> Iterator[Item]:
    for question in penguinscrolls.read(files[0] if len(files) == 1 else files[0].parent):
        yield Item(question.id, (question.prompt,), question.group, (question.answer,), origin=question)


READERS: Mapping[str, Callable[[Path, list[Path]], Iterator[Item]]] = {
    "alignbench": _alignbench,
    "mt_bench": _mt_bench,
    "arena_hard": _arena_hard,
    "alpaca_eval": _alpaca_eval,
    "penguinscrolls": _penguinscrolls,
}


PATTERNS = {  # of the authors' files
    "alignbench": "data*.jsonl", "mt_bench": "question.jsonl", "arena_hard": "question.jsonl", "alpaca_eval": "*.json",
    "penguinscrolls": "*.jsonl *.json *.parquet",
}  # fmt: skip


def _rows(files: list[Path]) -> Iterator[tuple[str, Record]]:
    for file in files:
        yield from rows(file)


def _id(row: Record, where: str) -> str:
    """A question's name, whichever key holds it; where there is none, its place."""
    for key in ("question_id", "uid", "id"):
        if isinstance(row.get(key), str | int):
            return str(row[key])
    return where


def _texts(values: list[Any], where: str) -> list[str]:
    """Texts, each as it is or as the content of an object."""
    found = [value.get("content") if isinstance(value, dict) else value for value in values]
    texts = [value for value in found if isinstance(value, str)]
    if not texts or len(texts) < len(found):
        raise DataError(f"{where}: its turns are no texts: give the benchmark's own file")
    return texts


def _answers(row: Record, where: str) -> tuple[str, ...]:
    """A model's answers, a turn each: {"choices": [{"turns": [...]}]} or {"messages": [..., {"role": "assistant", ...}]}."""
    if isinstance(row.get("messages"), list):
        said = [
            message for message in row["messages"] if isinstance(message, dict) and message.get("role") == "assistant"
        ]
        contents = [message.get("content") for message in said]
        return tuple(_texts([c.get("answer") if isinstance(c, dict) else c for c in contents], where))
    choices = field(row, "choices", list, where)
    if not choices or not isinstance(choices[0], dict):
        raise DataError(f"{where}: its choices hold no answer: give the benchmark's own file")
    return tuple(_texts(field(choices[0], "turns", list, where), where))
