"""Generation with the cache against the whole sequence again for every token; where it stops; what it measures."""

import time

import pytest
import torch

from model.config import HunyuanConfig
from model.config.storage import STORAGE
from model.counts import kv_cache_bytes
from model.errors import ConfigError
from model.generation.generate import GenerationStats, generate
from model.generation.sampling import Sampling
from model.transformer import Hunyuan

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
    assert (stats.new_tokens, stats.decoded_tokens) == (len(before) + 1, len(before))
    assert list(generate(NET, PROMPT, max_new_tokens=13, sampling=GREEDY, end_id=tokens[0])) == []


def test_stats():
    stats, clock, first = GenerationStats(), [], []
    for _ in generate(NET, PROMPT, max_new_tokens=4, sampling=GREEDY, stats=stats):
        clock.append(stats.decode_seconds)
        first.append(stats.first_token_seconds)
    assert (stats.prompt_tokens, stats.new_tokens, stats.decoded_tokens) == (3, 4, 3)  # the first is the prefill's
    assert (stats.slots, stats.cache_tokens) == (1, 3 + 4)
    assert stats.cache_bytes == kv_cache_bytes(CONFIG, tokens=3 + 4, storage=STORAGE["fp32"])
    assert clock == sorted(clock) and clock[0] == 0 < clock[-1]
    assert 0 < stats.prefill_seconds <= stats.first_token_seconds
    assert set(first) == {stats.first_token_seconds}  # known as soon as the token is
    rates = stats.to_dict()
    assert rates["prefill_tokens_per_second"] == 3 / stats.prefill_seconds
    assert rates["decode_tokens_per_second"] == 3 / stats.decode_seconds


def test_a_rate_without_tokens_or_seconds_is_none():
    for stats in (GenerationStats(), GenerationStats(prompt_tokens=1, new_tokens=1, decode_seconds=1.0)):
        rates = stats.to_dict()
        assert (rates["prefill_tokens_per_second"], rates["decode_tokens_per_second"]) == (None, None)


def test_a_reader_that_takes_its_time_is_not_measured():
    stats = GenerationStats()
    for _ in generate(NET, PROMPT, max_new_tokens=3, sampling=GREEDY, stats=stats):
        time.sleep(0.1)
    assert stats.first_token_seconds + stats.decode_seconds < 0.2


def test_a_model_that_has_answered_can_still_be_trained():
    """What generation makes of its weights must not stay in inference mode."""
    net = Hunyuan(CONFIG, torch.Generator().manual_seed(0))
    expected = list(generate(net, PROMPT, max_new_tokens=5, sampling=GREEDY))
    ids = torch.arange(12).view(2, 6)
    net(ids[:, :-1], ids[:, 1:]).loss.backward()
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    assert all(parameter.grad is not None for parameter in net.layers[0].self_attn.parameters())
    assert list(generate(net, PROMPT, max_new_tokens=5, sampling=GREEDY)) != expected
    net.load_state_dict(Hunyuan(CONFIG, torch.Generator().manual_seed(0)).state_dict())
    assert list(generate(net, PROMPT, max_new_tokens=5, sampling=GREEDY)) == expected


def test_sampled_text_repeats_with_its_seed():
    def text(seed):
        sampling, generator = Sampling(temperature=1.0), torch.Generator().manual_seed(seed)
        return list(generate(NET, PROMPT, max_new_tokens=10, sampling=sampling, generator=generator))

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize(
    ("prompt", "new", "sentence"),
    [
        ([], 1, "the prompt is empty: give at least one token, such as the end-of-text token"),
        (PROMPT, 0, "max_new_tokens is 0: it must be at least 1"),
        (PROMPT, 14, "the prompt has 3 tokens and 14 new ones exceed the model's context of 16: lower --max-new-tokens to 13"),
        ([1] * 16, 1, "the prompt has 16 tokens and the model's context is 16: shorten the prompt"),
        ([1, 61], 1, "the prompt has tokens beyond the model's 61: take the model's own tokenizer"),
        ([-1], 1, "the prompt has tokens beyond the model's 61: take the model's own tokenizer"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated(prompt, new, sentence):
    with pytest.raises(ConfigError) as raised:
        next(generate(NET, prompt, max_new_tokens=new, sampling=GREEDY))
    assert str(raised.value) == sentence
