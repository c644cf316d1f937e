"""The questions of the judged benchmarks, from the files that their authors publish, in the folder DIR/NAME or DIR.

alignbench       data_v1.1_release.jsonl: question_id, category, question, reference
mt_bench         question.jsonl: question_id, category, turns, perhaps reference; reference_answer/*.jsonl
arena_hard       question.jsonl: turns or prompt; baseline.jsonl or model_answer/NAME.jsonl: choices or messages
alpaca_eval      a .json list: instruction, output (the baseline's)
penguinscrolls   its .jsonl or .parquet files (model/evaluation/penguinscrolls.py)
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
    origin: penguinscrolls.Question | None = None

    def reference(self, turn: int) -> str:
        return self.references[turn] if turn < len(self.references) else ""


def read_items(task: str, folder: Path) -> list[Item]:
    """DataError names what is missing or damaged."""
    own = folder / task
    place = own if own.is_dir() else folder
    items = list(READERS[task](place))
    if not items:
        raise DataError(f"{place} holds no question of {task}: give the benchmark's own files")
    if len({item.id for item in items}) < len(items):
        raise DataError(f"{place} has a question of {task} twice: leave one file out")
    return items


def _alignbench(folder: Path) -> Iterator[Item]:
    for file in _files(folder, "*.jsonl", "alignbench"):
        for where, row in rows(file):
            yield Item(
                _id(row, where), (field(row, "question", str, where),), field(row, "category", str, where),
                (field(row, "reference", str, where),),
            )  # fmt: skip


def _mt_bench(folder: Path) -> Iterator[Item]:
    references: dict[str, tuple[str, ...]] = {}
    for file in sorted((folder / "reference_answer").glob("*.jsonl")):
        references |= {_id(row, where): _answers(row, where) for where, row in rows(file)}
    for where, row in rows(_file(folder, "question.jsonl", "mt_bench")):
        turns = tuple(_texts(field(row, "turns", list, where), where))
        given = row.get("reference")
        given = tuple(_texts(given, where)) if isinstance(given, list) else references.get(_id(row, where), ())
        yield Item(_id(row, where), turns, field(row, "category", str, where), given)


def _arena_hard(folder: Path) -> Iterator[Item]:
    path = folder / "baseline.jsonl"
    if not path.exists():
        path = folder / "model_answer" / f"{ARENA_BASELINE}.jsonl"
    if not path.exists():
        found = sorted((folder / "model_answer").glob("*.jsonl"))
        if len(found) != 1:
            raise DataError(
                f"{folder} has no baseline to compare with: put its answers there as baseline.jsonl, such as Arena-Hard's "
                f"model_answer/{ARENA_BASELINE}.jsonl"
            )
        path = found[0]
    baseline = {_id(row, where): _answers(row, where) for where, row in rows(path)}
    for where, row in rows(_file(folder, "question.jsonl", "arena_hard")):
        id = _id(row, where)
        prompt = (
            row["prompt"] if isinstance(row.get("prompt"), str) else _texts(field(row, "turns", list, where), where)[0]
        )
        if not baseline.get(id):
            raise DataError(f"{path} has no answer to the question {id} of {where}: get the baseline's whole file")
        yield Item(id, (prompt,), str(row.get("category") or ""), baseline=baseline[id][-1])


def _alpaca_eval(folder: Path) -> Iterator[Item]:
    number = 0
    for file in _files(folder, "*.json", "alpaca_eval"):
        for where, row in rows(file):
            number += 1
            yield Item(
                str(number), (field(row, "instruction", str, where),), str(row.get("dataset") or ""),
                baseline=field(row, "output", str, where),
            )  # fmt: skip


def _penguinscrolls(folder: Path) -> Iterator[Item]:
    for question in penguinscrolls.read(folder):
        yield Item(question.id, (question.prompt,), question.group, (question.answer,), origin=question)


READERS: Mapping[str, Callable[[Path], Iterator[Item]]] = {
    "alignbench": _alignbench,
    "mt_bench": _mt_bench,
    "arena_hard": _arena_hard,
    "alpaca_eval": _alpaca_eval,
    "penguinscrolls": _penguinscrolls,
}


def _files(folder: Path, pattern: str, task: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(
            f"{folder} has no {pattern} of {task}: put the benchmark's file there, or into {task}/ below it"
        )
    return found


def _file(folder: Path, name: str, task: str) -> Path:
    return _files(folder, name, task)[0]


def _id(row: Record, where: str) -> str:
    """A question's name, whichever key holds it."""
    for key in ("question_id", "uid"):
        if isinstance(row.get(key), str | int):
            return str(row[key])
    raise DataError(f"{where}: no 'question_id' or 'uid': give the benchmark's own file")


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
