"""Generation: prompts are prefilled in chunks, then all of a batch decode a token at a time against one key-value cache.

A batch has slots. As a request ends, the last one moves into its slot and the next prompt takes the free place, so that slots
stay full while there are prompts. A request's answer does not depend on its neighbours: each has its own place in the cache,
its own length, its own generator, and no expert ever refuses a token.

B requests in the batch, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from model.errors import ConfigError
from model.generation.batch import Batch, GenerationStats
from model.generation.compiled import CompiledStep
from model.generation.recorded import RecordedBatch
from model.generation.request import Request, check_requests
from model.generation.sampling import Sampling
from model.generation.session import Session
from model.transformer import Hunyuan

__all__ = ["GenerationStats", "generate", "generate_batch"]

PREFILL_CHUNK = 512  # tokens of a prompt in one pass: scores take chunk * length, not length squared


def generate(
    net: Hunyuan,
    prompt: list[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    end_id: int | None = None,
    stats: GenerationStats | None = None,
) -> Iterator[int]:
    """Yields the token ids of one continuation as they come, up to max_new_tokens or until end_id, which is not yielded."""
    end_ids = () if end_id is None else (end_id,)
    request = Request(prompt, max_new_tokens, end_ids=end_ids, generator=generator)
    for _ in generate_batch(net, [request], sampling=sampling, stats=stats):
        if request.stop_reason != "end_of_text":
            yield request.token_ids[-1]


@torch.inference_mode()
def generate_batch(
    net: Hunyuan,
    requests: Sequence[Request],
    *,
    sampling: Sampling,
    slots: int = 8,
    prefill_chunk: int = PREFILL_CHUNK,
    logprobs: int | None = None,
    compiled: bool = False,
    session: Session | None = None,
    stats: GenerationStats | None = None,
) -> Iterator[tuple[Request, str]]:
    """Runs the requests, `slots` at a time, and yields each with the text that its newest token made safe to show.

    `logprobs` K adds to every token its log probability and those of the K likeliest. `compiled` has a request that runs
    alone decode through a compiled program (model/generation/compiled.py), where steps are not recorded. With a `session` of
    the model the cache, and on a GPU the recorded steps, are those of earlier calls, and the beginning of a prompt that is
    there is not read again. On a GPU drawn tokens are a function of a request's seed and their positions, and
    differ from a processor's. ConfigError, before anything is computed, when a request does not fit the model's context.
    """
    check_requests(requests, net.config.max_position_embeddings, net.config.vocab_size)
    _check_sizes(net, slots, prefill_chunk, logprobs)
    stats = GenerationStats() if stats is None else stats
    waiting = deque(requests)
    session = Session(net) if session is None else session
    step = CompiledStep(net) if compiled and not session.records else None
    kind = RecordedBatch if session.records else Batch
    batch = kind(session, requests, min(slots, len(requests)), sampling, logprobs, step, stats)
    try:
        while waiting or batch.running:
            while waiting and len(batch.running) < batch.slots:
                yield from batch.admit(_alike(waiting, batch.slots - len(batch.running)), prefill_chunk)
            if batch.running:
                yield from batch.decode()
    finally:  # also where the caller leaves early
        if len(requests) == 1:
            session.kept = (requests[0].prompt + requests[0].token_ids)[: session.filled(0)]


def _check_sizes(net: Hunyuan, slots: int, prefill_chunk: int, logprobs: int | None) -> None:
    sizes = {"slots": slots, "prefill_chunk": prefill_chunk}
    problems = [f"{name} is {size}: it must be at least 1" for name, size in sizes.items() if size < 1]
    if logprobs is not None and not 0 <= logprobs <= net.config.vocab_size:
        problems.append(f"logprobs is {logprobs}: give 0 to {net.config.vocab_size:,}, the model's vocabulary")
    if problems:
        raise ConfigError(problems)


def _alike(waiting: deque[Request], most: int) -> list[Request]:
    """Takes the next requests whose prompts have one length: they are prefilled together."""
    taken = [waiting.popleft()]
    while waiting and len(taken) < most and len(waiting[0].prompt) == len(taken[0].prompt):
        taken.append(waiting.popleft())
    return taken
