"""analyses/training/seeds.py on tables small enough to work out by hand, and on the data that RESULTS.md quotes."""

import math
from pathlib import Path

import pandas as pd
import pytest

from analyses.style import color
from analyses.training.seeds import paired_curves, plot_curves, plot_differences, variants_table
from model.errors import HunyuanError

DATA = Path(__file__).parents[3] / "examples" / "toy_study"


def cells(**values):
    """cells(wide={0: 1.0, 1: 2.0}, ...): by variant, the measure of each seed."""
    rows = [(variant, seed, value) for variant, seeds in values.items() for seed, value in seeds.items()]
    return pd.DataFrame(rows, columns=["variant", "seed", "val_bits_per_byte"])


def row_of(frame, variant):
    return frame.set_index("variant").loc[variant]


# --- the table -------------------------------------------------------------------------------------------------------

BASE = {0: 1.5, 1: 2.0, 2: 2.5}
WIDE = {0: 1.0, 1: 2.0, 2: 4.0}  # differences -0.5, 0, 1.5


def test_mean_deviation_and_paired_interval_are_those_worked_out_by_hand():
    frame = variants_table(cells(base=BASE, wide=WIDE), "base")
    base, wide = row_of(frame, "base"), row_of(frame, "wide")
    assert (base["n"], base["mean"], base["sd"]) == (3, 2.0, 0.5)
    assert pd.isna(base["difference"]) and pd.isna(base["low"]) and pd.isna(base["high"])
    assert (wide["n"], wide["mean"]) == (3, pytest.approx(7 / 3))
    assert wide["sd"] == pytest.approx(1.527525, abs=1e-6)  # sqrt((16 + 1 + 25) / 9 / 2)
    # Mean difference 1/3, squared deviations 25/36 + 4/36 + 49/36, so that its standard error is sqrt(78/36 / 2 / 3);
    # Student's t at 97.5% for two degrees of freedom is 4.302653.
    assert wide["difference"] == pytest.approx(0.333333, abs=1e-6)
    assert wide["low"] == pytest.approx(0.333333 - 4.302653 * 0.600925, abs=1e-5)
    assert wide["high"] == pytest.approx(0.333333 + 4.302653 * 0.600925, abs=1e-5)


def test_half_of_the_confidence_in_two_pairs_reaches_from_one_difference_to_the_other():
    """For one degree of freedom t at 75% is tan(45 degrees), so half the interval is half the distance of the two."""
    frame = variants_table(cells(base={3: 2.0, 8: 5.0}, wide={3: 2.5, 8: 4.75}), "base", confidence=0.5)
    wide = row_of(frame, "wide")
    assert [wide["difference"], wide["low"], wide["high"]] == pytest.approx([0.125, -0.25, 0.5])


def test_what_a_seed_does_to_both_alike_is_not_in_the_interval():
    base = {seed: 10.0 * seed for seed in range(4)}
    wide = row_of(variants_table(cells(base=base, wide={s: v + 1 for s, v in base.items()}), "base"), "wide")
    assert wide["sd"] > 10
    assert [wide["difference"], wide["low"], wide["high"]] == pytest.approx([1.0, 1.0, 1.0])


def test_rows_in_any_order_are_paired_by_seed_and_variants_keep_their_first_appearance():
    frame = variants_table(cells(wide={2: 4.0, 0: 1.0, 1: 2.0}, base=BASE, also=WIDE), "base")
    assert list(frame["variant"]) == ["wide", "base", "also"]
    assert list(row_of(frame, "wide")[1:]) == pytest.approx(list(row_of(frame, "also")[1:]))


def test_a_seed_that_one_of_the_two_lacks_counts_for_its_own_mean_alone():
    frame = variants_table(cells(base=BASE, late={1: 2.25, 2: 3.25, 7: 100.0}), "base", confidence=0.5)
    late = row_of(frame, "late")
    assert (late["n"], late["mean"]) == (3, pytest.approx(35.1666667))
    assert row_of(frame, "base")["mean"] == 2.0  # of its three, not of the two that are paired
    assert [late["difference"], late["low"], late["high"]] == pytest.approx([0.5, 0.25, 0.75])


