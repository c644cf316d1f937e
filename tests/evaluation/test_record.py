"""What an evaluation leaves on the disk, also where it was killed while it wrote."""

import json

import pytest

from model.errors import DataError
from model.evaluation.record import RESULTS, SAMPLES, Record, Sample, read_results, read_samples, scores_of


def sample(task="vt", index=0, length=128, score=1.0, **more):
    return Sample(task, index, f"prompt {index}", ["text"], "target", {"string_match": score}, length=length, **more)


def test_scores_are_percent_with_counts_of_what_was_cut_and_empty():
    samples = [sample(index=0), sample(index=1, score=0.0, null=True), sample(index=2, score=0.0, truncated=True)]
    (row,) = scores_of(samples, template="none")
    assert (row.score, row.n, row.nulls, row.truncated, row.length, row.unit) == (
        pytest.approx(100 / 3), 3, 1, 1, 128, "percent",
    )  # fmt: skip
    assert row.interval[0] < row.score < row.interval[1]


def test_samples_are_there_before_the_end_and_in_order_after_it(tmp_path):
    record = Record(tmp_path)
    record.add([sample(index=1), sample(index=0)])
    assert len(read_samples(tmp_path)) == 2 and not (tmp_path / RESULTS).exists()
    record.add([sample("cwe")])
    record.finish({"tasks": []})
    places = [(row["task"], row["index"]) for row in map(json.loads, (tmp_path / SAMPLES).read_text().splitlines())]
    assert places == [("cwe", 0), ("vt", 0), ("vt", 1)]
    assert read_results(tmp_path) == {"tasks": []}


def test_a_run_that_was_killed_goes_on_without_a_torn_or_a_second_line(tmp_path):
    Record(tmp_path).add([sample(index=0), sample(index=1)])
    path = tmp_path / SAMPLES
    path.write_bytes(path.read_bytes()[:-9])
    record = Record(tmp_path)
    assert len(path.read_text().splitlines()) == 1
    record.add([sample(index=0), sample(index=1), sample(index=2)])
    assert len(path.read_text().splitlines()) == 3
    record.finish({"tasks": []})
    assert sorted(place[2] for place in read_samples(tmp_path)) == [0, 1, 2]


def test_samples_of_an_earlier_evaluation_are_replaced(tmp_path):
    first = Record(tmp_path)
    first.add([sample("cwe"), sample(index=0, score=0.0)])
    first.finish({"tasks": []})
    second = Record(tmp_path)
    second.add([sample(index=0, score=1.0)])
    second.finish({"tasks": []})
    (row,) = read_samples(tmp_path).values()
    assert (row["task"], row["scores"]) == ("vt", {"string_match": 1.0})


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": 1}'])
def test_what_is_no_record_is_a_sentence(tmp_path, content):
    (tmp_path / RESULTS).write_text(content)
    with pytest.raises(DataError, match="run it again"):
        read_results(tmp_path)
    (tmp_path / SAMPLES).write_text('{"task": "vt"}\n')
    with pytest.raises(DataError, match="line 1 is damaged"):
        read_samples(tmp_path)
