"""`hunyuan eval` from the command line: its JSON, what it leaves in a folder, comparisons, and its sentences."""

import json

import pytest

from hunyuan_cli import main
from tests.cli.speaking import write_run
from tests.evaluation.folders import write_lines


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return write_run(folder / "one", max_position_embeddings=256), write_run(
        folder / "two", max_position_embeddings=256, moe_topk=1
    )


@pytest.fixture
def evaluate(capfd):
    """evaluate(...) -> (status, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["eval", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


RULER = ("--tasks", "niah_single_1,vt", "--lengths", "128,256", "--samples", 3, "--max-new-tokens", 8)


def test_the_json_has_a_row_for_each_task_and_length(evaluate, models, tmp_path):
    status, out, err = evaluate(models[0], *RULER, "--format", "json", "--out", tmp_path / "out")
    assert status == 0, err
    result = json.loads(out)
    assert result["model"] == str(models[0])
    assert [(row["task"], row["length"]) for row in result["tasks"]] == [
        ("niah_single_1", 128), ("niah_single_1", 256), ("vt", 128), ("vt", 256),
    ]  # fmt: skip
    for row in result["tasks"]:
        low, high = row["interval"]
        assert row.keys() >= {
            "task",
            "metric",
            "score",
            "n",
            "interval",
            "length",
            "nulls",
            "truncated",
            "shots",
            "template",
        }
        assert 0 <= low <= row["score"] <= high <= 100 and row["n"] == 3
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["tasks"] == result["tasks"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 12
    assert samples[0].keys() >= {"task", "index", "prompt", "answers", "target", "scores", "length", "depth"}


def test_a_second_run_asks_nothing_again_and_leaves_the_same_samples(evaluate, models, tmp_path, monkeypatch):
    arguments = (models[0], *RULER, "--out", tmp_path / "out")
    evaluate(*arguments)
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    monkeypatch.setattr("model.evaluation.asking.generate_batch", None)
    assert evaluate(*arguments)[0] == 0
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


def test_the_table_says_how_it_was_asked(evaluate, models, tmp_path):
    status, out, err = evaluate(models[0], *RULER, "--chat")
    assert status == 0, err
    assert "plain transcript" in out and "shots" in out and "95%" in out


def test_two_models_are_compared_document_by_document(evaluate, models, tmp_path):
    evaluate(models[1], *RULER, "--out", tmp_path / "two")
    status, out, err = evaluate(models[0], *RULER, "--against", tmp_path / "two", "--format", "json")
    assert status == 0, err
    rows = json.loads(out)["against"]["rows"]
    assert len(rows) == 4
    for row in rows:
        assert (
            row["difference"] == pytest.approx(row["score"] - row["other"])
            and row["low"] <= row["difference"] <= row["high"]
        )
    status, _, err = evaluate(models[0], *RULER, "--seed", 5, "--against", tmp_path / "two")
    assert status == 1 and "none of these documents" in err


def test_c3_and_cmath_are_read_from_local_files(evaluate, models, tmp_path):
    (tmp_path / "c3.json").write_text(json.dumps([
        [["他在学校。", "她在家。"], [{"question": "他在哪？", "choice": ["学校", "家"], "answer": "学校"}], "1"]
    ]))  # fmt: skip
    write_lines(tmp_path / "cmath" / "test.jsonl", [{"question": "1加1是多少？", "golden": "2", "grade": 1}])
    status, out, err = evaluate(models[0], "--tasks", "c3,cmath", "--task-data", tmp_path, "--format", "json")
    assert status == 0, err
    result = json.loads(out)
    assert [(row["task"], row["metric"], row["n"]) for row in result["tasks"]] == [
        ("c3", "acc", 1),
        ("cmath", "exact_match", 1),
    ]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--tasks", ","], "no task was named"),
    (["--tasks", "vt", "--lengths", "512"], "a length of 512 is beyond the model's context of 256"),
    (["--tasks", "niah_single_1", "--lengths", "16"], "does not fit into 16 tokens"),
    (["--tasks", "lveval"], "give their folder with --task-data"),
    (["--tasks", "vt", "--task-data", "nowhere"], "nowhere is no folder"),
    (["--tasks", "vt", "--against", "."], "name the --out folder of an evaluation"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(evaluate, models, arguments, said):
    status, out, err = evaluate(models[0], *arguments)
    assert (status, out) == (1, "") and said in err and len(err.strip().splitlines()) <= 2


def test_lm_eval_is_an_extra(evaluate, models, monkeypatch):
    monkeypatch.setattr("model.evaluation.evaluate.find_spec", lambda name: None)
    status, _, err = evaluate(models[0], "--tasks", "gsm8k")
    assert status == 1 and "pip install 'hunyuan[eval]'" in err


def test_the_figure_has_both_models_and_the_table_stands_beside_the_report(evaluate, models, tmp_path):
    assert evaluate(models[0], *RULER, "--out", tmp_path / "one")[0] == 0
    status, out, err = evaluate(models[1], *RULER, "--against", tmp_path / "one", "--plot", tmp_path / "a.svg")
    assert status == 0, err
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert "beside the report" in out and "RULER 0-8K at 256, 2 of 13 tasks" in out and "94.39" in out


def test_a_figure_of_tasks_without_lengths_is_refused_after_the_scores(evaluate, models, tmp_path):
    write_lines(tmp_path / "cmath" / "test.jsonl", [{"question": "1+1=?", "golden": "2", "grade": 1}])
    status, out, err = evaluate(models[0], "--tasks", "cmath", "--task-data", tmp_path, "--plot", tmp_path / "a.svg")
    assert status == 1 and "no sample has a length" in err.splitlines()[-1] and "cmath" in out
