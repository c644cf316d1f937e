"""Run files and overrides: every key is reached, every mistake is named, all of them at once."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

from model.errors import ConfigError
from model.training.config import TrainingConfig
from model.training.resume import resumed_settings
from model.training.settings import SECTIONS, RunSettings, override, read_sections


def overridden(*assignments):
    sections = read_sections(TINY)
    for assignment in assignments:
        override(sections, assignment)
    return RunSettings.from_sections(sections)


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("training.checkpoint_every=5", "training", "checkpoint_every", 5),
        ("training.learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("training.learning_rate=1", "training", "learning_rate", 1),
        ("training.compile=true", "training", "compile", True),
        ("training.compile=false", "training", "compile", False),
        ("training.compile=auto", "training", "compile", "auto"),
        ("training.precision=bfloat16", "training", "precision", "bfloat16"),  # plain text needs no quotes
        ('training.precision="bfloat16"', "training", "precision", "bfloat16"),
        (" model.moe_routing = recycle ", "model", "moe_routing", "recycle"),
        (
            'model.rope_scaling={type = "linear", factor = 2.0}',
            "model",
            "rope_scaling",
            {"type": "linear", "factor": 2.0},
        ),
        ('data.sources=["a.txt", "b=c.txt"]', "data", "sources", ("a.txt", "b=c.txt")),
        ("data.validation_fraction=0.1", "data", "validation_fraction", 0.1),
    ],
)
def test_set_reaches_a_key(assignment, section, key, value):
    assert getattr(getattr(overridden(assignment), section), key) == value


EVERY_KEY = [
    (section, f.name, value)
    for section, kind in (
        ("model", overridden().model),
        ("data", overridden().data),
        ("training", overridden().training),
    )
    for f in dataclasses.fields(kind)
    if isinstance(value := getattr(kind, f.name), int | float | bool | str)
]


@pytest.mark.parametrize(("section", "key", "value"), EVERY_KEY)
def test_set_reaches_every_plain_key(section, key, value):
    sections = read_sections(TINY)
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    override(sections, f"{section}.{key}={text}")
    assert sections[section][key] == value
    assert RunSettings.from_sections(sections) == overridden()


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("training.chekpoint_every=5", "training.chekpoint_every is not a setting: did you mean 'checkpoint_every'?"),
        ("model.hiden_size=5", "model.hiden_size is not a setting: did you mean 'hidden_size'?"),
        ("data.source=x", "data.source is not a setting: did you mean 'sources'?"),
        ("training.zzz=5", "training.zzz is not a setting: known keys are steps, tokens, flops"),
        ("trainning.steps=5", "is not section.key=value: the sections are model, data, training"),
        ("training.steps", "is not section.key=value"),
        ("steps=5", "is not section.key=value"),
        ("training.=5", "is not section.key=value"),
        ("training.steps=many", "training.steps is 'many': give a whole number"),
        ("training.steps=1.5", "training.steps is 1.5: give a whole number"),
        ("training.steps=true", "training.steps is True: give a whole number"),
        ("training.compile=1", "training.compile is 1: give auto, true or false"),
        ("training.compile=yes", "training.compile is 'yes': give auto, true or false"),
        ("training.recompute=1", "training.recompute is 1: give true or false"),
        ("training.learning_rate=high", "training.learning_rate is 'high': give a number"),
        ("training.learning_rate=nan", "training.learning_rate is nan: give a finite number"),
        ("training.device=0", "training.device is 0: give a string"),
        ("training.precision=half", "training.precision is 'half': choose one of auto, float32, bfloat16"),
        ("model.hidden_size=wide", "model.hidden_size is 'wide': give a whole number"),
        ("model.preset=tiny", "there is no model named 'tiny': choose one of toy"),
        ("model.preset=[1]", "there is no model named [1]: choose one of toy"),
        ("data.sources=x.txt", "data.sources is 'x.txt': give a list"),
        ("training.tokens=100", "training.steps = 12 and training.tokens = 100 say the length twice"),
        ("training.flops=1e9", "training.steps = 12 and training.flops = 1000000000.0 say the length twice"),
        ("training.steps=-1", "training.steps is -1: it must be 0 or above"),
        ("training.seed=99999999999999999999", "training.seed is 99999999999999999999: it must be below 2**63"),
        ("training.keep_checkpoints=0", "training.keep_checkpoints is 0: it must be at least 1"),
        ("training.micro_batch_size=3", "multiple of sequence_length 32 x micro_batch_size 3 = 96"),
        ("training.micro_batch_size=0", "training.micro_batch_size is 0: it must be at least 1"),
        ("training.learning_rate=0", "training.learning_rate is 0: it must be above 0"),
        ("training.beta1=1", "training.beta1 is 1: it must lie in [0, 1)"),
        ("training.final_ratio=0.5", "0 <= final_ratio <= decay_ratio <= 1"),
        ("training.warmup_fraction=0.99", "are together over 1: lower one"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_change(assignment, says):
    with pytest.raises(ConfigError) as caught:
        overridden(assignment)
    assert len(caught.value.problems) == 1
    assert says in str(caught.value)


def test_every_fault_of_every_section_is_in_one_error():
    faults = ["model.hidden_size=-1", "model.moe_topk=9", "data.weights=[-1]", "training.beta2=2", "training.seed=-1"]
    with pytest.raises(ConfigError) as caught:
        overridden(*faults)
    assert str(caught.value).startswith("5 settings cannot be used: ")
    for fault in faults:
        assert f"{fault.partition('=')[0]} " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[modle]\n", "[modle] is not a section: known are model, data, training"),
        ("training = 3\n", "training must be a table: write [training]"),
        ("[[model]]\n", "model must be a table: write [model]"),
        ("[training]\nsteps = \n", "is not valid TOML"),
        ("[model]\nhidden_size = 64\n", "so it is read as a whole model, and lacks vocab_size, intermediate_size,"),
    ],
)
def test_a_run_file_that_cannot_be_used(tmp_path, content, says):
    path = tmp_path / "run.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        RunSettings.from_toml(path)
    assert says in str(caught.value)


def test_a_run_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        read_sections(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml is not valid TOML"):
        read_sections(tmp_path / "binary.toml")


def test_a_preset_is_changed_field_by_field_and_toy_is_the_default():
    toy = RunSettings.from_sections({})
    assert toy.model.hidden_size == 128
    changed = RunSettings.from_sections({"model": {"preset": "toy-dense", "vocab_size": 512}})
    assert (changed.model.num_experts, changed.model.vocab_size) == (1, 512)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ['model.rope_scaling={type = "dynamic", alpha = 8.0}', "model.moe_routing=recycle"],
        ['data.sources=["a \\"b\\".txt", "ü.txt"]', "data.weights=[1, 0.5]", "training.learning_rate=0.1"],
    ],
)
def test_resolved_settings_load_back_equal(tmp_path, changes):
    settings = overridden(*changes)
    (tmp_path / "run.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert RunSettings.from_toml(tmp_path / "run.toml") == settings
    assert set(read_sections(tmp_path / "run.toml")) == set(SECTIONS)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({}, 400),
        ({"steps": 7}, 7),
        ({"tokens": 1024}, 4),
        ({"tokens": 1025}, 5),  # rounded up to whole steps
        ({"tokens": 1}, 1),
        ({"flops": 1000.0 * 1024}, 4),
        ({"flops": 1000.0 * 1024 + 1}, 5),
    ],
)
def test_length_in_steps_tokens_or_flops(length, steps):
    config = TrainingConfig(sequence_length=32, global_batch_tokens=256, micro_batch_size=4, **length)
    assert config.total_steps(flops_per_token=1000) == steps


@pytest.mark.parametrize(
    ("flops", "per_token", "steps"), [(1.1e24, 10**9, 4_296_875_000_000), (2.048e5, 100, 8), (2.049e5, 100, 9)]
)
def test_the_flops_of_whole_steps_buy_no_step_more(flops, per_token, steps):
    """1.1e24 is no binary number: the nearest is above it, and would begin one step more."""
    config = TrainingConfig(sequence_length=32, global_batch_tokens=256, micro_batch_size=4, flops=flops)
    assert config.total_steps(flops_per_token=per_token) == steps


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_a_batch_is_whole_micro_batches_of_whole_sequences(sequence_length, micro_batch_size, micro_batches):
    tokens = sequence_length * micro_batch_size * micro_batches
    config = TrainingConfig(
        sequence_length=sequence_length, micro_batch_size=micro_batch_size, global_batch_tokens=tokens
    )
    assert config.micro_batches == micro_batches
    assert config.batch_sequences == micro_batches * micro_batch_size


def test_the_text_of_a_run_may_be_named_again_from_where_one_is(settings, text, monkeypatch):
    monkeypatch.chdir(text.parent)
    recorded = settings()
    found = resumed_settings(recorded, {"data": {"sources": [text.name], "cache_dir": "kept"}})
    assert (found.data.sources, found.data.cache_dir) == ((str(text),), str(text.parent / "kept"))
    with pytest.raises(ConfigError, match=r"^data.sources cannot change when a run is resumed"):
        resumed_settings(recorded, {"data": {"sources": ["other.txt"]}})


def test_a_misspelt_key_of_a_resumed_run_is_no_reason_for_a_new_one(settings):
    with pytest.raises(ConfigError, match=r"^training.step is not a setting: did you mean 'steps'\?$"):
        resumed_settings(settings(), {"training": {"step": 9}})
