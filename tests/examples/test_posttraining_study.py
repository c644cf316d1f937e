"""examples/posttraining: the digits and their rewards, the arms, and what is made of their curves."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.posttraining.rewards import CHECKS

FOLDER = Path(__file__).parents[2] / "examples" / "posttraining"


def load(name):
    spec = importlib.util.spec_from_file_location(f"posttraining_{name}", FOLDER / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


digits, study, figures = map(load, ("digits", "study", "figures"))


def test_the_files_follow_from_the_seed_and_are_as_noisy_as_they_say(tmp_path):
    for name in ("a", "b"):
        digits.write_files(tmp_path / name, 3, examples=2000, preferences=50, prompts=20)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "a" / "chats.jsonl").read_text().splitlines()]
    sorts = [(row["prompt"][1:-1], row["completion"]) for row in rows if row["prompt"][0] == "s"]
    wrong = sum("".join(sorted(asked)) != said.rstrip("!") for asked, said in sorts) / len(sorts)
    shouted = sum(said.count("!") for _, said in sorts) / len(sorts)
    assert len(sorts) == 1000 and abs(wrong - 0.45) < 0.05 and abs(shouted - 0.4) < 0.06
    assert all(row["completion"] == row["prompt"][1:-1][::-1] for row in rows if row["prompt"][0] == "r")


def test_the_scripts_rewards_are_the_checks_of_the_command(tmp_path):
    draw = random.Random(0)
    for _ in range(200):
        _, right = digits.question(draw, "s")
        said = digits.noisy(draw, right)
        assert CHECKS["digits"][0]({"answer": right}, said) == pytest.approx(digits.score(said, right))
        assert CHECKS["digits-flawed"][0]({"answer": right}, said) == pytest.approx(digits.score(said, right, 0.6))
    digits.write_files(tmp_path, 0, examples=2, preferences=80, prompts=2)
    for name, each in (("offline", -0.25), ("flawed", 0.6)):
        for line in (tmp_path / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            right = "".join(sorted(row["prompt"][1:-1]))
            assert digits.score(row["chosen"], right, each) > digits.score(row["rejected"], right, each)


def test_the_model_has_the_parameters_that_it_says():
    from model.config import HunyuanConfig
    from model.counts import total_params

    assert round(total_params(HunyuanConfig(**digits.MODEL)) / 1e6, 2) == 0.88


def test_there_are_eighteen_arms_and_six_quick_ones():
    assert len({arm.name for arm in study.ARMS}) == 18 and set(study.QUICK) < set(study.ARMS)


def curves(true):
    """Two steps of three seeds; `true` gives the last true reward of (mode, term, weights, seed)."""
    rows = []
    for seed in range(3):
        for mode in ("offline", "mixed"):
            for term in (0.0, 0.2):
                for weights in ("last", "average"):
                    key = {"seed": seed, "mode": mode, "term": term, "reward": "fair", "weights": weights}
                    for step in (0, 10):
                        row = dict.fromkeys(study.FIGURES, 0.0) | key | {"step": step}
                        kl = step * (0.5 if weights == "average" else 1.0)
                        value = true(mode, term, weights, seed) if step else 0.4
                        rows.append(row | {"kl": kl, "true_reward": value})
    return pd.DataFrame(rows)


def test_differences_are_within_seeds_and_have_students_interval():
    noise = [0.0, 0.3, -0.2]

    def true(mode, term, weights, seed):
        return noise[seed] + (0.1 * (seed + 1) if mode == "mixed" else 0.0)

    table = figures.claims_table(curves(true)).set_index("claim")
    row = table.loc["mixed pairs beat offline ones (true_reward, term 0)"]
    half = 4.302653 * np.std([0.1, 0.2, 0.3], ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert row["mean"] == pytest.approx(0.2) and row["low"] == pytest.approx(0.2 - half, abs=1e-6)
    assert (row["seeds"], row["holds"]) == (3, "not shown")
    assert table.loc["the term keeps the true reward (mixed, fair)"]["mean"] == pytest.approx(0.0)


def test_the_average_is_compared_at_equal_kl():
    def true(mode, term, weights, seed):
        return 0.9 if weights == "average" else 0.8  # at KL 5 the last weights were at 0.6

    table = figures.claims_table(curves(true)).set_index("claim")
    row = table.loc["the average has more true reward at equal KL (mixed, term 0.2, fair)"]
    assert row["mean"] == pytest.approx(0.3) and row["holds"] == "yes"


def test_tables_and_figures_are_written(tmp_path, monkeypatch, capsys):
    curves(lambda *_: 0.5).to_csv(tmp_path / "curves.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "curves.csv"), "--out", str(tmp_path / "out")])
    figures.main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"arms.csv", "claims.csv", "kl.png", "chosen.png"}
    arms = pd.read_csv(tmp_path / "out" / "arms.csv")
    assert arms["mode"].tolist()[0] == "fine-tuned alone" and len(arms) == 1 + 8
