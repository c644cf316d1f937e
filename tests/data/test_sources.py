"""Reading text of every kind, and the sentence for each way in which it cannot be read."""

import json
import sys
import types
from collections import Counter

import pytest

from model.data.sources import read_source, read_source_rows
from model.errors import DataError, MissingExtraError


def texts(spec, text_key="text"):
    return [document.text for document in read_source(str(spec), text_key)]


def test_stdlib_is_code_of_the_interpreter_without_tests():
    documents = list(read_source("stdlib"))
    names = [document.name for document in documents]
    assert {"json/decoder.py", "dataclasses.py"} <= set(names)
    assert len(names) == len(set(names)) > 400
    assert not any({"site-packages", "test", "tests", "idle_test"} & set(name.split("/")) for name in names)
    assert all(document.text.strip() for document in documents)


def test_a_file_is_read_without_changing_a_character(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\tä\n".encode())
    assert texts(tmp_path / "a.txt") == ["one\r\ntwo\tä\n"]


def test_folder_is_sorted_recursive_and_leaves_out_hidden_and_other_files(tmp_path):
    for name in ["b.txt", "a/z.md", "a/b/c.PY", ".hidden.txt", ".git/x.txt", "image.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty.txt").touch()
    assert texts(tmp_path) == ["a/b/c.PY", "a/z.md", "b.txt"]


def test_what_training_wrote_below_a_folder_is_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for file in ("run.toml", "config.json", "metrics.jsonl", "checkpoints/step-1/notes.txt"):
        path = tmp_path / "runs" / "toy-1" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"step": 1}')
    (tmp_path / "run.toml").touch()  # a run file beside the text, which makes no run of it
    (tmp_path / "config.json").write_text("{}")
    left_out = Counter()
    assert [one.text for one in read_source(str(tmp_path), left_out=left_out)] == ["text"]
    assert left_out["run folders"] == 1


def test_glob_is_sorted_and_a_name_with_brackets_is_a_name(tmp_path):
    for name in ["b.txt", "a.txt", "c.md", "[ab].txt"]:
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "*.txt") == ["[ab].txt", "a.txt", "b.txt"]
    assert texts(tmp_path / "[ab].txt") == ["[ab].txt"]
    assert texts(tmp_path / "**/c.*") == ["c.md"]


def test_jsonl_takes_the_key_and_skips_empty_lines_and_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "one"}\n\n{"body": ""}\n{"body": "two", "text": "no"}')
    assert texts(path, "body") == ["one", "two"]
    assert [document.name for document in read_source(str(path), "body")] == [f"{path}, line 1", f"{path}, line 4"]


def test_parquet_takes_the_column(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one", "", "two"], "n": [1, 2, 3]}), path)
    assert texts(path, "body") == ["one", "two"]
    with pytest.raises(DataError, match=r"a\.parquet: no column 'text' among 'body', 'n'; set data\.text_key"):
        texts(path)
    with pytest.raises(DataError, match="row 1: 'n' is int, not a string"):
        texts(path, "n")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.parquet is not a parquet file"):
        texts(path, "body")


def fake_datasets(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


class Rows(list):
    column_names = ("body",)

    def select_columns(self, names):
        return Rows({name: row[name] for name in names} for row in self)


def test_hub_data_set_reads_the_train_split(monkeypatch):
    calls = []

    def load_dataset(name, subset, **options):
        calls.append((name, subset, options))
        return Rows([{"body": "one"}, {"body": "two"}])

    fake_datasets(monkeypatch, load_dataset)
    assert texts("hf:org/name:small", "body") == ["one", "two"]
    assert calls == [("org/name", "small", {"split": "train", "streaming": False})]
    with pytest.raises(DataError, match="hf:org/name: no column 'text' among 'body'"):
        texts("hf:org/name")


def test_hub_failure_is_one_sentence(monkeypatch):
    def load_dataset(name, subset, **options):
        raise RuntimeError("cannot reach the hub\nmany details")

    fake_datasets(monkeypatch, load_dataset)
    with pytest.raises(DataError, match=r"^hf:x cannot be loaded: cannot reach the hub$"):
        texts("hf:x")


@pytest.mark.parametrize(("package", "spec"), [("datasets", "hf:x"), ("pyarrow", "a.parquet")])
def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, package, spec):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=rf"reading {spec} needs the package '{package}'.*hunyuan\[data\]"):
        texts(spec)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt is not a file, a folder or a glob that matches"),
        ("no*.txt", None, "has no file that can be read"),
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b" \n\n", "blank.txt has no text in it"),
        (
            "a.csv",
            b"x",
            "a.csv is not one of the files that can be read: .json, .jsonl, .md, .parquet, .py, .txt; all but",
        ),
        ("a.txt", b"one\ntwo\nth\xffree\n", "a.txt, line 3: byte 0xff is not UTF-8"),
        ("bom.txt", b"\xef\xbb\xbfone\n\xc3", "bom.txt, line 2: byte 0xc3 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "a.jsonl, line 2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', "a.jsonl, line 3: not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n"b"\n', "a.jsonl, line 2: not a JSON object"),
        (
            "a.jsonl",
            b'{"body": "a", "id": 1}\n',
            "a.jsonl, line 1: no key 'text' among 'body', 'id'; set data.text_key",
        ),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl, line 1: 'text' is NoneType, not a string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl, line 1: 'text' holds half a surrogate pair"),
    ],
)
def test_bad_input_is_one_sentence_with_the_path(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        texts(path)
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_with_nothing_usable_says_what_is_taken(tmp_path):
    (tmp_path / "image.png").touch()
    with pytest.raises(
        DataError, match=r"has no file that can be read: put files of these kinds there: \.json, \.jsonl"
    ):
        texts(tmp_path)


def test_an_unreadable_file_names_itself(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"a\.txt cannot be read \(Permission denied\)"):
        texts(tmp_path)


def test_jsonl_of_surrogate_pairs_is_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "😀"}))  # json writes it as two escapes
    assert texts(path) == ["😀"]


def test_a_list_of_shards_is_no_document_but_a_manifest_alone_is(tmp_path):
    (tmp_path / "manifest.json").write_text('{"text": "alone"}')
    assert [document.text for document in read_source(str(tmp_path))] == ["alone"]
    (tmp_path / "part-00000.jsonl").write_text('{"text": "a shard"}\n')
    left_out = Counter()
    assert [document.text for document in read_source(str(tmp_path), left_out=left_out)] == ["a shard"]
    assert left_out == {"lists of shards (manifest.json)": 1}
    assert [row.value for row in read_source_rows(str(tmp_path))] == [{"text": "a shard"}]
