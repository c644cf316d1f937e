"""The pictures of a study: what is drawn where, for studies with and without a law."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from isoflop_data import result_of, study, surface_study
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analyses.scaling.laws import LAWS, Surface
from analyses.scaling.plots import plot_scaling, terminal_plot
from model.errors import MissingExtraError


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_the_law_its_minima_band_prediction_and_overlay():
    result = result_of(study(noise=1e-3), predict=(1e23,))
    figure = plot_scaling(result, [LAWS["paper"]])
    parabolas, params, tokens, residuals = figure.axes
    drawn = lines(params)
    assert {"fitted law", "paper's law", "prediction"} <= set(drawn)
    at, best = drawn["paper's law"].get_data()
    assert best[7] == pytest.approx(5.9e-3 * at[7] ** 0.5305)
    assert drawn["prediction"].get_ydata() == [result.document["predictions"][0]["params_opt"]]
    assert lines(tokens)["prediction"].get_ydata() == [result.document["predictions"][0]["tokens_opt"]]
    at, fitted = drawn["fitted law"].get_data()
    assert fitted == pytest.approx(np.exp(result.fit.params_law.at(np.log(at))))
    assert at.max() >= 1e23
    stars = [line for line in parabolas.get_lines() if line.get_marker() == "*"]
    assert [float(star.get_xdata()[0]) for star in stars] == pytest.approx(
        [row["params_opt"] for row in result.document["budgets"]]
    )
    points = sum(len(line.get_xdata()) for line in residuals.get_lines() if line.get_marker() == "o")
    assert points == result.document["runs"]["used"]
    assert f"{result.document['n_opt']['exponent']:.3f}" in params.get_title(loc="left")


NOISY = surface_study(decades=0.7, sizes=7, noise=4e-3, budgets=6, seed=3)


@pytest.mark.parametrize("method", ["quadratic", "parametric", "both"])
@pytest.mark.parametrize("interval", ["delta", "case"])
def test_titles_have_the_numbers_of_the_table(method, interval):
    """A study whose parabolas and surface disagree."""
    result = result_of(surface_study(decades=1.2, noise=2e-2, seed=1), method=method, interval=interval)
    figure = plot_scaling(result)
    for axes, name in ((figure.axes[1], "n_opt"), (figure.axes[2], "d_opt")):
        law, title = result.document[name], axes.get_title(loc="left")
        assert f"{law['exponent']:.3f}" in title and "{:.3f} to {:.3f}".format(*law["exponent_interval"]) in title
        surface = (result.document.get("parametric") or {}).get(name)
        assert (method == "both") == ("surface" in title)
        if surface:
            assert f"{surface['exponent']:.3f}" in title


def test_the_surface_is_drawn_where_it_was_fitted():
    result = result_of(NOISY, method="parametric", predict=(1e23,))
    part = result.document["parametric"]
    surface = Surface(*(part[name] for name in ("E", "A", "B", "alpha", "beta")))
    losses, params, tokens, residuals = plot_scaling(result).axes
    curves = [line for line in losses.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == 100]
    assert len(curves) == 6
    for curve, budget in zip(curves, result.document["budgets"], strict=True):
        size, loss = curve.get_data()
        assert loss == pytest.approx(surface.loss(size, budget["flops"] / 6 / size))
    at, best = lines(params)["fitted law"].get_data()
    assert best == pytest.approx(surface.laws()[0].coefficient * at ** surface.exponents[0])
    assert lines(tokens)["fitted law"].get_ydata()[5] == pytest.approx(at[5] / 6 / best[5])
    assert lines(params)["prediction"].get_ydata() == [part["predictions"][0]["params_opt"]]
    drawn = np.concatenate([line.get_ydata() for line in residuals.get_lines() if line.get_marker() == "o"])
    off = np.array(NOISY["loss"]) - surface.loss(np.array(NOISY["params"]), np.array(NOISY["tokens"]))
    assert np.sort(drawn) == pytest.approx(1000 * np.sort(off))


def test_both_methods_are_drawn_side_by_side():
    result = result_of(NOISY, method="both", predict=(1e23,))
    losses, params, _, _ = plot_scaling(result).axes
    assert sum(line.get_linestyle() == "--" for line in losses.get_lines()) == 6
    drawn = lines(params)
    assert {"fitted law", "surface", "prediction", "prediction of the surface"} <= set(drawn)
    at, best = drawn["surface"].get_data()
    law = result.document["parametric"]["n_opt"]
    assert best == pytest.approx(law["coefficient"] * at ** law["exponent"])


@pytest.mark.parametrize(
    "columns",
    [study(budgets=(1e18, 1e19)), study(budgets=(1e18, 1.3e18, 1.6e18, 2e18)), study(sizes=3), study(budgets=(1e18, 1e25)),
     surface_study(noise=1e-3)],
    ids=["two", "near", "none", "far", "wide"],
)  # fmt: skip
def test_tick_labels_never_touch(columns):
    figure = plot_scaling(result_of(columns))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        for axis, across in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            low, high = sorted(axis.get_view_interval())
            boxes = [tick.label1.get_window_extent() for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                     if tick.label1.get_text() and low <= tick.get_loc() <= high]  # fmt: skip
            spans = sorted((getattr(box, f"{across}0"), getattr(box, f"{across}1")) for box in boxes)
            assert all(left[1] < right[0] for left, right in pairwise(spans))


def test_a_budget_without_a_minimum_is_hollow_and_has_no_star():
    columns = study(noise=1e-3, budgets=(1e18, 1e19, 1e20, 1e21))
    columns["loss"][:7] = [3.0 - 0.05 * i for i in range(7)]
    result = result_of(columns)
    assert [row["used"] for row in result.document["budgets"]] == [False, True, True, True]
    parabolas = plot_scaling(result).axes[0]
    markers = [line for line in parabolas.get_lines() if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "none" for line in markers] == [True, False, False, False]
    assert sum(line.get_marker() == "*" for line in parabolas.get_lines()) == 3


def test_a_study_without_a_law_is_drawn_without_one():
    columns = study(budgets=(1e18, 1e19))
    figure = plot_scaling(result_of(columns), [LAWS["chinchilla"]])
    assert "no law" in figure.axes[1].get_title(loc="left")
    assert set(lines(figure.axes[1])) & {"fitted law", "prediction"} == set()


def test_the_same_study_gives_the_same_bytes(tmp_path):
    from hunyuan_cli.files import save_figure

    for name in ("a.svg", "b.svg"):
        save_figure(plot_scaling(result_of(surface_study(decades=0.7, noise=1e-3))), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_terminal_shows_budgets_law_and_minima():
    drawn = terminal_plot(result_of(study(noise=1e-3), predict=(1e23,)), [LAWS["paper"]])
    assert "1e+18 FLOPs" in drawn and "C^0.5" in drawn and "paper" in drawn and "minima" in drawn
    assert "\x1b" not in drawn
    assert "\x1b" in terminal_plot(result_of(study(noise=1e-3)), colors=True)
    surface = result_of(NOISY, method="parametric")
    assert f"C^{surface.document['n_opt']['exponent']:.3f}" in terminal_plot(surface)
    assert "surface: C^" in terminal_plot(result_of(NOISY, method="both"))
    assert "C^" not in terminal_plot(result_of(study(budgets=(1e18, 1e19))))


def test_without_plotext_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotext", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hunyuan\[term\]'"):
        terminal_plot(result_of(study(noise=1e-3)))
