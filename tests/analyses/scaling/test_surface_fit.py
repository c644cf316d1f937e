"""analyses/scaling/surface.py: derivatives, optima against independent optimizers, and the law's closed forms against grids."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from scipy.optimize import linprog, minimize, nnls

from analyses.scaling import surface as parametric
from analyses.scaling import surface_solver as parametric_solver
from analyses.scaling.laws import Surface
from analyses.scaling.surface import (
    bootstrap_parametric,
    fit_parametric,
)
from analyses.scaling.surface_solver import Points, evaluate, project, random_starts, solve

CHINCHILLA = Surface(1.8, 480, 2100, 0.35, 0.37)
TOY = Surface(1.2, 60, 300, 0.33, 0.34)
SIX = (6, 0)
REPORT = (9.59, 2.3e8)  # FLOPs of a token in the Hunyuan-Large report: 9.59 N + 2.3e8


def draw(surface, n, noise, seed=0):
    """n runs, of Chinchilla's sizes or of toy sizes."""
    generator = np.random.default_rng(seed)
    sizes, lengths = ((5e7, 1.5e10), (1e9, 1e12)) if surface is CHINCHILLA else ((4e5, 4e7), (2e7, 2e9))
    params, tokens = (np.exp(generator.uniform(*np.log(ends), n)) for ends in (sizes, lengths))
    return params, tokens, surface.loss(params, tokens) * np.exp(noise * generator.standard_normal(n))


def fit(columns, seed=1, **options):
    return fit_parametric(*columns, generator=np.random.default_rng(seed), **options)


def bootstrap(fitted, columns, resamples, seed=3, **options):
    return bootstrap_parametric(fitted, *columns, generator=np.random.default_rng(seed), resamples=resamples, **options)


def counts(n, resamples, seed=3):
    """How often each run, in canonical order, is in the resamples of that seed."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    return np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)


def residuals(theta, points):
    terms = np.exp(theta[0]), np.exp(theta[1] - theta[3] * points.x), np.exp(theta[2] - theta[4] * points.y)
    return np.log(sum(terms)) - points.log_loss


def huber_sum(theta, points, weights, delta):
    """Huber's loss by its two cases; of complex theta too, for derivatives by complex steps."""
    r = residuals(theta, points)
    beyond = delta * (np.where(r.real > 0, r, -r) - delta / 2)
    return np.sum(weights * np.where(np.abs(r.real) <= delta, r * r / 2, beyond))


def complex_gradient(theta, points, weights, delta):
    steps = 1e-30j * np.eye(5)
    return np.array([huber_sum(theta + step, points, weights, delta).imag / 1e-30 for step in steps])


# --- the solver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-3, 0.02, 1.0])
def test_objective_gradient_and_hessian_are_those_of_complex_steps(delta):
    points = Points.of(*draw(TOY, 37, 0.05))
    generator = np.random.default_rng(0)
    theta = project(points, random_starts(points, 6, generator))
    weights = generator.integers(0, 4, (6, 37)).astype(float)
    wide, narrow = np.full(6, 3 * delta), np.full(6, delta)
    before, value, gradient, hessian = evaluate(points, weights, theta, wide, narrow, np.empty((8, 9, 37)))
    for row in range(6):
        arguments = points, weights[row], delta
        assert before[row] == pytest.approx(huber_sum(theta[row], points, weights[row], 3 * delta), rel=1e-12)
        assert value[row] == pytest.approx(huber_sum(theta[row], *arguments), rel=1e-12)
        exact = complex_gradient(theta[row], *arguments)
        np.testing.assert_allclose(gradient[row], exact, rtol=1e-11, atol=1e-13)
        # Huber's second derivative jumps at delta; no residual crosses it within so small a step.
        steps = 1e-7 * np.eye(5)
        near = [
            complex_gradient(theta[row] + s, *arguments) - complex_gradient(theta[row] - s, *arguments) for s in steps
        ]
        np.testing.assert_allclose(
            hessian[row], np.array(near) / 2e-7, rtol=2e-6, atol=2e-6 * np.abs(hessian[row]).max()
        )


def test_damped_steps_solve_the_equations_and_see_an_indefinite_matrix():
    generator = np.random.default_rng(0)
    root = generator.standard_normal((7, 5, 5))
    hessian, gradient, added = (
        root @ root.transpose(0, 2, 1),
        generator.standard_normal((7, 5)),
        generator.random((7, 5)),
    )
    hessian[3] -= 9 * np.eye(5)
    step, decrease, definite = parametric_solver.damped_steps(gradient, hessian, added)
    whole = hessian + added[:, :, None] * np.eye(5)
    assert definite.tolist() == [bool(np.linalg.eigvalsh(matrix)[0] > 0) for matrix in whole] and not definite[3]
    for row in np.flatnonzero(definite):
        np.testing.assert_allclose(whole[row] @ step[row], -gradient[row], atol=1e-9)
        assert decrease[row] == pytest.approx(-0.5 * gradient[row] @ step[row])


