"""`hunyuan scale-plan`: its document, its tables, what it refuses, and a plan that is trained."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.commands import train
from hunyuan_cli.console import human_time
from hunyuan_cli.main import run

ROOT = Path(__file__).parents[2]
FIT = {
    "method": "quadratic",
    "budgets": [{"flops": 1e13}, {"flops": 1e15}],
    "n_opt": {"coefficient": 0.1, "exponent": 0.47, "exponent_interval": [0.4, 0.5]},
    "d_opt": {"coefficient": 1.5, "exponent": 0.53, "exponent_interval": [0.5, 0.6]},
}
PLAN_KEYS = {
    *(
        "flops params_opt tokens_opt model activated_params total_params tokens steps batch_tokens learning_rate".split()
    ),
    *("expert_learning_rate memory device_hours days context critical_batch_tokens candidates schedule".split()),
}


@pytest.fixture
def law(tmp_path):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(FIT))
    return path


def document(capsys, *arguments):
    assert run(["scale-plan", *map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_is_the_contract(capsys):
    found = document(capsys, "--flops", "3.1e24", "--law", "paper", "--family", "hunyuan-large")
    assert {"law", "plans", "warnings"} <= found.keys() and len(found["plans"]) == 1
    plan = found["plans"][0]
    assert plan.keys() >= PLAN_KEYS
    assert plan["params_opt"] == pytest.approx(58.1e9, rel=0.005)
    assert {"hidden_size", "num_experts", "moe_topk", "vocab_size"} <= plan["model"].keys()
    assert found["law"]["n_opt"] == {"coefficient": 0.0059, "exponent": 0.5305}
    assert [warning["code"] for warning in found["warnings"]] == ["extrapolation", "memory"]


def test_a_plan_in_full_for_eyes(capsys):
    arguments = ["scale-plan", "--flops", "3.1e24", "--family", "hunyuan-large", "--devices", "1024"]
    assert run([*arguments, "--expert-parallel", "16"]) == 0
    out, err = capsys.readouterr()
    for shown in ("law paper", "58B", "5.63T", "6,400", "experts lr", "around the optimum", "8.39M", "7T tokens"):
        assert shown in out, shown
    assert "h200 at 35% of its peak" in out and "recomputed" in out and "101d" in out
    assert err.splitlines() == [
        "warning: 3.1e+24 FLOPs are a factor 3,157 above the largest budget behind the law paper"
    ]


@pytest.mark.parametrize("context", ["32K", "256K"])
def test_memory_and_days_are_those_of_the_layout(capsys, context):
    """512 H100 must share out sequences of 256K, as nothing else holds them; a day has 86,400 seconds."""
    where = ("--model", "hunyuan-large", "--devices", "512", "--gpu", "h100", "--context", context)
    plan = document(capsys, "--flops", "3.1e24", *where)["plans"][0]
    layout, memory = plan["layout"], plan["memory"]
    assert layout["fits"] and layout["recompute"] and layout["note"].startswith("a plan, not a run")
    assert memory["recomputed_bytes"] == layout["memory_bytes"] < 80e9
    assert memory["context_parallel"] == layout["context_parallel"] > (1 if context == "256K" else 0)
    steps = plan["steps"] / 86_400
    found = [steps * layout["step_seconds"], steps * layout["step_seconds_without_overlap"]]
    assert plan["layout_days"] == pytest.approx(found) and found[0] < found[1]
    assert run(["scale-plan", "--flops", "3.1e24", *where]) == 0
    shown = capsys.readouterr().out
    assert f"context parallel {memory['context_parallel']}" in shown or memory["context_parallel"] == 1
    assert " to ".join(human_time(days * 86_400) for days in found) in shown and "sent by a rank in a step" in shown


def test_several_budgets_side_by_side(capsys):
    budgets = ["--flops", "1e18", "--flops", "1e20", "--flops", "1e22", "--flops", "1e18"]
    plans = document(capsys, *budgets)["plans"]
    assert [plan["flops"] for plan in plans] == [1e18, 1e20, 1e22]
    assert run(["scale-plan", *budgets]) == 0
    out = capsys.readouterr().out
    assert "1e+18" in out and "1e+22" in out and "around the optimum" not in out
    assert run(["scale-plan", *budgets, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["activated_params"]) for row in rows] == [plan["activated_params"] for plan in plans]


def test_a_fitted_law_and_every_option(law, capsys):
    options = [
        "--law",
        law,
        "--vocab-size",
        "512",
        "--context",
        "1K",
        "--batch-tokens",
        "8K",
        "--learning-rate",
        "1e-3",
    ]
    options[7] = "8192"
    plan = document(capsys, "--flops", "1e15", *options, "--gpu", "NVIDIA B200", "--mfu", "40%", "--devices", 2)[
        "plans"
    ][0]
    assert (plan["model"]["vocab_size"], plan["context"], plan["batch_tokens"]) == (512, 1024, 8192)
    assert (plan["learning_rate"], plan["gpu"], plan["mfu"]) == (1e-3, "b200", 0.4)
    assert plan["params_opt"] == pytest.approx(0.1 * 1e15**0.47)
    assert plan["device_hours"] == pytest.approx(1e15 / (2250e12 * 0.4) / 3600)


def test_help_has_an_example(capsys):
    assert run(["scale-plan", "--help"]) == 0
    assert "Example: hunyuan scale-plan --flops 3.1e24" in capsys.readouterr().out


def test_it_loads_nothing_heavy():
    code = (
        "import sys; from hunyuan_cli.main import run; status = run(['scale-plan', '--flops', '1e20', '--out', '/dev/null'])\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'scipy', 'matplotlib') if m in sys.modules]\n"
        "print(status, heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--flops", "0"],
        ["--flops", "-1e20"],
        ["--flops", "nan"],
        ["--flops", "inf"],
        ["--flops", "much"],
        ["--flops", "1000"],
        ["--flops", "1e40"],
        ["--flops", "1e20", "--law", "kaplan"],
        ["--flops", "1e20", "--law", "pyproject.toml"],
        ["--flops", "1e20", "--law", "/"],
        ["--flops", "1e20", "--mfu", "0"],
        ["--flops", "1e20", "--mfu", "2"],
        ["--flops", "1e20", "--mfu", "lots"],
        ["--flops", "1e20", "--gpu", "tpu"],
        ["--flops", "1e20", "--gpu", "m3-ultra"],
        ["--flops", "1e20", "--family", "llama"],
        ["--flops", "1e20", "--family", "report", "--model", "toy"],
        ["--flops", "1e20", "--model", "deepseek-v3"],
        ["--flops", "1e20", "--vocab-size", "0"],
        ["--flops", "1e20", "--context", "0"],
        ["--flops", "1e20", "--batch-tokens", "1000"],
        ["--flops", "1e20", "--batch-tokens", "2e18"],
        ["--flops", "1e20", "--learning-rate", "0"],
        ["--flops", "1e20", "--loss", "nan"],
        ["--flops", "1e20", "--devices", "0"],
        ["--flops", "1e20", "--devices", "6", "--expert-parallel", "4"],
        ["--flops", "1e20", "--flops", "1e21", "--out", "run.toml"],
        ["--flops", "1e20", "--out", "/"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence(arguments, capsys):
    status = run(["scale-plan", *arguments])
    out, err = capsys.readouterr()
    assert status in (1, 2) and out == ""
    assert len(err.splitlines()) == 1 and "bug in hunyuan" not in err, err


@pytest.mark.slow
def test_a_plan_is_trained(law, tmp_path, capsys, monkeypatch):
    """The run file goes into `hunyuan train` unchanged but for the text, and the run costs the budget to within a step."""
    flops, text, file, folder = 2e11, tmp_path / "text.txt", tmp_path / "run.toml", tmp_path / "run"
    text.write_text("".join(f"the router sends token {n} to expert {n * 7 % 16}.\n" for n in range(3000)))
    large = {"coefficient": 5.0, "exponent": 0.47}  # 1M parameters and few tokens, which is a run of seconds
    law.write_text(json.dumps(FIT | {"n_opt": large}))
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "model.training.loop.measure_peak_flops", lambda device, dtype: 1e11
    )  # a second on a busy machine
    monkeypatch.setattr(train, "draw_run", lambda out, dense, quiet: None)  # seconds, too
    options = ["--law", law, "--vocab-size", "300", "--context", "64", "--batch-tokens", "1024", "--out", file]
    plan = document(capsys, "--flops", flops, *options)["plans"][0]
    assert abs(plan["miss_fraction"]) < 0.2
    command = ["train", "--config", file, "--data", text, "--out", folder, "--device", "cpu", "--quiet"]
    assert run([*map(str, command), "--set", "training.evaluation_tokens=2048"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] == plan["steps"] >= 20
    step = plan["batch_tokens"] * plan["flops_per_token"]
    assert flops <= summary["flops"] == plan["run_flops"] < flops + step
    assert summary["loss"] < 0.8 * 5.7  # ln 300 is what guessing costs


def test_several_budgets_at_once_with_a_price_and_a_picture(law, tmp_path, capsys):
    figure = tmp_path / "plan.png"
    found = document(capsys, "--flops", "1e14,1e15", "--flops", "1e16", "--price-per-hour", "2.5", "--plot", figure)
    assert [plan["flops"] for plan in found["plans"]] == [1e14, 1e15, 1e16]
    assert all(plan["price"] == pytest.approx(2.5 * plan["device_hours"]) for plan in found["plans"])
    assert figure.stat().st_size > 20_000
    assert run(["scale-plan", "--flops", "1e20", "--price-per-hour", "3"]) == 0
    assert "price" in capsys.readouterr().out
    assert run(["scale-plan", "--flops", "1e20", "--rates", str(law)]) == 1
    assert "no law of the learning rate" in capsys.readouterr().err
