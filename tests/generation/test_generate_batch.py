"""Many prompts at once: each has the answer that it has alone, whatever is beside it and however it is cut.

The oracle of greedy text is the whole sequence through the model again for every token, without a cache or a batch.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError, HunyuanError
from model.generation.generate import GenerationStats, generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.generation.stopping import StopStrings
from tests.oracles.small_models import build

GREEDY, PENALTY = Sampling(), Sampling(repetition_penalty=1.8)
LENGTHS = (4, 1, 9, 4, 4, 2, 13, 1, 4, 6)  # some alike, which are prefilled together
NEW = (6, 9, 1, 3, 12, 6, 2, 5, 8, 7)
model = cache(build)


def prompts(seed=0, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(61, (length,), generator=generator).tolist() for length in lengths]


class Letters:
    """A stream in which a token is two letters, the second of which comes with the next token."""

    def __init__(self):
        self.late = ""

    def step(self, token):
        piece, self.late = self.late + chr(97 + token % 3), chr(97 + token % 5)
        return piece

    def finish(self):
        return self.late


def requests(new=NEW, seed=0, lengths=LENGTHS, ends=(), stops=()):
    return [
        Request(
            prompt, count, end_ids=ends, stops=StopStrings(stops), stream=Letters(),
            generator=torch.Generator().manual_seed(index),
        )
        for index, (prompt, count) in enumerate(zip(prompts(seed, lengths), new, strict=True))
    ]  # fmt: skip


def run(net, asked, sampling=GREEDY, **options):
    """Runs the requests; whatever order they come in, the pieces of each are its text."""
    shown = {id(request): "" for request in asked}
    for request, piece in generate_batch(net, asked, sampling=sampling, **options):
        shown[id(request)] += piece
    assert [shown[id(request)] for request in asked] == [request.text for request in asked]
    return [(request.token_ids, request.text, request.new_tokens, request.stop_reason) for request in asked]


def alone(net, asked, sampling=GREEDY):
    return [answer for request in asked for answer in run(net, [request], sampling)]


@cache
def naive(name, prompt, count):
    """Greedy tokens, the whole sequence again for each."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(name)(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


# --- an answer does not depend on its neighbours ---------------------------------------------------------------------


@pytest.mark.parametrize("prefill_chunk", [1, 4, 512])
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 30])
def test_ragged_prompts_have_their_own_greedy_text(slots, prefill_chunk):
    asked = requests()
    found = run(model("many"), asked, slots=slots, prefill_chunk=prefill_chunk)
    assert [ids for ids, *_ in found] == [naive("many", tuple(r.prompt), r.max_new_tokens) for r in asked]
    assert [rest for _, _, *rest in found] == [[count, "length"] for count in NEW]
    assert len({token for ids, *_ in found for token in ids}) > 15


@pytest.mark.parametrize(
    "name",
    ["GQA", "MHA", "MQA", "CLA 2", "CLA 3", "MQA and CLA", "top-2", "top-k list", "every expert", "dense", "dense, untied",
     "no shared", "plain queries and keys", "hunyuan-large", "hunyuan-a13b", "expert bias top-2", "linear", "recycle"],
)  # fmt: skip
def test_every_kind_of_model_answers_a_batch_as_it_answers_one(name):
    asked = requests()
    found = run(model(name), asked, slots=3, prefill_chunk=4)
    assert [ids for ids, *_ in found] == [naive(name, tuple(r.prompt), r.max_new_tokens) for r in asked]


