"""A model that is asked: log-likelihoods and texts by the thousand, nothing cut without being counted, nothing asked twice.

What does not fit the model's context loses its beginning, which is counted, or is refused with a sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch

from model.errors import ConfigError, DataError
from model.evaluation.ledger import Ledger
from model.evaluation.loglikelihood import Answer, Limits, Question, answer_batch, plan
from model.generation.engine import Engine
from model.generation.generate import generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.generation.session import Session
from model.generation.stopping import StopStrings

Truncate = Literal["left", "refuse"]
Advance = Callable[[int], None]  # is told of requests that are done
Stage = Callable[
    [str, int | None], AbstractContextManager[Advance]
]  # progress of a part of the work: its name and length


def no_stage(name: str, total: int | None) -> AbstractContextManager[Advance]:
    """The progress that is shown to nobody."""
    return nullcontext(lambda count: None)


@dataclass(frozen=True)
class Prompt:
    """What a text is to be generated from."""

    ids: Sequence[int]
    max_new_tokens: int
    until: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)  # fields of Sampling; greedy where there are none
    seed: int = 0


class Reply(NamedTuple):
    text: str
    new_tokens: int
    stop_reason: str  # length, end_of_text or stop_string
    cut: int  # tokens that the prompt lost


class Scored(NamedTuple):
    """The choices of one question."""

    answers: list[Answer]
    cut: int  # tokens that the context lost


class Model:
    """An engine with the answers that it has given."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger | None = None,
        *,
        truncate: Truncate = "left",
        batch_size: int = 32,
        limits: Limits | None = None,
        advance: Advance = lambda count: None,
        session: Session | None = None,
    ) -> None:
        self.engine, self.net, self.tokenizer = engine, engine.net, engine.tokenizer
        self.ledger = ledger or Ledger(None, "")
        self.context: int = engine.net.config.max_position_embeddings
        self._session = session  # the engine's own where none is given
        self.notes: dict[str, None] = {}  # sentences that somebody who reads the scores should know
        self.truncate, self.batch_size, self.limits, self.advance = truncate, batch_size, limits or Limits(), advance

    def note(self, sentence: str) -> None:
        self.notes[sentence] = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as the model was trained to see them begin; an empty one is the end of the text before it."""
        if self.engine.trained_here:
            encoded = self.tokenizer.encode_batch(texts)
        else:
            encoded = [self.tokenizer.encode_prompt(text) for text in texts]
        return [ids or [self.tokenizer.eos_id] for ids in encoded]

    # --- choices -----------------------------------------------------------------------------------------------------

    def choose(self, questions: Sequence[Question]) -> list[Scored]:
        """The log-likelihoods of every question's choices.

        A batch is computed whole or not at all, so that a run that goes on has the bits of one that was not stopped.
        """
        fitted = [self._fit(question) for question in questions]
        keys = [self.ledger.key("choices", list(each.context), list(map(list, each.choices))) for each, _ in fitted]
        asked = [question for question, _ in fitted]
        for batch in plan(asked, self.net, self.limits):
            if not all(keys[number] in self.ledger for number in batch.members):
                answers = answer_batch(self.net, [asked[number] for number in batch.members], batch.shared, self.limits)
                self.ledger.add((keys[number], row) for number, row in zip(batch.members, answers, strict=True))
            self.advance(len(batch.members))
        return [
            Scored([Answer(*answer) for answer in self.ledger[key]], cut)
            for key, (_, cut) in zip(keys, fitted, strict=True)
        ]

    def _fit(self, question: Question) -> tuple[Question, int]:
        """The question with the end of its context, as far as there is room, and how many tokens that cost."""
        longest = max(map(len, question.choices))
        room = self.context + 1 - longest  # the last token of a choice is not read
        cut = len(question.context) - room
        if cut <= 0:
            return question, 0
        if room < 1:
            raise DataError(
                f"a choice has {longest:,} tokens and the model's context is {self.context:,}: leave this task out"
            )
        self._refuse(len(question.context) + longest - 1)
        return Question(question.context[cut:], question.choices), cut

    def _refuse(self, size: int) -> None:
        if self.truncate == "refuse":
            raise DataError(
                f"a document has {size:,} tokens and the model's context is {self.context:,}: take fewer --shots, leave the "
                "task out, or cut the beginning off with --truncate left"
            )

    def rolling(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """The log-likelihood of whole texts (nats), each token with as much before it as the model's context allows.

        A text that is longer than the context goes in windows side by side; the last one is a full window, of which only
        the new tokens count.
        """
        windows: list[Question] = []
        ends = []
        for ids in texts:
            windows += rolling_windows([self.tokenizer.eos_id, *ids], self.context)
            ends.append(len(windows))
        values = [scored.answers[0].logprob for scored in self.choose(windows)]
        return [sum(values[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    # --- texts -------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """A text for every prompt, up to the first of its `until` or so many tokens. Long prompts go first."""
        fitted = [self._fit_prompt(prompt) for prompt in prompts]
        keys = [self._prompt_key(prompt) for prompt, _ in fitted]
        waiting = {key: prompt for key, (prompt, _) in zip(keys, fitted, strict=True) if key not in self.ledger}
        self.advance(len(prompts) - len(waiting))
        for sampling in dict.fromkeys(tuple(sorted(prompt.sampling.items())) for prompt in waiting.values()):
            alike = {key: p for key, p in waiting.items() if tuple(sorted(p.sampling.items())) == sampling}
            self._generate(alike, Sampling(**dict(sampling)))  # type: ignore[arg-type]
        replies = []
        for key, (_, cut) in zip(keys, fitted, strict=True):
            text, new_tokens, stop_reason = self.ledger[key]
            replies.append(Reply(text, new_tokens, stop_reason, cut))
        return replies

    def _generate(self, prompts: dict[str, Prompt], sampling: Sampling) -> None:
        device = self.net.embed_tokens.weight.device
        key_of: dict[int, str] = {}
        requests = []
        for key, prompt in sorted(prompts.items(), key=lambda item: (-len(item[1].ids), item[0])):
            request = Request(
                list(prompt.ids),
                prompt.max_new_tokens,
                end_ids=self.engine.end_ids,
                stops=StopStrings(prompt.until),
                stream=self.tokenizer.stream(),
                generator=torch.Generator(device).manual_seed(prompt.seed),
            )
            requests.append(request)
            key_of[id(request)] = key
        events = generate_batch(
            self.net, requests, sampling=sampling, slots=self.batch_size, session=self._session or self.engine.session
        )
        for request, _ in events:
            if request.stop_reason is not None:
                self.ledger.add([(key_of[id(request)], [request.text, request.new_tokens, request.stop_reason])])
                self.advance(1)

    def _prompt_key(self, prompt: Prompt) -> str:
        drawn = [sorted(prompt.sampling.items()), prompt.seed] if prompt.sampling else []
        return self.ledger.key("text", list(prompt.ids), prompt.max_new_tokens, list(prompt.until), drawn)

    def _fit_prompt(self, prompt: Prompt) -> tuple[Prompt, int]:
        if prompt.max_new_tokens < 1:
            raise ConfigError([f"{prompt.max_new_tokens} new tokens were asked for: ask for at least 1"])
        new = prompt.max_new_tokens
        if new >= self.context:
            new = max(1, self.context // 2)
            self.note(
                f"answers end after {new:,} tokens, where {prompt.max_new_tokens:,} were asked for: the model's context is "
                f"{self.context:,}"
            )
        cut = max(0, len(prompt.ids) + new - self.context)
        if cut:
            self._refuse(len(prompt.ids) + new)
        return replace(prompt, ids=prompt.ids[cut:], max_new_tokens=new), cut


def rolling_windows(ids: Sequence[int], context: int) -> list[Question]:
    """Questions that together ask for every token but the first, which only comes before the others."""
    windows = []
    for start in range(0, len(ids) - 1, context):
        end = min(start + context, len(ids) - 1)  # tokens start + 1 .. end are asked for
        begin = start if end - start == context else max(0, end - context)
        windows.append(Question(ids[begin : start + 1], [ids[start + 1 : end + 1]]))
    return windows
