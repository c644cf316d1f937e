"""The section [data]: every problem in one error, and the shares of the sources."""

import dataclasses

import pytest

from model.data.config import DataConfig
from model.errors import ConfigError


def test_lists_from_toml_become_tuples():
    config = DataConfig(sources=["a", "b"], weights=[1, 2])
    assert config.sources == ("a", "b")
    assert config.weights == (1, 2)
    assert hash(config) == hash(DataConfig(sources=("a", "b"), weights=(1, 2)))


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as raised:
        DataConfig(
            sources=["a", "a"], weights=[1, -1], anneal_weights=[1], text_key="", validation_fraction=1, cache_dir=3
        )
    names = ["data.sources", "data.weights", "data.anneal_weights", "data.text_key", "data.validation", "data.cache"]
    assert [any(problem.startswith(name) for problem in raised.value.problems) for name in names] == [True] * 6
    assert len(raised.value.problems) == 6


@pytest.mark.parametrize(
    "values",
    [
        {"sources": []},
        {"sources": "stdlib"},
        {"sources": [""]},
        {"weights": [0.0]},
        {"weights": [float("nan")]},
        {"weights": ["1"]},
        {"weights": 1.0},
        {"weights": [1, 1]},
        {"anneal_sources": ["a"], "anneal_weights": [1, 1]},
        {"document_mask": "yes"},
        {"validation_fraction": 0},
        {"validation_fraction": "0.1"},
        {"tokenizer": None},
        {"sources": [str(i) for i in range(1001)]},
    ],
)
def test_one_wrong_value_is_one_problem(values):
    with pytest.raises(ConfigError) as raised:
        DataConfig(**values)
    assert len(raised.value.problems) == 1


def test_shares_of_the_two_phases():
    tokens = {"a": 30, "b": 10, "c": 60}
    plain = DataConfig(sources=("a", "b"))
    assert plain.weights_by_source(tokens) == ({"a": 30, "b": 10}, {"a": 30, "b": 10})
    weighted = dataclasses.replace(plain, weights=(1, 3))
    assert weighted.weights_by_source(tokens) == ({"a": 1, "b": 3}, {"a": 1, "b": 3})
    other = dataclasses.replace(weighted, anneal_sources=("c", "b"))
    assert other.all_sources == ("a", "b", "c")
    assert other.weights_by_source(tokens) == ({"a": 1, "b": 3}, {"c": 60, "b": 10})
    assert dataclasses.replace(weighted, anneal_weights=(0, 1)).weights_by_source(tokens)[1] == {"a": 0, "b": 1}
