"""Stages 1 to 3: the same bytes wherever they were stopped and however the work was done, and nothing done twice."""

import json
import random
from dataclasses import replace

import pytest

from model.data.synthesis.config import SynthesisConfig
from model.data.synthesis.embedded import EmbeddedWriter
from model.data.synthesis.pipeline import Synthesis
from model.data.synthesis.record import derived, new_record
from model.data.synthesis.store import Done, Journal, StageStore
from model.errors import ConfigError, DataError

TEXT = "\n\n".join(
    f"Paragraph {number} speaks of harbours, lanterns, piers and boats. Its harbours are wide, and its lanterns are lit "
    f"at {number} in the evening. Boats of every size come to the piers, and the piers are never empty of boats."
    for number in range(12)
)


class Silent:
    def begun(self, stage, total, done):
        pass

    def advanced(self, done):
        pass

    def filtered(self, name, count):
        pass

    def ended(self, stage, manifest, seconds):
        pass


class Killed(BaseException):
    """What a SIGKILL leaves: nothing after this line is done."""


class Paid:
    """An author that shuffles its work, counts what it did, and writes long-winded answers."""

    def __init__(self, order=0, refuses=False):
        self.order, self.refuses, self.paid = random.Random(order), refuses, []

    identity = {"kind": "paid"}  # noqa: RUF012

    def _done(self, units, make):
        units = list(units)
        self.order.shuffle(units)
        for unit in units:
            self.paid.append(unit.id)
            yield Done(unit.id, [make(unit)])

    def instructions(self, units):
        def make(unit):
            words = " ".join(
                random.Random(unit.id).choices("alpha beta gamma delta epsilon zeta eta theta".split(), k=9)
            )
            return new_record(
                unit.id, stage=1, operation="seed", domain="rare" if unit.index % 4 == 0 else "common",
                instruction=f"Explain {words}.", writer="paid", source=unit.span.source,
            )  # fmt: skip

        return self._done(units, make)

    def evolutions(self, units):
        def make(unit):
            said = (
                "I'm sorry, I cannot."
                if self.refuses
                else f"{unit.parent['instruction']} {unit.operation} {unit.id} in steps."
            )
            return derived(unit.parent, unit.id, stage=2, operation=unit.operation, instruction=said)

        return self._done(units, make)

    def responses(self, units):
        def make(unit):
            said = {"response": f"Answer {unit.sample}.", "usage": {"cost": 0.25}}
            return derived(unit.parent, unit.id, stage=3, operation="response", **said)

        return self._done(units, make)

    def close(self):
        pass


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return str(path)


def settings(corpus, **options):
    given = {"count": 20, "shard_units": 8, "samples": 2} | options
    return SynthesisConfig(sources=(corpus,), **given)


def run(folder, config, author=None, stages=(1, 2, 3), should_stop=lambda: False):
    synthesis = Synthesis(
        folder, config, {"main": author or EmbeddedWriter(error_rate=0.3)}, "main", Silent(), should_stop
    )
    with synthesis.held():
        return synthesis.run(stages)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def records(folder, stage):
    return list(StageStore(folder, stage, {}).records())


