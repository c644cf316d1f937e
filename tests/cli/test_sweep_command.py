"""`hunyuan sweep` at the command line: its help, its dry run, its mistakes, and what it draws on a terminal."""

import io
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hunyuan_cli import main
from hunyuan_cli.views import sweep as sweep_view
from hunyuan_cli.views import sweep_progress
from model.sweep.estimate import Estimate
from model.sweep.plan import SweepPlan
from model.sweep.runner import CellProgress, Text

ROOT = Path(__file__).parents[2]
TINY = ("--set", "model.vocab_size=300", "--set", "model.intermediate_size=32", "--set", "training.sequence_length=32")
TWO = ("--budgets", "2e9,4e9", "--sizes", "ladder-96", "--set", "sweep.batch_tokens.at_flops=4e9")


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Sentences in tmp_path/small.txt, and a cache of their own."""
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    path = tmp_path / "small.txt"
    path.write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(300)))
    return path


def test_help_teaches_and_loads_no_torch():
    code = (
        "import sys; from hunyuan_cli.main import run; status = run(['sweep', '--help'])\n"
        "print(status, [m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "Example: hunyuan sweep --budgets" in done.stdout
    for option in ("--times", "--engine", "--retry-failed", "--dry-run", "--address"):
        assert option in done.stdout


def test_a_dry_run_shows_the_grid_and_writes_nothing(text, tmp_path, capsys):
    out = tmp_path / "sweep"
    command = ["sweep", "--data", str(text), "--out", str(out), "--device", "cpu", *TINY, *TWO, "--dry-run"]
    assert main.run([*command, "--no-estimate", "--format", "json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [row["cell"] for row in report["cells"]] == ["2e+09_ladder-96_s0", "4e+09_ladder-96_s0"]
    first, second = report["cells"]
    assert (first["status"], first["budget"], first["expected_seconds"]) == ("to do", 2e9, None)
    assert second["flops"] == second["steps"] * second["batch_tokens"] * 734_976
    assert 4000 < second["tokens"] / second["epochs"] < 5000  # tokens of 300 sentences
    assert report["total_flops"] == first["flops"] + second["flops"]
    assert "2 cells, 2 to do" in captured.err and "note: 2 cells have fewer than 50 steps" in captured.err
    assert not out.exists()


def test_the_expected_time_is_measured_on_the_smallest_and_the_largest_size(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("model.sweep.estimate.MEASURE_SECONDS", 0.5)
    sizes = ("--budgets", "2e9", "--sizes", "ladder-64,ladder-96,ladder-128", "--threads", "1")
    command = [
        "sweep",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "x"),
        "--device",
        "cpu",
        *TINY,
        *sizes,
        "--dry-run",
    ]
    assert main.run([*command, "--format", "json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    seconds = [row["expected_seconds"] for row in report["cells"]]
    assert all(6 < each < 600 for each in seconds)
    assert max(seconds) <= report["expected_seconds"] <= sum(seconds)
    assert "measuring the smallest and the largest size" in captured.err and "an estimate" in captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--budgets", "1e13,many"], 2, "'many' is not a positive number: write 2000000, 2M, 1.5B or 1e15"),
        (["--budgets", ""], 2, "'' is not a positive number"),
        (["--seeds", "0,x"], 2, "'0,x' is not a list of seeds: write 0,1,2"),
        (["--seeds", "-1"], 1, "sweep.seeds is [-1]: give a list of whole numbers from 0 up, such as [0, 1]"),
        (["--sizes", "ladder-65"], 1, "there is no model named 'ladder-65': choose one of"),
        (["--times", "-2"], 1, "sweep.times is -2.0: it must be above 0"),
        (["--set", "sweep.learning_rate=1e-3"], 1, "sweep.learning_rate is 0.001: it is a rule, write"),
        (["--set", "rates.value=1"], 1, "--set rates.value=1 is not section.key=value: the sections are"),
        (["--budgets", "1e9"], 1, "no size has between 0.25 and 100 tokens per activated parameter at a budget of 1e+09"),
        (["--data", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["--device", "tpu"], 1, "training.device is 'tpu': use auto, cpu or cuda"),
        (["--address", "auto"], 2, "--address is that of a Ray cluster: add --engine ray"),
        (["--cell-processes", "3", *TWO], 1, "a step of 2e+09_ladder-96_s0 has 1 micro-batch, which so many cannot"),
        (["--cell-processes", "4", *TWO], 1, "only 1 would fit every cell, or begin the sweep with --set training.micro_"),
        (["--cell-processes", "64", *TWO], 1, "would fit every cell, or begin the sweep with a larger sweep.batch_tokens"),
        (
            ["--cell-processes", "2", *TWO, "--set", "training.micro_batch_size=2", "--set", "training.graph=true"],
            1, "training.graph records the step of one process",
        ),
        (["--sizes", ","], 2, "names no size: write ladder-64,ladder-96"),
        (["--engine", "slurm"], 2, "'slurm' is not one of 'local', 'ray'"),
        (["nothing.toml"], 2, "nothing.toml"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(text, tmp_path, capsys, arguments, status, says):
    out = tmp_path / "sweep"
    assert main.run(["sweep", "--out", str(out), "--quiet", "--no-estimate", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert says in captured.err
    assert not list(out.glob("cells/*"))


def test_each_cell_of_two_processes_takes_two_gpus(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("model.sweep.engines.visible_gpus", lambda device: ["0", "1", "2"])
    small = ("--set", "training.micro_batch_size=2", "--no-estimate", "--dry-run")
    command = ["sweep", "--data", str(text), "--out", str(tmp_path / "sweep"), *TINY, *TWO, *small]
    assert main.run([*command, "--cell-processes", "2"]) == 0
    assert "on 3 GPUs, 1 at a time, 2 processes each" in capsys.readouterr().err
    assert main.run([*command, "--cell-processes", "4"]) == 1
    assert "is 4 and each takes a GPU, of which there are 3: give as many at most" in capsys.readouterr().err


def test_a_file_that_is_no_plan_is_one_sentence(tmp_path, capsys):
    for content, says in (("[sweep\n", "is not valid TOML"), ("[[sweep]]\nx = 1\n", "sweep must be a table")):
        (tmp_path / "plan.toml").write_text(content)
        assert main.run(["sweep", str(tmp_path / "plan.toml"), "--budgets", "1e13", "--dry-run"]) == 1
        assert says in (err := capsys.readouterr().err) and err.count("\n") == 1


# --- the views --------------------------------------------------------------------------------------------------------


@pytest.fixture
def grid():
    """A sweep of four cells that exists in memory only; `at` says how far each is."""
    cells = SweepPlan.from_sections(
        {"sweep": {"budgets": [1e13], "sizes": ["ladder-64"], "seeds": [0, 1, 2, 3]}}
    ).cells()
    at: dict[str, CellProgress] = {}
    text = Text("fingerprint", 1_000_000, 1000, 7, 3.0)
    return SimpleNamespace(
        cells=cells, at=at, text=text, status=lambda cell: "", progress=lambda cell: at.get(cell.id, CellProgress(0))
    )


def end(error="", loss=3.25):
    return {"status": "diverged" if error else "finished", "error": error, "loss": loss, "seconds": 10.0}


def test_lines_in_a_pipe(grid, capsys):
    first, second, third, _ = grid.cells
    with sweep_progress.PlainView(grid, grid.cells, None) as view:
        view.started(first)
        grid.at[second.id] = CellProgress(200, 3.0)
        view.started(second)
        view.started(third)
        view.ended(first, end(), "")
        view.ended(second, end("it blew up"), "")
        view.ended(third, None, "")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "start    1e+13_ladder-64_s0: 821 steps, 3.36M tokens"
    assert said[1] == "start    1e+13_ladder-64_s1: from about step 200, 821 steps, 3.36M tokens"
    assert said[3].startswith("finished 1e+13_ladder-64_s0 (1 of 4): loss 3.2500, 10s")
    assert said[4] == "diverged 1e+13_ladder-64_s1 (2 of 4): it blew up"
    assert said[5] == "stopped  1e+13_ladder-64_s2"
    with sweep_progress.PlainView(grid, grid.cells, None, quiet=True) as view:
        view.started(first)
        view.ended(first, end(), "a note")
        view.started(second)
        view.ended(second, end("it blew up"), "")
    assert capsys.readouterr().err == "diverged 1e+13_ladder-64_s1 (2 of 4): it blew up\n"


def test_what_is_left_is_told_at_the_pace_of_this_session(grid, monkeypatch):
    """Four cells expected to take 100 s each; after 150 s one is over and one, taken up at its half, is at three quarters."""
    now = [1000.0]
    monkeypatch.setattr(sweep_progress.time, "monotonic", lambda: now[0])
    expected = Estimate({cell.id: 100.0 for cell in grid.cells}, 400.0)
    view = sweep_progress.PlainView(grid, grid.cells, expected, quiet=True)
    assert view.seconds_left() is None
    first, second, *_ = grid.cells
    view.started(first)
    grid.at[second.id] = CellProgress(409)
    view.started(second)
    now[0] += 150
    view.ended(first, end(), "")
    grid.at[second.id] = CellProgress(614)
    # 125 of the 350 that this session has to do are done
    assert view.seconds_left() == pytest.approx(150 * 225 / 125, rel=0.01)


def test_a_table_on_a_terminal(grid, monkeypatch):
    from rich.console import Console

    screen = io.StringIO()
    view = sweep_progress.LiveView(grid, grid.cells, None)
    view.console = Console(file=screen, force_terminal=True, width=110, height=30)
    monkeypatch.setattr(sweep_progress, "REFRESH_SECONDS", 0.0)
    with view:
        for cell in grid.cells[:2]:
            view.started(cell)
        grid.at[grid.cells[0].id] = CellProgress(409, 3.125, 5000.0)
        view.tick()
        view.ended(grid.cells[0], end(), "")
        view.tick()
    shown = screen.getvalue()
    assert "409/821" in shown and "3.1250" in shown and "5K" in shown and "starting" in shown
    assert "0 done, 0 failed, 2 running, 2 waiting; 5K tokens/s" in shown
    assert "1 done, 0 failed, 1 running, 2 waiting" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back
    view.tick()  # after its end nothing is drawn
    assert screen.getvalue() == shown


def test_the_grid_fits_a_narrow_terminal(grid, capsys, monkeypatch):
    rows = sweep_view.grid_rows(grid, None)
    sweep_view.print_grid(rows)
    wide = capsys.readouterr().err
    assert "less embedding" in wide and "1e+13_ladder-64_s3" in wide and "3.363" in wide  # epochs
    monkeypatch.setattr(sweep_view, "PIPE_WIDTH", 90)
    sweep_view.print_grid(rows)
    narrow = capsys.readouterr().err
    assert max(map(len, narrow.splitlines())) <= 90
    assert "less embedding" not in narrow and "1e+13_ladder-64_s3" in narrow and "6.68e-03" in narrow


def test_repeated_text_is_noted(grid):
    (line, text, repeated) = sweep_view.remarks(grid, grid.cells, None, "on the processor")
    assert line == "4 cells, 4 to do, 40T FLOPs, on the processor"
    assert text == "text: 7 documents, 1,000,000 training and 1,000 validation tokens of 3.00 bytes"
    assert repeated.startswith("note: 4 of the 4 cells read the text more than once, up to 3.4 times: ")


def test_quick_answers_stay_quick(capsys):
    """A mistake is told before torch is loaded, or anything read."""
    began = time.perf_counter()
    assert main.run(["sweep", "--seeds", "x"]) == 2
    assert time.perf_counter() - began < 1.0
