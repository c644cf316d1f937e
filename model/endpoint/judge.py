"""A model as a judge: scores of answers, and comparisons of two, asked in both orders.

Judges favour the answer that stands first, the longer one, and their own style (Zheng et al. 2023, arXiv:2306.05685): a
comparison is asked both ways round, and where the two verdicts differ it is a tie. Replies in which no verdict is found are
counted, never guessed and never left out of sight.

    scores(client, [Question(id, score_prompt(instruction, response)), ...])  -> Judgement(id, 1 to 10 or None, ...)
    compare(client, [Pair(id, instruction, first, second), ...])              -> Comparison(id, "first", "second", "tie", None)
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from model.endpoint.client import ChatRequest, Client

Value = TypeVar("Value")
Winner = Literal["first", "second", "tie"]

LOWEST, HIGHEST = 1.0, 10.0
SCORE = """\
Below are an instruction and a response to it. Judge how well the response does what the instruction asks for: whether it is \
correct, complete, clear, and free of anything invented. A wrong result is worth little, however well it is written.

First say in a few sentences what is right and what is wrong with it. Then end with a line of this form, where N is a whole \
number from 1 (useless or wrong) to 10 (nothing could be better):
Score: [[N]]

<instruction>
{instruction}
</instruction>

<response>
{response}
</response>"""
COMPARISON = """\
Below are an instruction and two responses to it, A and B. Judge which of them does better what the instruction asks for: \
which is correct, complete and clear. Neither their order nor their length matters in itself.

First say in a few sentences how they differ. Then end with a line that is [[A]] if A is better, [[B]] if B is better, and \
[[C]] if they are equally good.

<instruction>
{instruction}
</instruction>

<response A>
{a}
</response A>

<response B>
{b}
</response B>"""


@dataclass(frozen=True)
class Question:
    """What a judge is asked: one message of a user, or with a system message before it."""

    id: Any
    prompt: str
    system: str = ""

    def request(self, sample: int = 0) -> ChatRequest:
        messages = ({"role": "system", "content": self.system},) if self.system else ()
        return ChatRequest((*messages, {"role": "user", "content": self.prompt}), sample=sample, id=self.id)


@dataclass(frozen=True)
class Judgement(Generic[Value]):
    """What a judge said. `value` is None where nothing could be read of it; `problem` then says why."""

    id: Any
    value: Value | None
    text: str
    problem: str = ""
    unanswered: bool = False  # after all attempts; another run may try again


@dataclass(frozen=True)
class Pair:
    id: Any
    instruction: str
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """`orders` are the two verdicts: with the first response as A, then as B; None where one could not be read."""

    id: Any
    winner: Winner | None  # None: a verdict is missing
    orders: tuple[Winner | None, Winner | None]
    texts: tuple[str, str]
    problem: str = ""


@dataclass
class Tally:
    """Comparisons, counted."""

    first: int = 0
    second: int = 0
    ties: int = 0
    unparsed: int = 0
    disagreements: int = 0  # of the two orders, which made ties
    position_a: int = 0  # of them, those where A won both times

    def add(self, comparison: Comparison) -> None:
        if comparison.winner is None:
            self.unparsed += 1
            return
        self.first += comparison.winner == "first"
        self.second += comparison.winner == "second"
        self.ties += comparison.winner == "tie"
        self.disagreements += comparison.orders[0] != comparison.orders[1]
        self.position_a += comparison.orders == ("first", "second")


def judge(
    client: Client,
    questions: Iterable[Question],
    parse: Callable[[str], Value | None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Judgement[Value]]:
    """Each question's judgement, as they come in; `parse` finds the value in the text of a reply, or None."""
    for request, reply in client.ask((question.request() for question in questions), should_stop):
        value = parse(reply.text) if reply.usable else None
        problem = "" if value is not None else reply.reason or "no verdict in the reply"
        yield Judgement(request.id, value, reply.text, problem, reply.status == "unanswered")


