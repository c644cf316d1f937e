"""Recorded steps against plain ones, and what a session keeps between calls.

On a processor the recorded path plays its steps without a recording: state, sampling, places and the host behind are the same.
With a GPU the same tests record.
"""

import pytest
import torch

from model.errors import HunyuanError
from model.generation.generate import GenerationStats, generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling, counter_times, counter_token, distribution
from model.generation.session import Session, bucket
from model.generation.stopping import StopStrings
from tests.generation.test_generate_batch import NEW, Letters, prompts, requests
from tests.oracles.small_models import VARIANTS, build, random_ids

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
GREEDY, PENALTY = Sampling(), Sampling(repetition_penalty=1.8)
DRAWN = Sampling(temperature=0.9, top_k=30, top_p=0.95, min_p=0.01)


def run(net, asked, sampling=GREEDY, **options):
    shown = {id(request): "" for request in asked}
    for request, piece in generate_batch(net, asked, sampling=sampling, **options):
        shown[id(request)] += piece
    assert [shown[id(request)] for request in asked] == [request.text for request in asked]
    return [(request.token_ids, request.text, request.stop_reason) for request in asked]


def recorded(net):
    return Session(net, records=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VARIANTS)
def test_recorded_steps_give_the_greedy_tokens_of_plain_ones(name, device):
    net = build(name).to(device)
    plain = run(net, requests(), session=Session(net, records=False), slots=3)
    assert run(net, requests(), session=recorded(net), slots=3) == plain
    assert run(net, requests()[:1], session=recorded(net)) == plain[:1]


@torch.inference_mode()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_logits_of_recorded_steps(device, dtype, bound):
    """Against the whole sequence in float32; the bound is of their median error over their spread, that of bfloat16."""
    ids = random_ids(3, 20)
    exact = build()(ids).logits.detach()
    net = build().to(device, dtype)
    session = recorded(net)
    cache, state = session.reserve(3, 20), session.rows(penalised=False)
    net(ids[:, :8].to(device), cache=cache.rows(0, 3))
    for place in range(8, 20):
        state.tokens[:3], state.positions[:3] = ids[:, place].to(device), place
        step = session.step(3, place + 1, GREEDY)
        step.replay()
        error = step.logits[:3].float().cpu() - exact[:, place]
        assert error.abs().median() < bound * exact.std()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_ends_stops_penalty_and_logprobs_of_recorded_steps(device, slots):
    net = build().to(device)
    for sampling in (GREEDY, PENALTY):
        pairs = []
        for session in (Session(net, records=False), recorded(net)):
            asked = requests(ends=(3, 11, 17), stops=("ab", "cd"))
            pairs.append(run(net, asked, sampling, session=session, slots=slots, logprobs=2))
            pairs.append([[(entry.token_id, list(entry.top)) for entry in request.logprobs] for request in asked])
        assert pairs[:2] == pairs[2:]
        assert {reason for *_, reason in pairs[0]} >= {"stop_string", "end_of_text"}


@pytest.mark.parametrize("device", DEVICES)
def test_a_drawn_answer_depends_on_its_seed_alone(device):
    net = build().to(device)
    together = run(net, requests(), DRAWN, session=recorded(net), slots=4)
    alone = [run(net, [request], DRAWN, session=recorded(net))[0] for request in requests()]
    assert together == alone
    greedy = run(net, requests(), session=recorded(net), slots=4)
    assert sum(one != other for one, other in zip(together, greedy, strict=True)) > len(NEW) // 2


def test_a_session_is_used_again_with_other_requests_rows_and_lengths():
    net = build()
    session = recorded(net)
    for count, slots in ((1, 1), (10, 4), (3, 2), (1, 1), (10, 8)):
        for sampling in (GREEDY, PENALTY):
            found = run(net, requests()[:count], sampling, session=session, slots=slots)
            assert found == run(net, requests()[:count], sampling, slots=slots)


@pytest.mark.parametrize("records", [False, True])
def test_only_the_new_text_of_a_conversation_is_read(records):
    net, told = build(), prompts()[6]
    session = Session(net, records=records)
    for turn in range(3):
        stats, (request, again) = GenerationStats(), (Request(told, 5, stream=Letters()) for _ in range(2))
        answer = run(net, [request], session=session, stats=stats)
        assert answer == run(net, [again])
        assert stats.reused_tokens == (len(told) - 3 - 1 if turn else 0)  # the answer's last token was never fed
        assert stats.prompt_tokens + stats.reused_tokens == len(told)
        told = told + request.token_ids + [7, 8, 9]
    edited = [*told[:4], 60, *told[5:]]
    stats = GenerationStats()
    found = run(net, [Request(edited, 4, stream=Letters())], session=session, stats=stats)
    assert found == run(net, [Request(edited, 4, stream=Letters())]) and stats.reused_tokens == 4


@pytest.mark.parametrize("records", [False, True])
def test_a_call_that_is_left_early_keeps_what_is_true(records):
    net, told = build(), prompts()[6]
    session, request = Session(net, records=records), Request(told, 9, stops=StopStrings([]))
    steps = generate_batch(net, [request], sampling=GREEDY, session=session)
    for _ in range(4):
        next(steps)
    steps.close()
    longer = told + request.token_ids + [1, 2]
    stats = GenerationStats()
    assert run(net, [Request(longer, 6)], session=session, stats=stats) == run(net, [Request(longer, 6)])
    assert stats.reused_tokens >= len(told) + 3


def test_logits_that_are_not_finite_are_told():
    net = build()
    with torch.no_grad():
        net.norm.weight[0] = float("nan")
    with pytest.raises(HunyuanError, match="not finite"):
        run(net, requests()[:2], session=recorded(net))
    assert counter_token(
        torch.tensor([[0.0, float("inf")], [0.0, 1.0]]), GREEDY, *torch.zeros(2, 2).long()
    ).tolist() == [
        -1,
        1,
    ]


def test_counter_noise_draws_from_the_distribution():
    draws, logits = 20_000, torch.tensor([1.0, 0.2, -0.5, 2.0, -3.0])
    rows, sampling = logits.expand(draws, -1), Sampling(temperature=0.8, top_k=4)
    for seeds, positions in ((0, torch.arange(draws)), (torch.arange(draws), 5)):
        seeds, positions = (torch.as_tensor(value).expand(draws) for value in (seeds, positions))
        chosen = counter_token(rows, sampling, seeds, positions)
        expected = distribution(logits[None], sampling)[0]
        shares = chosen.bincount(minlength=5) / draws
        assert (shares - expected).abs().max() < 5 * (0.25 / draws) ** 0.5 and shares[4] == 0
    times = counter_times(torch.arange(8) - 2**63, torch.arange(8), 20_000)
    assert (times > 0).all() and (times.mean(dim=1) - 1).abs().max() < 0.05


def test_buckets():
    assert [bucket(count, 1, 8) for count in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 9]
    assert [bucket(count, 256) for count in (1, 256, 257)] == [256, 256, 512]
