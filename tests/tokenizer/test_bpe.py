"""The tokenizer loses nothing, trains alike twice, and streams exactly what it decodes."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from model.tokenizer.bpe import END_OF_TEXT, load_tokenizer, train_tokenizer

TEXTS = ["def area(radius):\n    return 3.14159 * radius ** 2\n" * 3, "Größe und Maß, 語 語 語, 😀😀\n" * 5]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@given(text=st.text())
def test_any_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_end_token_written_in_a_text_stays_text(tokenizer):
    text = f"before{END_OF_TEXT}after"
    ids = tokenizer.encode(text)
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, "x"]) == [ids, tokenizer.encode("x")]


def test_training_learns_merges_and_is_deterministic(tokenizer):
    again = train_tokenizer(TEXTS, 320)
    assert again.fingerprint == tokenizer.fingerprint
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2
    assert train_tokenizer(TEXTS, 280).fingerprint != tokenizer.fingerprint


def test_a_small_corpus_gives_fewer_tokens_than_asked():
    assert train_tokenizer(["ab"], 5000).vocab_size == 258  # 256 bytes, end of text, "ab"


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(DataError, match=r"model\.vocab_size is 200.*at least 257"):
        train_tokenizer(TEXTS, 200)


def test_save_and_load_keep_the_tokenizer(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.vocab_size, loaded.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
    assert loaded.encode(TEXTS[1] + END_OF_TEXT) == tokenizer.encode(TEXTS[1] + END_OF_TEXT)


def test_stream_gives_only_whole_characters(tokenizer):
    stream = tokenizer.stream()
    ids = train_tokenizer(["x"], 257).encode("é😀b")  # one token a byte
    byte_stream = train_tokenizer(["x"], 257).stream()
    assert [byte_stream.step(i) for i in ids] == ["", "é", "", "", "", "😀", "b"]
    assert byte_stream.finish() == ""
    ids = tokenizer.encode(TEXTS[1])
    assert "".join(stream.step(i) for i in [*ids, tokenizer.eos_id]) + stream.finish() == TEXTS[1]


def test_stream_of_arbitrary_tokens_equals_decode(tokenizer):
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(tokenizer.vocab_size) for _ in range(40)]
        stream = tokenizer.stream()
        assert "".join(map(stream.step, ids)) + stream.finish() == tokenizer.decode(ids)


def test_ids_of_unused_vocabulary_rows_give_no_text(tokenizer):
    stream = tokenizer.stream()
    a = tokenizer.encode("a")
    assert tokenizer.decode([*a, 5000, *a]) == "aa"
    assert "".join(map(stream.step, [*a, 5000, *a])) == "aa"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "is not a tokenizer.json"),
        (b"{}", "is not a tokenizer.json"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_tokenizer(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_tokenizer_names_the_path(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: No such file"):
        load_tokenizer(tmp_path / "nowhere.json")


def _renamed(tokenizer, path, name):
    content = json.loads(tokenizer.to_json())
    content["added_tokens"][0]["content"] = name
    content["model"]["vocab"][name] = content["model"]["vocab"].pop(END_OF_TEXT)
    content["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps(content))
    return path


def test_other_names_of_the_end_token_are_found_and_nothing_is_cut_off(tokenizer, tmp_path):
    loaded = load_tokenizer(_renamed(tokenizer, tmp_path / "t.json", "</s>"))
    assert loaded.eos_id == tokenizer.eos_id
    assert loaded.decode(loaded.encode(TEXTS[0])) == TEXTS[0]


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer, tmp_path):
    path = _renamed(tokenizer, tmp_path / "t.json", "[UNK]")
    with pytest.raises(DataError, match=r"t\.json cannot be used: it has no end-of-text token"):
        load_tokenizer(path)
