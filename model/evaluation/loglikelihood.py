"""Log-likelihoods of continuations: a context is read once for all of its choices, and a beginning once for all that share it.

A batch goes through the model in at most three passes. The first reads what all its contexts begin with, such as worked
examples; the second what is left of each context but its last token, a row each, padded at the end; the third that token and
the choices, side by side in the row of their context. There each token sees its context and what comes before it in its own
choice, at the position that it has there. The oracle is one forward pass for each choice.

B questions in a batch, S tokens of a pass, S' places before it, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.counts import kv_cache_bytes
from model.layers.kv_cache import BranchPass, KVCache, visible
from model.transformer import Hunyuan

Slots = dict[int, tuple[Tensor, Tensor]]  # keys and values (B, G, S', P) by the layer that owns them

HEAD = 24  # tokens that contexts must share before their common beginning is looked for
WORTH = 512  # tokens that must be saved before contexts with one beginning get batches of their own
CHUNK = 512  # tokens of a long beginning in one pass


@dataclass(frozen=True)
class Question:
    """Token ids: a context of at least one, and choices of at least one each. They fit the model's context together."""

    context: Sequence[int]
    choices: Sequence[Sequence[int]]

    @property
    def branch_tokens(self) -> int:
        """Of the last pass: the context's last token, and each choice but its last."""
        return 1 + sum(len(choice) - 1 for choice in self.choices)


class Answer(NamedTuple):
    """Of one choice."""

    logprob: float  # nats, summed over its tokens
    is_greedy: bool  # whether each of its tokens is the likeliest one at its place


class Batch(NamedTuple):
    """Questions that go through the model together."""

    shared: int  # tokens that their contexts begin with alike, read once
    members: list[int]  # numbers of the questions


@dataclass(frozen=True)
class Limits:
    """How much goes through the model at once."""

    rows: int = 64
    tokens: int = 4096  # of one pass
    logits: int = 2**25  # elements
    held_bytes: int = 2**30  # of keys and values


@torch.inference_mode()
def answer_questions(
    net: Hunyuan, questions: Sequence[Question], limits: Limits | None = None
) -> Iterator[tuple[list[int], list[list[Answer]]]]:
    """Yields, batch by batch, the questions' numbers with an Answer for each of their choices.

    The batches are a pure function of the questions, so that a run that was stopped goes on with the same ones.
    """
    limits = limits or Limits()
    for batch in plan(questions, net, limits):
        yield batch.members, answer_batch(net, [questions[number] for number in batch.members], batch.shared, limits)


def plan(questions: Sequence[Question], net: Hunyuan, limits: Limits) -> list[Batch]:
    """Batches of questions with a common beginning and of about one length, as large as the limits allow."""
    token_bytes = kv_cache_bytes(net.config, tokens=1) * net.embed_tokens.weight.element_size() // 2  # counted in bf16
    families: dict[tuple[int, ...], list[int]] = {}
    for number, question in enumerate(questions):
        families.setdefault(tuple(question.context[:HEAD]), []).append(number)
    groups, others = [], []
    for members in families.values():
        shared = _common([questions[number].context for number in members])
        if (len(members) - 1) * shared >= WORTH:
            groups.append((shared, members))
        else:
            others += members
    batches = []
    for shared, members in [*groups, (0, others)] if others else groups:
        rows: list[int] = []
        for number in sorted(members, key=lambda number: (len(questions[number].context), number)):
            if rows and not _fits(questions, [*rows, number], shared, net.config.vocab_size, token_bytes, limits):
                batches.append(Batch(shared, rows))
                rows = []
            rows.append(number)
        batches.append(Batch(shared, rows))
    return [_whole_context(questions, batch, limits) for batch in batches]


