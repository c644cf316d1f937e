"""Arithmetic in steps, each of which is checked, and the conversion of units, exact in decimals."""

import dataclasses
import operator
from collections.abc import Callable
from decimal import Decimal
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import NUMBER_ERRORS, off_by_one, plain, swapped_digits
from model.data.synthesis.spans import Span

OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
Move = tuple[str, int]


def no_material(span: Span, random: Random) -> Material:
    return {}


# --- arithmetic ------------------------------------------------------------------------------------------------------


def arithmetic(material: Material, difficulty: int, random: Random) -> Problem:
    """`difficulty` operations, from left to right, on numbers that grow with it."""
    most = 10 + 15 * difficulty
    start = random.randint(2, most)
    moves: list[Move] = []
    for _ in range(difficulty):
        sign = random.choice("++--*")
        moves.append((sign, random.randint(2, 9 if sign == "*" else most)))
    return _chain(start, moves)


def _chain(start: int, moves: list[Move], slip: tuple[int, int] | None = None) -> Problem:
    """The problem of these moves; with `slip` = (which, by how much) a step goes wrong, and all after it follow."""
    expression, value, steps = str(start), start, []
    for number, (sign, operand) in enumerate(moves):
        expression = f"{expression if number == 0 else f'({expression})'} {sign} {operand}"
        result = OPERATIONS[sign](value, operand)
        if slip is not None and slip[0] == number:
            result += slip[1]
        steps.append(f"{value} {sign} {operand} = {result}")
        value = result
    check = {"kind": "arithmetic", "expression": expression, "steps": True}
    return Problem({"expression": expression}, str(value), check, tuple(steps), details=(start, moves))


def wrong_step(problem: Problem, random: Random) -> Problem | None:
    start, moves = problem.details
    wrong = _chain(start, moves, (random.randrange(len(moves)), random.choice((-10, -2, -1, 1, 2, 10))))
    return dataclasses.replace(wrong, check=problem.check)


def wrong_step_alone(problem: Problem, random: Random) -> Problem | None:
    """The last number of a step before the final one is wrong, the final answer right: only a check of the steps sees it."""
    if len(problem.steps) < 2:
        return None
    at = random.randrange(len(problem.steps) - 1)
    left, _, right = problem.steps[at].rpartition(" = ")
    step = f"{left} = {int(right) + random.choice((-1, 1))}"
    return dataclasses.replace(problem, steps=(*problem.steps[:at], step, *problem.steps[at + 1 :]))


ARITHMETIC_ERRORS: dict[str, Wrong] = {
    "off_by_one": off_by_one, "swapped_digits": swapped_digits, "wrong_step": wrong_step,
    "wrong_step_right_answer": wrong_step_alone,
}  # fmt: skip

ARITHMETIC = Family(
    name="arithmetic",
    domain="mathematics",
    templates=(
        "Calculate {expression}.",
        "What is {expression}?",
        "Work out the value of {expression}.",
        "Evaluate the expression {expression}.",
        "A form holds the formula {expression}. Which number does it give?",
        "Find the result of {expression}.",
        "Someone typed {expression} into a calculator. What did it show?",
        "Determine {expression} by hand.",
    ),
    form=(
        "Write each step on a line of its own, then the answer.",
        "Show every step, one a line, and end with the result.",
    ),
    material=no_material,
    problem=arithmetic,
    errors=ARITHMETIC_ERRORS,
    closings=("The answer is {answer}.", "So the answer is {answer}."),
)

# --- units -----------------------------------------------------------------------------------------------------------

# By quantity, in the smallest of each: exact by definition of the units.
UNITS: dict[str, dict[str, int]] = {
    "length": {"millimetres": 1, "centimetres": 10, "metres": 1000, "kilometres": 1_000_000},
    "imperial length": {"inches": 1, "feet": 12, "yards": 36, "miles": 63_360},
    "mass": {"grams": 1, "kilograms": 1000, "tonnes": 1_000_000},
    "time": {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800},
    "volume": {"millilitres": 1, "centilitres": 10, "litres": 1000},
    "memory": {"bits": 1, "bytes": 8, "kilobytes": 8000, "megabytes": 8_000_000},
}
SINGULAR = {"inches": "inch", "feet": "foot"}
SCALES = {name: scale for units in UNITS.values() for name, scale in units.items()}


def units(material: Material, difficulty: int, random: Random) -> Problem:
    """A value in one unit, wanted in another; harder: more digits, and further units."""
    names = list(UNITS[random.choice(list(UNITS))])
    first = random.randrange(len(names))
    second = random.choice([i for i in range(len(names)) if i != first and abs(i - first) <= max(1, difficulty // 2)])
    large, small = names[max(first, second)], names[min(first, second)]
    value = Decimal(random.randint(2, 10**difficulty + 10))
    if difficulty > 2 and random.random() < 0.5:
        value = value / 4 + Decimal("0.5")
    ratio = SCALES[large] // SCALES[small]
    one = f"1 {SINGULAR.get(large, large.removesuffix('s'))} is {ratio} {small}"
    if first > second or set(str(ratio)) - set("10"):  # else the quotient would not end in decimals
        source, target, answer, step = large, small, value * ratio, f"{one}, so multiply by {ratio}."
    else:
        source, target, answer, step = small, large, value / ratio, f"{one}, so divide by {ratio}."
    check = {"kind": "unit", "value": plain(value), "from": source, "to": target}
    fields = {"value": plain(value), "source": source, "target": target}
    return Problem(fields, plain(answer), check, (step,))


UNIT_CONVERSION = Family(
    name="units",
    domain="mathematics",
    templates=(
        "Convert {value} {source} to {target}.",
        "How many {target} are {value} {source}?",
        "A label says {value} {source}. What is that in {target}?",
        "Express {value} {source} in {target}.",
        "I measured {value} {source}. Give me the figure in {target}.",
        "Write {value} {source} as {target}.",
        "In {target}, what do {value} {source} come to?",
        "The form asks for {target}, and I have {value} {source}. What do I fill in?",
    ),
    form=("Answer with the number in {target}, without rounding.", "Give the exact number of {target}."),
    material=no_material,
    problem=units,
    errors={name: NUMBER_ERRORS[name] for name in ("off_by_one", "factor_of_ten", "swapped_digits")},
    closings=("The answer is {answer}.", "So the answer is {answer}."),
)
