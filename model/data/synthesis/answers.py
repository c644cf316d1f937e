"""Answers that are one though they are written differently: 1,000 = 1000, 0.5 = 1/2 = .5, \\boxed{7} = 7, 5 km = 5 kilometres.

    final_answer(response) -> the part of a response that is its answer
    read(answer) -> Answer(value, unit, text), equal for equal answers
    majority(candidates) -> the candidate that more than half of them agree with

Self-consistency: Wang et al., arXiv:2203.11171. Here a tie, or a lead without a majority, is no answer.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

MOST_DIGITS = 400  # of a number; beyond it a text is a text
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"([+-]?)\s*({_PLAIN})(?:[eE]([+-]?\d{{1,3}})|\s*(?:\*|x|\\times|\\cdot)\s*10\^\{{?([+-]?\d{{1,3}})\}}?)?"
)
_RATIO = re.compile(r"([+-]?)\s*(?:(\d+)\s+)?(\d+)\s*/\s*(\d+)")
_LATEX_RATIO = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SHORT_RATIO = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)")  # \frac12
_SHORT_BOX = re.compile(r"\\boxed(?:\s+(\w+(?:\.\d+)?)|(\d))(?![\w/,^%]|\.\d)")  # of one thing, without braces
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle)\b|~")
_SAID = re.compile(r"\banswer\b(?:\s+is\b|\s*[:=])[:\s]*|答案\s*(?:是|为|為|[:：=])\s*", re.IGNORECASE)
_NAMED = re.compile(r"^[A-Za-z]\w*\s*=\s*(?=\S)")
_CURRENCY = {"$": "$", "\\$": "$", "€": "€", "£": "£", "¥": "¥"}
_UNITS = {
    "mm": "millimetre millimeter", "cm": "centimetre centimeter", "m": "metre meter", "km": "kilometre kilometer",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram", "kg": "kilogram kilo",
    "t": "tonne ton", "s": "second sec", "min": "minute", "h": "hour hr", "d": "day", "l": "litre liter",
    "ml": "millilitre milliliter", "%": "percent", "$": "dollar usd", "€": "euro eur", "£": "pound gbp", "°": "degree",
    "km/h": "kph kmh", "mph": "mi/h",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in (unit, *words.split())}


class Answer(NamedTuple):
    """What an answer says: a number with or without a unit, or a text. Equal answers are equal tuples."""

    value: Fraction | None
    unit: str
    text: str


def final_answer(response: str) -> str:
    """What follows the last \\boxed, ####, or "the answer is" of a response; the whole of it where there is none."""
    text = _SHORT_BOX.sub(r"\\boxed{\1\2}", response.strip())
    if (boxed := _boxed(text)) is not None:
        return boxed.strip()
    if "####" in text:
        return _first_line(text.rpartition("####")[2])
    said = list(_SAID.finditer(text))
    if said and (rest := _first_line(text[said[-1].end() :])):
        return re.split(r"(?<=[^\d])\.\s|(?<=\d)\.\s+(?=[^\d])|[!?。！？](?:\s|$)", rest)[0].rstrip(" .。")
    return text


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _boxed(text: str) -> str | None:
    """The argument of the last \\boxed, whose braces may hold others."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def number(text: str) -> Fraction | None:
    """The number that a text is, exactly; None where it is anything else."""
    return read(text).value


def read(answer: str) -> Answer:
    """What an answer says, whichever way it is written; one of several lines is a text."""
    if "\n" in answer.strip():
        return Answer(None, "", "\n".join(" ".join(line.split()) for line in answer.strip().splitlines()))
    text = _plain(answer)
    unit = ""
    body = text.strip("*`_\"' ").rstrip(".。 ")
    for sign, name in _CURRENCY.items():
        if re.match(rf"-?{re.escape(sign)}\s*[\d.]", body):
            body, unit = body.replace(sign, "", 1), name
    for side in (body, _NAMED.sub("", body), body.rpartition("=")[2].strip()):
        if side and (found := _value_and_unit(side)):
            return Answer(found[0], found[1] or unit, "")
    return Answer(None, "", _words(body))


def _plain(text: str) -> str:
    """Without the marks of LaTeX and the variants of Unicode."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$")
    text = _SHORT_RATIO.sub(r" \1/\2", text)
    text = _LATEX_RATIO.sub(r" \1/\2", _LATEX_TEXT.sub(r" \1 ", _LATEX_SPACE.sub(" ", text))).replace("{,}", ",")
    text = text.replace("\\%", "%").replace("\\(", "").replace("\\)", "").replace("^\\circ", "°")
    text = unicodedata.normalize("NFKC", re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text))
    for sign in "−–‒﹣":
        text = text.replace(sign, "-")
    return " ".join(text.replace("⁄", "/").replace("×", "*").split())


def _value_and_unit(text: str) -> tuple[Fraction, str] | None:
    """A number and the unit behind it, "" where there is none; None for any other text."""
    ratio = _RATIO.match(text)
    if ratio and len(text) <= MOST_DIGITS and int(ratio[4]):
        value = int(ratio[2] or 0) + Fraction(int(ratio[3]), int(ratio[4]))
        return _with_unit(-value if ratio[1] == "-" else value, text[ratio.end() :])
    found = _NUMBER.match(text)
    if not found or len(found[0]) > MOST_DIGITS:
        return None
    value = Fraction(re.sub(r"[ ,]", "", found[2]).removesuffix(".")) * Fraction(10) ** int(found[3] or found[4] or 0)
    return _with_unit(-value if found[1] == "-" else value, text[found.end() :])


def _with_unit(value: Fraction, rest: str) -> tuple[Fraction, str] | None:
    rest = rest.strip().rstrip(".").strip()
    if not rest:
        return value, ""
    if not re.fullmatch(r"[^\W\d_%°]{1,20}(?:[ /][^\W\d_]{1,20}){0,2}(?:\^?[23²³])?|[%°](?: ?[CFK])?", rest):
        return None
    word = rest.casefold()
    return value, _UNIT_OF.get(word) or _UNIT_OF.get(word.removesuffix("s")) or word.removesuffix("s")


def _words(text: str) -> str:
    text = re.sub(r"\s*([,;])\s*", r"\1", text.casefold()).strip("*`_\"' .。")
    return re.sub(r"^\((\w)\)$", r"\1", text)


def majority(candidates: Sequence[str]) -> str | None:
    """The first candidate of the answer that more than half of the candidates give; None where there is none.

    A number without a unit agrees with the same number in the one unit that others give it.
    """
    answers = [read(final_answer(candidate)) for candidate in candidates]
    answers = [_in_the_unit(answer, answers) for answer in answers]
    counts = Counter(answer for answer in answers if answer != Answer(None, "", ""))
    if not counts:
        return None
    winner, votes = counts.most_common(1)[0]
    return candidates[answers.index(winner)] if 2 * votes > len(candidates) else None


def _in_the_unit(answer: Answer, answers: Sequence[Answer]) -> Answer:
    if answer.value is None or answer.unit:
        return answer
    units = {other.unit for other in answers if other.value == answer.value and other.unit}
    return answer._replace(unit=units.pop()) if len(units) == 1 else answer
