"""The rules of rate and batch from runs whose best ones are known."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "examples/scaling_rates.py"))
TRUTH = {"a": -0.6, "b": 0.4, "d": 0.1}
SIZES = {1e14: (5e5, 1e6, 3e6), 1e15: (1.5e6, 4e6, 9e6)}
BEST = {1e14: 9000.0, 1e15: 9000 * 10**0.3}  # tokens a batch
MIDDLE = {1e14: 8192, 1e15: 16_384}


def best_rate(params: float, batch: float, flops: float) -> float:
    powers = {"a": params / 1e6, "b": batch / 8192, "d": flops / 1e14}
    return 8e-3 * float(np.prod([ratio ** TRUTH[name] for name, ratio in powers.items()]))


def runs(noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """A parabola in ln(rate) and one in ln(batch) around the best; the middle size has three batches, the others one."""
    rows, draw = [], np.random.default_rng(seed)
    for budget, sizes in SIZES.items():
        for index, params in enumerate(sizes):
            batches = [MIDDLE[budget] * factor for factor in ((0.5, 1, 2) if index == 1 else (1,))]
            for batch, rate in itertools.product(batches, 7e-3 * 2.0 ** np.arange(-3, 3)):
                away, off = np.log(rate / best_rate(params, batch, budget)), np.log(batch / BEST[budget])
                loss = 3 - 0.1 * index + 0.04 * away**2 + 0.03 * off**2 + noise * draw.standard_normal()
                rows.append((budget, f"size-{index}", params, batch, rate, loss, "finished"))
    names = ["budget", "model", "activated_params", "batch_tokens", "learning_rate", "loss", "status"]
    return pd.DataFrame(rows, columns=names)


def test_rules_without_noise_are_those_of_the_runs():
    rates = SCRIPT["fit_rates"](runs())
    assert {name: rates.coefficients[name] for name in TRUTH} == pytest.approx(TRUTH, abs=1e-9)
    assert rates.curvature == pytest.approx(0.04)
    found = SCRIPT["rules"](rates)
    assert found["sweep.batch_tokens.exponent"] == pytest.approx(0.3)
    assert found["sweep.batch_tokens.value"] == pytest.approx(9000 * 10**0.15)
    assert found["sweep.learning_rate.batch_exponent"] == pytest.approx(0.4 + 0.1 / 0.3)
    for flops, params in ((1e14, 7e5), (1e16, 2e7)):  # along the rule of the batch, other budgets as well
        batch = 9000 * (flops / 1e14) ** 0.3
        name = "sweep.learning_rate."
        rate = found[name + "value"] * (params / found[name + "at_params"]) ** found[name + "params_exponent"]
        rate *= (batch / found[name + "at_batch_tokens"]) ** found[name + "batch_exponent"]
        assert rate == pytest.approx(best_rate(params, batch, flops))


def test_errors_are_those_of_the_noise():
    found = [SCRIPT["fit_rates"](runs(noise=0.003, seed=seed)) for seed in range(20)]
    assert np.mean([rates.residual for rates in found]) == pytest.approx(0.003, rel=0.2)
    for name, truth in TRUTH.items():
        away = np.array([(rates.coefficients[name] - truth) / rates.errors[name] for rates in found])
        assert 0.5 < np.sqrt((away**2).mean()) < 1.6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda frame: frame.assign(budget=1e14), "do not tell size, batch and budget apart"),
        (lambda frame: frame.assign(loss=-frame["loss"]), "no minimum in the learning rate"),
    ],
)
def test_runs_that_cannot_decide_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        SCRIPT["fit_rates"](change(runs()))


def test_the_script_writes_arguments_of_a_sweep_and_a_figure(monkeypatch, capsys, tmp_path):
    runs().to_csv(tmp_path / "runs.csv", index=False)
    out, figure = tmp_path / "rules.txt", tmp_path / "rates.png"
    monkeypatch.setattr("sys.argv", ["rates", str(tmp_path / "runs.csv"), "--set", str(out), "--plot", str(figure)])
    SCRIPT["main"]()
    lines = out.read_text().splitlines()
    assert lines[:2] == ["--set", "sweep.batch_tokens.value=1.271e+04"]
    assert figure.stat().st_size > 10_000
    assert "half or twice costs 0.0144 nats" in capsys.readouterr().out  # 0.03 (ln 2)^2