def _fits(
    questions: Sequence[Question], rows: list[int], shared: int, vocab_size: int, token_bytes: int, limits: Limits
) -> bool:
    left = max(len(questions[number].context) - shared for number in rows)
    branch = max(questions[number].branch_tokens for number in rows)
    return (
        len(rows) <= limits.rows
        and len(rows) * max(left, branch) <= limits.tokens
        and len(rows) * branch * vocab_size <= limits.logits
        and len(rows) * (shared + left + branch) * token_bytes <= limits.held_bytes
    )


def _whole_context(questions: Sequence[Question], batch: Batch, limits: Limits) -> Batch:
    """A long context that is alone is read in chunks, all but its last token, as a beginning is."""
    if len(batch.members) > 1 or len(questions[batch.members[0]].context) - batch.shared <= limits.tokens:
        return batch
    return Batch(len(questions[batch.members[0]].context) - 1, batch.members)


def _common(contexts: list[Sequence[int]]) -> int:
    """How many tokens all contexts begin with alike, but for the last one of each.

    Of all contexts in the order of a dictionary, the first and the last have the least in common.
    """
    first, last = (
        min(map(tuple, contexts)),
        max(map(tuple, contexts)),
    )
    most = min(map(len, contexts)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


@torch.inference_mode()
def answer_batch(net: Hunyuan, questions: Sequence[Question], shared: int, limits: Limits) -> list[list[Answer]]:
    """The answers to questions whose contexts begin with the same `shared` tokens."""
    if len(questions) == 1 and questions[0].branch_tokens * net.config.vocab_size > limits.logits:
        return [[answer_long(net, questions[0].context, choice, limits) for choice in questions[0].choices]]
    prefix = _read(net, questions[0].context[:shared])
    lengths = [len(question.context) - 1 - shared for question in questions]  # of the second pass
    prefix = _read_contexts(net, [question.context[shared:-1] for question in questions], prefix, shared)
    return _read_choices(net, questions, prefix, shared, lengths)


def _read(net: Hunyuan, ids: Sequence[int]) -> Slots:
    """Keys and values (1, G, S', P) of a text that begins a sequence."""
    if not ids:
        return {}
    weight = net.embed_tokens.weight
    cache = KVCache(net.config, batch=1, max_tokens=len(ids), dtype=weight.dtype, device=weight.device)
    for part in torch.tensor([list(ids)], device=weight.device).split(CHUNK, dim=1):
        net(part, cache=cache, last_only=True)
    return cache.slots


def _read_contexts(net: Hunyuan, contexts: list[Sequence[int]], prefix: Slots, shared: int) -> Slots:
    """Keys and values (B, G, S' + S, P) of the prefix and of what follows it in each row, padded at the end."""
    size = max(map(len, contexts))
    if size == 0:
        return prefix
    device = net.embed_tokens.weight.device
    ids = np.zeros((len(contexts), size), dtype=np.int64)
    for row, context in enumerate(contexts):
        ids[row, : len(context)] = context
    positions = torch.arange(shared, shared + size, device=device)
    mask = visible(positions, shared + size) if shared else None
    reading = BranchPass(prefix, positions, mask)
    real = np.flatnonzero(np.arange(size) < np.array([[len(context)] for context in contexts]))
    net.step(torch.from_numpy(ids).to(device), reading, last_only=True, real=torch.from_numpy(real).to(device))
    return reading.slots


def _read_choices(
    net: Hunyuan, questions: Sequence[Question], prefix: Slots, shared: int, lengths: list[int]
) -> list[list[Answer]]:
    """The last pass, over rows of [last token of the context, first choice, second choice, ...]."""
    before, size = shared + max(lengths), max(question.branch_tokens for question in questions)
    ids, positions = (np.zeros((len(questions), size), dtype=np.int64) for _ in range(2))
    choice_of = np.full((len(questions), size), -1)  # of a token: its choice, 0 for the context's, -1 for what is added
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []  # of each token that is scored, in the order of the choices
    owner = 0
    for row, question in enumerate(questions):
        ids[row, 0], positions[row, 0], choice_of[row, 0] = question.context[-1], shared + lengths[row], 0
        end = 1
        for number, choice in enumerate(question.choices, start=1):
            count = len(choice) - 1
            stretch = slice(end, end + count)
            ids[row, stretch] = choice[:-1]
            positions[row, stretch] = np.arange(count) + positions[row, 0] + 1
            choice_of[row, stretch] = number
            rows += [row] * len(choice)
            places += [0, *range(end, end + count)]
            targets += choice
            owners += [owner] * len(choice)
            end, owner = end + count, owner + 1
    device = net.embed_tokens.weight.device
    mask = _branch_mask(torch.from_numpy(choice_of).to(device), before, torch.tensor(lengths, device=device) + shared)
    reading = BranchPass(prefix, torch.from_numpy(positions).to(device), mask)
    real = np.flatnonzero(choice_of >= 0)
    logits = net.step(torch.from_numpy(ids).to(device), reading, real=torch.from_numpy(real).to(device))
    asked = np.searchsorted(real, np.array(rows) * size + places)
    logprobs, greedy = _scores(logits, torch.from_numpy(asked).to(device), torch.tensor(targets, device=device))
    sums = np.bincount(owners, weights=logprobs, minlength=owner)
    all_greedy = np.bincount(owners, weights=~greedy, minlength=owner) == 0
    answers = [Answer(float(total), bool(is_greedy)) for total, is_greedy in zip(sums, all_greedy, strict=True)]
    ends = np.cumsum([len(question.choices) for question in questions])
    return [answers[end - len(question.choices) : end] for end, question in zip(ends, questions, strict=True)]


def _branch_mask(choice_of: Tensor, before: int, filled: Tensor) -> Tensor:
    """(B, 1, S, before + S): a token sees the filled places before it, the context's last token, and its own choice so far."""
    size = choice_of.shape[1]
    order = torch.arange(size, device=choice_of.device)
    earlier = order[None, :] <= order[:, None]  # (S, S)
    own = (choice_of[:, :, None] == choice_of[:, None, :]) | (choice_of == 0)[:, None, :]
    context = torch.arange(before, device=choice_of.device) < filled[:, None]  # (B, before)
    context = context[:, None, :].expand(-1, size, -1)
    return torch.cat((context, own & earlier), dim=2)[:, None]


def _scores(logits: Tensor, places: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities of targets in float64, and whether each is the likeliest token, of logits (N, V) at places."""
    logits = logits.float()
    logprobs = logits[places, targets] - logits.logsumexp(dim=-1)[places]
    greedy = logits.argmax(dim=-1)[places] == targets
    return logprobs.double().cpu().numpy(), greedy.cpu().numpy()


@torch.inference_mode()
def answer_long(net: Hunyuan, context: Sequence[int], choice: Sequence[int], limits: Limits) -> Answer:
    """One long choice, read in chunks of as many tokens as the limit of logits allows."""
    weight = net.embed_tokens.weight
    ids = torch.tensor([[*context, *choice]], device=weight.device)
    cache = KVCache(net.config, batch=1, max_tokens=ids.shape[1] - 1, dtype=weight.dtype, device=weight.device)
    size = max(1, min(CHUNK, limits.logits // net.config.vocab_size))
    for part in ids[:, : len(context) - 1].split(CHUNK, dim=1):
        if part.numel():
            net(part, cache=cache, last_only=True)
    total, is_greedy = 0.0, True
    inputs, targets = ids[0, len(context) - 1 : -1], ids[0, len(context) :]
    for part, wanted in zip(inputs.split(size), targets.split(size), strict=True):
        logits = net(part[None], cache=cache).logits[0]
        logprobs, greedy = _scores(logits, torch.arange(len(part), device=ids.device), wanted)
        total, is_greedy = total + float(logprobs.sum()), is_greedy and bool(greedy.all())
    return Answer(total, is_greedy)
