"""What outlives a call of generate_batch: the cache with the tokens that it holds, and on a GPU the recorded steps.

A step of a small batch is hundreds of short kernels, and a host that launches them one by one takes many times as long as they
run. So on a GPU the step of all rows, sampling included, is recorded once as a CUDA graph for each (rows, places) and replayed.
Tokens, positions and seeds lie on the device and are moved on inside the graph: the host reads the tokens of a step while the
next one runs. Rows and places come in powers of two, so few graphs serve all calls; they share one pool of memory.

B rows, V vocabulary, S' places of the cache that a step looks at.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.generation.one_token import OneTokenStep, Slots, applies
from model.generation.sampling import Sampling, counter_token
from model.layers.kv_cache import CachePass, KVCache, visible
from model.moe.experts import Experts
from model.moe.layer import MoE
from model.transformer import Hunyuan

LEAST_PLACES = 256
Forward = Callable[[Tensor, Tensor, Slots], Tensor]  # tokens (B,), positions (B,), the cache -> logits (B, V)
ROWS = 64  # larger batches are not rounded up


class Rows(NamedTuple):
    """What a step reads of every row, and leaves for the next one."""

    tokens: Tensor  # (B,) int64, the newest of each row: not in the cache yet
    positions: Tensor  # (B,) int64, where it goes
    seeds: Tensor  # (B,) int64 of the requests
    seen: Tensor  # (B, V) bool for the repetition penalty, or (B, 0) without one

    def first(self, count: int) -> "Rows":
        return Rows(*(tensor[:count] for tensor in self))

    def move(self, source: int, target: int) -> None:
        for tensor in self[:3]:  # the batch moves `seen`
            tensor[target] = tensor[source]


class Step(NamedTuple):
    """A recorded step: replay it, and its results lie in these tensors until the next replay."""

    replay: Callable[[], None]
    chosen: Tensor  # (B,) the new tokens, -1 where logits are not finite
    logits: Tensor  # (B, V)
    forward: object = None  # what the recording reads besides the model must live as long as it


class Session:
    """The cache and the recorded steps of one model; one generate_batch at a time uses it.

    kept: the tokens in the first row of the cache, of which a longer prompt that begins alike need not be read again.
    """

    def __init__(self, net: Hunyuan, *, records: bool | None = None) -> None:
        """`records` is whether steps are recorded; by default where they can be. Elsewhere they are played without it."""
        mixtures = [layer.mlp for layer in net.layers if isinstance(layer.mlp, MoE)]
        in_memory = all(isinstance(mixture.experts, Experts) for mixture in mixtures)
        self.net = net
        self.device = net.embed_tokens.weight.device
        self.records = self.device.type == "cuda" and in_memory if records is None else records
        self.cache: KVCache | None = None
        self.kept: list[int] = []
        self._rows: Rows | None = None
        self._steps: dict[tuple[int, int, Sampling], Step] = {}
        self._pool: Any = None

    def reserve(self, slots: int, tokens: int) -> KVCache:
        """A cache of at least so many rows and tokens; what was kept stays where a larger one takes its place."""
        if self.records:
            slots, tokens = bucket(slots, 1, ROWS), bucket(tokens, LEAST_PLACES)
        old = self.cache
        if old is not None and len(old.lengths) >= slots and old.max_tokens >= tokens:
            return old
        self._steps.clear()  # they were recorded over the old cache
        if old is not None:
            slots, tokens = max(slots, len(old.lengths)), max(tokens, old.max_tokens)
        weight = self.net.embed_tokens.weight
        new = KVCache(self.net.config, batch=slots, max_tokens=tokens, dtype=weight.dtype, device=self.device)
        if old is not None:
            for layer, slot in old.slots.items():
                for there, here in zip(new.slots[layer], slot, strict=True):
                    there[0, :, : len(self.kept)] = here[0, :, : len(self.kept)]
        self.cache = new
        return new

    def reuse(self, prompt: list[int]) -> int:
        """How many tokens of a prompt the first row holds already; the last one is always read, for its logits."""
        count = 0
        while count < min(len(self.kept), len(prompt) - 1) and self.kept[count] == prompt[count]:
            count += 1
        return count

    def filled(self, row: int) -> int:
        """Tokens of a row of the cache."""
        return 0 if self.cache is None else self.cache.lengths[row]

    def rows(self, penalised: bool) -> Rows:
        """The state of all rows of the cache, fresh where their number or the penalty changed."""
        assert self.cache is not None
        count, vocabulary = len(self.cache.lengths), self.net.config.vocab_size if penalised else 0
        if self._rows is None or self._rows.seen.shape != (count, vocabulary):
            self._steps.clear()
            tokens, positions, seeds = torch.zeros(3, count, dtype=torch.int64, device=self.device)
            self._rows = Rows(
                tokens, positions, seeds, torch.zeros(count, vocabulary, dtype=torch.bool, device=self.device)
            )
        return self._rows

    def step(self, running: int, longest: int, sampling: Sampling) -> Step:
        """The step of the first rows over the places up to `longest`, recorded at its first use."""
        assert self.cache is not None and self._rows is not None
        count = min(bucket(running, 1, ROWS), len(self.cache.lengths))
        places = min(bucket(longest, LEAST_PLACES), self.cache.max_tokens)
        key = (count, places, sampling)
        if key not in self._steps:
            self._steps[key] = self._record(self._rows.first(count), places, sampling)
        return self._steps[key]

    def _record(self, rows: Rows, places: int, sampling: Sampling) -> Step:
        assert self.cache is not None
        count = len(rows.tokens)
        slots = {
            layer: (keys[:count].narrow(2, 0, places), values[:count].narrow(2, 0, places))
            for layer, (keys, values) in self.cache.slots.items()
        }
        forward = OneTokenStep(self.net, count) if applies(self.net, count) else _plain(self.net, places)

        def advance() -> tuple[Tensor, Tensor]:
            return _advance(forward, rows, slots, places, sampling)

        if not recordable(self.net, count):
            return _played(advance, count, self.net)
        before = [tensor.clone() for tensor in rows]
        # A step writes the cache at its rows' positions only, where the first replay writes the same again.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is set up at first use must not be recorded
            for _ in range(2):
                advance()
                for tensor, value in zip(rows, before, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(aside)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            chosen, logits = advance()
        return Step(graph.replay, chosen, logits, forward)


def recordable(net: Hunyuan, rows: int) -> bool:
    """Whether a step can be a CUDA graph: torch's grouped product in another precision than bfloat16 waits for its sizes."""
    weight = net.embed_tokens.weight
    return weight.is_cuda and (net.config.is_dense or weight.dtype == torch.bfloat16 or applies(net, rows))


