"""PenguinScrolls: 1,316 questions on long documents in four groups, marked by a judge model.

Program and data: github.com/Penguin-Scrolls/PenguinScrolls, commit 7b4749b. A judge answers in JSON, an objective question
with {"eval_label": "Correct" or "Incorrect"}, a subjective one with {"eval_score": 1 to 100}.

    parse(reply)          the mark of 0 to 1 in a judge's reply, None where there is none
    read(folder)          the questions
    judge_prompt(q, r)    what to ask a judge about a response (the wording is ours, the JSON is theirs)
    overall(marks)        the means by group, the report's mean of the four, the board's mean of all; what had no mark

The authors drop replies without a mark from their averages. Here each is counted: `unparsed` stands beside every mean, and
`overall_if_wrong` is the mean of all with each of them as 0.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.evaluation.rows import field, rows

GROUPS = ("Information Extraction", "Information Localization", "Qualitative Analysis", "Numerical Reasoning")
ITEMS = (420, 278, 305, 313)  # of each group in the released data
FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One item; `prompt` holds document and question, as it is given to the model."""

    id: str
    group: str
    kind: str  # the group within the group
    question: str
    prompt: str
    answer: str
    subjective: bool
    tokens: int | None  # of the prompt, as the data says


def parse(reply: str) -> float | None:
    """The mark in a judge's reply, from 0 to 1; None where there is no JSON with one.

    As the authors': "Correct" is 1, any other label 0; a score is divided by 100. The JSON may be the whole reply, a fenced
    block, or, where theirs gives up, stand among other words. A score off the scale is no mark.
    """
    for text in (reply, *FENCE.findall(reply), *_braces(reply)):
        try:
            value = json.loads(text, strict=False)  # judges write line breaks within strings
        except (ValueError, RecursionError):
            continue
        mark = _mark(value)
        if mark is not None:
            return mark
    return None


def _braces(reply: str) -> Iterator[str]:
    start, end = reply.find("{"), reply.rfind("}")
    if 0 <= start < end:
        yield reply[start : end + 1]


def _mark(value: Any) -> float | None:
    if not isinstance(value, dict):
        return None
    label, score = value.get("eval_label"), value.get("eval_score")
    if isinstance(label, str) and label.strip():
        return 1.0 if label.strip().lower() == "correct" else 0.0
    if isinstance(score, str):
        try:
            score = float(score)
        except ValueError:
            return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    return score / 100 if math.isfinite(score) and 0 <= score <= 100 else None


def read(path: str | Path) -> list[Question]:
    """The questions of a file, or of a folder's files (.jsonl, .json or .parquet) by name.

    Raises DataError for a missing path, a damaged record, or one question twice.
    """
    path = Path(path)
    kinds = (".jsonl", ".json", ".parquet")
    files = sorted(p for p in path.iterdir() if p.suffix in kinds) if path.is_dir() else [path]
    if not files or not path.exists():
        raise DataError(f"{path} holds no {', '.join(kinds)} file: give the folder of PenguinScrolls' data")
    questions: dict[str, Question] = {}
    for where, record in (row for file in files for row in rows(file)):
        text = {key: field(record, key, str, where) for key in ("question", "prompt", "answer", "input_md5")}
        if text["input_md5"] in questions:
            raise DataError(f"{where}: the question {text['input_md5']} is there twice: leave one file out")
        tokens = record.get("token_count")
        questions[text["input_md5"]] = Question(
            id=text["input_md5"],
            group=field(record, "first_level_tag", str, where),
            kind=str(record.get("second_level_tag") or ""),
            question=text["question"],
            prompt=text["prompt"],
            answer=text["answer"],
            subjective=bool(field(record, "is_subjective", (bool, int, float), where)),
            tokens=int(tokens) if isinstance(tokens, int | float) and math.isfinite(tokens) else None,
        )
    return list(questions.values())


def judge_prompt(question: Question, response: str) -> str:
    """What to ask a judge; its reply is for `parse`."""
    if question.subjective:
        task = (
            "Mark the response from 1 to 100. Half of the mark is accuracy: what it says agrees with the reference, figures "
            "and order included; a clear error of fact leaves at most 60 for this half. Half is completeness: 10 less for each "
            "main point of the reference that is missing. One fault counts in one half only."
        )
        form = '{"eval_analysis": "why, in two or three sentences", "eval_score": the mark}'
    else:
        task = (
            "Decide whether the response is correct: whether its conclusion is that of the reference. Its length and style do "
            "not count."
        )
        form = '{"eval_analysis": "why, in two or three sentences", "eval_label": "Correct" or "Incorrect"}'
    return (
        f"{task}\n\n[question]\n{question.question}\n\n[reference]\n{question.answer}\n\n[response]\n{response}\n\n"
        f"Answer with JSON alone, of this form: {form}"
    )


def overall(marks: Iterable[tuple[str, float | None]]) -> dict[str, Any]:
    """Percent by group and over all, of (group, mark) pairs; a mark of None is a reply without one.

    "mean_of_groups" is how the report averages (85.235, printed 85.23), "mean_of_items" how the public board does.
    """
    by_group: dict[str, list[float | None]] = {}
    for group, mark in marks:
        by_group.setdefault(group, []).append(mark)
    every = [mark for group in by_group.values() for mark in group]
    groups = {group: _summary(found) for group, found in by_group.items()}
    means = [summary["score"] for summary in groups.values()]
    whole = _summary(every)
    return {
        "groups": groups,
        "mean_of_groups": sum(means) / len(means) if means and None not in means else None,
        "mean_of_items": whole["score"],
        "overall_if_wrong": 100 * sum(mark or 0.0 for mark in every) / len(every) if every else None,
        "unparsed": whole["unparsed"],
        "n": len(every),
    }


def _summary(marks: list[float | None]) -> Mapping[str, Any]:
    found = [mark for mark in marks if mark is not None]
    score = 100 * sum(found) / len(found) if found else None
    return {"score": score, "n": len(marks), "unparsed": len(marks) - len(found)}
