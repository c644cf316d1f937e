"""The next token: greedy, literal distributions, transformers' own processors as the oracle, and draws row by row.

B batch, V vocabulary.
"""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.errors import ConfigError, HunyuanError
from model.generation.sampling import Sampling, distribution, draw, next_token, penalised, top_logprobs

PROBABILITIES = torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.4, 0.1, 0.2, 0.3]])
LOGITS = PROBABILITIES.log() + 2.0  # a constant changes nothing


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), [0.15, 0.5, 0.05, 0.3]),
        (Sampling(temperature=0.5), [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        (Sampling(temperature=1, top_k=2), [0, 0.5 / 0.8, 0, 0.3 / 0.8]),
        (Sampling(temperature=1, top_k=9), [0.15, 0.5, 0.05, 0.3]),
        (Sampling(temperature=1, top_p=0.01), [0, 0.5, 0, 0]),  # the likeliest always stays
        (Sampling(temperature=1, top_p=0.45), [0, 0.5, 0, 0]),
        (Sampling(temperature=1, top_p=0.55), [0, 0.5, 0, 0.3]),
        (Sampling(temperature=1, top_p=0.85), [0.15, 0.5, 0, 0.3]),
        (Sampling(temperature=1, top_k=2, top_p=0.6), [0, 0.5 / 0.8, 0, 0]),  # top-p of what top-k left
        (Sampling(temperature=1, min_p=0.2), [0.15, 0.5, 0, 0.3]),  # 0.05 is a tenth of 0.5
        (Sampling(temperature=1, min_p=0.5), [0, 0.5, 0, 0.3]),
        (Sampling(temperature=1, min_p=0.99), [0, 0.5, 0, 0]),
        (Sampling(temperature=2, min_p=0.5), [0.15**0.5, 0.5**0.5, 0, 0.3**0.5]),  # after the temperature
    ],
    ids=str,
)
def test_distribution(sampling, expected):
    """Up to a constant, as it is sampled from."""
    expected, found = torch.tensor(expected), distribution(LOGITS, sampling)[0]
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found / found.sum(), expected / expected.sum())


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_tokens_that_hold_exactly_top_p_need_no_other(top_p, kept):
    assert int((distribution(torch.zeros(1, 4), Sampling(temperature=1, top_p=top_p)) > 0).sum()) == kept


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, top_k=1), Sampling(temperature=2, top_p=1e-6)]
)
def test_one_token_to_choose_from_is_greedy(sampling):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(next_token(logits, sampling), logits.argmax(-1))


def test_draws_follow_the_distribution_and_the_seed():
    sampling = Sampling(temperature=1, top_k=3)

    def draw(seed):
        return next_token(LOGITS[:1].expand(4000, -1), sampling, torch.Generator().manual_seed(seed))

    shares = torch.bincount(draw(0), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.15, 0.5, 0, 0.3]) / 0.95, atol=0.03, rtol=0)
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_bad_values_are_one_error():
    with pytest.raises(ConfigError) as raised:
        Sampling(temperature=-1, top_k=-2, top_p=0, min_p=1, repetition_penalty=0)
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "temperature is -1", "top_k is -2", "top_p is 0", "min_p is 1", "repetition_penalty is 0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in Sampling.__dataclass_fields__ for value in (math.nan, math.inf, -math.inf, -1)]
    + [("top_p", 1.1), ("min_p", 1.0), ("repetition_penalty", 0.0), ("top_k", 2.5)],
)
def test_a_bad_value_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} is {value}: give"):
        Sampling(**{name: value})


