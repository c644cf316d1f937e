"""Runs of stages: exact over their boundaries, each with its own length, context, RoPE base, rates and text."""

import dataclasses
import json
import shutil
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from three_stages import three
from tiny import TENSORS, assert_same_run, checkpoint, rows_of, weights

from model.checkpoint.convert import convert
from model.checkpoint.load import load_model
from model.checkpoint.run import find_damage, steps_saved
from model.config.hunyuan import HunyuanConfig
from model.data.corpus import prepare_corpus
from model.data.order import Sampler
from model.errors import ConfigError, DataError
from model.training import pretraining, run_folder
from model.training.config import TrainingConfig
from model.training.initial import take_over
from model.training.resume import resumed_settings
from model.training.settings import RunSettings
from model.training.stages import micro_batch_size, stage_at, stages_of
from model.transformer import Hunyuan

EXAMPLE = Path(__file__).parents[2] / "examples" / "stages.toml"
ENDS = (5, 8, 12)  # steps


class Recorder:
    def __init__(self):
        self.plans, self.summaries, self.notes = [], [], []

    def start(self, plan):
        self.plans.append(plan)

    def step(self, row):
        pass

    def note(self, message):
        self.notes.append(message)

    def finish(self, summary):
        self.summaries.append(summary)


@pytest.fixture
def run(monkeypatch):
    """run(folder, settings, stop_after=3) -> Recorder; without settings the run in the folder is resumed."""
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)

    def go(folder, settings=None, *, stop_after=None) -> Recorder:
        recorder, chosen = Recorder(), settings or run_folder.settings_of(folder)
        left = iter(range(stop_after, -1, -1)) if stop_after else None
        stop = (lambda: next(left) == 0) if left else lambda: False
        pretraining.pretrain(folder, chosen, recorder, resume=settings is None, should_stop=stop)
        return recorder

    return go


@pytest.fixture
def whole(run, staged, tmp_path):
    run(tmp_path / "whole", staged())
    return tmp_path / "whole"


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(4,), (5,), (6,), (7,), (8,), (9,), (5, 3), (4, 1, 1, 2, 1)], ids=str)
def test_interrupted_about_a_boundary_and_resumed_is_uninterrupted(run, staged, whole, tmp_path, stops):
    folder, done = tmp_path / "run", 0
    for index, count in enumerate(stops):
        recorder = run(folder, None if index else staged(), stop_after=count)
        done += count
        (summary,) = recorder.summaries  # at the interruption, once
        assert (summary["status"], summary["steps"]) == ("interrupted", done)
        assert steps_saved(folder)[-1] == done
    recorder = run(folder)
    assert recorder.plans[0].start_step == done
    assert [summary["status"] for summary in recorder.summaries] == ["finished"]
    assert_same_run(folder, whole, 12)
    for boundary in ENDS:
        for name in TENSORS:
            assert (checkpoint(folder, boundary) / name).read_bytes() == (
                checkpoint(whole, boundary) / name
            ).read_bytes()


def test_the_boundary_checkpoint_is_damaged_and_the_one_before_is_gone_on_from(run, staged, whole, tmp_path):
    folder = tmp_path / "run"
    run(folder, staged(keep_checkpoints=4), stop_after=6)
    shutil.rmtree(checkpoint(folder, 6))
    (checkpoint(folder, 5) / "model.safetensors").write_bytes(b"")
    recorder = run(folder)
    assert [plan.start_step for plan in recorder.plans] == [3, 5, 8]
    assert "step-00000005 is damaged" in recorder.notes[0]
    assert_same_run(folder, whole, 12)


def test_one_stage_is_the_run_without_stages(run, staged, settings, tmp_path):
    plain = staged([], anneal_fraction=0.25)
    assert plain.stages == ()
    run(tmp_path / "plain", plain)
    run(tmp_path / "one", staged([{"name": "all", "share": 1}], anneal_fraction=0.25))
    for name in TENSORS:
        here, there = (checkpoint(tmp_path / folder, 12) / name for folder in ("plain", "one"))
        assert here.read_bytes() == there.read_bytes()
    rows = rows_of(tmp_path / "one")
    assert {row.pop("stage") for row in rows} == {"all"}
    assert rows == rows_of(tmp_path / "plain")


