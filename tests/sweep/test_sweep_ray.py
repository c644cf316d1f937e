"""Sweeps through Ray: the same numbers, stopped and saved, and the GPUs of a cluster, of which there are none."""

import json
import os
from pathlib import Path

import pytest
from small_sweep import results, sections

from hunyuan_cli import main
from model.errors import HunyuanError
from model.sweep.plan import SweepPlan
from model.sweep.ray_engine import resources
from model.sweep.runner import Sweep

pytestmark = pytest.mark.slow

ONE_EACH = ("--workers", "2", "--threads", "1", "--no-estimate")


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster of two processors and of two GPUs that are none, for this module."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    with pytest.MonkeyPatch.context() as patch:  # its workers find pretended_cell.py
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


class Told:
    def __init__(self):
        self.ends = {}

    def started(self, cell):
        pass

    def ended(self, cell, row, note):
        self.ends[cell.id] = row and row["status"]

    def tick(self):
        pass


def test_ray_gives_the_same_numbers(cluster, plan_file, reference, tmp_path, capsys):
    folder = tmp_path / "sweep"
    command = ["sweep", str(plan_file()), "--out", str(folder), "--engine", "ray", *ONE_EACH]
    assert main.run(command) == 0
    assert results(folder) == results(reference[0])
    assert "on a local Ray cluster, 2 at a time" in capsys.readouterr().err
    assert cluster.is_initialized()  # what was there before stays


def test_a_ray_sweep_that_is_stopped_saves(cluster, home, tmp_path):
    from model.sweep.ray_engine import RayEngine

    plan = sections(home)
    plan["sweep"] |= {"budgets": [4e10], "sizes": ["ladder-64"]}
    sweep, told = Sweep(tmp_path / "sweep", SweepPlan.from_sections(plan)), Told()
    (only,) = sweep.cells
    with sweep.held():
        sweep.prepare()
        engine = RayEngine("hunyuan_cli.sweep_cell", workers=1, threads=1, device="cpu")
        assert not sweep.run(engine, told, should_stop=lambda: sweep.progress(only).step >= 3)
    assert told.ends == {only.id: None}
    folder = sweep.cell_folder(only)
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert list((folder / "checkpoints").glob("step-*")) and not (folder / "stop").exists()
    assert sweep.status(only) == "interrupted"


@pytest.mark.parametrize(("options", "seen"), [((), ["0", "1"]), (("--cell-processes", "2"), ["0,1"])])
def test_a_cluster_gives_its_gpus_to_cells_of_device_auto(cluster, plan_file, tmp_path, monkeypatch, options, seen):
    """The machine that starts the sweep has no GPU; one process to a cell is two cells at a time, two are one."""
    monkeypatch.setattr("hunyuan_cli.sweep_machine.CELL", "pretended_cell")
    plan = plan_file(training={"device": "auto"}, sweep={"sizes": ["ladder-64", "ladder-96"][: len(seen)]})
    command = ["sweep", str(plan), "--out", str(tmp_path / "sweep"), "--engine", "ray", "--address", "auto", *options]
    assert main.run([*command, "--quiet"]) == 3  # nothing was trained
    told = [json.loads(row["error"]) for row in results(tmp_path / "sweep")]
    assert [cell["device"] for cell in told] == ["cuda"] * len(seen)
    assert sorted(cell["gpus"] for cell in told) == seen


@pytest.mark.parametrize(
    ("machines", "how", "asked", "room"),
    [
        ([(8, 0)], ("auto", 0, 2, 1), (2, 0), 4),
        ([(8, 0), (7, 0)], ("cpu", 0, 2, 2), (4, 0), 3),
        ([(32, 8), (32, 4)], ("auto", 0, 1, 1), (1, 1), 12),
        ([(32, 8), (32, 4), (64, 0)], ("auto", 0, 1, 3), (3, 3), 3),
        ([(32, 8)], ("cuda", 3, 1, 1), (1, 1), 8),
        ([(32, 2)], ("cuda", 3, 1, 1), (1, 0.5), 4),
        ([(32, 2)], ("cpu", 0, 1, 1), (1, 0), 32),
    ],
)
def test_what_a_task_asks_of_a_cluster(machines, how, asked, room):
    """(CPU, GPU) of machines; device, workers, threads and processes -> (num_cpus, num_gpus), cells at a time."""
    found, places = resources([{"CPU": cpu} | ({"GPU": gpu} if gpu else {}) for cpu, gpu in machines], *how)
    assert ((found["num_cpus"], found.get("num_gpus", 0)), places) == (asked, room)


@pytest.mark.parametrize(
    ("machines", "how", "says"),
    [
        ([(8, 0)], ("cuda", 0, 1, 1), "the Ray cluster has no GPU: use --device cpu, or another --address"),
        ([(8, 2), (8, 2)], ("auto", 0, 1, 4), "a cell takes 4 GPUs of one machine, and none of the Ray cluster has more"),
        ([(8, 0)], ("cpu", 0, 3, 4), "a cell takes 12 processors of one machine, and none of the Ray cluster has more"),
    ],
)  # fmt: skip
def test_a_cell_that_no_machine_of_a_cluster_can_have_is_a_sentence(machines, how, says):
    with pytest.raises(HunyuanError, match=says):
        resources([{"CPU": cpu, "GPU": gpu} for cpu, gpu in machines], *how)


def test_without_ray_the_extra_is_named(plan_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main.run(["sweep", str(plan_file()), "--out", str(tmp_path / "sweep"), "--engine", "ray"]) == 1
    said = "error: --engine ray needs the package 'ray': install it with pip install 'hunyuan[sweep]'\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "sweep").exists()
