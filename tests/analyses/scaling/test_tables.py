"""analyses/scaling/tables.py: every kind of file gives the same runs, and what is no table is refused in one sentence."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from isoflop_data import csv_text, rows_of, runs_of, study
from test_scaling_runs import same

from analyses.scaling.runs import clean_runs
from analyses.scaling.tables import read_table
from model.errors import DataError, MissingExtraError


def parquet(path, columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def zst(path, columns):
    pa = pytest.importorskip("pyarrow")
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(csv_text(columns).encode())


def pandas(orient, **options):
    def write(path, columns):
        pd = pytest.importorskip("pandas")
        pd.DataFrame(columns).to_json(path, orient=orient, double_precision=15, **options)

    return write


def filtered(path, columns):
    """The default of a frame whose index is not 0, 1, 2, as after a selection."""
    frame = pytest.importorskip("pandas").DataFrame(columns)
    frame.index = [f"run-{row}" for row in range(len(frame))]
    frame.to_json(path, double_precision=15)


FORMATS = {
    "runs.csv.gz": lambda path, columns: path.write_bytes(gzip.compress(csv_text(columns).encode())),
    "rows.json.gz": lambda path, columns: path.write_bytes(gzip.compress(json.dumps(rows_of(columns)).encode())),
    "packed": lambda path, columns: path.write_bytes(gzip.compress(csv_text(columns).encode())),
    "runs.csv.zst": zst,
    "bom.json": lambda path, columns: path.write_text(json.dumps(rows_of(columns)), encoding="utf-8-sig"),
    "bom.jsonl": lambda path, columns: path.write_text(
        "\n".join(map(json.dumps, rows_of(columns))), encoding="utf-8-sig"
    ),
    "utf16.csv": lambda path, columns: path.write_text(csv_text(columns, "\t"), encoding="utf-16"),
    "values.json": lambda path, columns: path.write_text(
        json.dumps([list(columns), *map(list, zip(*columns.values(), strict=True))])
    ),
    **{f"pandas_{orient}.json": pandas(orient) for orient in (None, "columns", "records", "split", "index", "table")},
    "pandas.jsonl": pandas("records", lines=True),
    "pandas_named_rows.json": filtered,
    "runs.csv": lambda path, columns: path.write_text(csv_text(columns)),
    "semicolons.csv": lambda path, columns: path.write_text(csv_text(columns, ";")),
    "tabs.tsv": lambda path, columns: path.write_text(csv_text(columns, "\t")),
    "spaces.csv": lambda path, columns: path.write_text(csv_text(columns, ", ")),
    "crlf.csv": lambda path, columns: path.write_bytes(csv_text(columns).replace("\n", "\r\n").encode()),
    "bom.csv": lambda path, columns: path.write_text(csv_text(columns), encoding="utf-8-sig"),
    "comments.csv": lambda path, columns: path.write_text("# runs\n\n" + csv_text(columns).replace("\n", "\n\n")),
    "quotes.csv": lambda path, columns: path.write_text(
        csv_text({k: [f'"{x!r}"' for x in v] for k, v in columns.items()})
    ),
    "no_suffix": lambda path, columns: path.write_text(csv_text(columns)),
    "rows.json": lambda path, columns: path.write_text(json.dumps(rows_of(columns))),
    "columns.json": lambda path, columns: path.write_text(json.dumps(columns)),
    "nested.json": lambda path, columns: path.write_text(json.dumps({"note": "x", "runs": rows_of(columns)}, indent=2)),
    "text.json": lambda path, columns: path.write_text(json.dumps({k: list(map(repr, v)) for k, v in columns.items()})),
    "lines.jsonl": lambda path, columns: path.write_text("\n".join(map(json.dumps, rows_of(columns)))),
    "named.csv": lambda path, columns: path.write_text(json.dumps(rows_of(columns))),
    "runs.parquet": parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_runs(name, tmp_path):
    columns = study(noise=1e-3)
    FORMATS[name](tmp_path / name, columns)
    found, findings = clean_runs(read_table(tmp_path / name))
    assert findings == [] and len(found) == 35
    if name.startswith("pandas"):  # which writes 15 digits
        assert found.loss == pytest.approx(runs_of(columns).loss, rel=1e-14)
    else:
        assert same(found, runs_of(columns))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_dash_is_standard_input(pack, monkeypatch):
    columns = study(noise=1e-3)
    for text in (csv_text(columns), json.dumps(columns)):
        stdin = io.TextIOWrapper(io.BytesIO(pack(text.encode())))
        monkeypatch.setattr("sys.stdin", stdin)
        found = read_table(Path("-"))
        assert found.name == "standard input" and same(clean_runs(found)[0], runs_of(columns))


def test_a_pack_that_needs_a_package_names_it(tmp_path, monkeypatch):
    zst(tmp_path / "runs.csv.zst", study())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"runs.csv.zst needs the package 'pyarrow'"):
        read_table(tmp_path / "runs.csv.zst")


def test_a_pack_that_holds_too_much_is_refused(tmp_path, monkeypatch):
    """A bomb is not unpacked beyond the limit."""
    monkeypatch.setattr("analyses.scaling.tables.MAX_FILE_BYTES", 10**6)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"0" * 10**7))
    with pytest.raises(DataError, match="has over 1 MB"):
        read_table(tmp_path / "bomb.csv.gz")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "no rows"),
        ("a.csv", b"flops,params,loss\n", "no rows"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("a.csv", b"flops,\xff", "not UTF-8"),
        ("a.csv.gz", gzip.compress(b"flops,loss" * 99, mtime=0)[:-20], "cannot be unpacked"),
        ("a.csv.gz", b"\x1f\x8b and no more", "cannot be unpacked"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd and no more", "cannot be unpacked"),
        ("a.json", b"[[1, 2], [3, 4]]", "holds no rows"),
        ("a.json", b'{"columns": ["a"], "data": 3}', "holds no rows"),
        ("a.csv", b'a,b\n"' + b"x" * 200_000 + b'",1\n', "not a CSV table"),
        ("a.json", b"", "no rows"),
        ("a.json", b"[]", "no rows"),
        ("a.json", b"{}", "no rows"),
        ("a.json", b"[1, 2]", "holds no rows"),
        ("a.json", b'"text"', "holds no rows"),
        ("a.json", b'[{"flops": 1}', "neither JSON nor JSON lines"),
        ("a.json", b"[" * 100_000, "its brackets are nested too deep"),
        ("a.jsonl", b'{"flops": 1}\n{"flops"', "neither JSON nor JSON lines"),
        ("a.parquet", b"PAR1 and no more", "not a parquet table"),
        ("a.parquet", b"", "not a parquet table"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)


def test_a_path_without_a_file_is_refused(tmp_path):
    for path, words in ((tmp_path / "none.csv", "cannot be read"), (tmp_path, "holds no run that has ended")):
        with pytest.raises(DataError, match=words):
            read_table(path)