def test_each_stage_changes_what_is_learnt(run, staged, whole, text, other_text, tmp_path):
    """Else the equalities above would hold for stages that do nothing."""
    plan = three(text, other_text)
    for index, key in ((1, "learning_rate"), (2, "rope_theta"), (2, "context"), (2, "weights")):
        changed = [dict(stage) for stage in plan]
        changed[index].pop(key)
        changed[index].pop("final_learning_rate", None)
        run(tmp_path / key, staged(changed))
        after = weights(tmp_path / key, 12)
        assert any(not torch.equal(tensor, after[name]) for name, tensor in weights(whole, 12).items()), key


# --- lengths, rates, micro-batches -----------------------------------------------------------------------------------


def test_tokens_rows_and_checkpoints_of_each_stage(whole):
    rows = rows_of(whole)
    names = ["pretrain"] * 5 + ["anneal"] * 3 + ["long"] * 4
    assert [row["stage"] for row in rows] == names
    assert [row["tokens"] for row in rows] == [256 * step for step in range(1, 13)]
    assert [row["step"] for row in rows if "val_loss" in row] == list(ENDS)
    assert set(ENDS) <= set(steps_saved(whole))  # with keep_checkpoints 2
    flops = [after["flops"] - before["flops"] for before, after in pairwise(rows)]
    assert len(set(flops[:7])) == len(set(flops[7:])) == 1 and flops[7] > flops[6]  # attention over more tokens
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["status"], summary["tokens"], summary["flops"]) == ("finished", 12 * 256, rows[-1]["flops"])


