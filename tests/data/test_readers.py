"""Files as people have them: packed, in a .json, with a card beside them, in another encoding; and what was left out."""

import gzip
import json
from collections import Counter

import pytest

from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.data.sources import read_source
from model.errors import ConfigError, DataError
from model.training.pretraining import describe


def read(spec, **options):
    left_out = Counter()
    return [document.text for document in read_source(str(spec), left_out=left_out, **options)], dict(left_out)


def lines(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def test_a_data_folder_is_read_whole_and_says_what_it_left_out(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Card")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(gzip.compress(lines("one", "two").encode()))
    (tmp_path / "data" / "b.json").write_text(lines("three", " ", "four"))
    (tmp_path / "data" / "c.json").write_text(json.dumps([{"text": "five"}, {"text": "six"}]))
    (tmp_path / "data" / "d.txt.gz").write_bytes(gzip.compress(b"seven"))
    (tmp_path / "data" / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    for name in ("x.csv", "y.CSV", "LICENSE"):
        (tmp_path / "data" / name).write_text("no")
    texts, left_out = read(tmp_path)
    assert texts == "one two three four five six seven".split()
    assert left_out == {
        "data set cards (README.md)": 1,
        ".csv files": 2,
        "nameless files": 1,
        "empty documents": 1,
        ".json files without documents (no 'text')": 1,
    }
    assert read(tmp_path / "data" / "*.json")[0] == "three four five six".split()


def test_a_readme_without_data_is_a_document(tmp_path):
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "a.txt").write_text("more")
    assert read(tmp_path) == (["words", "more"], {})


def test_zstandard_is_read_by_the_line(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "a.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(lines("one", "two").encode())
    assert read(path)[0] == ["one", "two"]
    path.write_bytes(b"not packed")
    with pytest.raises(DataError, match=r"a\.jsonl\.zst"):
        read(path)


def test_a_pretty_printed_json_is_one_document_and_its_faults_are_sentences(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"text": "one"}, indent=2))
    assert read(path)[0] == ["one"]
    for content, says in [
        ('{"name": "x"}', r"a\.json is neither a list of documents nor one with a key 'text': set data.text_key"),
        ('[{"text": "a"}, 3]', r"a\.json, document 2: not a JSON object"),
        ('[{"text": "a"},', r"a\.json: not valid JSON"),
        ('{"text": "a"}\n{"text"', r"a\.json, line 2: not valid JSON"),
        ("[" * 100_000, r"a\.json: not valid JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=says):
            read(path)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"plain text"])
def test_a_damaged_gz_is_a_sentence(tmp_path, damage):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(damage(gzip.compress(b"some words of text")))
    with pytest.raises(DataError, match=r"a\.txt\.gz is damaged or no \.gz file"):
        read(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "UTF_8"])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_an_encoding_by_option(tmp_path, encoding, name):
    words = "größer als Ċ"[: None if "u" in encoding.lower() else 6]  # Ċ: a line's end in one byte of UTF-16
    text = words if name == "a.txt" else f'{{"text": "{words}"}}\n{{"text": "b"}}\n'
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    assert read(tmp_path / name, encoding=encoding)[0] == ([words] if name == "a.txt" else [words, "b"])


def test_text_that_is_not_utf8_names_the_option(tmp_path):
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 1: byte 0xf6 is not UTF-8; set data[.]encoding to"):
        read(tmp_path / "a.txt")
    for name in ("latin-99", "rot13", 8, "base64"):
        with pytest.raises(ConfigError, match=r"data\.encoding is"):
            DataConfig(encoding=name)


def test_the_corpus_of_a_run_says_what_was_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i} of a small text\n" for i in range(100)))
    (tmp_path / "b.png").write_bytes(b"x")
    config = DataConfig(sources=(str(tmp_path),), cache_dir=str(tmp_path / ".cache"))
    assert describe(prepare_corpus(config, 300)).endswith("bytes; left out: 1 .png files")
