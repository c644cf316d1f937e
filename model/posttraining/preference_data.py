"""What one stage of preferences is learnt from, read, rendered and parted: offline pairs, prompts, and those held out."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.instructions.examples import LeftOut, prepare_pairs
from model.data.instructions.preferences import Question, read_questions
from model.data.instructions.rendering import RenderedPair, Renderer
from model.data.split import content_position
from model.errors import DataError
from model.posttraining.rollout import Asking, Prompt
from model.training.settings import RunSettings

Progress = Callable[[str, float], None]
LEAST_ROOM = 2  # tokens for an answer: one and its end


@dataclass(frozen=True)
class PreferenceData:
    """Pairs and prompts as tokens."""

    asking: Asking
    pairs: list[RenderedPair]
    held_out_pairs: list[RenderedPair]
    prompts: list[Prompt]
    held_out_prompts: list[Prompt]
    other_prompts: list[Prompt]  # of other skills
    notes: list[str]  # what was left out, a sentence each
    fingerprint: str

    @property
    def counts(self) -> dict[str, Any]:
        """For environment.json."""
        names = "pairs", "held_out_pairs", "prompts", "held_out_prompts", "other_prompts"
        return {name: len(getattr(self, name)) for name in names}

    def describe(self) -> str:
        """One line on the data."""
        parts = []
        if self.pairs:
            parts.append(f"{len(self.pairs):,} offline pairs ({len(self.held_out_pairs):,} held out)")
        if self.prompts:
            parts.append(f"{len(self.prompts):,} prompts ({len(self.held_out_prompts):,} held out)")
        return ", ".join(parts) + (
            f", {len(self.other_prompts):,} prompts of other skills" if self.other_prompts else ""
        )


def prepare_preferences(settings: RunSettings, home: Path, progress: Progress | None = None) -> PreferenceData:
    """The data of a run whose tokenizer and chat template are those of the folder `home`; DataError names file and line."""
    c = settings.dpo
    assert c is not None, "the settings of a run of preferences"
    renderer = Renderer.from_folder(home)
    length, encoding = settings.training.sequence_length, settings.data.encoding
    asking = Asking(renderer.tokenizer, renderer.ends, length, c.max_new_tokens, c.temperature)
    train: list[RenderedPair] = []
    held_out: list[RenderedPair] = []
    left_out = LeftOut()
    digest = hashlib.sha256()
    if c.offline and c.online_share < 1:
        found = prepare_pairs(
            c.offline,
            renderer,
            encoding=encoding,
            length=length,
            validation_fraction=settings.data.validation_fraction,
            progress=progress,
        )
        train, held_out = ([pair for pair, _ in side] for side in (found.train, found.validation))
        left_out = found.left_out
        digest.update(found.fingerprint.encode())
    prompts = _prompts(c.prompts, encoding, renderer, asking, left_out) if c.prompts else []
    prompts, evaluated = _parted(prompts, c.evaluation_prompts)
    notes = []
    asked = {tuple(prompt.ids) for prompt in evaluated}
    if seen := [pair for pair in train if tuple(pair.prompt_ids) in asked]:
        if len(seen) < len(train):
            train = [pair for pair in train if tuple(pair.prompt_ids) not in asked]
            held_out += seen
            digest.update(f"{len(seen)} more held out".encode())
            notes.append(f"{len(seen):,} offline pairs ask what held-out prompts ask: they are held out as well")
        else:
            notes.append("all offline pairs ask what held-out prompts ask, so what those are answered has been shown")
    others = _prompts(c.other_prompts, encoding, renderer, asking, left_out) if c.other_prompts else []
    others = others[: c.evaluation_prompts]
    for part in (prompts, evaluated, others):
        digest.update(json.dumps([[prompt.ids, prompt.question.row] for prompt in part], default=str).encode())
    return PreferenceData(
        asking, train, held_out, prompts, evaluated, others, [*left_out.sentences(), *notes], digest.hexdigest()
    )


def _prompts(source: str, encoding: str, renderer: Renderer, asking: Asking, left_out: LeftOut) -> list[Prompt]:
    prompts = []
    for question in read_questions(source, encoding):
        ids = renderer.question(question)
        if asking.room(ids) < LEAST_ROOM:
            left_out.add(f"prompts that leave no room for an answer in {asking.length:,} tokens", question.where)
        else:
            prompts.append(Prompt(question, ids))
    if not prompts:
        raise DataError(
            f"{source} has no prompt that leaves room for an answer in {asking.length:,} tokens: raise --sequence-length"
        )
    return prompts


def _parted(prompts: Sequence[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """Those to learn from, and `count` or at most a quarter that are held out; copies of one question are on one side."""
    positions = [_position(prompt.question) for prompt in prompts]
    different = sorted(set(positions))
    held = set(different[: min(count, len(different) // 4)])
    learnt, aside = (
        [p for p, at in zip(prompts, positions, strict=True) if (at in held) == side] for side in (False, True)
    )
    return learnt, aside[:count]


def _position(question: Question) -> float:
    said = [[message["role"], message.get("content")] for message in question.messages]
    return content_position(json.dumps(said, ensure_ascii=False))
