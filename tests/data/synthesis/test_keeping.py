"""Stage 4: what is kept goes unchanged into training, what is dropped has filter and reason, and pairs are for dpo."""

import json

import pytest

from model.data.instructions.conversations import read_chats
from model.data.instructions.preferences import read_pairs
from model.data.sources import read_source
from model.data.synthesis.config import SynthesisConfig
from model.data.synthesis.embedded import EmbeddedWriter
from model.data.synthesis.filter import FilterConfig
from model.data.synthesis.keeping import keep
from model.data.synthesis.pipeline import Synthesis
from model.data.synthesis.store import StageStore

TEXT = "\n\n".join(
    f"Paragraph {number} speaks of harbours, lanterns, piers and boats. Its harbours are wide, and its lanterns are lit "
    f"at {number} in the evening. Boats of every size come to the piers, and the piers are never empty of boats."
    for number in range(12)
)
FAMILIES = ["arithmetic", "count", "sort", "date", "lookup"]  # nothing that is run
FILTERS = FilterConfig(duplicates=1.0)


class Silent:
    def begun(self, *_):
        pass

    advanced = filtered = ended = begun


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A folder with stages 1 to 3, two answers each, many of them wrong."""
    place = tmp_path_factory.mktemp("synthesis")
    (place / "text.txt").write_text(TEXT)
    config = SynthesisConfig(sources=(str(place / "text.txt"),), count=40, samples=2, shard_units=16)
    authors = {"main": EmbeddedWriter(FAMILIES, error_rate=0.4)}
    synthesis = Synthesis(place / "out", config, authors, "main", Silent())
    with synthesis.held():
        assert synthesis.run((1, 2, 3))
    return place / "out"


@pytest.fixture
def folder(answered, tmp_path):
    import shutil

    return shutil.copytree(answered, tmp_path / "out")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_exactly_the_planted_errors_are_dropped_by_their_checks(folder):
    assert keep(folder, FILTERS, Silent())
    planted = {row["id"] for row in lines(folder / "labels.jsonl")}
    dropped = [row for row in lines(folder / "dropped.jsonl") if row["stage"] == 4]
    assert planted and {row["parents"][0] for row in dropped if row["filter"] == "check"} == planted
    assert {row["filter"] for row in dropped} == {"check", "duplicate"}
    assert all(row["reasons"] == [f"{row['filter']}: {row['reason']}"] for row in dropped)
    manifest = StageStore(folder, 4, {}).manifest()
    assert manifest["rows"] + sum(manifest["dropped"].values()) == StageStore(folder, 3, {}).manifest()["rows"]


def test_what_is_kept_is_read_by_pretraining_and_by_fine_tuning(folder):
    keep(folder, FILTERS, Silent())
    kept = list(StageStore(folder, 4, {}).records())
    texts = [document.text for document in read_source(str(folder / "4_kept"))]
    assert texts == [f"{record['instruction']}\n\n{record['response']}" for record in kept]
    chats = [[message["content"] for message in chat.messages] for chat in read_chats(str(folder / "4_kept"))]
    assert chats == [[record["instruction"], record["response"]] for record in kept]


def test_pairs_of_a_right_and_a_wrong_answer_are_read_by_dpo(folder):
    keep(folder, FILTERS, Silent())
    planted = {row["id"] for row in lines(folder / "labels.jsonl")}
    rows = lines(folder / "pairs.jsonl")
    dropped = {row["id"]: row for row in lines(folder / "dropped.jsonl")}
    assert len(rows) > 5
    for row in rows:
        assert dropped[row["rejected_id"]]["parents"][0] in planted
        assert dropped[row["rejected_id"]]["instruction"] == row["prompt"]
    assert [pair.chosen["content"] for pair in read_pairs(str(folder / "pairs.jsonl"))] == [
        row["chosen"] for row in rows
    ]


@pytest.mark.parametrize("every", [11, 13])
def test_killed_between_any_two_writes_it_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch, every):
    import shutil

    import model.data.synthesis.store as store

    whole = shutil.copytree(folder, tmp_path / "whole")
    keep(whole, FILTERS, Silent())
    calls = []
    for name in ("write_file", "write_json", "_merge"):
        original = getattr(store, name)

        def killed(*arguments, original=original):
            calls.append(1)
            if len(calls) % every == 0:
                raise Killed
            return original(*arguments)

        monkeypatch.setattr(store, name, killed)
    for _ in range(200):
        try:
            assert keep(folder, FILTERS, Silent())
            break
        except Killed:
            continue
    assert contents(folder) == contents(whole)


def test_stopped_on_request_it_goes_on(folder):
    assert not keep(folder, FILTERS, Silent(), should_stop=lambda: True)
    assert keep(folder, FILTERS, Silent())


def test_other_filters_make_stage_4_again(folder):
    keep(folder, FILTERS, Silent())
    before = StageStore(folder, 4, {}).manifest()
    keep(folder, FilterConfig(duplicates=1.0, checks=False), Silent())
    after = StageStore(folder, 4, {}).manifest()
    assert after["rows"] > before["rows"] and "check" not in after["dropped"]
    assert {row["filter"] for row in lines(folder / "dropped.jsonl") if row["stage"] == 4} == set(after["dropped"])


def test_a_kept_record_leads_back_to_its_text(folder):
    keep(folder, FILTERS, Silent())
    by_id = {record["id"]: record for stage in (1, 2, 3, 4) for record in StageStore(folder, stage, {}).records()}
    record = next(StageStore(folder, 4, {}).records())
    stages = []
    while record["parents"]:
        stages.append(record["stage"])
        record = by_id[record["parents"][0]]
    assert stages == [4, 3, 2] and record["source"]["name"].endswith("text.txt")
