"""Counting, sorting and sets over the words and numbers of a text."""

import itertools
import re
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER, item_errors, off_by_one
from model.data.synthesis.spans import Span

WORD = re.compile(r"[A-Za-z]{3,12}")
MOST_WORDS = 16
OPERATIONS = {
    "union": "in the first list, the second, or both",
    "intersection": "in both lists",
    "difference": "in the first list but not in the second",
    "symmetric_difference": "in exactly one of the two lists",
}


def words_of(span: Span, random: Random) -> Material | None:
    """Up to MOST_WORDS different words of the text, in lower case."""
    found = sorted({word.lower() for word in WORD.findall(span.text)})
    if len(found) < 8:
        return None
    return {"words": random.sample(found, min(MOST_WORDS, len(found)))}


# --- counting --------------------------------------------------------------------------------------------------------


def count(material: Material, difficulty: int, random: Random) -> Problem:
    """A letter in a line of words, or a word that is repeated; harder: longer lines."""
    words = [random.choice(material["words"]) for _ in range(3 + 3 * difficulty)]
    if random.random() < 0.5:
        words += [words[0]] * random.randint(1, difficulty)
        random.shuffle(words)
        item, unit = random.choice(words), "word"
    else:
        item, unit = random.choice("".join(words)), "letter"
    text = " ".join(words)
    number = words.count(item) if unit == "word" else text.count(item)
    check = {"kind": "count", "text": text, "item": item, "unit": unit}
    return Problem({"text": text, "item": item, "unit": unit}, str(number), check)


COUNT = Family(
    name="count",
    domain="text",
    templates=(
        "How often does the {unit} '{item}' stand in this line?\n\n{text}",
        "Count the {unit} '{item}' in the following text.\n\n{text}",
        "Line: {text}\n\nHow many times is the {unit} '{item}' in it?",
        "In the text below, how many times does the {unit} '{item}' occur?\n\n{text}",
        "{text}\n\nGo through these words and count every {unit} '{item}'.",
        "Find the number of times the {unit} '{item}' appears here: {text}",
        "Read this: {text}\nNow say how many times you saw the {unit} '{item}'.",
        "Tally the {unit} '{item}': {text}",
    ),
    form=("Answer with a number.", "Give the count as a whole number."),
    material=words_of,
    problem=count,
    errors={"off_by_one": off_by_one},
    closings=("The answer is {answer}.", "So the answer is {answer}."),
)

# --- sorting ---------------------------------------------------------------------------------------------------------

_ORDERS = {
    "alphabetical": "in alphabetical order",
    "length": "from the shortest to the longest, equally long ones in alphabetical order",
    "ascending": "from the smallest to the largest",
    "descending": "from the largest to the smallest",
}


def sort(material: Material, difficulty: int, random: Random) -> Problem:
    """Words or numbers; harder: more of them."""
    size, order = 2 + 2 * difficulty, random.choice(list(_ORDERS))
    if order in ("ascending", "descending"):
        numbers = random.sample(range(-20 * difficulty, 10 ** min(4, difficulty + 1)), size)
        result = [str(number) for number in sorted(numbers, reverse=order == "descending")]
        items = [str(number) for number in numbers]
    else:
        items = random.sample(material["words"], min(size, len(material["words"])))
        result = sorted(items) if order == "alphabetical" else sorted(items, key=lambda word: (len(word), word))
    check = {"kind": "sort", "items": items, "order": order}
    return Problem({"items": ", ".join(items), "order": _ORDERS[order]}, ", ".join(result), check)


SORT = Family(
    name="sort",
    domain="data",
    templates=(
        "Sort these {order}: {items}",
        "Put the following {order}.\n\n{items}",
        "Arrange {items} {order}.",
        "Here is a list: {items}. Write it {order}.",
        "{items}\n\nRewrite this list {order}.",
        "Order the entries {order}: {items}",
        "Given {items}, list them {order}.",
        "A shelf holds {items}. Line them up {order}.",
    ),
    form=("Separate the items by commas.", "Write all items on one line, with commas between them."),
    material=words_of,
    problem=sort,
    errors=item_errors(", "),
)