def test_rates_are_a_function_of_the_step_inside_the_stage(staged, whole):
    pretrain = [2e-3, 4e-3, 4e-3 - 2e-3 / 2 * 0 / 2, 3e-3, 2e-3]  # two steps of warm-up, then a line over three
    expected = [*pretrain, 4e-4, 2.2e-4, 4e-5, *[1e-4] * 4]
    assert [row["lr"] for row in rows_of(whole)] == pytest.approx(expected)
    scheduled = stages_of(staged([{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]))
    rates = [[stage.learning_rate(step) for step in range(stage.first, stage.end)] for stage in scheduled]
    assert rates[0] == rates[1] and len(rates[0]) == 6  # the schedule of [training], begun again


def test_lengths_in_tokens_and_shares(staged):
    def ends(stages, **training):
        return [stage.end for stage in stages_of(staged(stages, **training))]

    by_tokens = [{"name": "a", "tokens": 257}, {"name": "b", "tokens": 1024}]
    assert ends(by_tokens, steps=0) == [2, 6]  # rounded up to whole steps
    thirds = [{"name": name, "share": share} for name, share in (("a", 0.3333333), ("b", 0.3333333), ("c", 0.3333334))]
    for steps in (3, 10, 100, 101):
        assert ends(thirds, steps=steps)[-1] == steps  # no step is lost to rounding
    assert ends(thirds, steps=0, tokens=2560) == [3, 7, 10]


@pytest.mark.parametrize(
    ("context", "size"), [(256, 16), (1024, 4), (4096, 1), (8192, 1), (128, 32), (512, 8), (2048, 2)]
)
def test_the_micro_batch_follows_the_context(context, size):
    training = TrainingConfig(sequence_length=256, micro_batch_size=16, global_batch_tokens=32_768)
    assert micro_batch_size(training, context) == size
    assert training.global_batch_tokens % (size * context) == 0


def test_the_stage_of_a_step(staged):
    stages = stages_of(staged())
    assert [stage_at(stages, step).name for step in (0, 4, 5, 7, 8, 11, 12)] == [
        "pretrain", "pretrain", "anneal", "anneal", "long", "long", "long",
    ]  # fmt: skip
    long = stages[2].settings
    assert (long.training.sequence_length, long.training.micro_batch_size, long.training.recompute) == (128, 1, True)
    assert (long.model.rope_theta, long.model.max_position_embeddings) == (80_000.0, 128)
    assert stages[1].settings.model == staged().model
    alpha = stages_of(staged([{"name": "a", "share": 1, "alpha": 1000}]))[0].settings.model
    assert alpha.rope_base == pytest.approx(10_000 * 1000 ** (16 / 14))


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_source_goes_on_where_the_stage_before_left_it(staged, text, other_text):
    settings = staged()
    corpus = prepare_corpus(settings.corpus, settings.model.vocab_size)
    assert list(corpus.train) == [str(text), str(other_text)]
    first, second, third = pretraining.samplers(stages_of(settings), corpus)
    plain = Sampler(corpus.train, {str(text): 1.0}, 32, 7)
    assert first.batch(0, 40).tolist() == plain.batch(0, 40).tolist()
    assert second.batch(0, 24).tolist() == plain.batch(40, 24).tolist()
    stages, orders = stages_of(settings), [first, second, third]
    for stage, order in zip(stages, orders, strict=True):  # its first step has its first sequences
        task = pretraining._task(stage, orders, corpus, torch.device("cpu"))
        (batch, *_) = task.micro_batches(stage.first)
        assert batch.data.tolist() == order.batch(0, len(batch.data)).tolist()
    source, cursor = third.draws(0, 8)
    for index, begin in ((0, 64 * 32 // 128), (1, 0)):
        chosen = cursor[source == index]
        assert len(chosen) and chosen.tolist() == list(range(begin, begin + len(chosen)))
    assert (source == 1).sum() > (source == 0).sum()


def test_a_stage_without_enough_text_is_told_before_the_first_begins(run, staged, tmp_path):
    stages = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "context": 16_384}]
    with pytest.raises(DataError, match="a sequence needs 16385"):
        run(tmp_path / "run", staged(stages, global_batch_tokens=16_384, micro_batch_size=1))
    assert not (tmp_path / "run" / "run.toml").exists()


# --- the folder, and those who read it -------------------------------------------------------------------------------


def test_every_checkpoint_has_the_model_of_its_stage(whole, tmp_path):
    for step, theta, positions in ((5, 10_000.0, 32), (8, 10_000.0, 32), (12, 80_000.0, 128)):
        model = HunyuanConfig.from_file(checkpoint(whole, step))
        assert (model.rope_theta, model.max_position_embeddings) == (theta, positions)
        assert load_model(checkpoint(whole, step), Hunyuan).config == model
    assert load_model(whole, Hunyuan).config.rope_theta == 80_000.0 == HunyuanConfig.from_file(whole).rope_theta
    convert(whole, tmp_path / "last", to="native")
    assert HunyuanConfig.from_file(tmp_path / "last").rope_theta == 80_000.0
    convert(checkpoint(whole, 8), tmp_path / "before", to="native")
    assert HunyuanConfig.from_file(tmp_path / "before").rope_theta == 10_000.0
    assert take_over({}, checkpoint(whole, 8))["model"]["rope_theta"] == 10_000.0
    assert take_over({}, whole)["model"]["rope_theta"] == 80_000.0
    path = checkpoint(whole, 8) / "config.json"
    path.write_text(path.read_text().replace("10000.0", "20000.0"))
    assert find_damage(checkpoint(whole, 8)) == "config.json does not match its checksum"


def test_the_runs_config_is_that_of_the_stage_it_is_in(run, staged, tmp_path):
    run(tmp_path / "run", staged(), stop_after=8)
    assert HunyuanConfig.from_file(tmp_path / "run").rope_theta == 80_000.0  # it has begun, without a step
    assert load_model(tmp_path / "run", Hunyuan).config.rope_theta == 10_000.0  # of the newest checkpoint


def test_stages_begin_with_given_weights(run, staged, whole, tmp_path):
    sections = staged().to_sections() | {"stages": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]}
    del sections["training"]["init_from"]
    sections = {name: keys for name, keys in sections.items() if name != "model"}
    taken = RunSettings.from_sections(take_over(sections, whole))
    assert [stage.name for stage in taken.stages] == ["a", "b"] and taken.model.rope_theta == 80_000.0
    run(tmp_path / "on", taken)
    run(tmp_path / "cut", taken, stop_after=6)
    run(tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "on", 12)
    assert rows_of(tmp_path / "on")[0]["loss"] < rows_of(whole)[0]["loss"]


def test_settings_and_their_text_are_inverse(staged, tmp_path):
    settings = staged()
    (tmp_path / "run.toml").write_text(settings.to_toml())
    assert RunSettings.from_toml(tmp_path / "run.toml") == settings
    assert set(tomllib.loads(settings.to_toml())["stages"][1]) == {
        "name", "share", "learning_rate", "final_learning_rate",
    }  # fmt: skip


