"""The scores of RULER as NVIDIA's program computes them.

github.com/NVIDIA/RULER, commit c3f5e3b, scripts/eval/evaluate.py and scripts/eval/synthetic/constants.py. A reply is
stripped, its control characters (0 to 31) become line ends, and it is stripped again. A reference is found where it stands
anywhere in the reply, upper and lower case alike. A sample's score is the share of its references that are found; of a
question (qa) 1 if any is. The mean over samples is in percent, rounded to two digits; empty replies are counted as nulls.
"""

import re
from collections.abc import Sequence

from model.errors import DataError

NEEDLE_TASKS = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery",
)  # fmt: skip
NAMES = (*NEEDLE_TASKS, "vt", "cwe", "fwe", "qa_1", "qa_2")
FAMILIES = ("niah", "variable_tracking", "common_words_extraction", "freq_words_extraction", "qa")


def score(task: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Percent over all samples, and how many replies were empty.

    Args:
        task: one of the 13 names, or of NVIDIA's five families.
        predictions: replies as they were generated.
        references: of each sample all its answers.

    Raises DataError for an unknown task, no samples, or a sample without answers.
    """
    _check(task)
    if not predictions or len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} replies and {len(references)} lists of references of {task}: give one list for each reply"
        )
    scores = [score_one(task, reply, found) for reply, found in zip(predictions, references, strict=True)]
    return round(sum(scores) / len(scores) * 100, 2), sum(cleaned(reply) == "" for reply in predictions)


def score_one(task: str, prediction: str, references: Sequence[str]) -> float:
    """The score of one reply, from 0 to 1."""
    _check(task)
    if not references:
        raise DataError(f"a sample of {task} has no references: give at least one")
    reply = cleaned(prediction).lower()
    answers = [references] if isinstance(references, str) else references
    found = [answer.lower() in reply for answer in answers]
    return float(any(found)) if task.startswith("qa") else sum(found) / len(found)


def cleaned(prediction: str) -> str:
    """A reply as it is searched: stripped, control characters as line ends, stripped again."""
    return re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip()


def _check(task: str) -> None:
    if task not in NAMES and task not in FAMILIES:
        raise DataError(f"RULER has no task '{task}': choose of {', '.join(NAMES)}")
