"""A stage's shards: the same bytes whatever the order and wherever it was killed, and nothing done twice."""

import json

import pytest

from model.data.synthesis.record import Record, new_record, record_id
from model.data.synthesis.store import Done, Journal, StageStore, read_records


def record(number: int, *, reasons: tuple[str, ...] = ()) -> Record:
    made = new_record(
        record_id([], 1, "seed", 0, number), stage=1, operation="seed", domain="code" if number % 2 else "prose",
        instruction=f"Question {number}?", writer="embedded", difficulty=number % 3,
    )  # fmt: skip
    made["reasons"] = list(reasons)
    return made


def done(number: int, **options) -> Done:
    made = record(number, **options)
    return Done(made["id"], [made], [{"id": made["id"], "error": "sign"}] if number == 4 else [])


def fill(folder, order, *, config=None, shard=0):
    store = StageStore(folder, 1, config or {"seed": 0})
    store.begin()
    with store.open_shard(shard) as journal:
        for number in order:
            unit = done(number, reasons=("refusal: it says no",) if number == 3 else ())
            if unit.unit not in journal.units:
                journal.append(unit)
    return store, journal


def closed(folder, order, judge=None):
    store, journal = fill(folder, order)
    store.close_shard(0, journal, judge)
    return store


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bytes_do_not_depend_on_the_order(tmp_path):
    for name, order in {"a": range(6), "b": (3, 5, 0, 4, 1, 2)}.items():
        closed(tmp_path / name, order).finish()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {
        "1_instructions/part-00000.jsonl", "1_instructions/manifest.json", "dropped.jsonl", "labels.jsonl"
    }  # fmt: skip


def test_the_manifest_counts_what_is_there(tmp_path):
    store = closed(tmp_path, range(6))
    manifest = store.finish(lambda manifest: {"documents": 2})
    assert manifest["rows"] == 5 == len(list(store.records()))
    assert manifest["domains"] == {"code": 2, "prose": 3}
    assert manifest["dropped"] == {"refusal": 1}
    assert manifest["documents"] == 2
    ids = [row["id"] for row in store.records()]
    assert ids == sorted(ids)
    [dropped] = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert dropped["reasons"] == ["refusal: it says no"]
    assert json.loads((tmp_path / "labels.jsonl").read_text()) == {"id": record(4)["id"], "error": "sign", "stage": 1}


@pytest.mark.parametrize("torn", [b'{"unit": "x", "rec', b'{"unit"\n', b"null\n", b"\x00\x00\n"])
def test_a_torn_last_line_is_done_again(tmp_path, torn):
    closed(tmp_path / "whole", range(6))
    store, _ = fill(tmp_path / "cut", range(4))
    path = tmp_path / "cut/1_instructions/.open/00000.journal"
    path.write_bytes(path.read_bytes() + torn)
    with store.open_shard(0) as journal:
        assert set(journal.units) == {record(number)["id"] for number in range(4)}
    closed(tmp_path / "cut", range(6))
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_what_is_appended_after_a_torn_line_is_not_lost(tmp_path):
    store, journal = fill(tmp_path, range(2))
    journal.path.write_bytes(journal.path.read_bytes() + b'{"unit": "x", "rec')
    with store.open_shard(0) as again:
        again.append(done(2))
    with store.open_shard(0) as last:
        assert set(last.units) == {record(number)["id"] for number in range(3)}


def test_what_the_judge_drops_has_its_reason(tmp_path):
    store = closed(tmp_path, range(6), lambda row: "overlap: like another" if row["domain"] == "code" else "")
    assert len(list(store.records())) == 3
    assert store.finish()["dropped"] == {"overlap": 2, "refusal": 1}


def test_a_closed_shard_stays_closed(tmp_path):
    closed(tmp_path, range(6))
    again = StageStore(tmp_path, 1, {"seed": 0})
    again.begin()
    assert again.closed(0) and not again.closed(1) and not again.complete
    again.finish()
    assert again.complete


def test_other_settings_clear_this_stage_and_later_ones_alone(tmp_path):
    for stage in (1, 2, 3):
        store = StageStore(tmp_path, stage, {"seed": 0})
        store.begin()
        with store.open_shard(0) as journal:
            made = {**record(stage), "stage": stage, "reasons": ["length: short"]}
            journal.append(Done(str(stage), [made, {**record(9), "stage": stage}]))
        store.close_shard(0, journal)
        store.finish()
    store = StageStore(tmp_path, 2, {"seed": 1})
    assert not store.complete
    store.begin()
    assert StageStore(tmp_path, 1, {"seed": 0}).complete
    assert not (tmp_path / "3_responses").exists()
    assert not list(read_records(tmp_path / "2_evolved"))
    assert [json.loads(line)["stage"] for line in (tmp_path / "dropped.jsonl").read_text().splitlines()] == [1]


def test_a_journal_is_used_in_a_with_statement(tmp_path):
    with pytest.raises(ValueError, match="with statement"):
        Journal(tmp_path / "x").append(done(0))