def test_a_run_without_a_value_is_a_missing_seed():
    frame = variants_table(cells(base=BASE, wide=WIDE | {1: math.nan}), "base", confidence=0.5)
    wide = row_of(frame, "wide")
    assert (wide["n"], wide["mean"], wide["difference"]) == (2, 2.5, 0.5)
    assert [wide["low"], wide["high"]] == pytest.approx([-0.5, 1.5])


@pytest.mark.filterwarnings("error")
def test_one_pair_has_a_difference_and_no_interval():
    wide = row_of(variants_table(cells(base=BASE, wide={1: 2.25}), "base"), "wide")
    assert (wide["n"], wide["mean"], wide["difference"]) == (1, 2.25, 0.25)
    assert pd.isna(wide["sd"]) and pd.isna(wide["low"]) and pd.isna(wide["high"])


def test_another_measure_is_tabulated_by_its_name():
    frame = cells(base=BASE, wide=WIDE).rename(columns={"val_bits_per_byte": "loss"})
    frame["val_bits_per_byte"] = 9.0
    assert row_of(variants_table(frame, "base", "loss"), "wide")["mean"] == pytest.approx(7 / 3)


def test_an_unknown_baseline_is_one_sentence_that_names_the_variants():
    with pytest.raises(HunyuanError) as caught:
        variants_table(cells(base=BASE, wide=WIDE), "narrow")
    assert str(caught.value) == "there is no variant 'narrow': the table has base, wide"


# --- the figure ------------------------------------------------------------------------------------------------------


def curves(**offsets):
    """Two seeds of each variant at six counts of tokens, 0.3 above and below 10 - tokens / 100 + its offset."""
    rows = [
        (variant, seed, tokens, 10 - tokens / 100 + offset + spread)
        for variant, offset in offsets.items()
        for seed, spread in ((0, 0.3), (1, -0.3))
        for tokens in range(100, 700, 100)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "tokens", "val_bits_per_byte"])


def test_curves_are_means_with_a_band_of_one_deviation_in_both_panels():
    figure = plot_curves(curves(a=0.0, left_out=50.0, b=1.0), ["b", "a"])
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines) == ["b", "a"]
        assert [lines[name].get_color() for name in "ba"] == [color(0), color(1)]
        assert list(lines["a"].get_xdata()) == [100, 200, 300, 400, 500, 600]
        assert list(lines["a"].get_ydata()) == pytest.approx([9, 8, 7, 6, 5, 4])
        assert list(lines["b"].get_ydata()) == pytest.approx([10, 9, 8, 7, 6, 5])
        _, band = axes.collections
        heights = [y for x, y in band.get_paths()[0].vertices if x == 600]
        # of +0.3 and -0.3 the sample deviation is sqrt(2 * 0.09)
        assert (min(heights), max(heights)) == (pytest.approx(4 - 0.424264), pytest.approx(4 + 0.424264))
        assert axes.get_xlabel() == "training tokens" and axes.get_ylabel() == "validation bits per byte"


def test_the_second_panel_is_the_last_third_of_the_variants_drawn():
    end = plot_curves(curves(a=0.0, left_out=50.0, b=1.0), ["a", "b"]).axes[1]
    assert end.get_xlim() == (500, 600)
    assert end.get_ylim() == pytest.approx((4 - 0.3 - 0.003, 5 + 1 + 0.3 + 0.003))


