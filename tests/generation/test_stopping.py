"""Stop strings: whatever pieces a text comes in, it ends where a literal scan of the whole text ends it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError
from model.generation.stopping import StopStrings

TEXTS = st.text(alphabet="ab", max_size=30)  # two letters: overlaps and near misses are the rule
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def scan(text, stops):
    """What is shown of a text, and the stop string that ended it."""
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            longest = max(matches, key=len)
            return text[: end - len(longest)], longest
    return text, None


@st.composite
def cut_texts(draw):
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(deadline=None, max_examples=500)
@given(cut_texts(), STOPS)
def test_any_pieces_end_where_the_scan_ends(pieces, stops):
    matcher, shown = StopStrings(stops), ""
    for i, piece in enumerate(pieces):
        shown += matcher.push(piece)
        so_far = "".join(pieces[: i + 1])
        expected, found = scan(so_far, stops)
        assert matcher.found == found  # as soon as it is there
        if found is None:  # all is shown but the longest beginning of a stop string
            beginnings = {stop[:size] for stop in stops for size in range(len(stop))}
            held = next(so_far[at:] for at in range(len(so_far) + 1) if so_far[at:] in beginnings | {""})
            assert shown + held == so_far
        else:
            assert shown == expected
    assert (shown + matcher.finish(), matcher.found) == scan("".join(pieces), stops)
    assert matcher.finish() == ""


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "rest", "found"),
    [
        (["</s>"], ["Hi", "<", "/s", "> there"], ["Hi", "", "", ""], "", "</s>"),
        (["</s>"], ["Hi<", "/b", "><"], ["Hi", "</b", ">"], "<", None),
        (["\n\n"], ["a\n", "b\n", "\nc", "d"], ["a", "\nb", "", ""], "", "\n\n"),
        (["abab"], ["ab", "ac", "abab"], ["", "abac", ""], "", "abab"),
        (["long", "on"], ["a l", "on", "g"], ["a ", "l", ""], "", "on"),  # the first to end
        (["on", "son", "n"], ["rea", "son"], ["rea", ""], "", "son"),  # of those that end together, the longest
        (["é漢"], ["caf", "é", "漢字"], ["caf", "", ""], "", "é漢"),
        ("stop", ["st", "opt"], ["", ""], "", "stop"),  # a string is one stop string, not its letters
        ([], ["any", ""], ["any", ""], "", None),
    ],
)
def test_what_is_shown_piece_by_piece(stops, pieces, shown, rest, found):
    matcher = StopStrings(stops)
    assert [matcher.push(piece) for piece in pieces] == shown
    assert (matcher.finish(), matcher.found) == (rest, found)


def test_a_character_is_read_once_and_little_is_held():
    """Though 999 characters are held back all the time."""

    class Counted(StopStrings):
        steps = 0

        def _step(self, node, character):
            self.steps += 1
            return super()._step(node, character)

    matcher = Counted(["a" * 999 + "b"])
    matcher.steps = 0
    shown = "".join(matcher.push("a") for _ in range(20_000))
    assert (matcher.steps, len(shown), len(matcher.finish())) == (20_000, 19_001, 999)


def test_an_empty_stop_string_is_refused():
    for stops in (["a", ""], ""):
        with pytest.raises(ConfigError, match=r"^a stop string is empty: "):
            StopStrings(stops)
