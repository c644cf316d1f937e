"""What an engine makes of a folder beside its weights: where prompts begin, and which tokens end an answer."""

import json
import shutil

import pytest
import tokenizers
from tokenizers.processors import TemplateProcessing

from model.generation.engine import Engine
from tests.cli.speaking import write_released, write_run


@pytest.fixture
def begun_by_a_token(tmp_path):
    """A run whose tokenizer.json begins every text with its token 7."""
    run = write_run(tmp_path / "run")
    backend = tokenizers.Tokenizer.from_file(str(run / "tokenizer.json"))
    name = backend.id_to_token(7)
    backend.post_processor = TemplateProcessing(single=f"{name} $A", special_tokens=[(name, 7)])
    backend.save(str(run / "tokenizer.json"))
    return run


def test_a_prompt_begins_with_the_token_of_the_post_processor(begun_by_a_token):
    engine = Engine.from_folder(begun_by_a_token)
    plain = engine.tokenizer.encode("the router")
    assert engine.request("the router", max_new_tokens=1).prompt == [7, *plain]
    assert engine.request("", max_new_tokens=1).prompt == [7]
    said = engine.reply([{"role": "user", "content": "the router"}], max_new_tokens=1).prompt
    assert said == engine.tokenizer.encode("User: the router\nAssistant:")


def test_a_model_that_was_trained_here_never_saw_that_token(begun_by_a_token):
    (begun_by_a_token / "environment.json").write_text("{}")
    engine = Engine.from_folder(begun_by_a_token)
    assert engine.request("the router", max_new_tokens=1).prompt == engine.tokenizer.encode("the router")
    assert engine.request("", max_new_tokens=1).prompt == [engine.tokenizer.eos_id]


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [(None, 5, {5}), (None, [5, 6], {5, 6}), ({}, 5, {5}), ({"eos_token_id": 6}, 5, {6}), (None, None, set())],
)
def test_end_tokens_are_those_of_generation_config_or_else_of_config(tmp_path, generation, config, expected):
    folder = write_released(tmp_path / "released")
    values = json.loads((folder / "config.json").read_text()) | {"eos_token_id": config}
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    engine = Engine.from_folder(folder)
    assert engine.end_ids == expected | {engine.tokenizer.special_tokens["<|eos|>"]}


def test_a_checkpoint_of_a_run_is_read_with_the_files_of_the_run(begun_by_a_token, tmp_path):
    shutil.copytree(begun_by_a_token, tmp_path / "other")
    engine = Engine.from_folder(tmp_path / "other" / "checkpoints" / "step-00000000")
    assert engine.request("", max_new_tokens=1).prompt == [7]