def test_one_legend_names_the_variants():
    (legend,) = plot_curves(curves(a=0.0, b=1.0), ["a", "b"]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


# --- the measured data -----------------------------------------------------------------------------------------------


def test_the_numbers_of_the_readme_are_those_of_the_data():
    frame = variants_table(pd.read_csv(DATA / "cells.csv"), "mixture")
    mixture, dense = row_of(frame, "mixture"), row_of(frame, "dense")
    assert (mixture["n"], round(mixture["mean"], 3)) == (5, 1.447)
    assert (dense["n"], round(dense["mean"], 3)) == (5, 1.467)
    assert round(dense["difference"], 4) == 0.0198
    assert (round(dense["low"], 4), round(dense["high"], 4)) == (0.0106, 0.0289)


def test_the_curves_end_where_the_cells_do():
    """Two files of the same runs: the last validation of a curve is the one that its cell reports."""
    measured, drawn = pd.read_csv(DATA / "cells.csv"), pd.read_csv(DATA / "curves.csv")
    last = drawn.sort_values("tokens").groupby(["variant", "seed"]).last()
    reported = measured.set_index(["variant", "seed"])
    assert len(last) == len(reported) == len(measured)
    for name in ("tokens", "val_loss", "val_bits_per_byte"):
        pd.testing.assert_series_equal(last[name].sort_index(), reported[name].sort_index(), check_exact=True)


# --- differences -----------------------------------------------------------------------------------------------------


def over_training(**values):
    """By variant: seed -> the measure at 100, 200, ... tokens."""
    rows = [
        (variant, seed, 100 * (place + 1), value)
        for variant, seeds in values.items()
        for seed, curve in seeds.items()
        for place, value in enumerate(curve)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "tokens", "val_bits_per_byte"])


CURVES = over_training(
    base={0: [3.0, 1.5], 1: [3.0, 2.0], 2: [2.0, 2.5]}, wide={0: [4.0, 1.0], 1: [3.5, 2.0], 5: [0.0, 0.0]}
)


def test_differences_over_training_are_of_the_pairs_that_are_there():
    frame = paired_curves(CURVES, "base", "val_bits_per_byte", confidence=0.5)
    assert frame[["variant", "tokens", "pairs"]].to_numpy().tolist() == [["wide", 100, 2], ["wide", 200, 2]]
    assert list(frame["difference"]) == [0.75, -0.25]
    # of two pairs, half of the confidence reaches from one to the other
    assert list(frame["low"]) == pytest.approx([0.5, -0.5]) and list(frame["high"]) == pytest.approx([1.0, 0.0])


def test_no_pair_is_no_difference():
    frame = variants_table(cells(base=BASE, wide={7: 1.0}), "base")
    assert row_of(frame, "wide")["pairs"] == 0 and pd.isna(row_of(frame, "wide")["difference"])
    with pytest.raises(HunyuanError, match="no variant has a pair with base"):
        plot_differences(frame, cells(base=BASE, wide={7: 1.0}), CURVES[:0], "base", "val_bits_per_byte")


def test_the_figure_has_every_pair_the_mean_and_its_interval():
    given = cells(base=BASE, wide=WIDE)
    table = variants_table(given, "base")
    forest, over_time = plot_differences(table, given, CURVES, "base", "val_bits_per_byte").axes
    pairs, interval, mean, zero = forest.get_lines()
    assert sorted(pairs.get_xdata()) == [-0.5, 0.0, 1.5]
    assert list(interval.get_xdata()) == [row_of(table, "wide")["low"], row_of(table, "wide")["high"]]
    assert mean.get_xdata()[0] == row_of(table, "wide")["difference"] and list(zero.get_xdata()) == [0, 0]
    assert [text.get_text() for text in forest.get_yticklabels()] == ["wide"]
    assert list(over_time.get_lines()[0].get_ydata()) == [0.75, -0.25]


def test_one_value_a_run_has_no_panel_over_training():
    given = cells(base=BASE, wide=WIDE)
    figure = plot_differences(
        variants_table(given, "base"), given, CURVES[CURVES["tokens"] == 200], "base", "val_bits_per_byte"
    )
    assert len(figure.axes) == 1