def test_projected_starts_are_least_squares_of_relative_residuals_that_are_not_negative():
    points = Points.of(*draw(TOY, 37, 0.05))
    starts = random_starts(points, 30, np.random.default_rng(0))
    projected = project(points, starts)
    assert np.array_equal(projected[:, 3:], starts[:, 3:])
    for theta in projected:
        basis = np.stack([np.ones(37), np.exp(-theta[3] * points.x), np.exp(-theta[4] * points.y)], axis=1)
        relative = basis / np.exp(points.log_loss)[:, None]
        distance = np.linalg.norm(relative @ np.exp(theta[:3]) - 1)
        assert distance <= 1.5 * nnls(relative, np.ones(37))[1]  # the descent is inexact, and zero becomes a thousandth


@pytest.mark.parametrize(
    ("surface", "n", "noise"),
    [(CHINCHILLA, 240, 0.002), (CHINCHILLA, 240, 0.02), (TOY, 35, 0.01), (TOY, 60, 0.005)],
)
def test_ninety_nine_of_a_hundred_wide_starts_reach_one_optimum(surface, n, noise):
    points = Points.of(*draw(surface, n, noise))
    starts = random_starts(points, 300, np.random.default_rng(5))
    assert starts[:, 3:].min() < 0.05 and starts[:, 3:].max() > 2.4
    solution = solve(points, np.ones((1, n)), project(points, starts), delta=1e-3, tolerance=1e-10)
    assert np.mean(solution.objective <= solution.objective.min() + 1e-6) >= 0.99
    best = solution.theta[solution.objective.argmin()]
    polished = minimize(
        huber_sum, best, (points, np.ones(n), 1e-3), "Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}
    )
    assert solution.objective.min() <= polished.fun + 1e-9


def test_the_objective_is_the_sum_over_runs_and_residuals_keep_the_order_of_the_runs():
    columns = draw(TOY, 50, 0.01)
    fitted = fit(columns)
    theirs = np.log(fitted.surface.loss(*columns[:2])) - np.log(columns[2])
    np.testing.assert_allclose(fitted.residuals, theirs, atol=1e-14)
    size = np.abs(theirs)
    each = np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4))
    assert fitted.objective == pytest.approx(each.sum(), rel=1e-9)
    twice = fit([np.tile(column, 2) for column in columns])
    assert twice.objective == pytest.approx(2 * fitted.objective, rel=1e-6)
    assert fitted.starts == fitted.agreeing == 20 and fitted.warnings == ()


@pytest.mark.parametrize("surface", [CHINCHILLA, TOY, Surface(0.4, 20, 900, 0.28, 0.5)])
def test_a_surface_without_noise_is_recovered(surface):
    whole = fit(draw(surface, 40, 0))
    fitted = whole.surface
    assert whole.warnings == ()
    assert fitted.alpha == pytest.approx(surface.alpha, abs=1e-6)
    assert fitted.beta == pytest.approx(surface.beta, abs=1e-6)
    for name in "EAB":
        assert getattr(fitted, name) == pytest.approx(getattr(surface, name), rel=1e-4)


def test_outliers_move_the_huber_fit_less_than_least_squares():
    params, tokens, loss = draw(CHINCHILLA, 120, 0.002)
    loss[::15] *= 1.3  # runs that diverged
    error = {delta: abs(fit((params, tokens, loss), delta=delta).surface.alpha - 0.35) for delta in (1e-3, 10.0)}
    assert error[1e-3] < 0.01 < 0.03 < error[10.0]


def test_least_absolute_deviations_are_within_1e_7_of_successive_linear_programs():
    """At each point the linear program over a box that shrinks is the best that first derivatives offer."""
    columns = draw(TOY, 45, 0.01)
    fitted = fit(columns, lad=True)
    points = Points.of(*columns)
    assert fitted.objective == pytest.approx(np.abs(fitted.residuals).sum(), rel=1e-10)
    theta = points.theta((*vars(fitted.surface).values(),))
    least, radius, n = fitted.objective, 1e-2, 45
    for _ in range(60):
        steps = 1e-30j * np.eye(5)
        jacobian = np.stack([residuals(theta + step, points).imag / 1e-30 for step in steps], axis=1)
        r, one = residuals(theta, points), np.eye(n)
        program = linprog(
            np.r_[np.zeros(5), np.ones(n)],
            np.block([[jacobian, -one], [-jacobian, -one]]),
            np.r_[-r, r],
            bounds=[(-radius, radius)] * 5 + [(0, None)] * n,
        )
        trial = theta + program.x[:5]
        if (value := np.abs(residuals(trial, points)).sum()) < least:
            theta, least = trial, value
        else:
            radius /= 2
    assert least >= fitted.objective - 1e-7
    huber = fit(columns)
    assert fitted.objective < np.abs(huber.residuals).sum() - 1e-5


