"""analyses/training/arms.py: what is an arm, what is a pair, and what is said where a pair is missing."""

import json

import pytest
from test_runs import write_run

from analyses.training.arms import study_of
from analyses.training.runs import load_runs
from analyses.training.seeds import variants_table
from model.errors import HunyuanError


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values if path.exists() else values))


@pytest.fixture
def study(tmp_path):
    """wide has the seeds 0, 1 and 2, narrow 0 and 1, slow 2 and 3; val_loss is 0.1 above the losses given."""
    for seed, loss in ((0, 3.0), (1, 3.5), (2, 4.0)):
        write_run(tmp_path / f"wide-s{seed}", seed=seed, loss=loss)
    for seed, loss in ((0, 3.25), (1, 3.25)):
        write_run(tmp_path / f"narrow-s{seed}", seed=seed, loss=loss, hidden_size=32)
    for seed in (2, 3):
        write_run(tmp_path / f"slow-s{seed}", seed=seed, loss=5.0, lr=1e-4)
    return tmp_path


def test_arms_are_runs_that_differ_in_their_seed_and_pairs_have_the_same(study):
    found = study_of(load_runs([study]), "wide")
    assert [(arm.name, len(arm.runs)) for arm in found.arms] == [("narrow", 2), ("slow", 2), ("wide", 3)]
    assert found.measure == "val_loss"
    table = variants_table(found.cells, found.baseline, found.measure).set_index("variant")
    assert table.loc["narrow", "difference"] == pytest.approx((0.25 - 0.25) / 2)
    assert table.loc["slow", "difference"] == pytest.approx(5.0 - 4.0)
    assert table["pairs"].dropna().to_dict() == {"narrow": 2, "slow": 1}
    assert found.settings_table().to_dict("records") == [
        {"variant": "narrow", "differs_in": "hidden_size = 32"},
        {"variant": "slow", "differs_in": "lr = 0.0001"},
    ]


def test_what_is_missing_for_a_pair_is_said(study):
    assert study_of(load_runs([study]), "wide").notes == [
        "narrow lacks seed 2 of wide: those are not in its difference",
        "slow lacks the seeds 0, 1 of wide: those are not in its difference",
        "wide lacks seed 3 of slow: those are not in its difference",
        "slow has one pair with wide: no interval",
    ]
    notes = study_of(load_runs([study]), "slow").notes
    assert "narrow has no pair with slow: no interval" in notes
    table = variants_table(study_of(load_runs([study]), "slow").cells, "slow", "val_loss").set_index("variant")
    assert table.loc["narrow", "pairs"] == 0 and table.loc["narrow"][["difference", "low", "high"]].isna().all()


def test_runs_that_are_not_finished_are_left_out_by_name(study):
    change(study / "wide-s1", "summary.json", status="interrupted")
    (study / "narrow-s0" / "summary.json").unlink()
    found = study_of(load_runs([study]), "wide")
    assert found.notes[0] == "left out, not finished: narrow-s0 (running), wide-s1 (interrupted)"
    assert sorted(found.cells["seed"][found.cells["variant"] == "wide"]) == [0, 2]
    assert [arm.name for arm in found.arms] == ["narrow", "slow", "wide"]  # narrow has one run left, and its own name


def test_the_baseline_is_the_arm_that_shares_most_settings_with_the_others(study):
    assert study_of(load_runs([study])).baseline == "wide"


def test_a_seed_that_was_run_twice_counts_once_and_is_told(study):
    write_run(study / "wide-s9", seed=0, loss=5.0)  # the name says another seed than the run has
    found = study_of(load_runs([study]), "wide")
    assert "wide: seed 0 was run more than once, and the mean is taken" in found.notes
    table = variants_table(found.cells, "wide", "val_loss").set_index("variant")
    assert table.loc["narrow", "difference"] == pytest.approx(((3.25 - 4.0) + (3.25 - 3.5)) / 2)


def test_settings_that_alter_no_number_make_no_arm_and_machines_are_told(study):
    path = study / "wide-s1" / "run.toml"
    path.write_text(path.read_text() + "device = 'cuda:1'\nevaluate_every = 7\n")
    for seed, card in ((0, "NVIDIA H100"), (1, "NVIDIA H200"), (2, "NVIDIA H100")):
        change(study / f"wide-s{seed}", "environment.json", accelerator=card, precision="bfloat16")
    found = study_of(load_runs([study]), "wide")
    assert [arm.name for arm in found.arms] == ["narrow", "slow", "wide"]
    assert found.notes[-1] == "trained on several machines, which round differently: NVIDIA H100, NVIDIA H200"


def test_the_same_text_in_another_place_makes_no_arm_and_another_text_does(study):
    for seed, text in ((0, "x"), (1, "x"), (2, "y")):
        change(study / f"wide-s{seed}", "environment.json", data={"fingerprint": text})
        path = study / f"wide-s{seed}" / "run.toml"
        path.write_text(path.read_text().replace("path = 'corpus'", f"sources = ['/machine{seed}/corpus.jsonl']"))
    found = study_of(load_runs([study]), "wide (1)")
    assert [(arm.name, len(arm.runs)) for arm in found.arms if "wide" in arm.name] == [("wide (1)", 2), ("wide (2)", 1)]


def test_other_measures_by_their_names(study):
    found = study_of(load_runs([study]), "wide", "load_imbalance")
    assert list(found.cells["load_imbalance"]) == [1.5] * 7
    assert set(found.curves["tokens"]) == set(range(100, 2100, 100))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("broad",), "there is no arm 'broad': the arms are narrow, slow, wide"),
        (("wide", "val_accuracy"), "no run has a 'val_accuracy': there are activated_params, "),
    ],
)
def test_mistakes_are_one_sentence(study, arguments, says):
    with pytest.raises(HunyuanError) as caught:
        study_of(load_runs([study]), *arguments)
    assert str(caught.value).startswith(says)


def test_a_study_without_a_finished_run_is_refused(study):
    for path in study.glob("*/summary.json"):
        path.unlink()
    with pytest.raises(HunyuanError, match="none of these runs is finished"):
        study_of(load_runs([study]))
