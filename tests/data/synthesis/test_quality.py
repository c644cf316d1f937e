"""Filters of the text alone: what they let through and what they stop."""

import random

import pytest

from model.data.synthesis import quality


def record(response, instruction="Explain it."):
    return {"instruction": instruction, "response": response}


@pytest.mark.parametrize(
    ("response", "words"),
    [("", "fewer than 1"), ("  \n", "fewer than 1"), ("x" * 11, "more than 10"), ("x" * 10, ""), ("4", "")],
)
def test_length(response, words):
    reason = quality.length(record(response), 1, 10)[1]
    assert words in reason and bool(words) == bool(reason)
    assert "instruction" in quality.length(record("x", " "), 1, 10)[1]


def test_repetition():
    draw = random.Random(0)
    plain = " ".join(draw.choice("abcdefghij") + str(draw.randrange(1000)) for _ in range(300))
    assert quality.repetition(record(plain), 0.6) == (0.0, "")
    for loop in ("I think so. " * 30, "好的。" * 40, "a b c d e f g h " * 20, plain + " " + "no no no " * 300):
        assert quality.repetition(record(loop), 0.6)[1]
    assert not quality.repetition(record(plain + " " + plain), 0.6)[1]  # half of it
    assert not quality.repetition(record("ha " * 20), 0.6)[1]  # too short to say


@pytest.mark.parametrize(
    ("response", "languages", "kept"),
    [
        ("An answer in English.", ("en",), True),
        ("Это ответ.", ("en",), False),
        ("这是一个答案。", ("en",), False),
        ("这是一个答案。", ("zh",), True),
        ("这是一个答案 (an answer)。", ("en", "zh"), True),
        ("これは答えです。", ("ja",), True),
        ("42", ("zh",), True),
        ("用 `print(value)` 输出。", ("zh",), True),
        ("Das ist größer.", ("de",), True),
        ("Это ответ.", (), True),
        ("The caf\ufffd is op\ufffdn.", (), False),
    ],
)
def test_language_by_script(response, languages, kept):
    assert (quality.language(record(response), languages, 0.5)[1] == "") == kept


@pytest.mark.parametrize(
    "response",
    ["I'm sorry, but I can't help with that.", "As an AI language model, I have no opinions.",
     "I cannot assist with this request.",
     "Sorry, I cannot provide that information; I am unable to fulfill this request.", "I must decline.",
     "抱歉，我无法回答这个问题。", "作为一个人工智能语言模型，我没有感情。", "我不能提供这样的信息。"],
)  # fmt: skip
def test_refusals_are_seen(response):
    assert quality.refusal(record(response))[1]


@pytest.mark.parametrize(
    "response",
    ["You cannot divide by zero.", "I can help with that: first open the file.", "The server said sorry and closed.",
     "A language model predicts the next word.",
     "Plants cannot answer questions. " * 20 + "As an AI, I agree.", "不能除以零。"],
)  # fmt: skip
def test_answers_are_no_refusals(response):
    assert not quality.refusal(record(response))[1]
