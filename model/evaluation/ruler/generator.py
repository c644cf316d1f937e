"""Samples of RULER's 13 tasks for any tokenizer and length, in time linear in the length.

arXiv:2404.06654. The tasks are RULER's; words, documents and wording are ours, so that nothing is downloaded. A text is
built with some number of pieces of filler and counted in tokens; from that the right number follows in a few steps, the
last one or two at full length. What a piece is too long for is filled with single words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from model.errors import DataError
from model.evaluation.ruler.aggregation import AGGREGATION
from model.evaluation.ruler.draft import Draft, Source, Task
from model.evaluation.ruler.needles import NEEDLES
from model.evaluation.ruler.questions import QUESTIONS
from model.tokenizer.interface import TextTokenizer

TASKS: dict[str, Task] = NEEDLES | AGGREGATION | QUESTIONS
FULL_CWE = 4096  # tokens from which cwe repeats its words 30 and 3 times, as NVIDIA's does
SLACK = 0.03  # of the length: how near to it a text comes
SPREAD = 1.15  # by how much the shortest samples of a task differ
PROBE, GROWTH = 16, 64  # pieces of the first trial; how many times as many the next may be


@dataclass(frozen=True)
class Sample:
    """One prompt with its answers."""

    task: str
    length: int  # asked for; prompt, reserved tokens and room together are 95 to 100% of it
    index: int
    prompt: str
    references: list[str]
    tokens: int  # of the prompt, with what the tokenizer puts around it
    room: int  # tokens for the answer: NVIDIA's number, but at most an eighth of the length unless the answer has more
    depth: tuple[
        float, ...
    ]  # of each piece that the answer needs: 0 at the beginning, 1 at the end; () for cwe and fwe
    items: dict[str, int]  # what the text holds, such as {"keys": 4, "digits": 7}; terse: without instructions
    filler: int  # pieces of it: sentences, needles, words
    reduced: bool  # whether that is less than RULER's, because the length is short

    @property
    def id(self) -> str:
        return f"{self.task}/{self.length}/{self.index}"


def generate(
    task: str, tokenizer: TextTokenizer, *, length: int, index: int = 0, seed: int = 0, reserved: int = 0
) -> Sample:
    """The sample of that number: a pure function of the arguments and of what the tokenizer computes.

    One index has the same keys, answers and depths at every length, so that lengths are compared on the same questions.

    Args:
        length: tokens of the prompt and its answer together, 64 to 256K and more.
        reserved: tokens of the length to leave to others, such as a chat template's.

    Raises DataError for an unknown task, or with the shortest length that would do.
    """
    if task not in TASKS:
        raise DataError(f"RULER has no task '{task}': choose of {', '.join(TASKS)}")
    source = Source(seed, task, index)

    def size(draft: Draft, padding: int = 0) -> int:
        return len(tokenizer.encode_prompt(draft.text(padding)))

    levels = list(TASKS[task].items)
    if task == "cwe" and length < FULL_CWE:
        levels = levels[1:]
    for items in levels:
        least = TASKS[task].build(items, 0, source)
        answer = len(tokenizer.encode(" " + ", ".join(least.answers))) + 2
        free = length - reserved - size(least)
        if free >= answer:
            break
    else:
        shortest = math.ceil(SPREAD * (length - free + answer))
        raise DataError(
            f"{task} does not fit into {length:,} tokens with this tokenizer: give --lengths from {shortest:,} on"
        )
    room = max(answer, min(TASKS[task].room, length // 8, free))
    budget, slack = length - room - reserved, int(SLACK * length)
    count, tokens = fill(lambda pieces: size(TASKS[task].build(items, pieces, source)), budget, slack)
    draft, padding = TASKS[task].build(items, count, source), 0
    if budget - tokens > slack:
        padding, tokens = fill(lambda words: size(draft, words), budget, 0)
    return Sample(
        task=task,
        length=length,
        index=index,
        prompt=draft.text(padding),
        references=list(draft.answers),
        tokens=tokens,
        room=room,
        depth=draft.depths(),
        items=dict(items),
        filler=count,
        reduced=items != TASKS[task].items[0],
    )


def fill(size: Callable[[int], int], budget: int, slack: int) -> tuple[int, int]:
    """A number and its size, which is within the budget, and within `slack` of it or else the largest; size(0) fits.

    The size is taken to grow with the number, nearly in proportion: trials go to where the last two point, aiming at half of
    the slack, and stay between the largest number that fits and the smallest that does not.
    """
    low, low_size = 0, size(0)
    high, guess = None, PROBE
    while budget - low_size > slack and (high is None or high - low > 1):
        guess = max(guess, low + 1) if high is None else min(max(guess, low + 1), high - 1)
        found = size(guess)
        slope = (found - low_size) / (guess - low)
        target = low + int((budget - slack / 2 - low_size) / slope) if slope > 0 else 2 * guess
        if found > budget:
            high = guess
        else:
            low, low_size = guess, found
        guess = min(target, GROWTH * guess)
    return low, low_size
