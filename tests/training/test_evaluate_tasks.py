"""training.evaluate_tasks: small tasks at each validation, which change nothing that is trained."""

import json

import pytest
from tiny import assert_same_run, rows_of, weights

from analyses.training.runs import load_run, measures
from model.errors import ConfigError, HunyuanError
from model.evaluation.asking import Model
from model.evaluation.evaluate import Evaluation, evaluate
from model.evaluation.periodic import PeriodicTasks
from model.generation.engine import Engine

ASKED = ('training.evaluate_tasks=["niah_single_1@256", "vt"]', "training.evaluate_samples=1", "training.evaluate_every=6",
         "training.sequence_length=128", "training.global_batch_tokens=512")  # fmt: skip
KEYS = {"score_niah_single_1_256", "score_vt_128"}


def without_scores(rows):
    return [{key: value for key, value in row.items() if key not in KEYS} for row in rows]


def test_scores_stand_in_the_metrics_and_in_compare_and_nothing_else_changes(pretrain, tmp_path):
    with_tasks, without = tmp_path / "with", tmp_path / "without"
    pretrain(*ASKED, folder=with_tasks)
    pretrain(*ASKED, "training.evaluate_tasks=[]", folder=without)
    rows = rows_of(with_tasks)
    assert [row["step"] for row in rows if row.keys() >= KEYS] == [6, 12]
    assert without_scores(rows) == rows_of(without)
    assert all((weights(with_tasks, 12)[name] == tensor).all() for name, tensor in weights(without, 12).items())
    assert json.loads((with_tasks / "summary.json").read_text()).keys() >= KEYS
    assert measures(load_run(with_tasks)).keys() >= KEYS


def test_a_resumed_run_has_the_same_scores(pretrain, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    pretrain(*ASKED, folder=whole)
    pretrain(*ASKED, folder=resumed, stop_after=6)
    pretrain(*ASKED, folder=resumed, resume=True)
    assert_same_run(resumed, whole, 12)


def test_scores_are_those_of_the_command(pretrain, tmp_path):
    pretrain(*ASKED, folder=tmp_path / "run")
    model = Model(Engine.from_folder(tmp_path / "run"))
    rows = evaluate(model, Evaluation(("niah_single_1",), lengths=(256,), samples=1, seed=7))
    assert rows[0].score == rows_of(tmp_path / "run")[-1]["score_niah_single_1_256"]


@pytest.mark.parametrize(
    ("task", "said"), [("vt@4096", "beyond the model's context"), ("niah_single_1@9", "does not fit")]
)
def test_what_cannot_be_asked_is_told_before_the_run_folder_is_made(pretrain, tmp_path, task, said):
    with pytest.raises(HunyuanError, match=said):
        pretrain(f'training.evaluate_tasks=["{task}"]')
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_length_has_the_context_of_each_stage(pretrain, staged, tmp_path):
    stages = [{"name": "short", "share": 0.5, "context": 128}, {"name": "long", "share": 0.5, "context": 256}]
    pretrain(of=staged(stages, evaluate_tasks=["vt", "vt@128"], evaluate_samples=1, steps=4))
    rows = [row for row in rows_of(tmp_path / "run") if "val_loss" in row]
    assert [[key for key in row if key.startswith("score_")] for row in rows] == [
        ["score_vt_128"], ["score_vt_256", "score_vt_128"],
    ]  # fmt: skip


def test_what_a_later_stage_cannot_be_asked_is_told_before_the_first_begins(pretrain, staged, tmp_path):
    stages = [{"name": "long", "share": 0.5, "context": 128}, {"name": "short", "share": 0.5, "context": 16}]
    with pytest.raises(HunyuanError, match="vt does not fit into 16 tokens"):
        pretrain(of=staged(stages, evaluate_tasks=["vt"], evaluate_samples=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mmlu", "vt@long", "vt@"])
def test_an_unknown_task_is_refused_before_training(name):
    with pytest.raises(ConfigError, match=r"training.evaluate_tasks has .*niah_single_1@256"):
        PeriodicTasks([name if name != "vt@" else "@64"], None, length=64, context=64, samples=1, seed=0)
