"""Checks: what recomputes a record's answer without its response, by kind. record.py lists the kinds and their keys.

    verify({"kind": "arithmetic", "expression": "6 * 7"}, "The answer is 41.") -> "the answer is 42, not 41"

A check is one function: (check, response) -> the reason why they disagree, "" where they agree. To add a kind, write the
function and put it into KINDS, or into EXECUTED where it has to run a program; nothing else knows the kinds.
The answers are computed here a second time, with nothing of the code that made the problems: each is the other's oracle.
"""

import ast
import contextlib
import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from model.data.confinement import Outcome
from model.data.synthesis.answers import final_answer, number, read
from model.data.synthesis.expressions import evaluate

Check = Mapping[str, Any]
Run = Callable[[str], Outcome]  # a confined execution of a program

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Of each unit, so much of the smallest of its quantity, exactly.
UNITS = {
    "millimetres": Fraction(1), "centimetres": Fraction(10), "metres": Fraction(1000), "kilometres": Fraction(10**6),
    "inches": Fraction(254, 10), "feet": Fraction(3048, 10), "yards": Fraction(9144, 10), "miles": Fraction(1609344),
    "grams": Fraction(1), "kilograms": Fraction(1000), "tonnes": Fraction(10**6),
    "seconds": Fraction(1), "minutes": Fraction(60), "hours": Fraction(3600), "days": Fraction(86400),
    "weeks": Fraction(604800),
    "millilitres": Fraction(1), "centilitres": Fraction(10), "litres": Fraction(1000),
    "bits": Fraction(1), "bytes": Fraction(8), "kilobytes": Fraction(8000), "megabytes": Fraction(8 * 10**6),
}  # fmt: skip
_WRITTEN = {name: read(f"1 {name}").unit for name in UNITS}  # as an answer's unit is read
_STEP = re.compile(r"^[\s\d.,()+*/×÷·−–-]*\d[\s\d.,()+*/×÷·−–-]*=[\s\d.,()+*/×÷·=−–-]*\d\.?$")
# The same within a sentence: numbers with signs between them, and what they are said to make.
_INLINE_STEP = re.compile(
    r"(?<![\w.,)])((?:\(*\d[\d,.]*\)*\s*[+*/×÷·−–-]\s*)+\(*\d[\d,.]*\)*)\s*=\s*(-?\d+(?:[.,]\d+)*)"
    r"(?![\w/%^(]|[.,]\d|\s*(?:[+*/×÷·=−–-]|r\b|rem|with))"
)
# What stands before a number, or a name, that a response does not settle on.
_UNSETTLED = re.compile(
    r"(?:\b(?:or|and|not|than|except|maybe|perhaps)|n't|[<>≤≥≠]|或者?|和|不是|不等于)[\s:]*(?:a |an )?$", re.I
)
MOST_HOPS = 10_000
_FENCE = re.compile(r"```[^\n]*\n(.*?)\n?```", re.DOTALL)


class CheckError(ValueError):
    """A check that cannot be recomputed: of an unknown kind, without one of its keys, or with a value of another kind."""


def needs_execution(check: Check) -> bool:
    return check.get("kind") in EXECUTED


def verify(check: Check, response: str, run: Run | None = None) -> str:
    """Why a response disagrees with its check, "" where it agrees. A check that executes needs `run`. Raises CheckError."""
    kind = check.get("kind")
    try:
        if kind in KINDS:
            return KINDS[kind](check, response)
        if kind in EXECUTED and run is not None:
            return EXECUTED[kind](check, response, run)
    except KeyError as error:
        raise CheckError(f"the check '{kind}' lacks the key {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, IndexError, RecursionError) as error:
        raise CheckError(f"the check '{kind}' cannot be recomputed ({error})") from error
    raise CheckError(f"there is no check of the kind '{kind}': the kinds are {', '.join((*KINDS, *EXECUTED))}")


# --- what a response says ---------------------------------------------------------------------------------------------


def _lines(response: str) -> list[str]:
    return [line.strip() for line in response.strip().splitlines() if line.strip()] or [""]


def _said(response: str) -> list[str]:
    """What may be the answer of a response: what it calls so, or its last line."""
    final = final_answer(response)
    return [final] if final != response.strip() else [final, _lines(response)[-1]]


def _number_agrees(wanted: Fraction, response: str) -> str:
    """Compares with the number that a response gives as its answer, or its last one."""
    value = next((found for said in _said(response) if (found := number(said)) is not None), None)
    if value is None:
        text = _said(response)[-1].replace("−", "-")
        numbers = list(re.finditer(r"-?\d[\d,]*(?:\.\d+)?", text))
        if numbers and _UNSETTLED.search(text[: numbers[-1].start()]):
            return f"the response does not settle on one number: '{text[:80]}'"
        value = number(numbers[-1][0]) if numbers else None
    if value is None:
        return "the response gives no number"
    if value == wanted or _rounded(wanted, value):
        return ""
    return f"the answer is {_shown(wanted)}, not {_shown(value)}"


def _rounded(wanted: Fraction, value: Fraction) -> bool:
    """Whether a value is a number without an end in decimals, rounded to three or more of its digits."""
    denominator = wanted.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator == 1:
        return False
    return any(round(wanted, digits) == value and abs(value) * 10**digits >= 100 for digits in range(1, 16))


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 or len(str(value)) < 12 else f"{float(value):.10g}"


def _text_agrees(wanted: str, response: str) -> str:
    """Compares with the answer of a response word by word; case matters in none of the texts asked for but code."""
    if any(read(said).text == read(wanted).text for said in _said(response)):
        return ""
    return f"the answer is '{wanted[:80]}', not '{_said(response)[-1][:80]}'"


def _items(text: str) -> list[str]:
    """The entries of a list on one line, in brackets and quotes or without."""
    inside = re.sub(r"^[\[({]|[\])}]\.?$|\.$", "", text.strip())
    return [item.strip().strip("'\"`") for item in inside.split(",")]


def _list_agrees(wanted: list[str], response: str, *, ordered: bool) -> str:
    def same(found: list[str]) -> bool:
        left, right = (_plain_items(items) for items in (wanted, found))
        return left == right if ordered else sorted(left) == sorted(right)

    bullets = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line) for line in _lines(response)]
    if any(same(_items(said)) for said in _said(response)) or (len(wanted) > 1 and same(bullets)):
        return ""
    return f"the answer is '{', '.join(wanted)[:120]}', not '{_said(response)[-1][:120]}'"