# --- sets ------------------------------------------------------------------------------------------------------------


def sets(material: Material, difficulty: int, random: Random) -> Problem | None:
    """Two lists that share some words; harder: longer ones."""
    pool = random.sample(material["words"], min(len(material["words"]), 4 + 2 * difficulty))
    size = max(2, 2 * len(pool) // 3)
    left, right = random.sample(pool, size), random.sample(pool, size)
    operation = random.choice(list(OPERATIONS))
    result = sorted(getattr(set(left), operation)(right))
    if len(result) < 2:
        return None
    check = {"kind": "set", "left": left, "right": right, "operation": operation}
    fields = {"left": ", ".join(left), "right": ", ".join(right), "which": OPERATIONS[operation]}
    absent = [word for word in material["words"] if word not in result]
    others = tuple(", ".join(sorted({*result[1:], word})) for word in absent[:3])
    return Problem(fields, ", ".join(result), check, others=others)


_SET_ERRORS: dict[str, Wrong] = {"missing_item": item_errors(", ")["missing_item"], **OTHER_ANSWER}

SETS = Family(
    name="sets",
    domain="data",
    templates=(
        "First list: {left}. Second list: {right}. Which words are {which}?",
        "List every word that is {which}.\n\n1: {left}\n2: {right}",
        "Compare two lists.\nFirst: {left}\nSecond: {right}\nGive the words {which}.",
        "Of the lists ({left}) and ({right}), name all words {which}.",
        "Here are two lists of words.\n{left}\n{right}\nWhat is {which}?",
        "Ana has the first list, {left}. Ben has the second list, {right}. Which words are {which}?",
        "Write down what is {which}. First list: {left}; second list: {right}.",
        "Two tables have these keys: {left} in the first list, and {right} in the second. Find the keys {which}.",
    ),
    form=("Answer in alphabetical order, with commas.", "Sort the words by the alphabet and put commas between them."),
    material=words_of,
    problem=sets,
    errors=_SET_ERRORS,
)

# --- look-up ---------------------------------------------------------------------------------------------------------


def lookup(material: Material, difficulty: int, random: Random) -> Problem:
    """A table that leads from word to word; harder: more steps through a longer table."""
    words = random.sample(material["words"], min(len(material["words"]), 5 + 2 * difficulty))
    following = [*words[1:], words[0]]
    pairs = list(zip(words, following, strict=True))
    random.shuffle(pairs)
    hops, start = min(difficulty, len(words) - 1), random.randrange(len(words))
    path = [words[(start + hop) % len(words)] for hop in range(hops + 1)]
    steps = tuple(f"{a} leads to {b}." for a, b in itertools.pairwise(path)) if hops > 1 else ()
    table = dict(pairs)
    shown = "\n".join(f"{key}: {value}" for key, value in pairs)
    times = "once" if hops == 1 else f"{hops} times in a row"
    check = {"kind": "lookup", "table": table, "key": path[0], "hops": hops}
    others = tuple(word for word in words if word != path[-1])
    return Problem({"table": shown, "key": path[0], "times": times}, path[-1], check, steps, others)


LOOKUP = Family(
    name="lookup",
    domain="data",
    templates=(
        "Look up {key} in this table {times}. What do you get?\n\n{table}",
        "{table}\n\nStart at {key} and follow the table {times}. Where do you arrive?",
        "Each line leads from a key to a value.\n{table}\nBegin with {key} and look up {times}.",
        "Use the table below to replace {key} {times}.\n\n{table}",
        "A map of words:\n{table}\nWhich word is reached from {key} by following it {times}?",
        "Follow the arrows of this list {times}, beginning at {key}.\n{table}",
        "Table:\n{table}\n\nTake {key} and apply the table {times}. Name the word.",
        "These lines say which word comes next.\n{table}\nGo on from {key} {times}.",
    ),
    form=("End with the word alone.", "The last line of the answer is that word."),
    material=words_of,
    problem=lookup,
    errors=OTHER_ANSWER,
    closings=("{answer}", "The answer is {answer}."),
)