def scores(
    client: Client, questions: Iterable[Question], should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Judgement[float]]:
    """Scores from 1 to 10; the questions are those of score_prompt, or others that ask for [[N]]."""
    return judge(client, questions, parse_score, should_stop)


def compare(
    client: Client,
    pairs: Iterable[Pair],
    *,
    prompt: Callable[[str, str, str], str] | None = None,
    system: str = "",
    parse: Callable[[str], Literal["A", "B", "tie"] | None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Comparison]:
    """Each pair's comparison, once both orders are judged. Ids are unique.

    `prompt(instruction, a, b)` words the question, and `parse` finds the verdict; by default this module's own.
    """
    asked: dict[Any, dict[bool, Judgement[str]]] = {}

    def questions() -> Iterator[Question]:
        for pair in pairs:
            asked[pair.id] = {}
            for swapped in (False, True):
                a, b = (pair.second, pair.first) if swapped else (pair.first, pair.second)
                yield Question((pair.id, swapped), (prompt or comparison_prompt)(pair.instruction, a, b), system)

    judged: Iterator[Judgement[str]] = judge(client, questions(), parse or parse_verdict, should_stop)
    for judgement in judged:
        id, swapped = judgement.id
        asked[id][swapped] = judgement
        if len(asked[id]) == 2:
            both = asked.pop(id)
            yield _comparison(id, both[False], both[True])


def _comparison(id: Any, straight: Judgement[str], swapped: Judgement[str]) -> Comparison:
    places: tuple[dict[str | None, Winner], dict[str | None, Winner]] = (
        {"A": "first", "B": "second", "tie": "tie"},
        {"A": "second", "B": "first", "tie": "tie"},
    )
    one, two = places[0].get(straight.value), places[1].get(swapped.value)
    winner: Winner | None = None
    if one is not None and two is not None:
        winner = one if one == two else "tie"
    return Comparison(id, winner, (one, two), (straight.text, swapped.text), straight.problem or swapped.problem)


def score_prompt(instruction: str, response: str) -> str:
    return SCORE.format(instruction=instruction, response=response)


def comparison_prompt(instruction: str, a: str, b: str) -> str:
    return COMPARISON.format(instruction=instruction, a=a, b=b)


_NUMBER = r"(-?\d+(?:\.\d+)?)"
_MARKED = re.compile(r"\[\[\s*" + _NUMBER + r"\s*(?:/\s*10)?\s*\]\]")
_NAMED = re.compile(r"(?:score|rating|评分|得分)\W{0,8}?" + _NUMBER + r"(?!\s*(?:-|–|to\b)\s*\d)", re.IGNORECASE)
_VERDICT = re.compile(r"\[\[\s*(A|B|C|A\s*[<>]{1,2}\s*B|B\s*[<>]{1,2}\s*A|[AB]\s*=\s*[AB]|tie)\s*\]\]", re.IGNORECASE)


def parse_score(text: str, lowest: float = LOWEST, highest: float = HIGHEST) -> float | None:
    """The last [[N]] of a reply, else the "score" of a JSON object, else the last "Score: N"; None outside the range."""
    if found := _MARKED.findall(text):
        value = float(found[-1])
    elif (given := _json_score(text)) is not None:
        value = given
    elif found := _NAMED.findall(text):
        value = float(found[-1])
    else:
        return None
    return value if lowest <= value <= highest else None


def _json_score(text: str) -> float | None:
    for match in reversed(re.findall(r"\{[^{}]*\}", text)):
        try:
            value = json.loads(match).get("score")
        except ValueError:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def parse_verdict(text: str) -> Literal["A", "B", "tie"] | None:
    """The last [[A]], [[B]] or [[C]] of a reply; also [[A>B]], [[B>>A]], [[A=B]] and [[tie]], as other prompts ask for."""
    found = _VERDICT.findall(text)
    if not found:
        return None
    last = "".join(found[-1].split()).upper()
    if last in ("C", "TIE") or "=" in last:
        return "tie"
    if len(last) == 1:
        return "A" if last == "A" else "B"
    return "A" if (last[0] == "A") == (">" in last) else "B"