def test_equal_runs_give_equal_bytes_and_another_seed_others(tmp_path, corpus):
    for name in ("a", "b"):
        assert run(tmp_path / name, settings(corpus))
    run(tmp_path / "c", settings(corpus, seed=1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


def test_bytes_do_not_depend_on_the_order_of_the_work(tmp_path, corpus):
    for order in range(3):
        run(tmp_path / str(order), settings(corpus, overlap=0.9), Paid(order))
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("every", [1, 5, 17])
def test_killed_after_every_few_units_gives_the_same_bytes_and_pays_nothing_twice(tmp_path, corpus, monkeypatch, every):
    config = settings(corpus, overlap=0.5)
    run(tmp_path / "whole", config, Paid())
    assert StageStore(tmp_path / "whole", 1, {}).manifest()["dropped"]["overlap"] > 3  # also to those of earlier shards
    author, kept, append = Paid(7), [], Journal.append

    def killed(journal, done):
        append(journal, done)
        kept.append(done.unit)
        if len(kept) % every == 0:
            raise Killed

    monkeypatch.setattr(Journal, "append", killed)
    for _ in range(1000):
        try:
            run(tmp_path / "killed", config, author)
            break
        except Killed:
            continue
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(kept) == len(set(kept)) == len(author.paid)


@pytest.mark.parametrize("point", range(12))
def test_killed_between_the_writes_of_a_shard_that_closes(tmp_path, corpus, monkeypatch, point):
    import model.data.synthesis.store as store

    config = settings(corpus, count=10, overlap=0.9)
    run(tmp_path / "whole", config, Paid())
    calls = []
    for name in ("write_file", "write_json", "_merge"):
        original = getattr(store, name)

        def killed(*arguments, original=original):
            calls.append(1)
            if len(calls) % 12 == point:
                raise Killed
            return original(*arguments)

        monkeypatch.setattr(store, name, killed)
    author = Paid(7)
    for _ in range(100):
        try:
            run(tmp_path / "killed", config, author)
            break
        except Killed:
            continue
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(author.paid) == len(set(author.paid))


def test_stopped_on_request_it_goes_on(tmp_path, corpus):
    run(tmp_path / "whole", settings(corpus))
    asked = iter(range(10**6))
    stops = 0
    while not run(tmp_path / "stopped", settings(corpus), should_stop=lambda: next(asked) % 23 == 22):
        stops += 1
    assert stops > 3 and contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_other_settings_of_a_stage_make_it_and_later_ones_again(tmp_path, corpus):
    author, config = Paid(), settings(corpus)
    run(tmp_path, config, author)
    first = len(author.paid)
    run(tmp_path, config, author)
    assert len(author.paid) == first  # nothing to do
    run(tmp_path, replace(config, samples=3), author)
    assert len(author.paid) - first == 3 * len(records(tmp_path, 2)) == len(records(tmp_path, 3))


def test_lineage_leads_back_to_the_text(tmp_path, corpus):
    run(tmp_path, settings(corpus))
    by_id = {record["id"]: record for stage in (1, 2, 3) for record in records(tmp_path, stage)}
    for record in records(tmp_path, 3):
        [parent] = record["parents"]
        [seed] = by_id[parent]["parents"]
        source = by_id[seed]["source"]
        assert record["source"] == source and TEXT[source["start"] : source["end"]].strip()
        assert [by_id[id]["stage"] for id in (record["id"], parent, seed)] == [3, 2, 1]


def test_rare_domains_are_expanded_and_the_entropy_grows(tmp_path, corpus):
    run(tmp_path, settings(corpus, count=60, expand=0.5), Paid(), stages=(1, 2))
    manifest = StageStore(tmp_path, 2, {}).manifest()
    assert manifest["entropy"]["after"] > manifest["entropy"]["before"]
    expanded = [record["domain"] for record in records(tmp_path, 2) if record["operation"] == "expansion"]
    assert expanded.count("rare") > 3 * expanded.count("common")


def test_an_instruction_that_cannot_be_evolved_goes_on_as_it_was(tmp_path, corpus):
    run(tmp_path, settings(corpus, harder=1.0), Paid(refuses=True), stages=(1, 2))
    assert {record["operation"] for record in records(tmp_path, 2)} == {"original"}
    before, after = ([record["instruction"] for record in records(tmp_path, stage)] for stage in (1, 2))
    assert sorted(before) == sorted(after)
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert {row["reasons"][0] for row in dropped} == {"evolution: it is a refusal"}
    assert {row["operation"] for row in dropped} >= {"clarity", "difficulty"}


def test_planted_errors_are_in_the_labels_alone(tmp_path, corpus):
    run(tmp_path / "wrong", settings(corpus, count=60))
    run(tmp_path / "right", settings(corpus, count=60), EmbeddedWriter())
    labels = [json.loads(line) for line in (tmp_path / "wrong/labels.jsonl").read_text().splitlines()]
    right = {record["id"]: record for record in records(tmp_path / "right", 3)}
    changed = {record["id"] for record in records(tmp_path / "wrong", 3) if record != right[record["id"]]}
    assert changed == {label["id"] for label in labels}
    assert 0.2 < len(labels) / len(right) < 0.4
    keys = {tuple(record) for record in records(tmp_path / "wrong", 3)}
    assert len(keys) == 1 and "error" not in str(keys)
    assert all(set(record["task"]) == {"family", "template"} for record in records(tmp_path / "wrong", 3))


def test_two_processes_do_not_share_a_folder(tmp_path, corpus):
    synthesis = Synthesis(tmp_path, settings(corpus), {"main": EmbeddedWriter()}, "main", Silent())
    with synthesis.held(), pytest.raises(DataError, match="another process writes"), synthesis.held():
        pass


def test_a_stage_needs_the_one_before(tmp_path, corpus):
    with pytest.raises(DataError, match="run stage 1 first"):
        run(tmp_path, settings(corpus), stages=(2,))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"count": 0}, "--count is 0"), ({"harder": 1.5}, "--harder is 1.5"), ({"overlap": float("nan")}, "--overlap is nan"),
     ({"samples": 0, "seed": -1}, "2 settings")],
)  # fmt: skip
def test_settings_that_cannot_be(corpus, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        settings(corpus, **options)


def test_an_unknown_family_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="no family sudoku: choose among arithmetic"):
        EmbeddedWriter(["sudoku"])
