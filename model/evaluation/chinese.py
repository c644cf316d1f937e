"""C3 and CMATH, two Chinese benchmarks of the report that lm-eval has no task for, from local files.

C3 (arXiv:1904.09679): multiple choice on dialogues and texts; the likeliest of the letters counts, as in lm-eval's cmmlu.
CMATH (arXiv:2306.16636): arithmetic of six school years; the last number of the answer is compared with the right one.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.evaluation.documents import Document
from model.evaluation.rows import rows
from model.files import read_json

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def c3_documents(folder: Path, limit: int | None = None) -> list[Document]:
    """From rows {context, question, choice, answer}, or from the authors' [[texts], [questions], id]."""
    documents: list[Document] = []
    for where, context, item in _c3_items(_find(folder, "c3")):
        choices = item.get("choice")
        if not isinstance(choices, list) or not 2 <= len(choices) <= 4 or item.get("answer") not in choices:
            raise DataError(f"{where}: a question needs two to four in `choice`, and one of them as `answer`")
        letters = "ABCD"[: len(choices)]
        shown = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
        right = letters[choices.index(item["answer"])]
        documents.append(
            Document(
                task="c3",
                index=len(documents),
                prompt=f"{context}\n问题：{item.get('question')}\n{shown}\n答案：",
                target=right,
                score=partial(_is_right, right),
                choices=tuple(letters),
            )
        )
        if len(documents) == limit:
            break
    return documents


def _is_right(right: str, chosen: str) -> dict[str, float]:
    return {"acc": float(chosen == right)}


def _is_number(golden: Fraction, reply: str) -> dict[str, float]:
    return {"exact_match": float(number(reply) == golden)}


def _c3_items(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(where, text, question) of each."""
    if path.suffix == ".json":
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}): get it again") from error
        if isinstance(found, list) and all(isinstance(entry, list) and len(entry) >= 2 for entry in found):
            for number, (texts, questions, *_) in enumerate(found, start=1):
                yield from ((f"{path}, record {number}", _text(texts), question) for question in questions)
            return
    for where, row in rows(path):
        yield where, _text(row.get("context")), row


def _text(context: Any) -> str:
    return "\n".join(context) if isinstance(context, list) else str(context or "")


def cmath_documents(folder: Path, limit: int | None = None) -> list[Document]:
    """From rows {question, golden} with, where they are there, grade, reasoning_step and num_digits."""
    documents: list[Document] = []
    for where, row in rows(_find(folder, "cmath")):
        question, golden = row.get("question"), number(str(row.get("golden", "")))
        if not isinstance(question, str) or golden is None:
            raise DataError(f"{where}: a problem needs a `question`, and a number as `golden`")
        documents.append(
            Document(
                task="cmath",
                index=len(documents),
                prompt=f"问题：{question}\n答案：",
                target=str(row["golden"]),
                score=partial(_is_number, golden),
                room=256,
                until=("问题：",),
                facts={key: row[key] for key in ("grade", "reasoning_step", "num_digits") if key in row},
            )
        )
        if len(documents) == limit:
            break
    return documents


def number(text: str) -> Fraction | None:
    """The last number of a text: full-width digits, thousands, decimals, fractions and percent are understood."""
    found = NUMBER.findall(unicodedata.normalize("NFKC", text))
    if not found:
        return None
    last = found[-1].replace(",", "")
    try:
        value = Fraction(last.removesuffix("%"))
    except ZeroDivisionError:
        return None
    return value / 100 if last.endswith("%") else value


def _find(folder: Path, task: str) -> Path:
    """The file of a task: DIR/TASK.jsonl or .json, or the test split, else the development one, in DIR/TASK."""
    suffixes = (".jsonl", ".json", ".parquet")
    for stem in (folder / task, *(folder / task / split for split in ("test", "validation", "dev", "train"))):
        for suffix in suffixes:
            if (path := stem.with_name(stem.name + suffix)).is_file():
                return path
    raise DataError(f"{folder} has no data of {task}: put it there as {task}.jsonl, or as {task}/test.jsonl")
