"""One token of one sequence as one program (model/generation/compiled.py) against the model that it is a program of.

The program is run in plain Python for every switch; the compiler's version of it once.
"""

import shutil

import pytest
import torch
import torch._dynamo  # which remembers torch.compiler.is_compiling: before that is patched
from torch import nn

from model.errors import ConfigError
from model.generation import compiled
from model.generation.compiled import CompiledStep
from model.generation.generate import generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.layers.kv_cache import CachePass, KVCache, visible
from tests.oracles.small_models import VARIANTS, build, random_ids

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch.compile needs a C++ compiler on a processor"
)
PREFIX, TOKENS = 5, 12
MANY = {"num_hidden_layers": 2, "moe_topk": (2, 1)}  # all the switches in the fewest layers: these are what is compiled


def cache_for(net):
    return KVCache(net.config, batch=1, max_tokens=PREFIX + TOKENS, dtype=net.embed_tokens.weight.dtype)


def steps(step, net, ids):
    """Logits of the tokens after a prefix that is read in one pass, and the cache."""
    cache = cache_for(net)
    net(ids[:, :PREFIX], cache=cache)
    logits = [step(token, cache)[0] for token in ids[0, PREFIX:].split(1)]
    return torch.stack(logits), cache


@pytest.fixture
def uncompiled(monkeypatch):
    """The program in plain Python, down the paths that the compiler is given."""

    def program(*given):
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            return compiled._step(*given)

    monkeypatch.setattr(compiled, "_program", lambda: program)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_program_in_plain_python_equals_the_model(name, uncompiled):
    net, ids = build(name), random_ids(1, PREFIX + TOKENS)
    logits, cache = steps(CompiledStep(net), net, ids)
    torch.testing.assert_close(logits, net(ids).logits[0, PREFIX:], rtol=1e-5, atol=5e-5)
    assert cache.lengths == [PREFIX + TOKENS]
    other = cache_for(net)
    net(ids, cache=other)
    assert list(cache.slots) == list(other.slots)
    for slot, expected in zip(
        cache.slots.values(), other.slots.values(), strict=True
    ):  # another path can go on with it
        torch.testing.assert_close(slot, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_in_bfloat16_the_program_is_as_near_to_float32_as_the_model_is(name, uncompiled):
    ids = torch.cat([random_ids(1, PREFIX + TOKENS, seed=seed) for seed in range(4)])
    exact, net = build(name)(ids).logits[:, PREFIX:], build(name).bfloat16()
    found = torch.stack([steps(CompiledStep(net), net, row)[0] for row in ids.split(1)])
    errors = [(logits.float() - exact).abs().median() for logits in (found, net(ids).logits[:, PREFIX:])]
    assert found.dtype == torch.bfloat16
    assert 0 < errors[0] < 1.4 * errors[1] < 0.03 * exact.std()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_step_waits_for_no_value(name, monkeypatch):
    """Meta tensors have shapes and no values. One sequence as it is compiled, and three of unequal lengths."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # which does not know the meta device
    net = build(name).bfloat16().to("meta")
    for sequences, compiling in ((1, True), (1, False), (3, False)):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        cache = KVCache(net.config, batch=sequences, max_tokens=9, dtype=torch.bfloat16, device="meta")
        ids, positions = torch.zeros(2, sequences, 1, dtype=torch.int64, device="meta")
        logits = net.step(ids, CachePass(cache.slots, positions, visible(positions, 9)))
        assert logits.shape == (sequences, 1, net.config.vocab_size)


def batch(net, prompts, new, **options):
    requests = [Request(prompt, new) for prompt in prompts]
    for _ in generate_batch(net, requests, sampling=Sampling(), **options):
        pass
    return [request.token_ids for request in requests]


@pytest.mark.slow
@needs_compiler
def test_the_compiled_program_equals_the_model():
    net = build("many", seed=1, **MANY)
    with torch.inference_mode():  # as generation does: another mode would be another program
        ids = random_ids(1, PREFIX + TOKENS)
        logits, _ = steps(CompiledStep(net), net, ids)
        torch.testing.assert_close(logits, net(ids).logits[0, PREFIX:], rtol=1e-4, atol=1e-4)
    prompt = ids[0, :PREFIX].tolist()
    found = batch(net, [prompt], TOKENS, compiled=True)
    assert found == batch(net, [prompt], TOKENS)
    assert len(set(found[0])) > 4


def test_only_a_request_that_runs_alone_goes_through_the_program(monkeypatch):
    net, calls = build("many", **MANY), []

    def program():
        return lambda *given: calls.append(given[1].tolist()) or compiled._step(*given)

    monkeypatch.setattr(compiled, "_program", program)
    requests = [Request(prompt, new) for prompt, new in (([3, 1, 4], 2), ([1, 5], 6), ([9, 2, 6, 5], 3))]
    for _ in generate_batch(net, requests, sampling=Sampling(), slots=2, compiled=True):
        pass
    assert [request.token_ids for request in requests] == [
        batch(net, [request.prompt], request.max_new_tokens)[0] for request in requests
    ]
    # The first two share a step, the second and the third two; then the second has two to itself.
    assert calls == [[token] for token in requests[1].token_ids[3:5]]


def test_experts_on_disk_are_refused():
    net = build("many", **MANY)
    net.layers[1].mlp.experts = nn.Module()
    with pytest.raises(ConfigError, match=r"^a compiled step needs its experts in memory: leave out --compile, or"):
        CompiledStep(net)
    with pytest.raises(ConfigError, match="a compiled step needs its experts in memory"):
        batch(net, [[1]], 2, compiled=True)


@pytest.mark.parametrize("kind", ["InternalTorchDynamoError", "Unsupported", "BackendCompilerFailed", "InductorError"])
def test_a_program_that_cannot_be_compiled_is_one_sentence(kind, monkeypatch):
    error = _error(kind, "Unknown instruction of\n a program")

    def program():
        def fail(*given):
            raise error

        return fail

    monkeypatch.setattr(compiled, "_program", program)
    with pytest.raises(ConfigError) as raised:
        batch(build("dense", num_hidden_layers=1), [[1]], 2, compiled=True)
    sentence = str(raised.value)
    assert sentence.startswith("the step cannot be compiled here (") and sentence.endswith("): leave out --compile")
    assert "Unknown instruction of a program" in sentence and "\n" not in sentence


def _error(kind, message):
    import torch._inductor.exc

    cause = RuntimeError(message)
    if kind == "BackendCompilerFailed":
        return torch._dynamo.exc.BackendCompilerFailed(compiled._step, cause, None)
    if kind == "InductorError":
        return torch._inductor.exc.InductorError(cause, None)
    return getattr(torch._dynamo.exc, kind)(message)
