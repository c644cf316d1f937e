"""The figure of the ablation: each run is one dot at its value, each mean a line, in the panels where they belong."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "synthesis"


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("ablation_figure", FOLDER / "ablation_figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cells():
    return pd.read_csv(FOLDER / "ablation" / "cells.csv")


def test_every_run_is_a_dot_and_every_mean_a_line(figure, cells):
    text, *others = figure.plot_ablation(cells).axes
    for panel, measures, arms in (
        (text, ["bits_per_byte"], figure.ARMS),
        *(
            (panel, [f"{test}_{measure}" for test in figure.TESTS], arms)
            for panel, (measure, _, _, arms) in zip(others, figure.PANELS, strict=True)
        ),
    ):
        assert [tick.get_text() for tick in panel.get_xticklabels()] == list(arms)
        scatters, lines = panel.collections[::2], panel.collections[1::2]
        assert len(scatters) == len(lines) == len(measures)
        for measure, scatter, line in zip(measures, scatters, lines, strict=True):
            means = {}
            for arm in arms:
                own = cells[cells["arm"] == arm][measure]
                place = arms.index(arm)
                shown = [y for x, y in scatter.get_offsets() if abs(x - place) < 0.4]
                assert sorted(shown) == pytest.approx(sorted(own)) and len(shown) == 5
                means[place] = own.mean()
            for (left, height), (right, same) in line.get_segments():
                place = round((left + right) / 2)
                assert height == same == pytest.approx(means.pop(place))
            assert not means


def test_an_arm_without_runs_leaves_its_place_empty(figure, cells):
    few = cells[(cells["arm"] != "corpus") & (cells["seed"] == 0)]
    for panel in figure.plot_ablation(few).axes[:3]:
        assert [tick.get_text() for tick in panel.get_xticklabels()] == list(figure.ARMS)
        assert np.min([x for scatter in panel.collections[::2] for x, _ in scatter.get_offsets()]) > 0.5


def test_the_command_writes_the_picture(figure, tmp_path, monkeypatch):
    out = tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", ["ablation_figure.py", str(FOLDER / "ablation" / "cells.csv"), "--out", str(out)])
    figure.main()
    assert out.read_bytes().startswith(b"\x89PNG")
