"""generation_config.json as transformers 5 reads it, and the command line over it."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError, DataError
from model.generation.defaults import GenerationDefaults, merge, read_generation_config, run_defaults
from model.generation.sampling import Sampling

RELEASED = {  # in the manner of Hunyuan's instruct models
    "do_sample": True, "eos_token_id": [127960, 127967], "pad_token_id": 127961, "repetition_penalty": 1.05,
    "temperature": 0.7, "top_k": 20, "top_p": 0.6, "transformers_version": "4.45.0", "max_new_tokens": 2048,
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def call(values):
        (tmp_path / "generation_config.json").write_text(values if isinstance(values, str) else json.dumps(values))
        return read_generation_config(tmp_path)

    return call


def test_a_released_file(read):
    found = read(RELEASED)
    assert found == GenerationDefaults(0.7, 20, 0.6, 0.0, 1.05, (127960, 127967), 2048)
    assert merge(found) == Sampling(0.7, 20, 0.6, 0.0, 1.05)


def test_no_file_says_nothing(tmp_path):
    assert read_generation_config(tmp_path) == read_generation_config(str(tmp_path / "absent")) == GenerationDefaults()
    assert set(asdict(GenerationDefaults()).values()) == {None, ()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, GenerationDefaults(temperature=0.0)),
        ({"do_sample": None, "temperature": 0.9, "top_p": 0.6}, GenerationDefaults(temperature=0.0, top_p=0.6)),
        ({"do_sample": False, "temperature": 0.9, "top_k": 7}, GenerationDefaults(temperature=0.0, top_k=7)),
        ({"do_sample": True}, GenerationDefaults(1.0, 50, 1.0, 0.0, 1.0)),
        ({"do_sample": True, "top_k": None}, GenerationDefaults(1.0, 0, 1.0, 0.0, 1.0)),
        ({"do_sample": True, "top_k": 0, "temperature": 1}, GenerationDefaults(1.0, 0, 1.0, 0.0, 1.0)),
        ({"top_k": None}, GenerationDefaults(temperature=0.0, top_k=0)),
        ({"eos_token_id": 2}, GenerationDefaults(temperature=0.0, eos_ids=(2,))),
        ({"eos_token_id": [2, 0]}, GenerationDefaults(temperature=0.0, eos_ids=(2, 0))),
        ({"eos_token_id": None, "max_new_tokens": None}, GenerationDefaults(temperature=0.0)),
    ],
)
def test_keys(read, values, expected):
    assert read(values) == expected


def keys(**values):
    return st.fixed_dictionaries({}, optional=values)


@settings(deadline=None, max_examples=60)
@given(
    keys(
        do_sample=st.sampled_from([True, True, False, None]),
        temperature=st.none() | st.floats(0.1, 3),
        top_k=st.integers(0, 100),  # null is the one difference
        top_p=st.none() | st.floats(0.1, 1),
        min_p=st.none() | st.floats(0, 0.9),
        repetition_penalty=st.none() | st.floats(0.5, 2),
        eos_token_id=st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9), min_size=1, max_size=3),
        max_new_tokens=st.none() | st.integers(1, 99),
    )
)
def test_a_file_means_what_it_means_to_transformers(tmp_path_factory, values):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    folder = tmp_path_factory.getbasetemp()
    (folder / "generation_config.json").write_text(json.dumps(values))
    theirs = transformers.GenerationConfig.from_pretrained(folder)
    theirs.update(**theirs._get_default_generation_params(), defaults_only=True)  # as generate() does
    found = read_generation_config(folder)
    sampling = merge(found)
    assert sampling.repetition_penalty == theirs.repetition_penalty
    if theirs.do_sample:
        assert sampling == Sampling(
            theirs.temperature, theirs.top_k, theirs.top_p, theirs.min_p or 0.0, theirs.repetition_penalty
        )
    else:
        assert sampling.temperature == 0
    ids = theirs.eos_token_id
    assert found.eos_ids == tuple(ids if isinstance(ids, list) else [] if ids is None else [ids])
    assert found.max_new_tokens == theirs.max_new_tokens


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"do_sample": "yes"}, "has do_sample = 'yes': give true or false, or remove the key"),
        ({"do_sample": 1}, "has do_sample = 1: give true or false"),
        ({"temperature": "0.7"}, "has temperature = '0.7': give a number"),
        ({"temperature": True}, "has temperature = True: give a number"),
        ('{"temperature": NaN}', "has temperature = nan: give a number"),
        ('{"min_p": Infinity}', "has min_p = inf: give a number"),
        ({"top_p": 10**400}, "has top_p = 1000"),
        ({"top_p": [0.5]}, "has top_p = [0.5]: give a number"),
        ({"top_k": 20.0}, "has top_k = 20.0: give a whole number, 0 or above"),
        ({"top_k": False}, "has top_k = False: give a whole number"),
        ({"top_k": -1}, "has top_k = -1: give a whole number"),
        ({"max_new_tokens": 0}, "has max_new_tokens = 0: give a whole number, 1 or above"),
        ({"eos_token_id": "</s>"}, "has eos_token_id = '</s>': give a token id or a list of them"),
        ({"eos_token_id": [1, None]}, "has eos_token_id = [1, None]: give a token id"),
        ({"eos_token_id": -1}, "has eos_token_id = -1: give a token id"),
        ({"top_p": 1.5}, "cannot be used: top_p is 1.5: give a share"),
        ({"do_sample": True, "temperature": -1}, "cannot be used: temperature is -1.0: give 0 (greedy) or above"),
        ({"repetition_penalty": 0}, "cannot be used: repetition_penalty is 0.0"),
        ("[1]", "holds a list, not an object of settings"),
        ("{", "is not a JSON document: "),
        ("[" * 100_000, "is not a JSON document: "),
    ],
)
def test_a_wrong_value_is_one_sentence(read, tmp_path, values, sentence):
    with pytest.raises(DataError) as raised:
        read(values)
    assert str(raised.value).startswith(f"{tmp_path / 'generation_config.json'} {sentence}")
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "generation_config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not a JSON document"):
        read_generation_config(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").mkdir()
    with pytest.raises(DataError, match=r"cannot be read: Is a directory$"):
        read_generation_config(tmp_path)


FILE = GenerationDefaults(temperature=0.7, top_k=20, top_p=0.6, min_p=0.1, repetition_penalty=1.05)


@pytest.mark.parametrize(
    ("defaults", "given_values", "expected"),
    [
        (GenerationDefaults(), {}, Sampling()),
        (GenerationDefaults(), {"top_p": 0.5}, Sampling(0.0, 0, 0.5)),  # nothing says to sample
        (GenerationDefaults(), {"temperature": 1.5, "top_k": 3}, Sampling(1.5, 3)),
        (FILE, {}, Sampling(0.7, 20, 0.6, 0.1, 1.05)),
        (FILE, {"temperature": 1.2}, Sampling(1.2, 20, 0.6, 0.1, 1.05)),
        (FILE, {"temperature": 0.0}, Sampling(0.0, 20, 0.6, 0.1, 1.05)),  # 0 is given, not absent
        (FILE, {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}, Sampling(0.7)),
        (GenerationDefaults(temperature=0.0, top_p=0.6), {}, Sampling(0.0, 0, 0.6)),
        (GenerationDefaults(temperature=0.0, top_p=0.6), {"temperature": 0.9}, Sampling(0.9, 0, 0.6)),
    ],
)
def test_the_command_line_goes_before_the_file(defaults, given_values, expected):
    assert merge(defaults, **given_values) == expected


def test_a_bad_value_on_the_command_line():
    with pytest.raises(ConfigError, match=r"^min_p is 2: "):
        merge(FILE, min_p=2)


def test_the_settings_of_a_run_are_lively(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(run_defaults(eos_id=5)))
    defaults = read_generation_config(tmp_path)
    assert merge(defaults) == Sampling(0.8, 50, repetition_penalty=1.0)
    assert defaults.eos_ids == (5,)


@pytest.mark.parametrize(
    ("folder_says", "asked", "limit"),
    [(None, None, (128, "the default")), (7, None, (7, "generation_config.json")), (7, 9, (9, "--max-new-tokens"))],
)
def test_how_many_tokens_and_who_says_so(folder_says, asked, limit):
    assert GenerationDefaults(max_new_tokens=folder_says).token_limit(asked, 128) == limit
