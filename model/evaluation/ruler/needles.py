"""The eight retrieval tasks: what was said of a key somewhere in a long text.

name        haystack   key     value     needles
single_1    noise      words   number    1
single_2    prose      words   number    1
single_3    prose      words   code      1
multikey_1  prose      words   number    1 of 4 is asked for
multikey_2  needles    words   number    1 of all is asked for
multikey_3  needles    code    code      1 of all is asked for
multivalue  prose      words   number    4 of one key
multiquery  prose      words   number    4, all asked for
"""

from functools import partial

import model.evaluation.ruler.words as words
from model.evaluation.ruler.draft import Draft, Items, Source, Task, insert

_NUMBERS: tuple[Items, ...] = ({"digits": 7}, {"digits": 4})
_CODES: tuple[Items, ...] = ({"digits": 32}, {"digits": 8}, {"digits": 4})
_TWO_KEYS = {"keys": 2}  # at least: one besides the key that is asked for


def build(haystack: str, keys: str, values: str, items: Items, count: int, source: Source) -> Draft:
    """`queries` keys are asked for, each with `values` values; `keys` are in the text, or more if it is made of needles."""
    rng = source("needles")
    digits, queries, per_key = items["digits"], items.get("queries", 1), items.get("values", 1)
    noun = "code" if values == "code" else "number"
    new_value = words.codes(rng, digits) if values == "code" else words.numbers(rng, digits)
    new_key = new_value if keys == "code" else words.keys(rng)  # codes are drawn together: no key is another's value
    if haystack == "noise":
        filler = [words.NOISE] * count
    elif haystack == "prose":
        prose = source("prose")
        filler = [words.sentence(prose) for _ in range(count)]
    asked = [new_key() for _ in range(queries)]
    wanted = [(key, new_value()) for key in asked for _ in range(per_key)]
    depths = source.depths(len(wanted))
    order = rng.sample(range(len(wanted)), len(wanted))
    placed = [
        (depth, f"The {noun} of {wanted[i][0]} is {wanted[i][1]}.") for depth, i in zip(depths, order, strict=True)
    ]
    others = [
        (rng.random(), f"The {noun} of {new_key()} is {new_value()}.")
        for _ in range(items.get("keys", queries) - queries)
    ]
    if haystack == "needles":
        filler = [f"The {noun} of {new_key()} is {new_value()}." for _ in range(count)]
    needles = sorted(placed + others)
    pieces, places = insert(filler, needles)
    marks = [place for place, needle in zip(places, needles, strict=True) if needle in placed]
    listed = asked[0] if queries == 1 else f"{', '.join(asked[:-1])} and {asked[-1]}"
    several = queries * per_key > 1
    question = f"What {f'are all the {noun}s' if several else f'is the {noun}'} of {listed}? "
    terse = items.get("terse", 0)
    return Draft(
        opening="" if terse else f"Remember the {noun}s in this text.\n",
        pieces=pieces,
        closing=f"\n{'' if terse else question}The {noun}{'s' if several else ''} of {listed} "
        f"{'are' if several else 'is'}",
        answers=[value for _, value in wanted],
        marks=marks,
    )


def _task(haystack: str, keys: str, values: str, *items: Items) -> Task:
    return Task(partial(build, haystack, keys, values), [*items, items[-1] | {"terse": 1}], room=128)


NEEDLES = {
    "niah_single_1": _task("noise", "words", "number", *_NUMBERS),
    "niah_single_2": _task("prose", "words", "number", *_NUMBERS),
    "niah_single_3": _task("prose", "words", "code", *_CODES),
    "niah_multikey_1": _task(
        "prose", "words", "number", {"keys": 4, "digits": 7}, {"keys": 2, "digits": 7}, {"keys": 2, "digits": 4}
    ),
    "niah_multikey_2": _task("needles", "words", "number", *(_TWO_KEYS | items for items in _NUMBERS)),
    "niah_multikey_3": _task("needles", "code", "code", *(_TWO_KEYS | items for items in _CODES)),
    "niah_multivalue": _task(
        "prose", "words", "number", {"values": 4, "digits": 7}, {"values": 2, "digits": 7}, {"values": 2, "digits": 4}
    ),
    "niah_multiquery": _task(
        "prose",
        "words",
        "number",
        {"queries": 4, "digits": 7},
        {"queries": 2, "digits": 7},
        {"queries": 2, "digits": 4},
        {"queries": 2, "digits": 3},
    ),
}
