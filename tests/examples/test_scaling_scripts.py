"""examples/scaling_coverage.py and scaling_speed.py: they run, and their committed figures are those that RESULTS.md has."""

import json
import math
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALIBRATED = ("9 sizes, +-0.7", "drifting through", "5 sizes, +-0.7")
SMALL_NOISE = (0.002, 0.005, 0.01)


def script(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


@pytest.fixture(scope="module")
def coverage():
    return script("scaling_coverage")


@pytest.fixture(scope="module")
def committed():
    return {
        name: json.loads((ROOT / "examples" / "scaling" / f"{name}.json").read_text()) for name in ("coverage", "speed")
    }


def rows(committed, **wanted):
    return [row for row in committed["coverage"]["rows"] if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.slow
def test_coverage_runs(coverage, tmp_path, capsys):
    path = tmp_path / "coverage.json"
    coverage["main"](["--sets", "4", "--resamples", "40", "--processes", "1", "--output", str(path)])
    found = json.loads(path.read_text())
    assert found["settings"]["sets"] == 4 and len(found["rows"]) == len(coverage["CELLS"])
    assert len(capsys.readouterr().out.splitlines()) == len(found["rows"]) + 1
    for row in found["rows"]:
        assert 0 <= row["delta"]["coverage"] <= 1 and row["delta"]["width"] > 0 and row["refused"] == 0


def test_the_same_set_is_drawn_again(coverage):
    assert coverage["simulate"]((5, range(2), 40)) == coverage["simulate"]((5, range(2), 40))


def test_the_truth_is_the_closed_form(coverage, committed):
    """Without --c-min the true minima lie on N_opt ~ C^(beta / (alpha + beta)); a centred grid has no bias."""
    for row in committed["coverage"]["rows"]:
        if not row["c_min"]:
            closed = coverage["BETA"] / (coverage["ALPHA"] + coverage["BETA"])
            assert row["truth"] == pytest.approx(closed, rel=1e-9)
        if (row["drift"] == 0 and not row["c_min"]) or row["losses"] == "parabolas":
            assert abs(row["bias"]) < 1e-9


def test_parabolas_have_the_curvature_of_the_surface(coverage):
    """Close to the minimum both simulated losses are one curve."""
    cell = coverage["Cell"]("close", 5, 1e-3)
    surface = coverage["simulated"](cell, coverage["np"].random.default_rng(0)).columns["loss"]
    cell = coverage["Cell"]("close", 5, 1e-3, losses="parabolas")
    parabola = coverage["simulated"](cell, coverage["np"].random.default_rng(0)).columns["loss"]
    assert max(surface[:5]) - min(surface[:5]) > 1e-8
    assert all(math.isclose(a, b, abs_tol=1e-10) for a, b in zip(surface, parabola, strict=True))


def test_the_default_interval_is_calibrated(committed):
    """93.5 to 96.5% of 2,000 sets for each design and noise up to 0.01 nats; the bootstraps miss on either side."""
    assert committed["coverage"]["settings"]["sets"] == 2000
    wanted = [
        row for row in rows(committed, c_min=False) if row["design"] in CALIBRATED and row["noise"] in SMALL_NOISE
    ]
    wanted += [row for row in rows(committed, design="drifting out", losses="parabolas") if row["noise"] in SMALL_NOISE]
    assert len(wanted) == 21
    assert all(0.935 <= row["delta"]["coverage"] <= 0.965 for row in wanted)
    assert all(row["residual"]["coverage"] < 0.95 < row["case"]["coverage"] for row in wanted)


def test_a_grid_too_wide_is_told(committed):
    misfit = {
        row["noise"]: row["lack_of_fit"]
        for row in rows(committed, design="9 sizes, +-1.5", losses="surface", c_min=False)
    }
    assert misfit[0.002] == misfit[0.005] == 1.0 and misfit[0.01] > 0.99 and misfit[0.02] > 0.7
    assert all(row["lack_of_fit"] < 0.02 for row in rows(committed, losses="parabolas"))


def test_a_grid_that_drifts_away_from_the_minima(committed):
    """Parabolas are then biased by 0.004: the default interval allows for it, the bootstraps do not."""
    found = {row["noise"]: row for row in rows(committed, design="drifting out", losses="surface", c_min=False)}
    assert all(0.003 < row["bias"] < 0.005 for row in found.values())
    assert all(0.92 <= row["delta"]["coverage"] <= 0.98 for row in found.values())
    assert found[0.002]["case"]["coverage"] < 0.85 < found[0.002]["lack_of_fit"]


@pytest.mark.slow
def test_speed_runs_without_the_package(tmp_path, capsys):
    path = tmp_path / "speed.json"
    script("scaling_speed")["main"](["--resamples", "100", "--repeats", "1", "--no-large", "--output", str(path)])
    found = json.loads(path.read_text())
    assert "chinchilla was left out" in capsys.readouterr().err
    assert found["command"]["status"] in (0, 3) and found["command"]["case_bootstrap_seconds"] > 0
    assert list(found["parametric"]) == ["runs", "true", "quadratic", "ours"]


def test_the_committed_speed(committed):
    """Times are those of the machine that wrote them; what must hold anywhere is that we reach the better optimum."""
    command, parametric = committed["speed"]["command"], committed["speed"]["parametric"]
    assert command["runs"] == 100 and command["resamples"] == 10_000 and command["status"] == 0
    peers = [row for name, row in parametric.items() if name.startswith("chinchilla")]
    assert [row["starts"] for row in peers] == [32, 3125]
    for row in peers:
        assert row["chinchilla"] == "0.2.0" and parametric["ours"]["seconds"] < row["seconds"]
        assert parametric["ours"]["objective"] < row["objective"] * (1 + 1e-6)
    seconds = {name: row["processor_seconds"] for name, row in committed["speed"]["large"].items()}
    limits = {"1,000 rows": 3, "1,000 rows over wide sizes": 3, "10,000 rows": 10, "100,000 rows, 100 seeds": 15}
    assert seconds.keys() == limits.keys() and all(seconds[name] < limit for name, limit in limits.items())
