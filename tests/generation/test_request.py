"""A request takes tokens one at a time: what it shows, when it is over and why, and which requests are refused."""

import pytest

from model.errors import ConfigError
from model.generation.request import Request, TokenLogprob, check_requests
from model.generation.stopping import StopStrings
from model.tokenizer.bpe import train_tokenizer

END = 99


class Spelled:
    """A stream in which token n is the n-th of some texts, and `held` comes at the end."""

    def __init__(self, *texts, held=""):
        self.texts, self.held = texts, held

    def step(self, token):
        return self.texts[token]

    def finish(self):
        return self.held


def take(request, *tokens):
    """The piece that each token gives; nothing is taken after the end."""
    pieces = []
    for token in tokens:
        assert request.stop_reason is None
        pieces.append(request.take(token))
        assert request.text == "".join(pieces)
    return pieces


@pytest.mark.parametrize(
    ("stream", "stops", "tokens", "pieces", "reason"),
    [
        (Spelled("a", "b", "c"), (), (0, 1, 2), ["a", "b", "c"], "length"),
        (Spelled("a", "b", held="?"), (), (0, 1, 1), ["a", "b", "b?"], "length"),  # half a character at the end
        (Spelled("a", "b", held="?"), (), (0, END), ["a", "?"], "end_of_text"),
        (Spelled("a", "b"), (), (END,), [""], "end_of_text"),
        (Spelled("one <", "stop", "> two"), ("<stop>",), (0, 1, 2), ["one ", "", ""], "stop_string"),
        (Spelled("one <", "stop", "x"), ("<stop>",), (0, 1, 2), ["one ", "", "<stopx"], "length"),
        (Spelled("one <", "stop"), ("<stop>",), (0, 1, END), ["one ", "", "<stop"], "end_of_text"),
        (Spelled("one <", "stop", held=">"), ("<stop>",), (0, 1, END), ["one ", "", ""], "stop_string"),  # at the end
        (Spelled("a", "bc", held="d"), ("cd",), (0, 0, 1), ["a", "a", "b"], "stop_string"),
        (Spelled("a", "b"), ("a",), (0,), [""], "stop_string"),
        (Spelled("a", "b"), ("b",), (0, 0, 1), ["a", "a", ""], "stop_string"),  # the stop, not the length
        (None, ("a",), (0, 1, 2), ["", "", ""], "length"),
    ],
)
def test_the_text_and_its_end(stream, stops, tokens, pieces, reason):
    request = Request([1], 3, end_ids={END}, stops=StopStrings(stops), stream=stream)
    assert take(request, *tokens) == pieces
    assert request.stop_reason == reason
    assert request.new_tokens == len(tokens)
    assert request.token_ids == [token for token in tokens if token != END]


def test_an_end_in_the_last_place_is_an_end():
    request = Request([1], 2, end_ids=(END,))
    take(request, 5, END)
    assert (request.stop_reason, request.new_tokens, request.token_ids) == ("end_of_text", 2, [5])


@pytest.mark.parametrize("text", ["né, 漢字", "\U0001f600\U0001f600", "plain"])
def test_a_tokenizers_stream_shows_whole_characters(text):
    tokenizer = train_tokenizer(["abc"], 257)
    tokens = tokenizer.encode(text)
    request = Request([1], len(tokens), stream=tokenizer.stream())
    pieces = take(request, *tokens)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    cut = Request([1], 1, stream=tokenizer.stream())
    assert take(cut, tokenizer.encode("漢")[0]) == ["\ufffd"]


def test_a_request_is_itself_and_no_other():
    """Requests are told apart though they ask for the same."""
    one, other = Request([1], 2), Request([1], 2)
    assert one != other
    one.take(3)
    assert (other.token_ids, other.logprobs, other.text) == ([], [], "")
    assert one.stops is not other.stops


def test_a_log_probability_as_json():
    assert TokenLogprob(7, -0.5, {7: -0.5, 2: -1.5}).to_dict() == {
        "token_id": 7, "logprob": -0.5,
        "top": [{"token_id": 7, "logprob": -0.5}, {"token_id": 2, "logprob": -1.5}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "sentences"),
    [
        ([([], 1)], ["the prompt is empty: give at least one token, such as the end-of-text token"]),
        ([([1], 0)], ["max_new_tokens is 0: it must be at least 1"]),
        ([([1] * 10, 1)], ["the prompt has 10 tokens and the model's context is 10: shorten the prompt"]),
        ([([1] * 8, 3)],
         ["the prompt has 8 tokens and 3 new ones exceed the model's context of 10: lower --max-new-tokens to 2"]),
        ([([1, 50], 1)], ["the prompt has tokens beyond the model's 50: take the model's own tokenizer"]),
        ([([-1], 1)], ["the prompt has tokens beyond the model's 50: take the model's own tokenizer"]),
        ([([1], 1), ([1] * 10_000, 5), ([50], 1)],
         ["prompt 2 has 10,000 tokens and the model's context is 10: shorten the prompt",
          "prompt 3 has tokens beyond the model's 50: take the model's own tokenizer"]),
    ],
)  # fmt: skip
def test_requests_that_do_not_fit(prompts, sentences):
    with pytest.raises(ConfigError) as raised:
        check_requests([Request(prompt, new) for prompt, new in prompts], context=10, vocab_size=50)
    assert raised.value.problems == sentences
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prompts", [[], [([0, 49], 8)], [([1], 9), ([1] * 9, 1)]])
def test_requests_that_fit_to_the_last_place(prompts):
    check_requests([Request(prompt, new) for prompt, new in prompts], context=10, vocab_size=50)
