"""examples/long_context: the whole path at toy size, going on after a stop, and what is made of its tables."""

import dataclasses
import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "long_context"


def load(name):
    spec = importlib.util.spec_from_file_location(
        name if name == "measure" else f"long_context_{name}", FOLDER / f"{name}.py"
    )
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    return script


study, measure, figures = map(load, ("study", "measure", "figures"))
PLAN = dataclasses.replace(study.QUICK, contexts=(64, 128), steps=(3, 2), lengths=(32, 128), text_bytes=500_000)
CELLS = {"kept-64", "alpha-64-2", "1e9-64", "kept-128", "alpha-128", "1e9-128"}


def test_the_path_from_text_to_tables_and_going_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "cache"))
    for package in ("email", "json", "logging", "xml"):
        shutil.copytree(Path(json.__file__).parents[1] / package, tmp_path / "places" / package)
    study.prepare(PLAN, tmp_path / "out", [tmp_path / "places"], "cpu")
    with pytest.raises(study.Stopped):
        list(study.seed_done(PLAN, tmp_path / "out", 0, "cpu", deadline=0))
    assert (tmp_path / "out" / "0" / "pretrain" / "summary.json").exists(), (
        "stopped before its first step, and recorded"
    )
    said = list(study.seed_done(PLAN, tmp_path / "out", 0, "cpu", deadline=time.time() + 600))
    assert len(said) == 1 + 3 + 3 + 3
    measured = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "out" / "0" / "measured").iterdir()}
    assert set(measured) == CELLS
    list(study.seed_done(PLAN, tmp_path / "out", 0, "cpu", deadline=time.time() + 600))
    assert {p.stem: p.stat().st_mtime_ns for p in (tmp_path / "out" / "0" / "measured").iterdir()} == measured
    study.write_tables(tmp_path / "out")
    loss, retrieval = (
        pd.read_csv(tmp_path / "out" / f"{name}.csv", dtype={"arm": str}) for name in ("loss", "retrieval")
    )
    assert set(loss["arm"]) == {"kept", "alpha", "1e9"} and set(loss["stage"]) == {64, 128}
    bases = loss.groupby(["arm", "stage"])["rope_base"].first()
    assert bases["kept", 128] == 1e4 and bases["1e9", 64] == 1e9 == bases["1e9", 128]
    assert bases["alpha", 64] == pytest.approx(1e4 * 2 ** (16 / 14)) == bases["alpha", 128]
    assert (retrieval.groupby(["arm", "stage", "length"])["answers"].sum() == 2 * 4).all()
    assert (loss["end"] > loss["first"]).all() and loss.groupby(["arm", "stage"])["tokens"].sum().nunique() == 1
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "out")])
    figures.main()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tables.md", "claims.csv", "loss.png", "retrieval.png", "depth.png"} <= written
    assert "Accuracy of key-value retrieval" in capsys.readouterr().out


def test_a_model_that_looks_back_is_right_everywhere_and_one_that_does_not_nowhere():
    """retrieved() against a stand-in that answers with what it is told."""
    import torch

    from model.data.corpus import Corpus
    from model.data.task_source import TaskSource
    from model.data.tasks import VALIDATION, TaskMaker
    from model.evaluation.ruler.words import NOUNS
    from model.tokenizer.bpe import train_tokenizer

    tokenizer = train_tokenizer([" " + " ".join(NOUNS[:60])] * 3, 700)
    maker = TaskMaker.of(TaskSource(task="key_value", length=64, pairs=4, questions=4), VALIDATION, tokenizer, 0.1)
    answers = [maker.document(index) for index in range(2)]

    class Net:
        head_weight = torch.eye(700)

        def hidden_states(self, ids):
            hidden = torch.zeros(*ids.shape, 700)
            for row, document in enumerate(answers):
                early = document.origins < document.answers[0] // 2  # the pairs of the first half alone
                for place, wanted in zip(document.answers[early], document.ids[document.answers[early]], strict=True):
                    hidden[row, place - 1, wanted] = 1.0
            return hidden, None, None

    plan = dataclasses.replace(PLAN, pairs=4, documents=2)
    rows = list(measure.retrieved(Net(), Corpus(tokenizer, {}, {}, ""), plan, 64, torch.device("cpu")))
    assert sum(row["answers"] for row in rows) == 8 and [row["depth"] for row in rows] == list(range(8))
    assert all(row["correct"] == row["answers"] for row in rows[:3]) and all(row["correct"] == 0 for row in rows[5:])
    assert 0 < sum(row["correct"] for row in rows) < 8


