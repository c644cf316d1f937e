"""Problems over the sentences of a text: a word left out, and sentences out of order."""

import re
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER, item_errors
from model.data.synthesis.spans import Span

MASK = "____"
MOST_SENTENCES = 6
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])|(?<=[。！？])\s*")
_WORD = re.compile(r"[A-Za-z]{5,14}")


def sentences_of(span: Span, random: Random) -> Material | None:
    """The first whole sentences of a text, at most MOST_SENTENCES that follow each other; of Python, of its docstrings."""
    found: list[str] = []
    for part in prose_parts(span.text):
        flat = [" ".join(piece.split()) for piece in _SENTENCE_END.split(part)]
        run = [piece for piece in flat if _is_sentence(piece)]
        if len(run) > len(found):
            found = run[:MOST_SENTENCES]
    return {"sentences": found} if found and len(set(found)) == len(found) else None


def prose_parts(text: str) -> list[str]:
    """The paragraphs of a text; where it has Python's triple quotes, those inside them."""
    if '"""' in text:
        text = "\n\n".join(text.split('"""')[1::2])
    return [part for part in re.split(r"\n\s*\n", text) if ">>>" not in part]


def _is_sentence(text: str) -> bool:
    chinese = bool(re.search("[\u3400-\u9fff]", text))
    long_enough = 8 <= len(text) <= 120 if chinese else 5 <= text.count(" ") + 1 <= 32
    return long_enough and text[-1] in ".!?。！？" and MASK not in text and (chinese or text[0].isupper())


# --- cloze -----------------------------------------------------------------------------------------------------------


def cloze(material: Material, difficulty: int, random: Random) -> Problem | None:
    """A word that the text has at least twice is left out once, so that the rest tells it; harder: more sentences to search."""
    sentences = material["sentences"][: 1 + difficulty]
    text = " ".join(sentences)
    words = _WORD.findall(text)
    wanted = sorted({word for word in words if words.count(word) > 1})
    if not wanted:
        return None
    word = random.choice(wanted)
    places = [match.start() for match in re.finditer(rf"\b{word}\b", text)]
    if len(places) < 2:
        return None
    at = random.choice(places)
    blanked = text[:at] + MASK + text[at + len(word) :]
    others = tuple(sorted({other for other in words if other.lower() != word.lower()}))
    return Problem({"blanked": blanked}, word, {"kind": "cloze", "text": text, "blanked": blanked}, others=others)


CLOZE = Family(
    name="cloze",
    domain="text",
    templates=(
        "Which word belongs in the place of ____?\n\n{blanked}",
        "Fill in the missing word.\n\n{blanked}",
        "{blanked}\n\nOne word was replaced by ____. Which?",
        "A word is missing from this text: {blanked}\nName it.",
        "Complete the text with the word that stands elsewhere in it.\n\n{blanked}",
        "Read the passage and say what ____ stands for.\n\n{blanked}",
        "Ink has hidden a word, shown as ____: {blanked}\nWhat was it?",
        "Restore the blank.\n\n{blanked}",
    ),
    form=("Answer with that word alone; it occurs elsewhere in the text.", "Give one word, which the text uses again."),
    material=sentences_of,
    rare=True,
    problem=cloze,
    errors=OTHER_ANSWER,
    hardest=MOST_SENTENCES - 1,
)

# --- order -----------------------------------------------------------------------------------------------------------


def passage_of(span: Span, random: Random) -> Material | None:
    """Sentences, where there are enough to be shuffled."""
    material = sentences_of(span, random)
    return material if material and len(material["sentences"]) > 2 else None


def order(material: Material, difficulty: int, random: Random) -> Problem | None:
    """Sentences in another order; harder: more of them."""
    sentences = material["sentences"]
    original = sentences[: max(3, min(len(sentences), 2 + difficulty))]
    shown = list(original)
    while shown == original:
        random.shuffle(shown)
    answer = " ".join(str(shown.index(sentence) + 1) for sentence in original)
    listed = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(shown, start=1))
    return Problem({"listed": listed}, answer, {"kind": "order", "original": original, "shown": shown})


_ORDER_ERRORS: dict[str, Wrong] = {
    name: wrong for name, wrong in item_errors(" ").items() if name in ("swapped_items", "missing_item")
}

ORDER = Family(
    name="order",
    domain="text",
    templates=(
        "These sentences were shuffled. In which order did they stand?\n\n{listed}",
        "Put the sentences back in order.\n\n{listed}",
        "{listed}\n\nThe sentences above are mixed up. Restore their order.",
        "A passage fell apart into these sentences:\n{listed}\nHow do they follow each other?",
        "Order these sentences so that they make the original passage.\n\n{listed}",
        "Which sentence comes first, which next, and so on?\n\n{listed}",
        "Someone cut a paragraph into strips:\n{listed}\nLay them in the right order.",
        "Reconstruct the paragraph from its parts.\n\n{listed}",
    ),
    form=("Answer with the numbers in order, such as 2 1 3.", "Write only the numbers, with blanks between them."),
    material=passage_of,
    rare=True,
    problem=order,
    errors=_ORDER_ERRORS,
    hardest=MOST_SENTENCES - 2,
)