def _plain_items(items: list[str]) -> list[str]:
    return [str(value) if (value := number(item)) is not None else item for item in items]


# --- kinds that are recomputed ----------------------------------------------------------------------------------------


def arithmetic(check: Check, response: str) -> str:
    """With "steps", also every line such as 3 + 4 = 7 must be true."""
    if check.get("steps"):
        for step in _steps(response):
            values = [evaluate(side) for side in step.rstrip(".").split("=")]
            if any(value != values[0] and not _rounded(values[0], value) for value in values):
                return f"the step '{step[:80]}' is wrong"
    return _number_agrees(evaluate(str(check["expression"])), response)


def _steps(response: str) -> Iterator[str]:
    """Lines such as 3 + 4 = 7, and such steps within sentences; one that a sign comes before is a part of another."""
    for line in _lines(response):
        if _STEP.match(line):
            yield line
            continue
        for found in _INLINE_STEP.finditer(line):
            with contextlib.suppress(ValueError):
                if not re.search(r"[+*/×÷·−–^-]$", line[: found.start()].rstrip()):
                    evaluate(found[1])
                    yield f"{found[1]} = {found[2]}"


def unit(check: Check, response: str) -> str:
    wanted, said = _WRITTEN[check["to"]], read(_said(response)[0]).unit
    if said != wanted and said in _WRITTEN.values():
        return f"the answer is in {check['to']}, not in {said}"
    return _number_agrees(evaluate(str(check["value"])) * UNITS[check["from"]] / UNITS[check["to"]], response)


def _day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def _settled(found: Iterable[re.Match[str]]) -> str:
    """The last of the matches, "" where there is none, or where it is one of several or denied."""
    last = next(reversed(list(found)), None)
    return "" if last is None or _UNSETTLED.search(last.string[: last.start()]) else last[0]


def date(check: Check, response: str) -> str:
    wanted = (_day(check["start"]) + datetime.timedelta(days=int(check["days"]))).isoformat()
    found = _settled(re.finditer(r"\d{4}-\d{2}-\d{2}", _said(response)[-1]))
    return "" if found == wanted else f"the answer is {wanted}, not '{_said(response)[-1][:80]}'"


def weekday(check: Check, response: str) -> str:
    wanted = WEEKDAYS[_day(check["date"]).weekday()]
    found = _settled(re.finditer("|".join(WEEKDAYS), _said(response)[-1].lower()))
    return "" if found == wanted else f"the answer is {wanted.title()}, not '{_said(response)[-1][:80]}'"


def days_between(check: Check, response: str) -> str:
    return _number_agrees(Fraction((_day(check["end"]) - _day(check["start"])).days), response)


def count(check: Check, response: str) -> str:
    """Letters, words or lines of a text; without "unit" a part of the text, or an entry of a list."""
    text, item, what = check["text"], str(check["item"]), check.get("unit")
    if isinstance(text, list) or what in ("word", "line"):
        parts = text if isinstance(text, list) else text.splitlines() if what == "line" else text.split()
        found = [str(part) for part in parts].count(item)
    else:
        found = text.count(item)
    return _number_agrees(Fraction(found), response)


