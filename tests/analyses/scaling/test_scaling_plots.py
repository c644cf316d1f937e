"""The pictures of a study: what is drawn where, for studies with and without a law."""

import sys

import numpy as np
import pytest
from isoflop_data import result_of, study, surface_study

from analyses.scaling.laws import LAWS
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
    assert "C^" not in terminal_plot(result_of(study(budgets=(1e18, 1e19))))


def test_without_plotext_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotext", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hunyuan\[term\]'"):
        terminal_plot(result_of(study(noise=1e-3)))
