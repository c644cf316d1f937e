"""The corpus of a sweep: each text once, whatever carries it, in an order of names."""

import csv
import hashlib
import io
import json
import runpy
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "examples/sweep_corpus.py"))
gather, main = SCRIPT["gather"], SCRIPT["main"]

BODY = "\n".join(f"    total_{i} = combine(total_{i}, weights[{i}])" for i in range(40))
OTHER = "\n".join(f"    print('a line of its own, number {i}')" for i in range(40))


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one.py").write_text(f"def one():\n{BODY}\n")
    (folder / "same.py").write_text(f"def one():\n{BODY}\n")
    (folder / "table.py").write_text("x" * 5000)
    (folder / "page.html").write_text("not a kind that is read " * 100)
    files = {
        "p/z.rst": OTHER.encode(),
        "p/deeper.py": ("class A:\n" + BODY.replace("    ", "        ")).encode(),  # the same lines further in
        "p/a.py": b"\xff\xfe" * 400,
        "p/b.md": b"short",
    }
    return [folder, archive(tmp_path / "p-1.tar.gz", files)]


def test_every_text_is_kept_once_and_the_rest_is_counted(places, tmp_path):
    found = gather(places, tmp_path / "out.jsonl")
    assert {name: each["kept"] for name, each in found.items()} == {"folder": 1, "p-1.tar.gz": 1}
    counts = sum(map(Counter, found.values()), Counter())
    texts = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert texts == [f"def one():\n{BODY}\n", OTHER]
    assert {k: v for k, v in counts.items() if not k.endswith("bytes")} == {
        "files": 7, "kept": 2, "duplicates": 1, "tables": 1, "repetitions": 1, "unreadable": 1, "short": 1,
    }  # fmt: skip
    assert counts["bytes"] == sum(v for k, v in counts.items() if k.endswith("_bytes"))


def test_a_wheel_is_read_like_an_archive_and_the_manifest_says_what_each_gave(monkeypatch, places, tmp_path):
    wheel, out, manifest = tmp_path / "q-2-py3-none-any.whl", tmp_path / "out.jsonl", tmp_path / "manifest.csv"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("q/new.py", OTHER.replace("own", "wheel"))
        zipped.writestr("q/old.py", f"def one():\n{BODY}\n")
    monkeypatch.setattr(
        "sys.argv", ["sweep_corpus.py", str(out), "--manifest", str(manifest), *map(str, [*places, wheel])]
    )
    main()
    assert json.loads(out.read_text().splitlines()[-1])["text"].startswith("    print('a line of its wheel")
    rows = {row["place"]: row for row in csv.DictReader(manifest.open(newline=""))}
    assert rows["q-2-py3-none-any.whl"]["files"] == "1"
    assert rows["q-2-py3-none-any.whl"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert rows["out.jsonl"]["bytes"] == str(sum(len(text.encode()) for text in texts))


def test_the_order_is_that_of_names(places, tmp_path):
    gather(places, tmp_path / "a.jsonl")
    gather(places[::-1], tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_place_that_is_not_there_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["sweep_corpus.py", str(tmp_path / "out.jsonl"), str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        main()
    assert "there is no" in capsys.readouterr().err
