"""Documents of our own tasks: each is asked with a text, or with choices, and scores the answer itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.evaluation.asking import Model, Prompt
from model.evaluation.loglikelihood import Question
from model.evaluation.record import Sample


@dataclass(frozen=True)
class Document:
    """One document. With `choices` the likeliest one is the answer, by log-likelihood; without, a text is generated."""

    task: str
    index: int
    prompt: str
    target: Any
    score: Callable[[str], Mapping[str, float]]  # metric -> 0 to 1, of the text or of the chosen choice
    room: int = 0  # tokens of the text
    until: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    length: int | None = None
    depth: Sequence[float] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def ask_documents(model: Model, documents: Sequence[Document], *, chat: bool = False) -> list[Sample]:
    """The samples of documents, all with choices or all without, in order."""
    if not documents:
        return []
    ids = [prompt_ids(model, document.prompt, chat=chat) for document in documents]
    if documents[0].choices:
        return _choose(model, documents, ids)
    stops = model.engine.template.stop_strings if chat else ()
    replies = model.generate([
        Prompt(prompt, document.room, (*document.until, *stops))
        for prompt, document in zip(ids, documents, strict=True)
    ])  # fmt: skip
    return [
        _sample(document, [reply.text], reply.text, reply.cut, null=not reply.text.strip())
        for document, reply in zip(documents, replies, strict=True)
    ]


def prompt_ids(model: Model, text: str, *, chat: bool) -> list[int]:
    """A text as the model is to go on with it, or as a user's message that it is to answer."""
    if not chat:
        return model.encode([text])[0]
    return model.engine.template.encode([{"role": "user", "content": text}], model.tokenizer)


def _choose(model: Model, documents: Sequence[Document], ids: list[list[int]]) -> list[Sample]:
    questions = [
        Question(context, [model.tokenizer.encode(choice) for choice in document.choices])
        for context, document in zip(ids, documents, strict=True)
    ]
    samples = []
    for document, scored in zip(documents, model.choose(questions), strict=True):
        values = [answer.logprob for answer in scored.answers]
        chosen = document.choices[values.index(max(values))]  # of several alike the first
        samples.append(_sample(document, [list(answer) for answer in scored.answers], chosen, scored.cut))
    return samples


def _sample(document: Document, answers: list[Any], answer: str, cut: int, null: bool = False) -> Sample:
    return Sample(
        task=document.task,
        index=document.index,
        prompt=document.prompt,
        answers=answers,
        target=document.target,
        scores=document.score(answer),
        length=document.length,
        depth=tuple(document.depth),
        choices=document.choices,
        truncated=cut > 0,
        null=null,
        facts=document.facts,
    )