@pytest.mark.parametrize("slots", [2, 4, 8])
@pytest.mark.parametrize(
    ("sampling", "ends", "stops"),
    [
        (GREEDY, (), ("ab",)),
        (GREEDY, (), ("ca", "bca", "abc")),
        (GREEDY, range(0, 61, 9), ()),
        (PENALTY, (), ()),
        (PENALTY, range(0, 61, 9), ("ab",)),
        (Sampling(temperature=1.0), (), ()),
        (Sampling(temperature=1.5, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.3), range(0, 61, 9), ("ab",)),
    ],
)
def test_ends_and_sampling_are_those_of_a_request_alone(sampling, ends, stops, slots):
    net, options = model("many"), {"ends": ends, "stops": stops}
    found = run(net, requests(**options), sampling, slots=slots, prefill_chunk=3)
    assert found == alone(net, requests(**options), sampling)
    reasons = {reason for *_, reason in found}
    assert reasons == {"length"} | ({"end_of_text"} if ends else set()) | ({"stop_string"} if stops else set())


def test_a_penalty_and_a_temperature_change_the_text_and_a_seed_repeats_it():
    net, hot = model("many"), Sampling(temperature=1.0)
    texts = [[ids for ids, *_ in run(net, requests(), how)] for how in (GREEDY, PENALTY, hot, hot)]
    assert texts[2] == texts[3]
    assert texts[0] != texts[1] and texts[0] != texts[2]


def test_a_freed_slot_remembers_nothing_of_its_last_request():
    """With a penalty that forbids repetition, an answer says each token once, and those of its prompt never."""
    asked = requests(new=(9,) * 10)
    run(model("many"), asked, Sampling(repetition_penalty=1e9), slots=3)
    for request in asked:
        assert len(set(request.token_ids)) == 9 and not set(request.token_ids) & set(request.prompt)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=7),
    st.integers(1, 8),
    st.integers(1, 10),
)
def test_any_lengths_slots_and_chunks(sizes, slots, prefill_chunk):
    lengths, new = zip(*sizes, strict=True)
    asked, stats = requests(new, 1, lengths), GenerationStats()
    found = run(model("CLA 2"), asked, slots=slots, prefill_chunk=prefill_chunk, stats=stats)
    assert [ids for ids, *_ in found] == [naive("CLA 2", tuple(r.prompt), r.max_new_tokens) for r in asked]
    assert (stats.prompt_tokens, stats.new_tokens) == (sum(lengths), sum(new))
    assert (stats.decoded_tokens, stats.slots) == (sum(new) - len(new), min(slots, len(new)))


def test_nothing_asked_is_nothing_answered():
    assert list(generate_batch(model("many"), [], sampling=GREEDY)) == []


# --- log probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_k=20, repetition_penalty=1.4)])
@pytest.mark.parametrize("k", [0, 1, 5, 61])
def test_log_probabilities_are_those_of_the_whole_sequence_again(k, sampling):
    """The model's own, before penalty and temperature; the token that ends a text has none."""
    net, asked = model("many"), requests(ends=range(0, 61, 9), stops=("ab",))
    run(net, asked, sampling, slots=3, prefill_chunk=4, logprobs=k)
    assert {request.stop_reason for request in asked} == {"length", "end_of_text", "stop_string"}
    for request in asked:
        assert [entry.token_id for entry in request.logprobs] == request.token_ids
        with torch.no_grad():
            logits = net(torch.tensor([request.prompt + request.token_ids])).logits[0, len(request.prompt) - 1 :]
        for entry, scores in zip(request.logprobs, logits.log_softmax(-1), strict=False):
            assert entry.logprob == pytest.approx(float(scores[entry.token_id]), abs=1e-4)
            values, ids = scores.topk(k)
            assert list(entry.top) == ids.tolist()
            assert list(entry.top.values()) == pytest.approx(values.tolist(), abs=1e-4)


def test_without_being_asked_there_are_none():
    asked = requests()
    run(model("many"), asked)
    assert all(request.logprobs == [] for request in asked)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_stats_of_a_batch():
    stats = GenerationStats()
    run(model("many"), requests(), slots=4, stats=stats)
    assert (stats.prompt_tokens, stats.new_tokens, stats.decoded_tokens) == (48, 59, 49)
    assert (stats.slots, stats.cache_tokens) == (4, 16)  # the longest has 4 tokens of prompt and 12 new ones
    # Layers 0 and 2 own keys and values: 2 heads of 8 values, 4 bytes each.
    assert stats.cache_bytes == 4 * 16 * 2 * 2 * (2 * 8) * 4
    assert 0 < stats.first_token_seconds < stats.prefill_seconds + stats.decode_seconds
    assert stats.to_dict()["decode_tokens_per_second"] == 49 / stats.decode_seconds


