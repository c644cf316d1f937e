"""A function with one wrong operator, and an assertion that fails: in which line is the mistake?

The function is a list of steps, written as Python and carried out here, so it is known which change of an operator shows.
"""

import dataclasses
import keyword
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER
from model.data.synthesis.families.words import words_of

ARITHMETIC: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
COMPARISON: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne
}  # fmt: skip

TAKEN = ("items", "item", "result")  # names of the program


@dataclass(frozen=True)
class Step:
    """One line with an operator: `result = result SIGN operand`, or an addition of the items that satisfy a comparison."""

    kind: str  # "change", "filter" or "each"
    sign: str
    operand: int

    def lines(self) -> list[str]:
        if self.kind == "change":
            return [f"    result = result {self.sign} {self.operand}"]
        if self.kind == "each":
            return ["    for item in items:", f"        result = result {self.sign} item"]
        return [
            "    for item in items:",
            f"        if item {self.sign} {self.operand}:",
            "            result = result + item",
        ]

    def run(self, result: int, items: Sequence[int]) -> int:
        if self.kind == "change":
            return ARITHMETIC[self.sign](result, self.operand)
        if self.kind == "each":
            for item in items:
                result = ARITHMETIC[self.sign](result, item)
            return result
        return result + sum(item for item in items if COMPARISON[self.sign](item, self.operand))

    @property
    def line(self) -> int:
        """Which of its lines has the operator."""
        return 0 if self.kind == "change" else 1


def _run(steps: Sequence[Step], start: int, items: Sequence[int]) -> int:
    result = start
    for step in steps:
        result = step.run(result, items)
    return result


def _text(name: str, steps: Sequence[Step], start: int, items: Sequence[int], wanted: int) -> str:
    body = [line for step in steps for line in step.lines()]
    head = [f"def {name}(items):", f"    result = {start}"]
    return "\n".join([*head, *body, "    return result", "", f"assert {name}({list(items)}) == {wanted}"])


def _step(random: Random) -> Step:
    kind = random.choice(("change", "change", "each", "filter"))
    signs = {"change": "+-*", "each": "+-"}.get(kind)
    return Step(kind, random.choice(signs) if signs else random.choice(list(COMPARISON)), random.randint(2, 9))


def bug(material: Material, difficulty: int, random: Random) -> Problem | None:
    """`difficulty` + 1 steps, each with an operator; one operator is another, and the result shows it."""
    name = random.choice(material["words"])
    if keyword.iskeyword(name) or name in TAKEN:
        name = "compute"
    items, start = random.sample(range(1, 15), 4), random.randint(0, 5)
    steps = [_step(random) for _ in range(difficulty + 1)]
    at = random.randrange(len(steps))
    signs = COMPARISON if steps[at].kind == "filter" else ARITHMETIC
    sign = random.choice([other for other in signs if other != steps[at].sign])
    broken = [*steps[:at], dataclasses.replace(steps[at], sign=sign), *steps[at + 1 :]]
    wanted = _run(steps, start, items)
    if _run(broken, start, items) == wanted or abs(wanted) > 100_000:
        return None
    before = sum(len(step.lines()) for step in steps[:at])
    line = 3 + before + steps[at].line  # after the head and the first value, counted from 1
    program, fixed = (_text(name, which, start, items, wanted) for which in (broken, steps))
    others = tuple(str(number) for number in range(2, program.count("\n")) if number != line)
    check = {"kind": "bug", "program": program, "fixed": fixed}
    right = fixed.split("\n")[line - 1].strip()
    return Problem({"program": program, "right": right}, str(line), check, others=others)


_BUG_ERRORS: dict[str, Wrong] = OTHER_ANSWER

BUG = Family(
    name="bug",
    domain="code",
    templates=(
        "The assertion fails because of one wrong operator. The line should read `{right}`. Which line is it?\n\n{program}",
        "{program}\n\nOne operator is wrong, and the correct line is `{right}`. Give the number of the wrong line.",
        "This test fails. Replace one line by `{right}` and it passes. Which one?\n\n{program}",
        "Find the line with the mistake; it was meant to be `{right}`.\n\n{program}",
        "In the program below one line must become `{right}`. Which number does it have?\n\n{program}",
        "Debug this. The right code has `{right}` somewhere.\n\n{program}\n\nWhere?",
        "A typing mistake changed the line `{right}`. Locate it in the program.\n\n{program}",
        "Which line of this code has to be changed to `{right}` for the assertion to hold?\n\n{program}",
    ),
    form=("Answer with the number of the line, counted from 1.", "Lines are counted from 1; give the number."),
    material=words_of,
    problem=bug,
    errors=_BUG_ERRORS,
    closings=("The answer is {answer}.", "So the answer is {answer}."),
    executes=True,
)