def sort(check: Check, response: str) -> str:
    """Without "order", numbers from the smallest and words by the alphabet."""
    items = [str(item) for item in check["items"]]
    order = check.get("order") or ("ascending" if all(number(item) is not None for item in items) else "alphabetical")
    keys: dict[str, Callable[[str], Any]] = {
        "ascending": Fraction, "descending": Fraction, "alphabetical": str, "length": lambda item: (len(item), item)
    }  # fmt: skip
    return _list_agrees(sorted(items, key=keys[order], reverse=order == "descending"), response, ordered=True)


def sets(check: Check, response: str) -> str:
    left, right, operation = set(check["left"]), set(check["right"]), check["operation"]
    results = {
        "union": left | right, "intersection": left & right, "difference": left - right, "symmetric_difference": left ^ right
    }  # fmt: skip
    return _list_agrees(sorted(results[operation]), response, ordered=False)


def lookup(check: Check, response: str) -> str:
    place = check["key"]
    if int(check["hops"]) > MOST_HOPS:
        raise ValueError(f"more than {MOST_HOPS:,} hops")
    for _ in range(int(check["hops"])):
        place = check["table"][place]
    return _text_agrees(place, response)


def order(check: Check, response: str) -> str:
    shown = list(check["shown"])
    wanted = [shown.index(sentence) + 1 for sentence in check["original"]]
    found = [int(digits) for digits in re.findall(r"\d+", _said(response)[-1])]
    return "" if found == wanted else f"the answer is '{' '.join(map(str, wanted))}', not '{_said(response)[-1][:80]}'"


def cloze(check: Check, response: str) -> str:
    before, _, after = check["blanked"].partition("____")
    text = check["text"]
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError("blanked is not the text with a blank")
    return _text_agrees(text[len(before) : len(text) - len(after)], response)


def _function(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    found = ast.parse(source).body[0]
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError("it is no function")
    return found


def signature(check: Check, response: str) -> str:
    """The same name, parameters, defaults and annotations, however they are spaced."""
    wanted = _function(check["source"])
    lines = [line for line in _lines(response.replace("```python", "").replace("```", "")) if "def " in line]
    try:
        found = _function(f"{lines[-1].strip('`')}\n pass")
    except (SyntaxError, TypeError, IndexError, ValueError):
        return "the response has no line that begins a function"
    parts = [(node.name, ast.dump(node.args), node.returns and ast.dump(node.returns)) for node in (wanted, found)]
    return "" if parts[0] == parts[1] else f"the signature of '{wanted.name}' is another"


def docstring(check: Check, response: str) -> str:
    wanted = (ast.get_docstring(_function(check["source"])) or "").strip().partition("\n")[0]
    found = " ".join(response.strip().strip("\"'`").split())
    return "" if found == " ".join(wanted.split()) else f"the docstring begins '{wanted[:80]}', not '{found[:80]}'"


# --- kinds that run a program -----------------------------------------------------------------------------------------


def python_stdout(check: Check, response: str, run: Run) -> str:
    """What the program prints is the response, or a block in it, or what follows a first line that ends in a colon."""
    outcome = run(check["program"])
    if not _ended_well(outcome):
        return f"the program did not end well ({outcome.status}: {outcome.reason})"
    wanted, text = _output(outcome.stdout), response.strip("\n")
    first, _, rest = text.partition("\n")
    said = [text, *_FENCE.findall(text)[-1:], *([rest] if first.rstrip().endswith((":", "：")) else [])]
    final = final_answer(text)
    if final != text.strip():
        said.append(final.strip("`"))
    if any(_output(part) == wanted for part in said):
        return ""
    return f"the program prints {wanted[:80]!r}, not {text[:80]!r}"


def _ended_well(outcome: Outcome) -> bool:
    return outcome.status == "ok" or (outcome.status == "exit" and outcome.reason.startswith("called exit(0)"))


def _output(text: str) -> str:
    """Without blanks at the ends of lines and empty lines at both ends."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).strip("\n")


def bug(check: Check, response: str, run: Run) -> str:
    """The number of the one line in which the program, which fails, differs from the fixed one, which does not."""
    program, fixed = check["program"], check["fixed"]
    pairs = zip(program.split("\n"), fixed.split("\n"), strict=True)
    different = [line for line, (left, right) in enumerate(pairs, start=1) if left != right]
    if len(different) != 1:
        raise ValueError("the programs differ in more lines than one, or in none")
    if reason := _number_agrees(Fraction(different[0]), response):
        return reason
    if (outcome := run(fixed)).status != "ok":
        return f"the fixed program fails ({outcome.reason})"
    return "the program has no error" if run(program).status == "ok" else ""


KINDS: dict[str, Callable[[Check, str], str]] = {
    "arithmetic": arithmetic, "unit": unit, "date": date, "weekday": weekday, "days_between": days_between,
    "count": count, "sort": sort, "set": sets, "lookup": lookup, "order": order, "cloze": cloze, "signature": signature,
    "docstring": docstring,
}  # fmt: skip
EXECUTED: dict[str, Callable[[Check, str, Run], str]] = {"python_stdout": python_stdout, "bug": bug}
