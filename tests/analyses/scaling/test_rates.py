"""Laws of the best learning rate and batch: known truths, intervals, refusals, and the file that sweeps and plans read."""

import json
import math

import numpy as np
import pytest
from isoflop_data import table, write_csv

from analyses.planning.plan import Request, plan_report
from analyses.scaling.laws import LAWS
from analyses.scaling.options import Options
from analyses.scaling.rates import rates_part
from hunyuan_cli.main import run
from model.errors import DataError, HunyuanError
from model.sweep.plan import SweepPlan
from model.sweep.rates import HyperLaw, read_rates

RATE = HyperLaw(0.5, {"params": -0.45, "tokens": 0.1, "batch_tokens": 0.3})
BATCH = HyperLaw(0.6, {"params": 0.0, "tokens": 0.55})


def sweep(
    *,
    noise=0.0,
    seed=0,
    batches=(0.25, 0.5, 1, 2, 4),
    rates=(0.25, 0.5, 1, 2, 4),
    budgets=(1e17, 1e18, 1e19),
    centre=1.3,
):
    """Sizes, batches and rates about the best ones; the loss is a parabola in the logs of batch and rate."""
    draw = np.random.default_rng(seed)
    columns = {name: [] for name in ("params", "tokens", "batch_tokens", "lr", "loss")}
    for flops in budgets:
        for ratio in (5, 20, 80):
            params = math.sqrt(flops / 6 / ratio)
            tokens = params * ratio
            best_batch = BATCH(params=params, tokens=tokens)
            least = 1.8 + 480 / params**0.35 + 2000 / tokens**0.37
            for factor in batches:
                batch = best_batch * factor * (centre if len(batches) > 1 else 1)
                best = RATE(params=params, tokens=tokens, batch_tokens=batch)
                for other in rates:
                    rate = best * other * centre
                    loss = least + 0.01 * math.log(batch / best_batch) ** 2 + 0.02 * math.log(rate / best) ** 2
                    row = (params, tokens, batch, rate, loss + noise * draw.standard_normal())
                    for name, value in zip(columns, row, strict=True):
                        columns[name].append(float(value))
    return columns


def fit(columns, **options):
    return rates_part(table(columns), Options(rates=True, **options))


def test_laws_without_noise_are_found():
    part, findings = fit(sweep())
    assert findings == []
    for name, law in (("learning_rate", RATE), ("batch_tokens", BATCH)):
        assert part[name]["exponents"] == pytest.approx(law.exponents, abs=1e-6)
        assert part[name]["coefficient"] == pytest.approx(law.coefficient, rel=1e-4)
    assert len(part["learning_rate"]["groups"]) == 45 and len(part["batch_tokens"]["groups"]) == 9
    for row in part["learning_rate"]["groups"]:
        expected = RATE(**{name: row[name] for name in ("params", "tokens", "batch_tokens")})
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-6)
    assert part["valid"]["params"] == pytest.approx([math.sqrt(1e17 / 480), math.sqrt(1e19 / 30)])


def test_without_batches_the_law_is_of_size_and_tokens_alone():
    columns = {name: values for name, values in sweep(batches=(1,)).items() if name != "batch_tokens"}
    part, _ = fit(columns)
    assert part["batch_tokens"] is None and set(part["learning_rate"]["exponents"]) == {"params", "tokens"}
    # The batch is BATCH's, so that its power joins that of the tokens.
    assert part["learning_rate"]["exponents"] == pytest.approx({"params": -0.45, "tokens": 0.1 + 0.3 * 0.55}, abs=1e-6)


def test_intervals_cover_the_exponents():
    covered = {("learning_rate", "params"): 0, ("learning_rate", "tokens"): 0, ("batch_tokens", "tokens"): 0}
    for seed in range(60):
        part, _ = fit(sweep(noise=4e-4, seed=seed))
        for name, variable in covered:
            low, high = part[name]["exponent_intervals"][variable]
            truth = {"learning_rate": RATE, "batch_tokens": BATCH}[name].exponents[variable]
            covered[name, variable] += low <= truth <= high
    assert all(count >= 51 for count in covered.values()) and sum(covered.values()) < 180, covered


