"""What ends a text and what begins one, wherever a folder says so: as transformers reads it, where it reads that."""

import base64
import json

import pytest
import tokenizers
from tokenizers.processors import TemplateProcessing

from model.errors import DataError
from model.tokenizer.bpe import train_tokenizer
from model.tokenizer.folder import load_folder_tokenizer

STOP, START = "<|stop|>", "<|start|>"
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
STOP_TOKEN = {"content": STOP, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write(folder, framed=False, **files):
    """A tokenizer.json with <|stop|> and <|start|> of ids 257 and 258, and JSON files beside it."""
    content = train_tokenizer(["hello world " * 9], 257).to_json().replace("<|endoftext|>", "<|other|>")
    backend = tokenizers.Tokenizer.from_str(content)
    backend.add_special_tokens([STOP, START])
    if framed:
        backend.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 258)])
    backend.save(str(folder / "tokenizer.json"))
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


@pytest.fixture
def theirs(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": CLASS | {"eos_token": STOP}},
        {"tokenizer_config": CLASS, "special_tokens_map": {"eos_token": STOP}},
        {"tokenizer_config": CLASS, "special_tokens_map": {"eos_token": STOP_TOKEN}},
        {"tokenizer_config": CLASS | {"eos_token": START}, "special_tokens_map": {"eos_token": STOP}},
        {"tokenizer_config": CLASS | {"eos_token": STOP, "added_tokens_decoder": {"257": STOP_TOKEN | {"special": True}}},
         "special_tokens_map": {"eos_token": START}},
    ],
)  # fmt: skip
def test_the_end_of_text_is_the_one_that_transformers_finds(tmp_path, theirs, files):
    write(tmp_path, **files)
    assert load_folder_tokenizer(tmp_path).eos_id == theirs(tmp_path).eos_token_id == 257


@pytest.mark.parametrize(
    "files",
    [
        {"generation_config": {"eos_token_id": 257}, "config": {"eos_token_id": 258}},
        {"generation_config": {"eos_token_id": [257, 258]}},
        {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": 257}},
        {"config": {"eos_token_id": [257, 258]}},
    ],
)
def test_without_a_name_the_first_id_ends_a_text(tmp_path, files):
    write(tmp_path, **files)
    assert load_folder_tokenizer(tmp_path).eos_id == 257


@pytest.mark.parametrize("files", [{}, {"config": {"eos_token_id": 9999}}, {"config": {}}])
def test_a_folder_that_names_no_end_is_refused(tmp_path, files):
    write(tmp_path, **files)
    with pytest.raises(DataError, match="has no end-of-text token: add one of"):
        load_folder_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("special_tokens_map.json", "[1]", "special_tokens_map.json is not a JSON object: mend or remove it"),
        (
            "special_tokens_map.json",
            '{"eos_token": 3}',
            "special_tokens_map.json: eos_token is int, not a token's name",
        ),
        ("config.json", '{"eos_token_id": "x"}', "config.json has eos_token_id = 'x': give a token id or a list"),
        ("config.json", '{"eos_token_id": [true]}', "config.json has eos_token_id = .True.: give a token id or a list"),
    ],
)
def test_files_that_say_it_wrong_are_one_sentence(tmp_path, name, content, message):
    write(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_folder_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("framed", "settings"),
    [
        (False, {}),
        (True, {}),
        (False, {"add_bos_token": True}),
        (True, {"add_bos_token": False, "add_eos_token": True}),
    ],
)
def test_a_prompt_begins_as_it_does_for_transformers(tmp_path, theirs, framed, settings):
    """That is as tokenizer.json says; transformers leaves the settings of older tokenizers alone where there is one."""
    write(tmp_path, framed, tokenizer_config=CLASS | {"eos_token": STOP, "bos_token": START} | settings)
    tokenizer, before = load_folder_tokenizer(tmp_path), [258] if framed else []
    plain = tokenizer.encode("hello")
    assert 258 not in plain
    assert tokenizer.encode_prompt("hello") == [*before, *plain] == theirs(tmp_path)("hello").input_ids
    assert tokenizer.encode_prompt("") == before
    assert tokenizer.encode_with_special(f"{START}hello") == [258, *plain]  # a chat template writes its own


# --- 204 or 205 extra tokens of Hunyuan's own vocabulary -------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        ({}, 204),
        ({"config.json": {"vocab_size": 256 + 5 + 204}}, 204),
        ({"config.json": {"vocab_size": 256 + 5 + 205}}, 205),
        ({"config.json": {"vocab_size": 1024}}, 204),
        ({"tokenizer_config.json": {"pad_token": "<|extra_204|>"}}, 205),
        ({"chat_template.jinja": "{{ messages[0].content }}<|extra_204|>"}, 205),
    ],
)
def test_the_extra_tokens_are_as_many_as_the_model_has(tmp_path, files, extras):
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (tmp_path / "hy.tiktoken").write_text("\n".join(lines))
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    tokenizer = load_folder_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 256 + 5 + extras
    assert tokenizer.special_tokens.get("<|extra_204|>") == (256 + 5 + 204 if extras == 205 else None)
    assert tokenizer.encode_prompt("a") == [ord("a")]
