"""examples/evaluation/README.md: every command in it runs, on tiny models and files, and its figures are speed.json's."""

import json
import shlex
from pathlib import Path

import pytest

from hunyuan_cli import main
from tests.cli.speaking import write_run
from tests.evaluation.folders import write_arc, write_gsm8k, write_lines

FOLDER = Path(__file__).parents[2] / "examples" / "evaluation"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    hunyuan ")]
SMALL = ["--samples", "1", "--limit", "2", "--max-new-tokens", "2"]  # the last of an option counts


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder that the page speaks of."""
    home = tmp_path_factory.mktemp("page")
    for name in ("first", "second"):
        write_run(home / "runs" / name, max_position_embeddings=2048)
    write_arc(write_gsm8k(home / "benchmarks"))
    write_lines(home / "benchmarks" / "cmath" / "test.jsonl", [{"question": "1+1=?", "golden": "2", "grade": 1}])
    return home


@pytest.mark.slow
def test_the_commands_run_in_their_order(home, monkeypatch, capfd):
    pytest.importorskip("lm_eval", reason="the extra eval is not installed")
    monkeypatch.chdir(home)
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        shorter = ["--lengths", "256,384"] if "1K" in command else []
        status = main.run([*shlex.split(command)[1:], *SMALL, *shorter])
        said = capfd.readouterr()
        assert status == 0, (command, said.err)
        assert "95%" in said.out, command
    assert "difference" in said.out  # of the last one, to --against
    assert {path.name for path in (home / "scores" / "first").iterdir()} >= {
        "results.json",
        "samples.jsonl",
        "requests.jsonl",
    }
    assert (home / "ruler.png").stat().st_size > 1000


def test_the_figures_are_those_of_the_measurement():
    rows = json.loads((FOLDER / "speed.json").read_text())["rows"]
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    for row, line in zip(rows, lines, strict=True):
        ours, peer = row["hunyuan"], row["transformers"]
        fastest = peer[str(row["fastest_batch_size"])]
        speeds = [each["documents_per_cpu_second"] for each in (ours, peer["1"], fastest)]
        assert [cell.strip() for cell in line.split("|")[2:6]] == [
            f"{ours['seconds']:.1f} s",
            *map("{:.1f}".format, speeds),
        ]
        assert ours["documents"] == 1000
        assert line.endswith(f"{row['documents_chosen_otherwise']} of {peer['1']['documents']} |")
    for name in ("ratio_to_its_first_batch_size", "ratio_to_its_fastest"):
        first, second, third = (f"{row[name]:.1f}" for row in rows)
        assert f"{first}, {second} and {third} times" in " ".join(PAGE.split())
