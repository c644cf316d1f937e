"""Tables and the figure of a synthesis, against counts by hand."""

import json

import pytest

from analyses.synthesis.composition import difficulty_table, domains_table, votes_table
from analyses.synthesis.funnel import dropped_table, funnel_table
from analyses.synthesis.planted import planted_table
from analyses.synthesis.plots import plot_report
from model.data.synthesis.record import derived, new_record
from model.data.synthesis.store import Done, StageStore
from model.errors import DataError


def record(id, stage, parents=(), domain="code", difficulty=1.0, response="", reason=""):
    made = new_record(
        id, stage=stage, operation="x", domain=domain, instruction="Q?", writer="w", difficulty=difficulty
    )
    made = derived(made, id, stage=stage, operation="x", response=response)
    return {**made, "parents": list(parents), "reasons": [reason] if reason else [], "usage": {"cost": 0.5}}


def write(folder, stage, records, labels=()):
    store = StageStore(folder, stage, {"seed": 0})
    store.begin()
    with store.open_shard(0) as journal:
        for number, made in enumerate(records):
            journal.append(Done(made["id"], [made], list(labels) if number == 0 else []))
    store.close_shard(0, journal)
    store.finish()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, 1, [record("a", 1), record("b", 1, domain="prose"), record("c", 1, reason="overlap: like a")])
    write(tmp_path, 2, [record("d", 2, ["a"], difficulty=2.0), record("e", 2, ["b"], "prose")])
    answers = [record("f", 3, ["d"], response="The answer is 1,000."), record("g", 3, ["d"], response="1000"),
               record("h", 3, ["d"], response="999"), record("i", 3, ["e"], "prose", response="yes")]  # fmt: skip
    labels = [{"id": "h", "error": "off_by_one"}, {"id": "i", "error": "other"}]
    write(tmp_path, 3, answers, labels)
    kept = [record("k", 4, ["f"]), record("l", 4, ["g"], reason="duplicate: like f"),
            record("m", 4, ["h"], reason="check: it is 1000"), record("n", 4, ["i"], "prose")]  # fmt: skip
    write(tmp_path, 4, kept)
    return tmp_path


def test_the_funnel_counts_kept_and_dropped(folder):
    table = funnel_table(folder)
    assert table["kept"].tolist() == [2, 2, 4, 2] and table["dropped"].tolist() == [1, 0, 0, 2]
    assert table["kept_fraction"].tolist() == [2 / 3, 1, 1, 0.5]
    assert table["cost"].tolist() == [1.5, 1.0, 2.0, 2.0]
    assert dropped_table(folder)["filter"].tolist() == ["overlap", "check", "duplicate"]
    assert dropped_table(folder)["commonest_reason"].tolist() == ["like a", "it is 1000", "like f"]


def test_domains_and_difficulty_by_stage(folder):
    assert domains_table(folder).set_index("domain").loc["prose"].tolist() == [1, 1, 1, 1]
    assert domains_table(folder).set_index("domain").loc["code"].tolist() == [1, 1, 3, 1]
    table = difficulty_table(folder).set_index("difficulty")
    assert table.index.tolist() == [1.0, 2.0] and table["2_evolved"].tolist() == [1, 1]


def test_votes_read_equal_answers_alike(folder):
    table = votes_table(folder)
    assert table[table["instructions"] > 0].to_dict("list") == {"share": [0.7], "instructions": [1]}  # two of three


def test_recall_and_precision_of_planted_errors_leave_other_filters_out(folder):
    table = planted_table(folder).set_index("error")
    assert table.loc["off_by_one", ["planted", "found"]].tolist() == [1, 1]
    assert table.loc["other", ["planted", "found"]].tolist() == [1, 0]
    assert table.loc["all", "recall"] == 0.5
    assert table.loc["precision", ["planted", "found"]].tolist() == [1, 1]
    assert 0 < table.loc["all", "low"] < 0.5 < table.loc["all", "high"] < 1


def test_the_figure_has_a_panel_for_each_question(folder):
    titles = [axes.get_title(loc="left") for axes in plot_report(folder).axes]
    assert titles[:5] == [
        "what each stage kept",
        "domains",
        "difficulty",
        "votes; more than half keeps it",
        "planted errors",
    ]
    (folder / "labels.jsonl").unlink()
    assert "planted errors" not in [axes.get_title(loc="left") for axes in plot_report(folder).axes]


def test_a_folder_without_a_stage_is_said(tmp_path):
    with pytest.raises(DataError, match="no closed stage"):
        funnel_table(tmp_path)
    write(tmp_path, 1, [record("a", 1)])
    assert json.loads(funnel_table(tmp_path).to_json(orient="records"))[0]["kept"] == 1
    assert planted_table(tmp_path).empty and votes_table(tmp_path).empty
