"""Errors that are planted into answers, by kind of answer; each gives a wrong one, or None where it cannot."""

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from random import Random

from model.data.synthesis.families.base import Problem, Wrong


def answered(problem: Problem, answer: str) -> Problem | None:
    """The problem with another answer; None where that is no error."""
    return None if answer == problem.answer else dataclasses.replace(problem, answer=answer)


def plain(value: Decimal) -> str:
    """A number without exponent, trailing zeros, or a sign of zero."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def off_by_one(problem: Problem, random: Random) -> Problem | None:
    return answered(problem, plain(Decimal(problem.answer) + random.choice((-1, 1))))


def sign(problem: Problem, random: Random) -> Problem | None:
    return answered(problem, plain(-Decimal(problem.answer)))


def factor_of_ten(problem: Problem, random: Random) -> Problem | None:
    factor = random.choice((Decimal(10), Decimal("0.1")))
    return answered(problem, plain(Decimal(problem.answer) * factor))


def swapped_digits(problem: Problem, random: Random) -> Problem | None:
    """Two neighbouring digits change places; a number does not begin with 0."""
    digits = problem.answer
    places = [
        i
        for i in range(len(digits) - 1)
        if digits[i : i + 2].isdigit() and digits[i] != digits[i + 1] and not (digits[i + 1] == "0" and i == 0)
    ]
    if not places:
        return None
    at = random.choice(places)
    return answered(problem, digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :])


def _items(change: Callable[[list[str], int], list[str]], separator: str) -> Wrong:
    def wrong(problem: Problem, random: Random) -> Problem | None:
        items = problem.answer.split(separator)
        if len(items) < 2:
            return None
        return answered(problem, separator.join(change(items, random.randrange(len(items) - 1))))

    return wrong


def item_errors(separator: str) -> dict[str, Wrong]:
    """Errors of an answer that is a list."""
    return {
        "swapped_items": _items(lambda items, at: [*items[:at], items[at + 1], items[at], *items[at + 2 :]], separator),
        "missing_item": _items(lambda items, at: items[:at] + items[at + 1 :], separator),
        "repeated_item": _items(lambda items, at: [*items[: at + 1], items[at], *items[at + 2 :]], separator),
    }


def other_answer(problem: Problem, random: Random) -> Problem | None:
    """One of the answers that look right."""
    others = [other for other in problem.others if other != problem.answer]
    return answered(problem, random.choice(others)) if others else None


NUMBER_ERRORS: dict[str, Wrong] = {
    "off_by_one": off_by_one, "sign": sign, "factor_of_ten": factor_of_ten, "swapped_digits": swapped_digits
}  # fmt: skip
OTHER_ANSWER: dict[str, Wrong] = {"other_answer": other_answer}
