"""Generation with the cache against the whole sequence again for every token; where it stops; what it measures."""

import pytest
import torch

from model.config import HunyuanConfig
from model.counts import kv_cache_bytes
from model.errors import ConfigError
from model.generation.generate import GenerationStats, generate
from model.generation.sampling import Sampling
from model.layers.transformer import Hunyuan
from model.storage import STORAGE

CONFIG = HunyuanConfig.from_name(
    "toy", vocab_size=61, hidden_size=32, intermediate_size=24, head_dim=8, num_experts=4, max_position_embeddings=16,
    initializer_range=0.3,
)  # fmt: skip
NET = Hunyuan(CONFIG, torch.Generator().manual_seed(0)).eval()
PROMPT, GREEDY = [5, 17, 3], Sampling()


def naive(count: int) -> list[int]:
    tokens = list(PROMPT)
    for _ in range(count):
        tokens.append(int(NET(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def test_cached_generation_equals_the_whole_sequence_again():
    """Up to the last position of the context; a step reads one new token, and no pass makes logits but the last."""
    shapes = []
    hook = NET.register_forward_hook(lambda _, inputs, out: shapes.append((inputs[0].shape[1], out.logits.shape[1])))
    found = list(generate(NET, PROMPT, max_new_tokens=13, sampling=GREEDY))
    hook.remove()
    assert found == naive(13) and len(set(found)) > 4  # a model that repeats one token would show little
    assert shapes == [(3, 1)] + [(1, 1)] * 12


def test_generation_stops_at_the_end_of_the_text():
    tokens, stats = naive(8), GenerationStats()
    end = next(token for token in tokens[2:] if token not in tokens[:2])
    before = tokens[: tokens.index(end)]
    assert list(generate(NET, PROMPT, max_new_tokens=13, sampling=GREEDY, end_id=end, stats=stats)) == before
    assert (stats.stop_reason, stats.new_tokens) == ("end_of_text", len(before) + 1)


def test_stats():
    stats, clock = GenerationStats(), []
    for _ in generate(NET, PROMPT, max_new_tokens=4, sampling=GREEDY, stats=stats):
        clock.append(stats.decode_seconds)
    assert (stats.prompt_tokens, stats.new_tokens, stats.stop_reason) == (3, 4, "length")
    assert stats.cache_bytes == kv_cache_bytes(CONFIG, tokens=3 + 4, storage=STORAGE["fp32"])
    assert stats.prefill_seconds > 0 and clock == sorted(clock) and clock[-1] > 0
    assert stats.to_dict()["decode_tokens_per_second"] == 3 / stats.decode_seconds  # the first token is the prefill's
    assert GenerationStats(new_tokens=1).to_dict()["decode_tokens_per_second"] is None


def test_sampled_text_repeats_with_its_seed():
    def text(seed):
        sampling, generator = Sampling(temperature=1.0), torch.Generator().manual_seed(seed)
        return list(generate(NET, PROMPT, max_new_tokens=10, sampling=sampling, generator=generator))

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize(
    ("prompt", "new", "sentence"),
    [
        ([], 1, "the prompt is empty"),
        (PROMPT, 14, "3 prompt tokens and 14 new exceed the model's context of 16"),
    ],
)
def test_what_cannot_be_generated(prompt, new, sentence):
    with pytest.raises(ConfigError, match=sentence):
        next(generate(NET, prompt, max_new_tokens=new, sampling=GREEDY))
