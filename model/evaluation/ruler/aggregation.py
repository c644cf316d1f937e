"""Variable tracking, and the words that a long list has most often.

vt    VAR A = 1, VAR B = VAR A, ...: which variables have the value; a chain of 4 hops, so of 5 names
cwe   a list in which 10 words stand 30 times each and all others 3 times; below 4,096 tokens 6 times and once
fwe   words by the zeta law with exponent 2: which 3 are the most frequent; the most frequent of all is "...", and not counted
"""

import math

import model.evaluation.ruler.words as words
from model.evaluation.ruler.draft import Draft, Items, Source, Task, insert

CONSONANTS = "bcdfghjklmnpqrstvwxz"  # names of these alone are no English words, which a reply may hold anyway
ZETA_2 = math.pi**2 / 6


def track(items: Items, count: int, source: Source) -> Draft:
    rng = source("variables")
    new_name = words.letters(rng, items["letters"], CONSONANTS.upper())
    names = [new_name() for _ in range(items["hops"] + 1)]
    value = rng.randrange(10_000, 100_000)
    values = [str(value), *(f"VAR {name}" for name in names)]
    chain = [f"VAR {name} = {value}." for name, value in zip(names, values, strict=False)]
    pieces, marks = insert([words.NOISE] * count, list(zip(source.depths(len(chain)), chain, strict=True)))
    return Draft(
        opening="" if items.get("terse") else "Follow the variables in this text.\n",
        pieces=pieces,
        closing=f"\nWhich {len(names)} variables have the value {value}? They are",
        answers=names,
        marks=marks,
    )


def common_words(items: Items, count: int, source: Source) -> Draft:
    rng = source("words")
    distinct = items["words"] + 1 + count
    new_word = words.nouns(rng) if distinct < len(words.NOUNS) * 0.8 else words.keys(rng)
    often = [new_word() for _ in range(items["words"])]
    entries = often * items["often"] + [new_word() for _ in range(1 + count)] * items["seldom"]
    rng.shuffle(entries)
    number = items["words"]
    return Draft(
        opening="" if items.get("terse") else f"Find the {number} most frequent words of this list.\n",
        pieces=[f"{place}. {word}" for place, word in enumerate(entries, start=1)],
        closing=f"\nThe {number} most frequent words of the list are",
        answers=often,
    )


def frequent_words(items: Items, count: int, source: Source) -> Draft:
    rng = source("words")
    top = items["top"]
    new_word = words.letters(rng, items["letters"], CONSONANTS)
    counts = zeta_counts(count, top)
    ranked = ["...", *(new_word() for _ in counts[1:])]
    text = [word for word, times in zip(ranked, counts, strict=True) for _ in range(times)]
    rng.shuffle(text)
    number = f"{top} most frequent words" if top > 1 else "most frequent word"
    return Draft(
        opening="" if items.get("terse") else f"Find the {number} of this text; dots are no words.\n",
        pieces=text,
        closing=f"\nThe {number} of the text {'are' if top > 1 else 'is'}",
        answers=ranked[1 : top + 1],
    )


def zeta_counts(total: int, top: int) -> list[int]:
    """How often each rank occurs in a text of about `total` words, from rank 1: the zeta law with exponent 2, rounded.

    Ranks 1 to top + 2 are made different where rounding made them equal, so that the question has one answer.
    """
    ranks = max(top + 2, int(math.sqrt(2 * total / ZETA_2)))
    counts = [round(total / ZETA_2 / rank**2) for rank in range(1, ranks + 1)]
    counts = [times for rank, times in enumerate(counts) if times or rank < top + 2]
    for rank in range(top + 1, -1, -1):
        counts[rank] = max(counts[rank], counts[rank + 1] + 1 if rank <= top else 1)
    return counts


_WORDS = ({"words": 10, "often": 30, "seldom": 3}, {"words": 10, "often": 6, "seldom": 1})
_FEWER_WORDS = [
    {"words": n, "often": often, "seldom": 1} for n, often in ((8, 4), (5, 4), (5, 3), (3, 3), (2, 3), (2, 2))
]
_CHAINS = [{"hops": hops, "letters": size} for hops, size in ((4, 5), (3, 5), (2, 5), (2, 3), (1, 3))]
_FREQUENT = [{"top": top, "letters": size} for top, size in ((3, 6), (3, 3), (2, 3), (1, 3))]

AGGREGATION = {
    "vt": Task(track, [*_CHAINS, _CHAINS[-1] | {"terse": 1}], room=30),
    "cwe": Task(common_words, [*_WORDS, *_FEWER_WORDS, _FEWER_WORDS[-1] | {"terse": 1}], room=120),
    "fwe": Task(frequent_words, [*_FREQUENT, _FREQUENT[-1] | {"terse": 1}], room=50),
}
