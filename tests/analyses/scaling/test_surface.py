"""analyses/scaling/surface.py: what cannot be fitted, and optima on a surface against grids."""

import subprocess
import sys

import numpy as np
import pytest
from test_surface_fit import (
    CHINCHILLA,
    REPORT,
    SIX,
    TOY,
    bootstrap,
    draw,
    fit,
)

from analyses.scaling.laws import Surface
from analyses.scaling.surface import (
    budget_for_loss,
    flat_region,
    optimum,
)
from model.errors import HunyuanError

# --- what cannot be fitted -------------------------------------------------------------------------------------------


def broken(column, row, value):
    columns = draw(TOY, 12, 0.01)
    columns[column][row] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (draw(TOY, 5, 0.01), "5 runs cannot determine"),
        (broken(2, 3, np.nan), "loss of run 4 is nan"),
        (broken(0, 0, np.inf), "params of run 1 is inf"),
        (broken(1, 11, 0.0), "tokens of run 12 is 0"),
        (broken(2, 1, -1.0), "loss of run 2 is -1"),
        (broken(0, slice(None), 1e6), "1 distinct value of params"),
        (broken(1, slice(None), [1e8, 2e8] * 6), "2 distinct values of tokens"),
        ((np.ones(7), np.ones(8), np.ones(7)), "one length"),
        ((np.ones((7, 1)),) * 3, "one length"),
    ],
)
def test_runs_that_determine_no_surface_are_refused_in_one_sentence(columns, sentence):
    with pytest.raises(HunyuanError, match=sentence) as caught:
        fit(columns)
    assert "\n" not in str(caught.value)
    with pytest.raises(HunyuanError, match=sentence):
        bootstrap(fit(draw(TOY, 12, 0.01)), columns, 3)


@pytest.mark.parametrize("options", [{"starts": 0}, {"delta": 0.0}, {"delta": float("nan")}])
def test_starts_and_delta_must_be_positive(options):
    with pytest.raises(HunyuanError, match="positive delta"):
        fit(draw(TOY, 12, 0.01), **options)


def test_resamples_must_be_positive():
    columns = draw(TOY, 12, 0.01)
    with pytest.raises(HunyuanError, match="0 resamples"):
        bootstrap(fit(columns), columns, 0)


def test_a_surface_at_the_edge_of_the_law_has_warnings():
    params, tokens, _ = draw(TOY, 40, 0)
    generator = np.random.default_rng(0)
    noise = np.exp(0.003 * generator.standard_normal(40))
    negative = fit((params, tokens, (-0.5 + 60 / params**0.2 + 300 / tokens**0.25) * noise)).warnings
    assert any("term of E" in sentence for sentence in negative)
    deaf = fit((params, tokens, (1.2 + 60 / params**0.33) * noise)).warnings
    assert any("term of B" in sentence or "beta =" in sentence for sentence in deaf)
    steep = fit((params, tokens, 1.2 + 300 / tokens**0.34 + (1e6 / params) ** 5)).warnings
    assert [sentence.split(" is ")[0] for sentence in steep] == ["alpha = 5"]
    proportional = fit((params, 20 * params, TOY.loss(params, 20 * params) * noise)).warnings
    assert any("tokens follow from the size" in sentence for sentence in proportional)


# --- the surface -----------------------------------------------------------------------------------------------------


def test_loss_and_exponents_are_those_of_the_published_surface():
    """Hoffmann et al. 2022, equation 10, with a = 0.46 and b = 0.54 of table 2."""
    published = Surface(1.69, 406.4, 410.7, 0.34, 0.28)
    assert published.exponents == pytest.approx((0.28 / 0.62, 0.34 / 0.62))
    assert published.loss(70e9, 1.4e12) == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)
    assert published.loss(np.array([1e9, 2e9]), np.array([[1e10], [1e11], [1e12]])).shape == (3, 2)


@pytest.mark.parametrize("cost", [SIX, REPORT, (6, 1e12)])
@pytest.mark.parametrize("surface", [CHINCHILLA, TOY, Surface(1.7, 5e4, 9.0, 0.6, 1.4)])
def test_the_optimum_is_that_of_a_grid(surface, cost):
    budgets = np.array([[1e15, 1e19], [1e23, 1e26]])
    params, tokens = optimum(surface, budgets, cost)
    assert params.shape == tokens.shape == (2, 2)
    np.testing.assert_allclose((cost[0] * params + cost[1]) * tokens, budgets, rtol=1e-12)
    for budget, size, length in zip(budgets.flat, params.flat, tokens.flat, strict=True):
        grid = size * np.exp(np.linspace(-3, 3, 60_001))
        losses = surface.loss(grid, budget / (cost[0] * grid + cost[1]))
        assert grid[losses.argmin()] == pytest.approx(size, rel=1e-3)
        assert surface.loss(size, length) <= losses.min() * (1 + 1e-15)


def test_the_optimum_without_a_fixed_cost_is_the_closed_form_of_the_paper():
    """Hoffmann et al. 2022, equation 4: N = G (C / 6)^a, D = (C / 6)^b / G, G = (alpha A / (beta B))^(1 / (alpha + beta))."""
    params, tokens = optimum(CHINCHILLA, 5.76e23, SIX)
    g = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    assert params == pytest.approx(g * (5.76e23 / 6) ** (0.37 / 0.72), rel=1e-12)
    assert tokens == pytest.approx((5.76e23 / 6) ** (0.35 / 0.72) / g, rel=1e-12)


@pytest.mark.parametrize("cost", [SIX, REPORT])
def test_the_flat_region_ends_where_the_loss_has_risen_by_the_tolerance(cost):
    budgets = np.array([1e18, 1e21, 1e25])
    params, tokens = optimum(CHINCHILLA, budgets, cost)
    low, high = flat_region(CHINCHILLA, budgets, cost, 0.01)
    assert np.all(low < params) and np.all(params < high)
    for size in (low, high):
        raised = CHINCHILLA.loss(size, budgets / (cost[0] * size + cost[1]))
        np.testing.assert_allclose(raised, 1.01 * CHINCHILLA.loss(params, tokens), rtol=1e-12)


@pytest.mark.parametrize("cost", [SIX, REPORT, (6, 1e12)])
def test_the_budget_for_a_loss_is_the_one_whose_optimum_has_it(cost):
    budgets = np.geomspace(1e16, 1e26, 11)
    losses = CHINCHILLA.loss(*optimum(CHINCHILLA, budgets, cost))
    np.testing.assert_allclose(budget_for_loss(CHINCHILLA, losses, cost), budgets, rtol=1e-9)


def test_what_the_surface_cannot_answer_is_refused():
    with pytest.raises(HunyuanError, match=r"no budget reaches a loss of 1.8: the surface stays above E = 1.8"):
        budget_for_loss(CHINCHILLA, [2.0, 1.8], SIX)
    with pytest.raises(HunyuanError, match="flops must be positive"):
        optimum(CHINCHILLA, [1e20, -1.0], SIX)
    with pytest.raises(HunyuanError, match="has no optimum"):
        optimum(Surface(1.8, 480, 2100, 0.35, -0.1), 1e20, SIX)
    with pytest.raises(HunyuanError, match="cost"):
        optimum(CHINCHILLA, 1e20, (0, 1))
    with pytest.raises(HunyuanError, match="tolerance"):
        flat_region(CHINCHILLA, 1e20, SIX, 0)


def test_importing_needs_numpy_alone():
    found = "import sys, analyses.scaling.surface; print({'scipy', 'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", found], capture_output=True, text=True).stdout.strip() == "set()"
