"""analyses/training/expert_rates.py: the report's rule from noise scales that are known."""

import json
import math

import pytest
from test_runs import write_run

from analyses.training.expert_rates import expert_rates_table
from analyses.training.runs import group_runs, load_runs
from model.config import HunyuanConfig

KEYS = ("gradient_noise_shared", "gradient_signal_shared", "gradient_noise_routed", "gradient_signal_routed")


def measured(folder, values, *, seed=0, batch=260, preset="toy", scale=0.0):
    """A run of 20 steps whose line of step s has values(s): S and |G|^2 of the shared part, then of the routed experts."""
    write_run(folder, seed=seed)
    (folder / "config.json").write_text(json.dumps(HunyuanConfig.from_name(preset).to_dict()))
    (folder / "run.toml").write_text(
        f"[training]\nseed = {seed}\nglobal_batch_tokens = {batch}\nsequence_length = 13\nmicro_batch_size = 4\n"
        f"measure_noise_scale = true\nexpert_lr_scale = {scale}\n"
    )
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [row | dict(zip(KEYS, values(row["step"]), strict=True)) for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def table(*folders):
    return expert_rates_table(group_runs(load_runs(folders))).to_dict("records")


def test_the_rule_gives_the_reports_rate_at_its_ratio(tmp_path):
    """B / B_noise = 0.26 and 16 experts: 0.31, as PAPER.md has it; with B_routed = 16 B_shared both ways agree."""
    measured(tmp_path / "a", lambda step: (2000.0, 2.0, 16_000.0, 1.0))
    *_, end = table(tmp_path / "a")
    assert (end["of_the_run"], end["batch_tokens"]) == (1.0, 260)
    assert (end["noise_scale_shared"], end["noise_scale_routed"]) == (1000.0, 16_000.0)
    assert end["batch_noise_ratio"] == pytest.approx(0.26)
    x = 0.26
    expected = (math.sqrt(1 / x) + math.sqrt(x)) / (math.sqrt(16 / x) + math.sqrt(x / 16))
    assert end["by_the_rule"] == pytest.approx(expected) and round(expected, 2) == 0.31
    assert end["by_both_noise_scales"] == pytest.approx(expected)
    assert end["used"] == pytest.approx(0.31, abs=0.003)


def test_rows_are_those_of_a_quarter_half_and_the_whole_run(tmp_path):
    measured(tmp_path / "a", lambda step: (100.0 * step, 1.0, 100.0 * step, 1.0), scale=0.5)
    rows = table(tmp_path / "a")
    assert [row["noise_scale_shared"] for row in rows] == [500.0, 1000.0, 2000.0]  # of the steps 5, 10 and 20
    assert {row["used"] for row in rows} == {0.5}
    assert {row["by_both_noise_scales"] for row in rows} == {1.0}  # where all see the same noise, one rate is right


def test_seeds_are_averaged_before_the_ratio_is_taken(tmp_path):
    for seed, values in ((0, (100.0, 1.0, 10.0, 1.0)), (1, (300.0, 3.0, 10.0, -3.0))):
        measured(tmp_path / f"a-s{seed}", lambda step, values=values: values, seed=seed)
    *_, end = table(tmp_path)
    assert end["noise_scale_shared"] == 400 / 4
    assert math.isnan(end["noise_scale_routed"]) and math.isnan(end["by_both_noise_scales"])  # |G|^2 is not known yet
    assert end["by_the_rule"] > 0


def test_runs_that_measured_nothing_have_no_row(tmp_path):
    write_run(tmp_path / "plain")
    assert table(tmp_path / "plain") == []
