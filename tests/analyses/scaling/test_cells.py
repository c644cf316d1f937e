"""analyses/scaling/cells.py and units.py: numbers as people write them."""

import math

import numpy as np
import pytest
from isoflop_data import csv_text, runs_of, study
from test_scaling_runs import same

from analyses.scaling.cells import Marks, find_marks, read_column
from analyses.scaling.runs import clean_runs
from analyses.scaling.tables import read_table
from analyses.scaling.units import flops_factor, parse_unit, word_factor
from model.errors import DataError, HunyuanError


def numbers(*cells, separator=",", unit=1.0, word=word_factor):
    return read_column(cells, find_marks("a.csv", [cells], separator), unit, word).tolist()


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("53.3M", 53.3e6), ("16.08 M", 16.08e6), ("1.2B", 1.2e9), ("7b", 7e9), ("3G", 3e9), ("15T", 15e12), ("410k", 410e3),
        ("1.5 billion", 1.5e9), ("300 billion tokens", 3e11), ("2 million", 2e6), ("1.2e9 tokens", 1.2e9), ("70B params", 7e10),
        ("16,078,219", 16078219), ("16 078 219", 16078219), ("16'078'219", 16078219), ("16\u202f078\u202f219", 16078219),
        ("16_078_219", 16078219), ("1,234.5", 1234.5), ("1,234.5M", 1234.5e6), ("1.234,5", 1234.5), ("5,3e9", 5.3e9),
        ("0,37", 0.37), ("16.078.219,5", 16078219.5), ("+5e3", 5e3), ("-2,5", -2.5), (".5", 0.5), ("5.", 5.0), (7, 7.0),
    ],
)  # fmt: skip
def test_a_cell_is_a_number(cell, value):
    assert numbers(cell) == [pytest.approx(value, rel=1e-15)]


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "M",
        "5E",
        "53.3Q",
        "53.3 MB/s2",
        "1,23,456",
        "1,2,3",
        "12,34.5",
        "nan tokens",
        "--5",
        "1.2.3",
        "5 6",
        "=1",
        None,
    ],
)
def test_a_cell_is_no_number(cell):
    assert np.isnan(numbers(cell)).all()


@pytest.mark.parametrize(
    ("word", "factor"),
    [("GFLOPs", 1e9), ("PFLOP", 1e15), ("EFLOPs", 1e18), ("zettaflops", 1e21), ("exaFLOP", 1e18), ("PF-days", 8.64e19),
     ("PF/s-days", 8.64e19), ("petaflop-day", 8.64e19), ("pflop/s days", 8.64e19), ("FLOPs", 1.0), ("T", 1e12), ("E", None)],
)  # fmt: skip
def test_words_of_flops(word, factor):
    assert flops_factor(word) == factor
    assert numbers(f"3.5 {word}", word=flops_factor) == [3.5 * factor] if factor else True


def test_a_loss_takes_no_word():
    assert np.isnan(numbers("3.2M", word=None)).all()


def test_one_sure_cell_tells_what_the_commas_are():
    assert numbers("16,078", "5,3e9") == [16.078, 5.3e9]
    assert numbers("16,078", "16,078,219") == [16078.0, 16078219.0]
    assert numbers("16,078") == [16078.0] and numbers("16,078", separator=";") == [16.078]
    with pytest.raises(DataError, match="writes '5,3e9' as well as '16,078,219': use commas in one way"):
        numbers("16,078,219", "5,3e9")


def test_dots_between_thousands_where_commas_are_decimal():
    marks = Marks(decimal_comma=True)
    assert read_column(["850.000", "1.200.000"], marks).tolist() == [850000.0, 1200000.0]
    assert read_column(["850.000", "1.25"], marks).tolist() == [850.0, 1.25]


def test_a_word_of_a_cell_outdoes_the_unit_of_its_column():
    assert numbers("53.3", "53.3B", "5.33e1", unit=1e6) == [53.3e6, 53.3e9, 53.3e6]


@pytest.mark.parametrize("name", ["suffixes", "groups", "commas"])
def test_a_table_of_such_cells_gives_the_same_runs(name, tmp_path):
    columns = study(noise=1e-3)
    columns["params"] = [float(round(size)) for size in columns["params"]]
    del columns["tokens"]
    write = {
        "suffixes": lambda size: f"{size / 1e6!r}M",
        "groups": lambda size: f'"{size:,.0f}"',
        "commas": lambda size: f"{size:.0f}",
    }[name]
    cells = {
        key: [write(value) if key == "params" else repr(value) for value in values] for key, values in columns.items()
    }
    text = csv_text(cells, ";" if name == "commas" else ",")
    (tmp_path / "a.csv").write_text(text.replace(".", ",") if name == "commas" else text)
    found, findings = clean_runs(read_table(tmp_path / "a.csv"))
    assert findings == []
    assert found.params == pytest.approx(runs_of(columns).params, rel=1e-14)
    assert found.loss.tolist() == runs_of(columns).loss.tolist()
    if name != "suffixes":
        assert same(found, runs_of(columns))


@pytest.mark.parametrize(
    ("option", "text", "factor"),
    [("--params-unit", "1e6", 1e6), ("--params-unit", "million", 1e6), ("--params-unit", "M", 1e6),
     ("--tokens-unit", "billions", 1e9), ("--tokens-unit", "B", 1e9), ("--tokens-unit", "T", 1e12), ("--tokens-unit", "1", 1.0),
     ("--flops-unit", "GFLOPs", 1e9), ("--flops-unit", "PF-days", 8.64e19), ("--flops-unit", "0.333", 0.333)],
)  # fmt: skip
def test_units_as_options(option, text, factor):
    assert parse_unit(option, text) == factor


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "GFLOPs", "millionth", "x"])
def test_a_unit_that_is_none_is_refused(text):
    with pytest.raises(HunyuanError, match=r"--params-unit '.*' is no unit: write a factor such as 1e6, or million"):
        parse_unit("--params-unit", text)


def test_a_count_is_no_word():
    assert word_factor("") == 1.0 and word_factor("tokens") == 1.0 and math.isnan(numbers("1 dozen")[0])
