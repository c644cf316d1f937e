"""Questions on documents: qa_1 needs one document, as SQuAD's do, and qa_2 two, as HotpotQA's do.

NVIDIA takes both data sets from the network. These documents are made up, so that no model has read them.
"""

import model.evaluation.ruler.words as words
from model.evaluation.ruler.draft import Draft, Items, Source, Task, insert


def one_document(items: Items, count: int, source: Source) -> Draft:
    rng = source("documents")
    person, town = words.people(rng), words.towns(rng)

    def document(name: str, place: str) -> str:
        return f"{name} keeps a {rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)} and lives in {place}."

    name, answer = person(), town()
    wanted = document(name, answer)
    filler = [document(person(), town()) for _ in range(count)]
    question = "" if items.get("terse") else f"In which town does {name} live? "
    return _draft(items, filler, [wanted], source, f"{question}{name} lives in", answer)


def two_documents(items: Items, count: int, source: Source) -> Draft:
    rng = source("documents")
    person, town = words.people(rng), words.towns(rng)
    worker, employer, answer = person(), person(), town()
    wanted = [f"{worker} works for {employer}.", f"{employer} lives in {answer}."]
    rng.shuffle(wanted)
    filler: list[str] = []
    while len(filler) < count:
        name = person()
        filler += [f"{person()} works for {name}.", f"{name} lives in {town()}."]
    question = "" if items.get("terse") else f"In which town does the person live for whom {worker} works? "
    return _draft(items, filler[:count], wanted, source, f"{question}The employer of {worker} lives in", answer)


def _draft(items: Items, filler: list[str], wanted: list[str], source: Source, closing: str, answer: str) -> Draft:
    source("order").shuffle(filler)
    pieces, marks = insert(filler, list(zip(source.depths(len(wanted)), wanted, strict=True)))
    terse = items.get("terse", 0)
    return Draft(
        opening="" if terse else "Answer from these documents.\n",
        pieces=pieces if terse else [f"Document {place}: {text}" for place, text in enumerate(pieces, start=1)],
        closing=f"\n{closing}",
        answers=[answer],
        marks=marks,
        joint="\n",
    )


_ONE: list[Items] = [{"documents": 1}, {"documents": 1, "terse": 1}]
_TWO: list[Items] = [{"documents": 2}, {"documents": 2, "terse": 1}]
QUESTIONS = {"qa_1": Task(one_document, _ONE, room=32), "qa_2": Task(two_documents, _TWO, room=32)}
