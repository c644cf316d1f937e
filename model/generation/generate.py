"""Generation of one sequence: prefill the prompt, then decode a token at a time against the key-value cache."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.cache import KVCache
from model.errors import ConfigError
from model.generation.sampling import Sampling, next_token
from model.layers.transformer import Hunyuan


@dataclass
class GenerationStats:
    """Filled while tokens are generated; seconds on the clock."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cache_bytes: int = 0
    stop_reason: str = field(default="length")  # length or end_of_text

    def to_dict(self) -> dict[str, object]:
        decoded = self.new_tokens - 1  # the first comes out of the prefill
        speed = decoded / self.decode_seconds if decoded > 0 and self.decode_seconds > 0 else None
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "decode_tokens_per_second": speed,
            "cache_bytes": self.cache_bytes,
            "stop_reason": self.stop_reason,
        }


@torch.inference_mode()
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
    """Yields token ids as they come, up to max_new_tokens or until end_id, which is not yielded."""
    stats = stats or GenerationStats()
    limit = net.config.max_position_embeddings
    if not prompt:
        raise ConfigError(["the prompt is empty: give at least one token, such as the end-of-text token"])
    if max_new_tokens < 1:
        raise ConfigError([f"max_new_tokens is {max_new_tokens}: it must be at least 1"])
    if len(prompt) >= limit:
        raise ConfigError(
            [f"the prompt has {len(prompt)} tokens and the model's context is {limit}: shorten the prompt"]
        )
    if len(prompt) + max_new_tokens > limit:
        raise ConfigError(
            [
                f"{len(prompt)} prompt tokens and {max_new_tokens} new exceed the model's context of {limit}: lower --tokens"
            ]
        )
    weight = net.embed_tokens.weight
    cache = KVCache(
        net.config, batch=1, max_tokens=len(prompt) + max_new_tokens, dtype=weight.dtype, device=weight.device
    )
    stats.prompt_tokens, stats.cache_bytes = len(prompt), cache.bytes
    mark = time.perf_counter()
    token = _choose(net, torch.tensor([prompt], device=weight.device), cache, sampling, generator)
    stats.prefill_seconds = time.perf_counter() - mark
    while True:
        stats.new_tokens += 1
        if int(token) == end_id:
            stats.stop_reason = "end_of_text"
            return
        yield int(token)
        if stats.new_tokens == max_new_tokens:
            return
        mark = time.perf_counter()
        token = _choose(net, token[:, None], cache, sampling, generator)
        stats.decode_seconds += time.perf_counter() - mark


def _choose(
    net: Hunyuan, input_ids: Tensor, cache: KVCache, sampling: Sampling, generator: torch.Generator | None
) -> Tensor:
    """Runs the model on input_ids (1, S) after the cached prefix and chooses the token that follows, (1,)."""
    logits = net(input_ids, cache=cache, last_only=True).logits
    return next_token(logits[:, -1], sampling, generator)