def test_the_example_is_a_run_of_three_stages():
    stages = stages_of(RunSettings.from_toml(EXAMPLE))
    assert [(stage.name, stage.steps) for stage in stages] == [("pretrain", 160), ("anneal", 20), ("1k", 20)]
    assert stages[1].learning_rate(160) == pytest.approx(stages[0].learning_rate(8) / 10)
    last = stages[2].settings
    assert (last.training.sequence_length, last.training.micro_batch_size) == (1024, 4)
    assert last.model.rope_theta == 10 * stages[0].settings.model.rope_theta


# --- mistakes --------------------------------------------------------------------------------------------------------

A, B = {"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([A, {"name": "b", "share": 0.4}], "the shares of the stages add up to 0.9: they must add up to 1"),
        ([A, B | {"ropetheta": 1.0}], "stages.b.ropetheta is not a setting: did you mean 'rope_theta'?"),
        ([A, {"share": 0.5}], r"a table [[stages]] has no name: give it one, such as name = 'anneal'"),
        ([A, A], "two stages are named 'a': give each a name of its own"),
        ([A, {"name": "b"}], "stages.b needs a length: give it tokens or share, and not both"),
        ([A, {"name": "b", "tokens": 512}], "some stages give tokens and others share: give the same of the two in all"),
        ([{"name": "b", "tokens": 512}], "the stages give tokens and training.steps or training.tokens the length again"),
        ([A, B | {"context": 48}], "stages.b.context is 48: a step has 256 tokens (training.global_batch_tokens), which"),
        ([A, B | {"rope_theta": 1e5, "alpha": 10}], "stages.b gives rope_theta and alpha: give one of them"),
        ([A, B | {"final_learning_rate": 1e-4}], "stages.b gives the rate's end or its warm-up alone: give learning_rate"),
        ([A, B | {"context": "long"}], "stages.b.context is 'long': give a whole number"),
        ([A, B | {"sources": ["x"], "weights": [0.5, 0.5]}], "stages.b.weights has 2 numbers for 1 stages.b.sources"),
        ([{"name": "a", "share": 0.99}, {"name": "b", "share": 0.01}], "stages.b has no step: raise its share, or the"),
        ({"name": "a"}, "stages must be a list of tables: write [[stages]] before each"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_run_file_is_one_sentence(staged, stages, says):
    with pytest.raises(ConfigError) as caught:
        staged(stages)
    (problem,) = caught.value.problems
    assert problem.startswith(says)


def test_other_sections_that_do_not_go_with_stages(staged, text):
    sections = staged().to_sections() | {"stages": [A, B]}
    for section, changes, says in (
        ("training", {"steps": 0, "flops": 1e9}, "give its length in steps or tokens"),
        ("data", {"anneal_sources": [str(text)]}, "give the stage that anneals sources"),
        ("dpo", {}, r"\[\[stages\]\] have no place in a run of hunyuan dpo"),
    ):
        with pytest.raises(ConfigError, match=says):
            RunSettings.from_sections(sections | {section: sections.get(section, {}) | changes})


def test_stages_cannot_change_when_a_run_is_resumed(run, staged, tmp_path):
    folder = tmp_path / "run"
    run(folder, staged(), stop_after=2)
    recorded, rows = run_folder.settings_of(folder), rows_of(folder)
    says = "the stages of a run, and its length with them, cannot change when it is resumed: begin a new run with --init-from"
    for changes in ({"training": {"steps": 24}}, {"stages": [A, B]}):
        with pytest.raises(ConfigError) as caught:
            resumed_settings(recorded, changes)
        assert caught.value.problems == [says]
    reordered = recorded.stages[1], recorded.stages[0], recorded.stages[2]
    changed = dataclasses.replace(recorded, stages=reordered)
    longer = dataclasses.replace(recorded, training=dataclasses.replace(recorded.training, steps=24))
    for other in (changed, longer, dataclasses.replace(recorded, stages=())):
        with pytest.raises(ConfigError, match="cannot change when it is resumed"):
            pretraining.pretrain(folder, other, Recorder(), resume=True)
    assert rows_of(folder) == rows
    free = resumed_settings(recorded, {"training": {"keep_checkpoints": 1}})
    assert free.stages == recorded.stages and free.training.keep_checkpoints == 1
    pretraining.pretrain(folder, free, Recorder(), resume=True)
    assert steps_saved(folder) == [5, 8, 12]
