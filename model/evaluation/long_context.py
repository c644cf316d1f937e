"""RULER and LV-Eval as documents, a task and a length at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from model.errors import ConfigError, DataError
from model.evaluation import lveval, ruler
from model.evaluation.asking import Model, Stage, no_stage
from model.evaluation.documents import Document
from model.tokenizer.interface import TextTokenizer

RULER_METRIC = "string_match"  # NVIDIA's name: the share of references that stand in the reply
WRITTEN_A_SECOND = 100_000  # tokens of documents, about
NOT_COMPARED = (
    "LV-Eval is scored as its authors do, who measure 38% for Llama 3.1 70B where the report has 75.73: another scorer, so "
    "that the report's figures are not put beside these"
)


def default_lengths(context: int) -> list[int]:
    """A quarter of the model's context, half, and all of it, but no less than 64 tokens."""
    return sorted({max(64, context // part) for part in (4, 2, 1)}) if context >= 64 else [context]


def ruler_documents(
    tokenizer: TextTokenizer,
    tasks: Sequence[str],
    *,
    lengths: Sequence[int],
    context: int,
    samples: int,
    seed: int,
    reserved: int = 0,
    note: Callable[[str], None] = lambda sentence: None,
    stage: Stage = no_stage,
) -> Iterator[list[Document]]:
    """`samples` documents of each task and length; a task that is too long for a length is left out there, with a note.

    Writing one of 256K tokens takes seconds: `stage` shows how many of a task are written, where that is worth it.

    `reserved` tokens of a length are left to a chat template. ConfigError for a length beyond the model's context, DataError
    where no task fits at all.
    """
    too_long = [length for length in lengths if length > context]
    if too_long:
        raise ConfigError(
            [
                f"a length of {too_long[0]:,} is beyond the model's context of {context:,} tokens: leave it out, or train the "
                "model for longer texts"
            ]
        )
    missing: list[DataError] = []
    done = False
    for length in lengths:
        for task in tasks:
            drawn = []
            try:
                shown = stage if samples * length >= WRITTEN_A_SECOND else no_stage
                with shown(f"writing {task} of {length:,} tokens", samples) as advance:
                    for index in range(samples):
                        drawn.append(
                            ruler.generate(task, tokenizer, length=length, index=index, seed=seed, reserved=reserved)
                        )
                        advance(1)
            except DataError as error:
                missing.append(error)
                note(f"left out: {error}")
                continue
            done = True
            yield [_ruler_document(sample) for sample in drawn]
    if not done and missing:
        raise missing[0]


def _ruler_document(sample: ruler.Sample) -> Document:
    return Document(
        task=sample.task,
        index=sample.index,
        prompt=sample.prompt,
        target=sample.references,
        score=lambda reply: {RULER_METRIC: ruler.score_one(sample.task, reply, sample.references)},
        room=sample.room,
        length=sample.length,
        depth=sample.depth,
        facts={"items": sample.items, "filler": sample.filler, "reduced": sample.reduced, "tokens": sample.tokens},
    )


def lveval_documents(
    model: Model, folder: Path, names: Sequence[str], *, lengths: Sequence[int] | None, limit: int | None
) -> Iterator[list[Document]]:
    """The items of each set and level that are in the folder; `lengths` picks levels."""
    levels = [level for level in lveval.LEVELS if lengths is None or _tokens(level) in lengths]
    if not levels:
        raise ConfigError([f"LV-Eval has no such length: give --lengths of {', '.join(lveval.LEVELS)}"])
    model.note(NOT_COMPARED)
    items = lveval.read(folder, datasets=names, levels=levels)
    for dataset, level in dict.fromkeys((item.dataset, item.level) for item in items):
        own = [item for item in items if (item.dataset, item.level) == (dataset, level)][:limit]
        yield [_lveval_document(item, number) for number, item in enumerate(own)]


def _lveval_document(item: lveval.Item, number: int) -> Document:
    metric = lveval.DATASETS[item.dataset].metric
    return Document(
        task=item.dataset,
        index=number,
        prompt=item.prompt,
        target=item.answer,
        score=lambda reply: {metric: item.score(reply)},
        room=item.room,
        length=_tokens(item.level),
        facts={"id": item.id},
    )


def _tokens(level: str) -> int:
    return 1024 * int(level.removesuffix("k"))
