"""Choices that share one reading of their context have the log-likelihoods of one forward pass for each choice."""

import pytest
import torch

from model.evaluation import loglikelihood
from model.evaluation.loglikelihood import Answer, Limits, Question, answer_long, answer_questions, plan
from tests.oracles.small_models import VARIANTS, build

SIZES = [
    (1, (1,)),
    (1, (3, 2)),
    (7, (1, 1, 1, 1)),
    (12, (4, 1, 6)),
    (30, (2, 9)),
    (12, (5,)),
    (2, (1, 2)),
    (40, (20, 3)),
]
SMALL_LIMITS = Limits(rows=3, tokens=40, logits=61 * 40, held_bytes=2**20)


def draw(sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return torch.randint(61, (count,), generator=generator).tolist()

    return [Question(ids(context), [ids(count) for count in choices]) for context, choices in sizes]


@torch.no_grad()
def alone(net, question, choice):
    """One forward pass of the context and one choice."""
    ids = torch.tensor([[*question.context, *choice]])
    logprobs = net(ids).logits[0, len(question.context) - 1 : -1].double().log_softmax(dim=-1)
    wanted = torch.tensor(choice)
    total = float(logprobs.gather(1, wanted[:, None]).sum())
    return Answer(total, bool((logprobs.argmax(dim=-1) == wanted).all()))


def check(net, questions, limits=None):
    seen = {}
    for index, answers in answer_questions(net, questions, limits):
        assert not seen.keys() & set(index)
        seen |= dict(zip(index, answers, strict=True))
    assert sorted(seen) == list(range(len(questions)))
    for number, question in enumerate(questions):
        expected = [alone(net, question, choice) for choice in question.choices]
        assert [found.is_greedy for found in seen[number]] == [each.is_greedy for each in expected]
        assert [found.logprob for found in seen[number]] == pytest.approx(
            [each.logprob for each in expected], abs=2e-4, rel=1e-5
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_choices_have_the_logprobs_of_one_forward_pass_each(name):
    check(build(name), draw())


@pytest.mark.parametrize("limits", [SMALL_LIMITS, Limits(rows=1), Limits(logits=61 * 3), Limits(tokens=8)])
def test_the_size_of_batches_changes_no_logprob(limits):
    check(build("many"), draw(), limits)


def test_greedy_choices_are_told(monkeypatch):
    net, questions = build("many"), []
    for question in draw():
        ids = list(question.context)
        with torch.no_grad():
            for _ in range(3):
                ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
        likeliest = ids[-3:]
        questions.append(
            Question(question.context, [likeliest, [*likeliest[:2], (likeliest[2] + 1) % 61], *question.choices])
        )
    answers = {
        number: row for index, rows in answer_questions(net, questions) for number, row in zip(index, rows, strict=True)
    }
    assert [(row[0].is_greedy, row[1].is_greedy) for row in answers.values()] == [(True, False)] * len(questions)
    check(net, questions)


def with_one_beginning(count, tail=3):
    head = draw([(28, (1,))], seed=1)[0].context
    return [
        Question([*head, *each.context], each.choices)
        for each in draw([(1 + n % tail, (2, 3)) for n in range(count)], 2)
    ]


def test_a_common_beginning_is_read_once_for_all(monkeypatch):
    """The few others go together without one; what is shared is exactly what the contexts have in common."""
    monkeypatch.setattr(loglikelihood, "WORTH", 100)
    net, questions = build("many"), [*draw(), *with_one_beginning(9)]
    batches = plan(questions, net, Limits())
    assert {batch.shared: sorted(batch.members) for batch in batches} == {0: list(range(8)), 28: list(range(8, 17))}
    check(net, questions)
    check(net, questions, SMALL_LIMITS)


def test_contexts_that_are_all_alike_share_all_but_their_last_token(monkeypatch):
    monkeypatch.setattr(loglikelihood, "WORTH", 1)
    question = with_one_beginning(1)[0]
    questions = [Question(question.context, [choice]) for choice in ([1], [2, 3], [4], [5, 6, 7])]
    net = build("CLA 3")
    assert plan(questions, net, Limits()) == [(len(question.context) - 1, [0, 1, 2, 3])]
    check(net, questions)


def test_a_context_is_read_once_for_its_choices(monkeypatch):
    net, question = build("GQA"), draw([(40, (3, 3, 3, 3))])[0]
    tokens = []
    net.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].numel()))
    step = net.step
    monkeypatch.setattr(
        net, "step", lambda ids, reading, **rest: tokens.append(ids.numel()) or step(ids, reading, **rest)
    )
    list(answer_questions(net, [question]))
    assert sum(tokens) == 39 + 1 + 4 * 2


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_a_long_choice_is_read_in_chunks(monkeypatch, chunk):
    monkeypatch.setattr(loglikelihood, "CHUNK", chunk)
    net, question = build("many"), draw([(5, (50,))])[0]
    expected = alone(net, question, question.choices[0])
    found = answer_long(net, question.context, question.choices[0], Limits(logits=61 * 11))
    assert found.logprob == pytest.approx(expected.logprob, rel=1e-5) and found.is_greedy == expected.is_greedy


def test_batches_are_a_function_of_the_questions():
    net, questions = build("GQA"), [*draw(), *draw(seed=3)]
    assert plan(questions, net, SMALL_LIMITS) == plan(draw() + draw(seed=3), net, SMALL_LIMITS)
    assert sorted(number for batch in plan(questions, net, SMALL_LIMITS) for number in batch.members) == list(range(16))
