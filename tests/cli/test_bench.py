"""`hunyuan bench`: what it measures, prints and refuses; no contender is started."""

import csv
import io
import json
from contextlib import contextmanager

import pandas as pd
import pytest

from analyses import benchmark
from analyses.benchmark import CEILING, SHAPE, Workload
from hunyuan_cli.commands import bench
from hunyuan_cli.main import run

TABLE = pd.DataFrame(
    [
        {"contender": CEILING, "flops_per_second": 2e11},
        {"contender": "hunyuan float32", "tokens_per_second": 12_345.0, "flops_per_second": 1e11, "of_ceiling": 0.5},
    ]
)


@pytest.fixture
def asked(monkeypatch):
    """The benchmarks asked for: [(workload, options)]."""
    calls = []

    def training_table(work, **options):
        calls.append((work, options))
        return TABLE

    monkeypatch.setattr(benchmark, "training_table", training_table)
    return calls


def test_defaults_are_the_workload_that_the_readme_quotes(asked, capsys):
    assert run(["bench", "train"]) == 0
    ((work, options),) = asked
    assert work == Workload(SHAPE, batch=8, sequence_length=256, device="cpu", threads=2)
    del options["progress"]
    assert options == {"rounds": 5, "steps": 3, "peer": False, "compiled": False}
    captured = capsys.readouterr()
    assert "matmul ceiling" in captured.out and "12.3K" in captured.out
    assert captured.err == "timing training steps ...\n"


def test_options_reach_the_benchmark(asked):
    assert run(["bench", "train", "--rounds", "2", "--steps", "4", "--threads", "3", "--peer", "--compile"]) == 0
    ((work, options),) = asked
    assert work.threads == 3
    assert (options["rounds"], options["steps"], options["peer"], options["compiled"]) == (2, 4, True, True)


def test_json_is_one_document_of_facts_and_contenders(asked, capsys):
    assert run(["bench", "train", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["batch"] == 8 and document["sequence_length"] == 256
    assert document["activated_params"] < document["training_flops_per_token"]
    ceiling, ours = document["contenders"]
    assert (ceiling["contender"], ceiling["tokens_per_second"]) == (CEILING, None)
    assert ours == {
        "contender": "hunyuan float32", "flops_per_second": 1e11, "tokens_per_second": 12345, "of_ceiling": 0.5,
    }  # fmt: skip


def test_csv_is_the_contenders_and_goes_to_the_file(asked, tmp_path, capsys):
    target = tmp_path / "speed.csv"
    assert run(["bench", "train", "--output", str(target)]) == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [row["contender"] for row in rows] == [CEILING, "hunyuan float32"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ([], 12),
        (["--peer"], 20),
        (["--compile"], 16),
        (["--peer", "--compile"], 24),
        (["--no-peer", "--no-compile"], 12),
    ],
)
def test_the_bar_is_full_when_the_last_contender_is_done(monkeypatch, options, turns):
    """The command says how long the bar is, the benchmark how far it has come: two files that must agree."""
    bars = []

    @contextmanager
    def progress(description, total):
        bars.append([total, 0])

        def advance(count):
            bars[-1][1] += count

        yield advance

    @contextmanager
    def worker(name, work, build):
        yield lambda steps: ([1.0] * steps, 1)

    monkeypatch.setattr(bench, "progress", progress)
    monkeypatch.setattr(benchmark, "worker", worker)
    assert run(["bench", "train", "--rounds", "4", *options]) == 0
    assert bars == [[turns, turns]]


def test_alone_it_shows_its_help(capsys):
    assert run(["bench"]) == 2
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--device", "gpu"], 1, "device 'gpu' is not known: use auto, cpu or cuda"),
        (["--device", "cuda:99"], 1, "device 'cuda:99' is not there"),
        (["--rounds", "0"], 2, "'--rounds'"),
        (["--steps", "0"], 2, "'--steps'"),
        (["--threads", "0"], 2, "'--threads'"),
        (["--format", "xml"], 2, "'table', 'json', 'csv'"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_measured(asked, capsys, arguments, status, says):
    assert run(["bench", "train", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and asked == []
    assert says in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