def test_loss_by_position_is_the_mean_over_windows():
    import torch

    class Net:
        def __call__(self, ids, labels, reduction):
            return type("Output", (), {"loss": torch.arange(256.0)[None] * ids[0, 0]})

    rows = np.ones((2, 257), np.int64)
    rows[1] = 3  # twice the position on average
    found = list(measure.loss_by_position(Net(), rows, torch.device("cpu")))
    assert found[0]["first"] == 0 and found[-1]["end"] == 256 and {64, 128} <= {row["first"] for row in found}
    assert all(row["loss"] == pytest.approx(row["first"] + row["end"] - 1) for row in found)
    assert sum(row["tokens"] for row in found) == 512


def made_up(gain):
    """loss.csv and retrieval.csv of three seeds; `gain` gives how much of either an arm of a stage has more, by seed."""
    loss, retrieval = [], []
    for seed in range(3):
        for arm in figures.NAMES:
            for stage in (64, 256):
                key = {"seed": seed, "arm": arm, "stage": stage, "rope_base": 1e4 if arm == "kept" else 1e5}
                better = gain(arm, stage, seed)
                for first, end in ((0, 32), (32, 64), (64, 128), (128, 256)):
                    loss.append(key | {"first": first, "end": end, "loss": 3 - better, "tokens": end - first})
                for length in (64, 256):
                    for depth in range(8):
                        correct = round(100 * (0.2 + better))
                        retrieval.append(key | {"length": length, "depth": depth, "answers": 100, "correct": correct})
    return pd.DataFrame(loss), pd.DataFrame(retrieval)


def test_claims_are_differences_within_seeds_with_students_interval():
    def gain(arm, stage, seed):
        return (0.1 * (seed + 1) if arm == "alpha" else 0.0) if stage == 256 else 0.0

    table = figures.claims_table(*made_up(gain)).set_index("claim")
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom
    for claim in (
        "alpha = length ratio retrieves more at 256 than the base kept, after the stage of 256",
        "alpha = length ratio has less loss at positions 128 to 256 than the base kept, after the stage of 256",
        "training at 256 lowers the loss at positions 128 to 256 (alpha = length ratio)",
    ):
        row = table.loc[claim]
        assert (row["mean"], row["low"]) == (pytest.approx(0.2), pytest.approx(0.2 - half, abs=1e-6)), claim
        assert row["holds"] == "not shown" and row["seeds"] == 3
    assert table.loc["base 1e9 retrieves more at 256 than the base kept, after the stage of 256"]["mean"] == 0


def test_the_tables_have_a_row_for_every_arm_and_stage():
    text = figures.tables(*made_up(lambda arm, stage, seed: 0.1 if (arm, stage) == ("1e9", 256) else 0.0))
    assert "| 256 | base 1e9 | 30.0 | 30.0 |" in text and "| 256 | base kept | 20.0 | 20.0 |" in text
    assert "| 64, not longer | alpha = length ratio | 3.000 | 3.000 | 3.000 |" in text
    assert "| 256 | base 1e9 | 2.900 | 2.900 | 2.900 |" in text


def test_before_any_training_an_arm_is_shown_at_the_base_of_its_last_stage():
    loss, _ = made_up(lambda *_: 0.0)
    lower = loss[loss["arm"] == "alpha"].assign(rope_base=5e4)
    kept = figures.of_stage(pd.concat([loss, lower]), 64)
    assert set(kept[kept["arm"] == "alpha"]["rope_base"]) == {1e5} and set(kept["arm"]) == set(figures.NAMES)


def test_the_model_of_the_full_study_is_as_large_as_the_readme_says():
    from model.config import HunyuanConfig
    from model.counts import activated_params, total_params

    config = HunyuanConfig(**study.FULL.model)
    assert (round(total_params(config) / 1e6), round(activated_params(config) / 1e6)) == (34, 9)