def _played(advance: Callable[[], tuple[Tensor, Tensor]], count: int, net: Hunyuan) -> Step:
    """What a recorded step does, without a recording."""
    place = net.embed_tokens.weight.device
    results = (
        torch.zeros(count, dtype=torch.int64, device=place),
        torch.zeros(count, net.config.vocab_size, device=place),
    )

    def replay() -> None:
        for there, new in zip(results, advance(), strict=True):
            there.copy_(new)

    return Step(replay, *results)


def bucket(count: int, least: int, most: int | None = None) -> int:
    """The next power of two, from `least` on; the number itself beyond `most`."""
    if most is not None and count > most:
        return count
    return max(least, 1 << (count - 1).bit_length())


def _plain(net: Hunyuan, places: int) -> Forward:
    """The model's own path as a OneTokenStep."""

    def forward(tokens: Tensor, positions: Tensor, slots: Slots) -> Tensor:
        seen = visible(positions[:, None], places)
        return net.step(tokens[:, None], CachePass(slots, positions[:, None], seen))[:, -1]

    return forward


def _advance(forward: Forward, rows: Rows, slots: Slots, places: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token a row: the chosen ones (B,) and the logits (B, V); rows are moved on in place.

    A row without a request goes on too, and stays within its places: nobody reads what it says.
    """
    logits = forward(rows.tokens, rows.positions.clamp(max=places - 1), slots)
    seen = rows.seen if rows.seen.shape[1] else None
    rows.positions.add_(1)
    chosen = counter_token(logits, sampling, rows.seeds, rows.positions, seen)
    rows.tokens.copy_(chosen.clamp(min=0))
    if seen is not None:
        seen.scatter_(1, rows.tokens[:, None], True)
    return chosen, logits
