"""The kernels of one new token a row: the whole step against the model's own path, and each against float64."""

import pytest
import torch

from model.generation import one_token
from model.int8_weights import to_int8
from model.kernels import decode
from model.kernels.decode import Matrix
from model.layers.kv_cache import CachePass, KVCache, visible
from tests.oracles.small_models import VARIANTS, build, random_ids

CUDA = torch.cuda.is_available()
FEW = ["many", "dense, untied", "no shared"]  # the interpreter takes its time
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}  # of the norm; several roundings
EPS = 1e-5


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes one program after the other, so there each takes more rows."""
    if not CUDA:
        tiles = {name: (decode.Tile(16, 128), decode.Tile(32, 64)) for name in decode.TILES}
        monkeypatch.setattr(decode, "TILES", tiles)


def normal(*shape, dtype=torch.float32, device="cpu", seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def poisoned(tensor):
    """The same values with NaN behind the last one."""
    return torch.cat((tensor.flatten(), tensor.new_full((4096,), float("nan"))))[: tensor.numel()].view(tensor.shape)


def near(found, expected, dtype):
    return (found.double() - expected.double()).norm() <= TOLERANCE[dtype] * max(expected.double().norm(), 1e-3)


def normed(hidden, weight):
    hidden = hidden.double()
    return hidden * (hidden.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()


def quantized(weight):
    """int8 with a scale for each output, and what it stands for."""
    scale = weight.float().abs().amax(-1) / 127
    whole = (weight.float() / scale[..., None]).round().to(torch.int8)
    return Matrix(whole, scale), whole.double() * scale.double()[..., None]


def plain_step(net, tokens, positions, cache):
    places = cache.max_tokens
    seen = visible(positions[:, None], places)
    return net.step(tokens[:, None], CachePass(cache.slots, positions[:, None], seen))[:, 0]


def walk(net, rows, turns, places=72):
    """Logits of both paths for `turns` tokens after prefixes of unequal lengths, and both caches."""
    device, dtype = net.embed_tokens.weight.device, net.embed_tokens.weight.dtype
    ids = random_ids(rows, 32).to(device)
    caches = [KVCache(net.config, batch=rows, max_tokens=places, dtype=dtype, device=device) for _ in range(2)]
    for cache in caches:
        net(ids[:, :12], cache=cache)
    positions = 12 - torch.arange(rows, device=device) % 3
    step, pairs = one_token.OneTokenStep(net, rows), []
    for _ in range(turns):
        tokens = ids[torch.arange(rows, device=device), positions]
        plain = plain_step(net, tokens, positions, caches[0])
        pairs.append((plain, step(tokens, positions, caches[1].slots)))
        positions = positions + 1
    return pairs, caches


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", VARIANTS if CUDA else FEW)
def test_a_step_equals_the_models_own(name, rows, device):
    pairs, caches = walk(build(name).to(device), rows, turns=8 if CUDA else 1)
    for plain, found in pairs:
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.argmax(-1), plain.argmax(-1))
    for layer, slot in caches[0].slots.items():
        for one, other in zip(slot, caches[1].slots[layer], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_with_int8_weights_equals_the_models_own(rows, device):
    pairs, _ = walk(to_int8(build("GQA"), device), rows, turns=8 if CUDA else 1)
    for plain, found in pairs:
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


def test_logits_in_bfloat16(device):
    """Both paths round between products; the bound is of their median distance over the spread of logits."""
    pairs, _ = walk(build("GQA").to(device, torch.bfloat16), 2, turns=2)
    for plain, found in pairs:
        assert found.dtype == torch.bfloat16
        assert (found.float() - plain.float()).abs().median() < 0.03 * plain.float().std()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 2, 17])
@pytest.mark.parametrize("whole", [False, True], ids=["real", "int8"])
def test_projections_with_norm_bias_and_addend(device, batch, dtype, whole):
    size, sizes = 200, (37, 11, 11)
    hidden, weight = (normal(*shape, dtype=dtype, device=device) for shape in ((batch, size), (size,)))
    matrices, exact = [], []
    for seed, outputs in enumerate(sizes):
        matrix = normal(outputs, size, dtype=dtype, device=device, seed=seed)
        bias = normal(outputs, dtype=dtype, device=device, seed=9)
        given, value = quantized(matrix) if whole else (Matrix(poisoned(matrix)), matrix.double())
        matrices.append(given._replace(bias=bias))
        exact.append(normed(hidden, weight) @ value.t() + bias.double())
    found = decode.project(poisoned(hidden), tuple(matrices), norm=(poisoned(weight), EPS))
    assert near(found, torch.cat(exact, dim=1), dtype)
    addend = normal(batch, sizes[0], dtype=dtype, device=device, seed=5)
    found = decode.project(hidden, (matrices[0],), addend=addend)
    value = quantized(normal(sizes[0], size, dtype=dtype, device=device))[1] if whole else matrices[0].weight.double()
    assert near(found, hidden.double() @ value.t() + matrices[0].bias.double() + addend.double(), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "top_k"), [(1, 3), (5, 2)])
@pytest.mark.parametrize("whole", [False, True], ids=["real", "int8"])
def test_a_mixture_from_router_to_residual(device, batch, top_k, dtype, whole):
    size, width, shared_width, experts = 72, 40, 24, 5
    hidden, weight = (normal(*shape, dtype=dtype, device=device) for shape in ((batch, size), (size,)))
    router, bias = normal(experts, size, device=device, seed=3), normal(experts, device=device, seed=4)
    arrived = torch.zeros(batch, dtype=torch.int32, device=device)
    shapes = (2 * shared_width, size), (size, shared_width), (experts, 2 * width, size), (experts, size, width)
    given = [normal(*shape, dtype=dtype, device=device, seed=seed) / 8 for seed, shape in enumerate(shapes)]
    pairs = [quantized(value) if whole else (Matrix(poisoned(value)), value.double()) for value in given]
    (shared_in, shared_out, experts_in, experts_out), (in_, out, e_in, e_out) = zip(*pairs, strict=True)
    norm = weight, EPS
    shared, choices = decode.gate_up_and_choose(
        poisoned(hidden), norm, shared_in, router, bias, arrived, top_k=top_k, sum_to_one=True
    )
    routed = decode.routed_gate_up(hidden, norm, experts_in, choices)
    found = decode.down(hidden, shared, shared_out, routed, experts_out, choices)

    x = normed(hidden, weight)
    probability = (x @ router.double().t()).softmax(-1)
    chosen = (probability + bias.double()).topk(top_k).indices
    share = probability.gather(1, chosen) / probability.gather(1, chosen).sum(-1, keepdim=True)
    assert torch.equal(choices.expert.long(), chosen) and near(choices.weight, share, torch.float32)

    def swiglu(rows, both):
        gate, up = (rows @ both.t()).chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    exact = hidden.double() + swiglu(x, in_) @ out.t()
    for row in range(batch):
        for expert, part in zip(chosen[row].tolist(), share[row], strict=True):
            exact[row] += part * (swiglu(x[row], e_in[expert]) @ e_out[expert].t())
    assert near(found, exact, dtype)
    assert not arrived.any()


def test_the_expert_of_a_router_gone_wrong_is_still_an_expert(device):
    hidden = torch.full((1, 16), float("nan"), device=device)
    router, weight = normal(3, 16, device=device), torch.ones(16, device=device)
    arrived = torch.zeros(1, dtype=torch.int32, device=device)
    _, choices = decode.gate_up_and_choose(hidden, (weight, EPS), None, router, None, arrived, top_k=2)
    assert ((choices.expert >= 0) & (choices.expert < 3)).all() and choices.weight.isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "groups", "size", "owns"), [(4, 2, 24, True), (6, 1, 16, False), (3, 3, 8, True)])
@pytest.mark.parametrize("span", [None, 64], ids=["few splits", "many splits"])
def test_attention_over_a_part_of_the_cache(device, monkeypatch, dtype, heads, groups, size, owns, span):
    """Rows end in the first split, at a border, in the last one; behind each there is NaN. Splits are joined by twos."""
    monkeypatch.setattr(decode, "JOINED", 2 * decode._power(heads // groups) * max(16, decode._power(size)))
    places, positions = 200, torch.tensor([5, 63, 64, 199], device=device)
    batch, repeats = len(positions), heads // groups
    projected = normal(batch, (heads + 2 * groups * owns) * size, dtype=dtype, device=device)
    norms = normal(size, device=device, seed=1), normal(size, device=device, seed=2)
    keys, values = (normal(batch, groups, places, size, dtype=dtype, device=device, seed=seed) for seed in (3, 4))
    for row, position in enumerate(positions.tolist()):
        keys[row, :, position + (not owns) :], values[row, :, position + (not owns) :] = float("nan"), float("nan")
    frequencies = torch.linspace(0.01, 1.0, size // 2, device=device)
    arrived = torch.zeros(batch * groups, dtype=torch.int32, device=device)
    found = decode.attend(
        projected, norms, frequencies, positions, (keys, values), arrived, heads=heads, owns=owns, eps=EPS, span=span
    ).view(batch, groups, repeats, size)  # fmt: skip

    angle = (positions[:, None].float() * frequencies).double()

    def turned(part, weight=1.0):
        first, second = part.double().view(batch, -1, size).chunk(2, dim=-1)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        part = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return part * (part.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight

    parts = projected.split([heads * size] + [groups * size] * 2 * owns, dim=1)
    query = turned(parts[0], norms[0].double() * norms[1].double()).view(batch, groups, repeats, size)
    for row, position in enumerate(positions.tolist()):
        if owns:
            assert near(keys[row, :, position], turned(parts[1])[row], dtype)
            assert torch.equal(values[row, :, position], parts[2].view(batch, groups, size)[row])
        key, value = (cached[row, :, : position + 1].double() for cached in (keys, values))
        score = query[row] @ key.transpose(1, 2) * size**-0.5
        assert near(found[row], score.softmax(-1) @ value, dtype)
    assert not arrived.any()


def test_positions_far_on_turn_by_exact_angles(device):
    """At place 131,071 an angle of float32 is known to a hundredth of a radian; the kernel must not lose more."""
    size, position = 16, torch.tensor([131_071], device=device)
    projected = normal(1, 3 * size, device=device)
    frequencies = torch.ones(size // 2, device=device)
    keys = torch.zeros(1, 1, 1, size, device=device).expand(1, 1, 131_072, size).clone()
    arrived = torch.zeros(1, dtype=torch.int32, device=device)
    if not CUDA:
        pytest.skip("the interpreter goes through every place")
    decode.attend(projected, None, frequencies, position, (keys, keys.clone()), arrived, heads=1, owns=True, eps=EPS)
    first, second = projected[0, size : 2 * size].double().chunk(2)
    angle = torch.tensor(131_071.0, dtype=torch.float64)
    exact = torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()))
    assert near(keys[0, 0, -1], exact, torch.float32)


def test_which_models_the_kernels_serve(monkeypatch):
    net = build("GQA")
    assert not one_token.applies(net, 1)  # on a processor
    monkeypatch.setattr(one_token, "uses_triton", lambda tensor: True)
    monkeypatch.setattr(one_token, "KERNELS", True)
    assert one_token.applies(net, 1) and one_token.applies(net.bfloat16(), decode.MOST_ROWS)
    assert not one_token.applies(net, decode.MOST_ROWS + 1)
    assert not one_token.applies(net.half(), 1)
    net.float().layers[1].mlp.experts = torch.nn.Module()  # as where they are read from files
    assert not one_token.applies(net, 1)