@pytest.fixture(scope="module")
def processors():
    """transformers' LogitsProcessors of a Sampling, as its _get_logits_processor orders them."""
    module = pytest.importorskip("transformers.generation.logits_process")

    def of(sampling):
        chain = [module.RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))]
        chain += [module.TemperatureLogitsWarper(float(sampling.temperature))] if sampling.temperature else []
        chain += [module.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
        chain += [module.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
        chain += [module.MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
        return chain

    return of


@st.composite
def batches(draw):
    """Distinct logits (B, V) and the ids seen so far (B, n)."""
    rows, size = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = draw(st.sampled_from([0.3, 3.0, 30.0])) * torch.randn(rows, size, generator=generator)
    return logits, torch.randint(size, (rows, draw(st.integers(1, 12))), generator=generator)


def mostly(off, values):
    return st.one_of(st.just(off), values, values)


TEMPERATURES = st.floats(0.05, 4)
FILTERED = st.builds(
    Sampling,
    temperature=TEMPERATURES,
    top_k=mostly(0, st.integers(1, 45)),
    top_p=mostly(1.0, st.floats(0.01, 0.999)),
    min_p=mostly(0.0, st.floats(0.001, 0.99)),
    repetition_penalty=mostly(1.0, st.floats(0.5, 3)),
)


def marked(ids, logits):
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)


@settings(deadline=None, max_examples=200)
@given(batches(), FILTERED)
def test_the_distribution_is_that_of_transformers(processors, batch, sampling):
    logits, ids = batch
    expected = logits
    for process in processors(sampling):
        held = expected.double().softmax(-1)
        if type(process).__name__ == "TopPLogitsWarper":  # the two sum in opposite orders: no boundary within rounding
            assume(((held.sort(-1).values.cumsum(-1) - (1 - sampling.top_p)).abs() > 1e-5).all())
        if type(process).__name__ == "MinPLogitsWarper":
            assume(((held / held.amax(-1, keepdim=True) - sampling.min_p).abs() > 1e-5).all())
        expected = process(ids, expected)
    expected, found = expected.softmax(-1), distribution(logits, sampling, marked(ids, logits))
    torch.testing.assert_close(found / found.sum(-1, keepdim=True), expected)
    assert torch.equal(found > 0, expected > 0)


@settings(deadline=None, max_examples=50)
@given(batches(), st.floats(0.1, 5))
def test_the_greedy_choice_is_that_of_transformers(processors, batch, penalty):
    logits, ids = batch
    sampling = Sampling(top_k=1, repetition_penalty=penalty)
    (process, *_) = processors(sampling)
    assert torch.equal(next_token(logits, sampling, seen=marked(ids, logits)), process(ids, logits).argmax(-1))


def test_the_repetition_penalty_makes_a_seen_token_less_likely():
    logits = torch.tensor([[2.0, -1.0, 1.5], [2.0, -1.0, 1.5]])
    seen = torch.tensor([[True, True, False], [False, False, False]])
    sampling = Sampling(repetition_penalty=2)
    assert penalised(logits, sampling, seen).tolist() == [[1.0, -2.0, 1.5], [2.0, -1.0, 1.5]]
    assert next_token(logits, sampling, seen=seen).tolist() == [2, 0]
    assert next_token(logits, Sampling(), seen=seen).tolist() == [0, 0]
    with pytest.raises(ConfigError, match=r"^repetition_penalty is 2 but no tokens are marked: give seen$"):
        next_token(logits, sampling)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@settings(deadline=None, max_examples=60)
@given(batches(), FILTERED, st.integers(0, 2**32))
def test_a_row_draws_what_it_draws_alone(batch, sampling, seed):
    """Token for token over several steps, and each generator ends in the same state."""
    logits, ids = batch
    seeds, seen = range(seed, seed + len(logits)), marked(ids, logits)
    together, alone = seeded(*seeds), seeded(*seeds)
    for _ in range(5):
        found = next_token(logits, sampling, together, seen)
        for i, generator in enumerate(alone):
            assert next_token(logits[i : i + 1], sampling, [generator], seen[i : i + 1]) == found[i]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.get_state(), other.get_state())


def test_rows_with_a_generator_each_follow_the_distribution():
    found = next_token(LOGITS[:1].expand(4000, -1), Sampling(temperature=1), seeded(*range(4000)))
    torch.testing.assert_close(torch.bincount(found) / 4000, PROBABILITIES[0], atol=0.03, rtol=0)


def test_a_seed_draws_what_multinomial_draws():
    """So that a seed's text outlives a change of the code."""
    probabilities = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)).softmax(-1)
    alone = [torch.multinomial(row, 1, generator=seeded(i)[0]) for i, row in enumerate(probabilities)]
    assert torch.equal(draw(probabilities, seeded(*range(20))), torch.cat(alone))
    torch.manual_seed(3)
    from_global = draw(probabilities[:1], [None])
    assert torch.equal(from_global, draw(probabilities[:1], seeded(3)))