# --- resamples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("surface", "n", "noise"), [(CHINCHILLA, 240, 0.01), (TOY, 48, 0.01)])
def test_every_resample_is_at_or_below_what_bfgs_reaches_from_the_same_start(surface, n, noise):
    columns = draw(surface, n, noise)
    fitted, points = fit(columns), Points.of(*columns)
    drawn = bootstrap(fitted, columns, 300)
    assert drawn.surfaces.shape == (300, 5) and drawn.objective.shape == (300,) and drawn.unconverged == 0
    begin = points.theta((*vars(fitted.surface).values(),))
    for index, weights in enumerate(counts(n, 300)[:25]):
        data = points, weights, 1e-3
        bfgs = minimize(huber_sum, begin, data, "BFGS", jac=complex_gradient, options={"gtol": 1e-7})
        assert drawn.objective[index] <= bfgs.fun + 1e-8
        theta = points.theta(drawn.surfaces[index])
        assert drawn.objective[index] == pytest.approx(huber_sum(theta, *data), rel=1e-8)
    many = project(points, random_starts(points, 15, np.random.default_rng(0)))
    for index in range(10):
        weights = counts(n, 300)[index : index + 1]
        elsewhere = solve(points, weights, many, delta=1e-3, tolerance=1e-10).objective.min()
        assert drawn.objective[index] <= elsewhere + 1e-6
    assert drawn.exponents[7] == pytest.approx(Surface(*drawn.surfaces[7]).exponents)
    assert np.abs(np.median(drawn.exponents, axis=0) - fitted.surface.exponents).max() < 0.05


def test_a_resample_is_the_fit_of_its_rows():
    columns = draw(TOY, 40, 0.01)
    order = np.lexsort(columns[::-1])
    drawn = bootstrap(fit(columns), columns, 3, lad=True), bootstrap(fit(columns), columns, 3)
    rows = np.random.default_rng(3).integers(40, size=(3, 40))[2]
    again = [column[order][rows] for column in columns]
    assert fit(again, lad=True).objective == pytest.approx(drawn[0].objective[2], abs=1e-7)
    alone = fit(again)
    assert alone.objective == pytest.approx(drawn[1].objective[2], abs=1e-9)
    assert [*vars(alone.surface).values()] == pytest.approx(drawn[1].surfaces[2].tolist(), rel=1e-2)


def test_problems_that_were_cut_short_are_counted(monkeypatch):
    columns = draw(TOY, 40, 0.02)
    fitted = fit(columns)
    monkeypatch.setattr(parametric_solver, "STEPS", 6)
    drawn = bootstrap(fitted, columns, 50)
    assert 0 < drawn.unconverged == np.sum(~drawn.converged) <= 50
    assert np.isfinite(drawn.objective).all()
    short = fit(columns)
    assert short.agreeing < 10 and short.objective > fitted.objective
    assert [sentence.split(":")[0] for sentence in short.warnings[-2:]] == [
        "the best start had not converged",
        f"only {short.agreeing} of 20 starts reached this optimum",
    ]


def test_the_order_of_the_runs_and_the_number_of_threads_change_no_byte(monkeypatch):
    params, tokens = np.repeat(np.geomspace(4e5, 4e7, 6), 9), np.tile(np.repeat(np.geomspace(2e7, 2e9, 3), 3), 6)
    columns = params, tokens, TOY.loss(params, tokens) * np.exp(0.01 * np.random.default_rng(0).standard_normal(54))
    shuffled = [column[np.random.default_rng(9).permutation(54)] for column in columns]
    fits = fit(columns), fit(shuffled)
    assert fits[0].surface == fits[1].surface and fits[0].objective == fits[1].objective
    drawn = [bootstrap(fitted, rows, 700) for fitted, rows in zip(fits, (columns, shuffled), strict=True)]
    for threads in (1, 3):

        @contextmanager
        def mapping(threads=threads):
            with ThreadPoolExecutor(threads) as executor:
                yield executor.map

        monkeypatch.setattr(parametric, "_threads", mapping)
        assert fit(columns).surface == fits[0].surface
        drawn.append(bootstrap(fits[0], columns, 700))
    for other in drawn[1:]:
        assert other.surfaces.tobytes() == drawn[0].surfaces.tobytes()
        assert other.objective.tobytes() == drawn[0].objective.tobytes()
    assert bootstrap(fits[0], columns, 700, seed=4).surfaces.tobytes() != drawn[0].surfaces.tobytes()
