"""`hunyuan synthesize`, as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hunyuan_cli import main

ROOT = Path(__file__).parents[2]
QUICK = ["--families", "arithmetic,count,sort,lookup", "--count", "30", "--quiet"]
TEXT = "\n\n".join(
    f"Paragraph {number} speaks of harbours, lanterns, piers and boats. Its harbours are wide, and its lanterns are lit "
    f"at {number} in the evening. Boats of every size come to the piers, and the piers are never empty of boats."
    for number in range(8)
)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def synthesize(capfd):
    """synthesize(...) -> (status, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["synthesize", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_funnel_comes_as_json_and_run_may_be_left_out(synthesize, source, tmp_path):
    status, out, _ = synthesize(source, "--out", tmp_path / "a", *QUICK, "--format", "json")
    assert status == 0
    assert [row["stage"] for row in json.loads(out)["stages"]] == [
        "1_instructions",
        "2_evolved",
        "3_responses",
        "4_kept",
    ]
    assert synthesize("run", source, "--out", tmp_path / "b", *QUICK)[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_again_nothing_is_done_and_progress_says_so(synthesize, source, tmp_path):
    command = [source, "--out", tmp_path / "out", *QUICK[:-1]]
    _, _, first = synthesize(*command)
    before = contents(tmp_path / "out")
    _, _, second = synthesize(*command)
    assert "4_kept" in first and "made before" not in first
    assert second.count("made before") == 4
    assert contents(tmp_path / "out") == before


def test_one_stage_at_a_time(synthesize, source, tmp_path):
    command = [source, "--out", tmp_path / "out", *QUICK]
    assert synthesize(*command, "--stage", "2")[2] == (
        f"error: {tmp_path / 'out'} has no complete 1_instructions: run stage 1 first\n"
    )
    for stage in ("1", "2-3", "4"):
        assert synthesize(*command, "--stage", stage)[0] == 0
    assert (tmp_path / "out/4_kept/manifest.json").exists()


def test_some_of_what_was_kept_is_shown(synthesize, source, tmp_path):
    status, out, _ = synthesize(source, "--out", tmp_path / "out", *QUICK, "--show", "3")
    kept = [json.loads(line) for line in (tmp_path / "out/4_kept/part-00000.jsonl").read_text().splitlines()]
    shown = [record for record in kept if f"\n{record['instruction']}\n> " in out]
    assert status == 0 and len({record["domain"] for record in shown}) == 3
    _, out, _ = synthesize(source, "--out", tmp_path / "out", *QUICK, "--show", "2", "--format", "json")
    assert len(json.loads(out)["examples"]) == 2


def test_report_and_trace(synthesize, source, tmp_path):
    out = tmp_path / "out"
    synthesize(source, "--out", out, *QUICK, "--error-rate", "0.3")
    status, text, _ = synthesize("report", out, "--format", "json", "--plot", tmp_path / "report.png")
    report = json.loads(text)
    assert status == 0 and (tmp_path / "report.png").stat().st_size > 10_000
    assert {row["error"]: row["recall"] for row in report["planted_errors"]}["all"] == 1.0
    kept = json.loads((out / "4_kept/part-00000.jsonl").read_text().splitlines()[0])
    status, text, _ = synthesize("trace", kept["id"][:12], "--in", out, "--format", "json")
    lineage = json.loads(text)
    assert [step["stage"] for step in lineage["steps"]] == [1, 2, 3, 4]
    assert lineage["steps"][-1]["id"] == kept["id"]
    assert lineage["source"]["text"] in TEXT
    status, text, _ = synthesize("trace", lineage["steps"][0]["id"], "--in", out)
    assert status == 0 and text.startswith(f"source  {source}, characters") and kept["id"][:3]
    wrong = json.loads((out / "labels.jsonl").read_text().splitlines()[0])
    status, text, _ = synthesize("trace", wrong["id"], "--in", out)
    assert "dropped by check: " in text and f"planted error: {wrong['error']}" in text


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--stage", "5"], 2, "--stage '5' is no stage: write 3, or 1-4"),
        (["--writer", "gpt"], 2, "there is no writer 'gpt': choose embedded, endpoint, local"),
        (["--writer", "endpoint"], 2, "--writer endpoint needs --endpoint and --model"),
        (["--endpoint", "http://localhost:1"], 2, "--endpoint: neither endpoint nor local is in use"),
        (["--route", "code"], 2, "--route 'code' is not of the form DOMAIN=WRITER"),
        (["--route", "code=big"], 2, "there is no writer 'big'"),
        (["--families", "sudoku"], 1, "there is no family sudoku: choose among arithmetic"),
        (["--filter", "vot=true"], 1, "vot"),
        (["--filter", "duplicates"], 2, "--filter 'duplicates' is not of the form KEY=VALUE"),
        (["--harder", "7"], 1, "--harder is 7.0: give a share from 0 to 1"),
    ],
)
def test_mistakes_are_one_sentence(synthesize, source, tmp_path, arguments, status, sentence):
    found, out, err = synthesize(source, "--out", tmp_path / "out", *arguments)
    assert found == status and not out
    assert sentence in err and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["report", "."], "has no closed stage"), (["trace", "abc", "--in", "."], "has no closed stage")],
)
def test_folders_that_are_no_synthesis(synthesize, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    status, _, err = synthesize(*arguments)
    assert status == 1 and sentence in err


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(source, tmp_path):
    command = [sys.executable, "-m", "hunyuan_cli", "synthesize", source, "--families", "arithmetic,count,sort,lookup",
               "--count", "400", "--shard-units", "50", "--quiet", "--out"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, env=environment, check=True, capture_output=True)
    place, kills = tmp_path / "killed", 0
    for _ in range(60):
        process = subprocess.Popen(
            [*command, str(place)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        size, end = written(place), time.monotonic() + 60
        while process.poll() is None and written(place) < size + 150_000 and time.monotonic() < end:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert kills >= 2
    assert contents(place) == contents(tmp_path / "whole")


def written(folder):
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