def test_a_token_of_probability_0_is_never_drawn(monkeypatch):
    probabilities = torch.zeros(300, 500)
    probabilities[:, [0, 250]] = torch.finfo(torch.float32).tiny
    assert set(draw(probabilities, seeded(*range(300))).tolist()) == {0, 250}
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator: self.zero_())  # once in 2^53 draws
    assert draw(torch.tensor([[0.0, 0.0, 0.5, 0.0]]), [None]).tolist() == [2]


def test_one_generator_a_row():
    with pytest.raises(ConfigError, match=r"^3 generators were given for 2 rows of logits: give one a row$"):
        next_token(LOGITS, Sampling(temperature=1), seeded(0, 1, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_are_refused(value, dtype, temperature):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    next_token(logits, Sampling(temperature))
    logits[1, 20] = value
    with pytest.raises(HunyuanError, match=r"^the model's logits are not finite: try --dtype float32"):
        next_token(logits, Sampling(temperature))


def test_the_largest_finite_logits_are_not_refused():
    logits = torch.tensor([[1.0, 1.0, -0.5]]) * torch.finfo(torch.float16).max  # their sum is no float16
    assert next_token(logits.half(), Sampling()).tolist() == [0]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=6),
    st.builds(
        Sampling,
        temperature=st.floats(0, exclude_min=True, allow_infinity=False),
        top_k=st.integers(0, 4),
        top_p=st.floats(0, 1, exclude_min=True),
        min_p=st.floats(0, 1, exclude_max=True),
        repetition_penalty=st.floats(0, exclude_min=True, allow_infinity=False),
    ),
)
def test_a_distribution_is_one_however_extreme_the_values(row, sampling):
    logits = torch.tensor([row])
    found = distribution(logits, sampling, seen=torch.tensor([[True, False] * 3])[:, : len(row)])
    assert (found >= 0).all() and 0 < found.sum() <= 1.001


def test_top_logprobs_are_the_models_own():
    chosen_logprob, ids, logprobs = top_logprobs(LOGITS.bfloat16(), torch.tensor([2, 0]), 3)
    assert ids.tolist() == [[1, 3, 0], [0, 3, 2]]
    assert chosen_logprob.dtype == logprobs.dtype == torch.float32
    torch.testing.assert_close(chosen_logprob, torch.tensor([0.05, 0.4]).log(), atol=0.02, rtol=0)
    expected = torch.tensor([[0.5, 0.3, 0.15], [0.4, 0.3, 0.2]]).log()
    torch.testing.assert_close(logprobs, expected, atol=0.02, rtol=0)
    exact = top_logprobs(LOGITS, torch.tensor([2, 0]), 3)
    torch.testing.assert_close(exact[2], expected)
    torch.testing.assert_close(exact[0], torch.tensor([0.05, 0.4]).log())


def test_how_many_logprobs():
    chosen = torch.tensor([1, 1])
    assert [each.shape for each in top_logprobs(LOGITS, chosen, 0)] == [(2,), (2, 0), (2, 0)]
    torch.testing.assert_close(top_logprobs(LOGITS, chosen, 4)[2].exp().sum(-1), torch.ones(2))
    for k in (5, -1):
        with pytest.raises(ConfigError, match=f"^{k} log probabilities a token were asked for: give 0 to 4"):
            top_logprobs(LOGITS, chosen, k)
