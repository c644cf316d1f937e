"""`hunyuan scale-fit`: a thousand damaged files."""

import json
import random
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analyses.scaling.cost import parse_cost
from analyses.scaling.fit import scale_fit
from analyses.scaling.options import Options
from analyses.scaling.parabola import CMin
from analyses.scaling.tables import read_table
from hunyuan_cli.main import run
from hunyuan_cli.results import emit
from model.errors import HunyuanError
from tests.analyses.scaling.isoflop_data import (
    codes,
    damaged_file,
    rows_of,
    runs_of,
    study,
    table,
)  # fmt: skip
from tests.cli.scale_fit_runs import FAST

ROOT = Path(__file__).parents[2]


# --- damaged files ---------------------------------------------------------------------------------------------------


@contextmanager
def watched(monkeypatch):
    """Numpy's warnings are errors, LAPACK gets no number that may hang it, and nothing computes for over five seconds."""
    plain = np.linalg.lstsq

    def least_squares(a, b, **options):
        assert np.isfinite(a).all() and np.isfinite(b).all(), "lstsq was given a number that is not finite"
        return plain(a, b, **options)

    def too_long(*_):
        raise TimeoutError("hangs")

    monkeypatch.setattr(np.linalg, "lstsq", least_squares)
    before = signal.signal(signal.SIGVTALRM, too_long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 5.0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def options(seed):
    draw = random.Random(seed)
    return Options(
        resamples=100,
        cost=draw.choice([None, None, parse_cost("6nd"), parse_cost("paper")]),
        c_min=draw.choice([None, None, CMin()]),
        batch_tokens=draw.choice([None, 1e6]),
        interval=draw.choice(["delta", "residual", "case"]),
        keep_outliers=draw.random() < 0.5,
        predict=draw.choice([(), (1e22,), (1e290, 1e-290)]),
        predict_params=draw.choice([(), (1e9, 1e-200)]),
        predict_loss=draw.choice([()] * 5 + [(2.5, 1e5)]),
        tolerance=draw.choice([0.1, 0.0, 0.5]),
        best_of=draw.random() < 0.3,
        loss_unit=draw.choice([None] * 9 + ["nats", "bits", "perplexity"]),
        units=draw.choice([{}] * 27 + [{"params": 1e6}, {"params": 1e-300, "flops": 1e300}, {"tokens": 1e9}]),
        where=draw.choice([{}] * 18 + [{"params": ["1e9"]}, {"loss": ["nan", "", "3"]}]),
    )


@pytest.mark.slow
def test_a_thousand_damaged_files_give_a_document_or_one_sentence(tmp_path, monkeypatch, capsys):
    failures, statuses = [], {0: 0, 1: 0, 3: 0, "refused": 0}
    with watched(monkeypatch) as start_clock:
        for seed in range(1000):
            path = damaged_file(tmp_path, seed)
            start_clock()
            try:
                found = scale_fit(read_table(path), options(seed))
                emit(found.document, format="json", output=tmp_path / "out.json")
                assert json.loads((tmp_path / "out.json").read_text())["method"] == "quadratic"
                assert found.status in (0, 1, 3) and (found.status != 1) == (found.document["n_opt"] is not None)
                statuses[found.status] += 1
            except HunyuanError as error:
                assert str(error) and "\n" not in str(error).strip()
                statuses["refused"] += 1
            except Exception as error:
                failures.append(f"{path.name}: {type(error).__name__}: {error}"[:150])
    assert not failures, f"{len(failures)} of 1000, such as\n" + "\n".join(failures[:20])
    assert min(statuses.values()) >= 3, statuses  # the files are of every kind


def test_damaged_files_at_the_command_line(tmp_path, monkeypatch, capsys):
    failures = []
    with watched(monkeypatch) as start_clock:
        for seed in range(1000, 1050):
            path, draw = damaged_file(tmp_path, seed), random.Random(seed)
            asked = draw.choice(
                [[], ["--predict", "1e22"], ["--predict-params", "1e9", "--predict-loss", "2.5"], ["--c-min"]]
            )
            start_clock()
            status = run(["scale-fit", str(path), *FAST, *asked, "--format", draw.choice(["table", "json", "csv"])])
            out, err = capsys.readouterr()
            bad = [word for word in ("bug in hunyuan", "Traceback", "RuntimeWarning", "nan%") if word in out + err]
            if status not in (0, 1, 2, 3) or bad or (status == 0 and not out):
                failures.append(f"{path.name}: {status} {err[:150]}")
    assert not failures, "\n".join(failures)


def test_a_cell_that_is_no_text_can_be_written(tmp_path, capsys):
    rows = rows_of(study())
    rows[0]["loss"] = "\ud800"
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert run(["scale-fit", str(tmp_path / "a.json"), "--output", str(tmp_path / "out.json"), *FAST]) == 3
    assert "bug in hunyuan" not in capsys.readouterr().err


def test_these_helpers_are_of_a_clean_study():
    """A study without noise has nothing to say, or the tests above test nothing."""
    assert codes(scale_fit(table(study()), Options(resamples=100))) == [] and len(runs_of(study())) == 35
