"""Files of a folder as one document: their order, their names, where one document ends, and how long documents are."""

import json
import shutil

import numpy as np
import pytest

from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.data.joining import joined
from model.data.lengths import describe_lengths, document_lengths, length_table
from model.data.readers import Document
from model.data.shards import TokenShard
from model.data.sources import read_source
from model.errors import ConfigError, DataError


@pytest.fixture
def tree(tmp_path):
    for name in ("b/two.py", "b/one.py", "a/deep/x.py", "a/z.py", "top.md"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}" + ("\n" if name != "b/one.py" else ""), encoding="utf-8")
    (tmp_path / "tree" / "b" / "rows.jsonl").write_text('{"text": "a row"}\n{"text": "another"}\n', encoding="utf-8")
    return tmp_path / "tree"


def test_a_folders_files_are_one_document_in_the_order_of_their_names(tree):
    assert list(read_source(str(tree), join=True)) == [
        (".", "# top.md\ntext of top.md\n"),
        ("a", "# a/z.py\ntext of a/z.py\n"),
        ("a/deep", "# a/deep/x.py\ntext of a/deep/x.py\n"),
        ("b", "# b/one.py\ntext of b/one.py\n# b/two.py\ntext of b/two.py\n"),
        (f"{tree}/b/rows.jsonl, line 1", "a row"),
        (f"{tree}/b/rows.jsonl, line 2", "another"),
    ]


def test_the_text_does_not_depend_on_where_the_folder_is(tree, tmp_path):
    shutil.move(tree, tmp_path / "elsewhere" / "deeper")
    assert [text for _, text in read_source(f"{tmp_path}/elsewhere/**/*.py", join=True)] == [
        "# a/z.py\ntext of a/z.py\n",
        "# a/deep/x.py\ntext of a/deep/x.py\n",
        "# b/one.py\ntext of b/one.py\n# b/two.py\ntext of b/two.py\n",
    ]


def test_a_document_is_closed_before_it_is_too_long():
    files = [Document(f"a/{name}", name * 10) for name in "pqrs"] + [Document("b/t", "t" * 100)]
    found = list(joined(files, longest=40))  # each part has 17 characters
    assert [name for name, _ in found] == ["a", "a (2)", "b"]
    assert [text.count("#") for _, text in found] == [2, 2, 1]


def test_the_standard_library_can_be_joined():
    apart, together = (list(read_source("stdlib", join=join)) for join in (False, True))
    assert {"json", "email"} <= {name for name, _ in together} and len(together) < len(apart) / 5
    text = dict(together)["json"]
    names = [line for line in text.splitlines() if line.startswith("# json/")]
    assert names == [
        "# json/__init__.py",
        "# json/decoder.py",
        "# json/encoder.py",
        "# json/scanner.py",
        "# json/tool.py",
    ]
    assert dict(apart)["json/decoder.py"] in text


def test_lengths_are_those_between_ends(monkeypatch):
    monkeypatch.setattr("model.data.lengths.CHUNK", 4)
    tokens = np.array([5, 9, 5, 5, 5, 9, 9, 5, 5, 5, 5, 9], np.uint16)
    assert document_lengths(TokenShard(tokens, 4, 12, ""), 9).tolist() == [2, 4, 1, 5]
    assert document_lengths(TokenShard(tokens, 3, 12, "", document_length=7), 9).tolist() == [7, 7, 7]


def test_the_table_of_lengths(tree, tmp_path):
    lines = [json.dumps({"text": "word " * (1 + number % 7) + str(number)}) for number in range(200)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines), encoding="utf-8")
    config = DataConfig(sources=(str(rows),), validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, 300)
    (shard,) = corpus.train.values()
    lengths = sorted(document_lengths(shard, corpus.tokenizer.eos_id).tolist())
    assert len(lengths) == shard.documents and sum(lengths) == len(shard)
    table = length_table(corpus, [1, 8, 1000])
    row = table[str(rows)]
    assert (row["documents"], row["tokens"], row["longest"]) == (len(lengths), len(shard), lengths[-1])
    assert (
        row["median"] == lengths[(len(lengths) + 1) // 2 - 1] and row["p90"] == lengths[-(-len(lengths) * 9 // 10) - 1]
    )
    share = sum(length for length in lengths if length >= 8) / len(shard)
    assert row["in_long"] == {"1": 1.0, "8": round(share, 4), "1000": 0.0}
    (line,) = describe_lengths(table)
    assert describe_lengths({str(n): row for n in range(10)})[8:] == ["and 2 more sources, in environment.json"]
    assert f"{len(lengths)} documents" in line and f"{share:.0%} of the tokens at 8" in line


def test_joining_is_of_sources_that_are_there(tree, tmp_path):
    with pytest.raises(ConfigError, match=r"data.join is 'folder': give a list"):
        DataConfig(join="folder")
    with pytest.raises(ConfigError, match=r"data.join names tasks:copy, which has no folders"):
        DataConfig(sources=("stdlib", "tasks:copy"), join=("tasks:copy",))
    with pytest.raises(DataError, match="none of the sources"):
        prepare_corpus(DataConfig(sources=(str(tree),), join=(str(tmp_path),)), 300)
    assert DataConfig(sources=("t",), join=("t/",)).absolute().join == DataConfig(sources=("t",)).absolute().sources
