"""Score against length and depth, on samples whose answers are known."""

import pytest

from analyses.evaluation.lengths import (
    MEAN,
    depths_table,
    effective_length,
    lengths_table,
    plot_lengths,
    plot_long_context,
)
from model.errors import HunyuanError
from model.evaluation.intervals import wilson


def sample(task, length, index, score, depth=(), **more):
    return {"task": task, "length": length, "index": index, "scores": {"string_match": score}, "depth": depth, **more}


def needles(length, scores, task="niah_single_1"):
    """One sample at each of the depths 0.05, 0.15, ..., one after the other."""
    return [sample(task, length, i, score, [round(0.05 + 0.1 * (i % 10), 2)]) for i, score in enumerate(scores)]


SHORT, LONG = needles(1024, [1] * 10), needles(8192, [1, 1, 1, 0, 0, 0, 0, 1, 1, 1] * 2)


def test_a_score_has_its_interval_and_counts():
    table = lengths_table([*SHORT, *LONG, sample("niah_single_1", 8192, 20, 0.0, [0.5], null=True, truncated=True)])
    assert table["length"].tolist() == [1024, 8192] and table["n"].tolist() == [10, 21]
    assert table["score"].tolist() == pytest.approx([100, 100 * 12 / 21])
    assert table["nulls"].tolist() == table["truncated"].tolist() == [0, 1]
    assert (table["low"][1], table["high"][1]) == pytest.approx(tuple(100 * end for end in wilson(12, 21)))


def test_tasks_weigh_alike_in_the_mean():
    table = lengths_table([*SHORT, sample("vt", 1024, 0, 0.5), sample("vt", 1024, 1, 0.5)])
    mean = table[table["task"] == MEAN].iloc[0]
    assert (mean["score"], mean["n"]) == (75.0, 12)
    parts = table[table["task"] != MEAN]
    down, up = (parts["score"] - parts["low"]), (parts["high"] - parts["score"])
    assert mean["score"] - mean["low"] == pytest.approx((down**2).sum() ** 0.5 / 2)
    assert mean["high"] - mean["score"] == pytest.approx((up**2).sum() ** 0.5 / 2)


def test_samples_may_come_by_place_and_those_without_a_length_are_left_out():
    by_place = {(row["task"], row["length"], row["index"]): row for row in SHORT}
    by_place["gsm8k", None, 0] = sample("gsm8k", None, 0, 1.0)
    assert lengths_table(by_place).equals(lengths_table(SHORT))
    with pytest.raises(HunyuanError, match="--tasks ruler"):
        lengths_table([sample("gsm8k", None, 0, 1.0)])


def test_the_effective_length_ends_before_the_first_fall():
    rows = [*needles(1024, [1] * 10), *needles(2048, [1] * 9 + [0]), *needles(4096, [0] * 10), *needles(8192, [1] * 10)]
    assert effective_length(lengths_table(rows)) == 2048
    assert effective_length(lengths_table(LONG)) is None


def test_the_map_has_the_mean_of_each_part_of_the_text():
    table = depths_table([*SHORT, *LONG])
    row = {(length, depth): (score, n) for length, depth, score, n in table.itertuples(index=False)}
    assert len(row) == 20 and row[8192, 0.05] == (100, 2) and row[8192, 0.35] == (0, 2) and row[1024, 0.35] == (100, 1)
    halves = depths_table(LONG, bins=2)
    assert halves[["depth", "score", "n"]].values.tolist() == [[0.25, 60, 10], [0.75, 60, 10]]
    assert depths_table([sample("qa_1", 64, 0, 1.0, [1.0])], bins=4)["depth"].tolist() == [0.875]


def test_samples_with_several_places_are_not_in_the_map():
    several = sample("vt", 1024, 0, 0.5, [0.1, 0.9])
    assert depths_table([*SHORT, several]).equals(depths_table(SHORT))
    with pytest.raises(HunyuanError, match="one place"):
        depths_table([several])


def test_one_model_is_drawn_by_task_and_two_by_their_means():
    both = [*SHORT, *LONG, *needles(1024, [0] * 10, "qa_1"), *needles(8192, [1] * 10, "qa_1")]
    (axes,) = plot_lengths({"one": both}).axes
    assert [line.get_label() for line in axes.lines] == ["niah_single_1", "qa_1", MEAN]
    assert axes.lines[-1].get_ydata().tolist() == [50, 80]
    (axes,) = plot_lengths({"one": both, "two": SHORT}).axes
    assert [line.get_label() for line in axes.lines] == ["one", "two"]


def test_the_figure_has_a_map_for_each_model_that_has_one():
    figure = plot_long_context({"one": [*SHORT, *LONG], "two": [sample("vt", 1024, 0, 0.5, [0.1, 0.9])]})
    first, second = figure.axes
    assert second.get_title(loc="left") == "one: score, %"
    shown = [text.get_text() for text in second.texts]
    assert len(shown) == 20 and shown.count("0") == 4
    assert first.get_title(loc="left") == "score against length"
    assert second.yaxis_inverted()  # the beginning of the text is above