def test_a_group_whose_least_loss_is_at_an_end_is_left_out_and_told():
    columns = sweep(batches=(1,))
    columns["loss"] = [loss if params > 2e7 else rate for loss, params, rate in
                       zip(columns["loss"], columns["params"], columns["lr"], strict=True)]  # fmt: skip
    part, findings = fit(columns)
    left = sum(params <= 2e7 for params in columns["params"]) // 5
    assert left and len(part["learning_rate"]["groups"]) == 9 - left
    assert {one.code for one in findings} == {"rates_group"} and all("at an end" in one.reason for one in findings)


def test_what_cannot_be_told_is_refused_in_a_sentence():
    part, findings = fit(sweep(budgets=(1e18,), rates=(0.5, 1)))
    assert part is None and "3 or more rates" in findings[-1].reason and findings[-1].code == "no_rates"
    with pytest.raises(DataError, match="no column of learning rates"):
        fit({name: values for name, values in sweep().items() if name != "lr"})
    columns = sweep()
    columns["lr"][7] = -1.0
    with pytest.raises(DataError, match="row 8 has no learning rate above 0"):
        fit(columns)


@pytest.fixture
def document(tmp_path, capsys):
    """The file that the command writes."""
    path = tmp_path / "rates.json"
    source = write_csv(tmp_path / "runs.csv", sweep())
    status = run(["scale-fit", str(source), "--rates", "--resamples", "100", "--output", str(path)])
    assert status in (0, 3), capsys.readouterr().err
    capsys.readouterr()
    return path


def test_the_command_writes_a_law_that_a_plan_takes(document):
    found = json.loads(document.read_text())
    assert found["rates"]["learning_rate"]["exponents"]["params"] == pytest.approx(-0.45, abs=1e-4)
    rates = read_rates(document)
    (plan,) = plan_report(LAWS["chinchilla"], [1e18], Request(rates=rates))["plans"]
    expected = RATE(params=plan["activated_params"], tokens=plan["tokens"], batch_tokens=plan["batch_tokens"])
    assert plan["learning_rate"] == pytest.approx(expected, rel=0.01)
    assert "rates.json" in plan["learning_rate_source"] and "rates.json" in plan["batch_source"]
    best = BATCH(params=plan["activated_params"], tokens=plan["tokens"])
    assert plan["batch_tokens"] <= 1.5 * best and (plan["batch_tokens"] >= 0.7 * best or plan["steps"] < 2100)
    codes = {one["code"] for one in plan_report(LAWS["chinchilla"], [1e25], Request(rates=rates))["warnings"]}
    assert "rates_extrapolation" in codes
    (given,) = plan_report(LAWS["chinchilla"], [1e18], Request(rates=rates, learning_rate=1e-3))["plans"]
    assert given["learning_rate"] == 1e-3 and given["learning_rate_source"] == "given"


def test_a_sweep_s_cells_have_the_rates_of_the_law(document):
    rules = read_rates(document).sweep_rules()
    plan = SweepPlan.from_sections({"sweep": {"budgets": [1e15], "tokens_per_param": [5, 50], **rules}})
    assert plan.cells()
    for cell in plan.cells():
        training = cell.settings.training
        expected = RATE(params=cell.activated, tokens=cell.tokens, batch_tokens=training.global_batch_tokens)
        assert training.learning_rate == pytest.approx(expected, rel=1e-3)
    params = math.sqrt(1e15 / 120)
    wanted = BATCH(params=params, tokens=20 * params)
    assert 0.7 < plan.cells()[0].settings.training.global_batch_tokens / wanted < 1.5
    again = SweepPlan.from_sections(plan.to_sections())
    assert again.cells()[0].settings.training.learning_rate == plan.cells()[0].settings.training.learning_rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no law of the learning rate"),
        ("[", "no JSON document"),
        ('{"rates": {"learning_rate": {}}}', "no law of the"),
    ],
)
def test_a_file_without_laws_is_refused(text, words, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(HunyuanError, match=words):
        read_rates(path)


def test_the_tables_for_eyes(tmp_path, capsys):
    path = write_csv(tmp_path / "runs.csv", sweep(noise=1e-4))
    assert run(["scale-fit", str(path), "--rates", "--resamples", "100"]) in (0, 3)
    out, _ = capsys.readouterr()
    for shown in ("laws of rate and batch", "best learning rate", "best batch tokens", "of params"):
        assert shown in out, shown