def test_of_one_token_each_nothing_is_decoded():
    stats = GenerationStats()
    run(model("many"), requests(new=(1,) * 10), slots=4, stats=stats)
    assert (stats.new_tokens, stats.decoded_tokens, stats.decode_seconds) == (10, 0, 0)


@pytest.mark.parametrize("slots", [1, 3, 10])
def test_slots_are_full_while_there_are_prompts(slots):
    """Prompts of two tokens and more are prefilled by passes of two and more, so that a pass of one token is a step."""
    net, asked, steps = model("many"), requests(lengths=(4, 3, 9, 4, 4, 2, 13, 3, 4, 6)), []

    def count(_, inputs, output):
        if inputs[0].shape[1] == 1:
            steps.append((len(inputs[0]), sum(request.stop_reason is None for request in asked)))

    hook = net.register_forward_hook(count)
    run(net, asked, slots=slots)
    hook.remove()
    assert all(running == min(slots, unfinished) for running, unfinished in steps)
    assert sum(running for running, _ in steps) == sum(NEW) - len(NEW)


def test_prompts_of_one_length_are_prefilled_together_in_order():
    net, passes = model("many"), []
    hook = net.register_forward_hook(lambda _, inputs, output: passes.append(tuple(inputs[0].shape)))
    run(net, requests(new=(1,) * 7, lengths=(3, 3, 2, 5, 5, 5, 5)), slots=3, prefill_chunk=4)
    hook.remove()
    assert passes == [(2, 3), (1, 2), (3, 4), (3, 1), (1, 4), (1, 1)]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lengths": (60, 60), "new": (4, 5)},
         "prompt 2 has 60 tokens and 5 new ones exceed the model's context of 64: lower --max-new-tokens to 4"),
        ({"lengths": (64, 1), "new": (1, 1)},
         "prompt 1 has 64 tokens and the model's context is 64: shorten the prompt"),
        ({"lengths": (0, 70), "new": (1, 1)},
         "2 settings cannot be used: prompt 1 is empty: give at least one token, such as the end-of-text token; "
         "prompt 2 has 70 tokens and the model's context is 64: shorten the prompt"),
        ({"lengths": (3,), "new": (-1,)}, "max_new_tokens is -1: it must be at least 1"),
    ],
)  # fmt: skip
def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_computed(change, sentence):
    net = model("many")
    hook = net.register_forward_hook(lambda *_: pytest.fail("something was computed"))
    with pytest.raises(ConfigError) as raised:
        next(generate_batch(net, requests(**change), sampling=GREEDY))
    hook.remove()
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slots": 0}, "slots is 0: it must be at least 1"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0: it must be at least 1"),
        ({"logprobs": -1}, "logprobs is -1: give 0 to 61, the model's vocabulary"),
        ({"logprobs": 62}, "logprobs is 62: give 0 to 61, the model's vocabulary"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ConfigError) as raised:
        next(generate_batch(model("many"), requests(), sampling=GREEDY, **options))
    assert str(raised.value) == sentence


def test_a_context_can_be_filled_to_its_last_token():
    asked = requests(lengths=(60, 1), new=(4, 63))
    assert [count for _, _, count, _ in run(model("dense"), asked)] == [4, 63]


def test_a_model_gone_wrong_is_a_sentence():
    net = build("dense")
    with torch.no_grad():
        net.norm.weight.fill_(float("nan"))
    with pytest.raises(HunyuanError, match="the model's logits are not finite"):
        run(net, requests())
