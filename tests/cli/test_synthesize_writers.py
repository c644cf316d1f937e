"""`hunyuan synthesize` with an endpoint and with a local model, to the end, over mistakes and over kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hunyuan_cli import main
from model.endpoint.journal import Journal
from tests.endpoint.server import Act, Server

ROOT = Path(__file__).parents[2]
FAR = ["--writer", "endpoint", "--endpoint", "http://a", "--model", "m"]
SECRET = "sk-never-in-a-file-51c9"
TEXT = "\n\n".join(f"The {word} sends each token to one expert, and {word} learns its part." * 6 for word in "abcdefgh")


def answer(call) -> Act:
    """Words that are a function of the prompt, so that nothing is dropped for being like another."""
    digest = hashlib.sha256(call.prompt.encode()).hexdigest()
    return Act(text=f"What of {' '.join(digest[i : i + 6] for i in range(0, 48, 6))}?")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text" / "notes.txt"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


@pytest.fixture
def synthesize(source, tmp_path, capfd):
    """synthesize(...) -> (status, stdout, stderr), into tmp_path / out."""

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["synthesize", str(source), "--out", str(tmp_path / "out"), *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def rows(folder: Path, stage: str) -> list[dict]:
    return [json.loads(line) for path in sorted((folder / stage).glob("*.jsonl")) for line in path.open()]


def test_an_endpoint_writes_all_stages_and_is_not_asked_again(synthesize, tmp_path):
    with Server(answer) as server:
        arguments = ["--writer", "endpoint", "--endpoint", server.url, "--model", "m", "--count", 6, "--samples", 2,
                     "--price-in", 1, "--price-out", 2, "--stage", "1-3"]  # fmt: skip
        status, out, err = synthesize(*arguments, "--dry-run", "--format", "json")
        first = json.loads(out)["requests"][0]
        assert (status, server.calls) == (0, []) and (first["requests"], first["exact"]) == (6, True)
        assert first["most_cost"] > first["prompt_cost"] > 0
        status, out, err = synthesize(*arguments, "--format", "json")
        assert status == 0, err
        calls = len(server.calls)
        status, out, err = synthesize(*arguments, "--dry-run", "--format", "json")
        assert all(row["cached"] == row["requests"] for row in json.loads(out)["requests"])
        assert synthesize(*arguments)[0] == 0 and len(server.calls) == calls
    answers = rows(tmp_path / "out", "3_responses")
    assert answers and all(row["writer"] == "endpoint" and row["usage"]["cost"] > 0 for row in answers)
    assert len({row["id"] for row in answers}) == len(answers)


def test_the_key_is_in_no_file_and_on_no_screen(synthesize, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)

    def echo(call):
        if call.number == 9:
            return Act(status=401, content=f'{{"error": "no such key: {call.headers["Authorization"]}"}}'.encode())
        return Act(text=f"{answer(call).text} {call.headers['Authorization']}")

    with Server(echo) as server:
        arguments = [
            "--writer",
            "endpoint",
            "--endpoint",
            server.url,
            "--model",
            "m",
            "--key-env",
            "TEST_KEY",
            "--count",
            6,
        ]
        status, *said = synthesize(*arguments)
        assert status == 1 and "HTTP 401" in said[1] and "the same command goes on" in said[1]
        said += synthesize(*arguments)[1:]
    assert SECRET not in " ".join(said) and server.calls[0].headers["Authorization"] == f"Bearer {SECRET}"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5 and not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_domains_go_to_their_writers(synthesize, tmp_path, run):
    with Server(answer) as server:
        writers = tmp_path / "writers.toml"
        writers.write_text(
            f'[writers.far]\nkind = "endpoint"\nurl = "{server.url}"\nmodel = "m"\n'
            f'[writers.near]\nkind = "local"\nfolder = "{run}"\nmax_tokens = 4\n[routes]\nprose = "near"\n'
        )
        status, _, err = synthesize(
            "--writers", writers, "--writer", "far", "--count", 3, "--expand", 0, "--harder", 0, "--stage", "1-3"
        )
        assert status == 0, err
    made = rows(tmp_path / "out", "2_evolved")
    kept = rows(tmp_path / "out", "3_responses")
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").open()]
    answers = kept + [row for row in dropped if row["stage"] == 3]
    assert {row["writer"] for row in made} == {"far"} and len(answers) == 3
    assert {(row["domain"], row["writer"]) for row in answers} == {("prose", "near")}


def test_ctrl_c_in_the_first_stage_keeps_what_was_answered(synthesize, tmp_path):
    def rule(call):
        if call.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return Act(text=answer(call).text, seconds=0.02)

    with Server(rule) as server:
        arguments = [
            "--writer",
            "endpoint",
            "--endpoint",
            server.url,
            "--model",
            "m",
            "--count",
            20,
            "--concurrency",
            2,
        ]
        status, out, err = synthesize(*arguments)
        stopped = len(server.calls)
        assert (status, out) == (130, "") and "the same command goes on" in err and "error" not in err and stopped < 8
        assert synthesize(*arguments)[0] == 0
    prompts = [call.prompt for call in server.calls]
    journal = Journal(tmp_path / "out" / "requests" / "endpoint.jsonl")
    journal.close()
    assert len(prompts) == len(journal) and journal.unsettled_attempts == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--writer", "endpoint"], "--writer endpoint needs --endpoint and --model"),
        (["--writer", "local"], "--writer local needs --from"),
        (["--price-in", "3"], "--price-in: neither endpoint nor local is in use"),
        (["--writer", "big"], "there is no writer 'big'"),
        (["--writer", "endpoint", "--endpoint", "localhost:80", "--model", "m"], "write http:// or https://"),
        ([*FAR, "--max-cost", "1"], "give --price-in and --price-out"),
        ([*FAR, "--key-env", "NOT_SET_51"], "NOT_SET_51 is not set"),
        (["--writer", "local", "--from", "{here}"], "{here}"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(synthesize, tmp_path, arguments, words):
    status, out, err = synthesize(*(part.replace("{here}", str(tmp_path)) for part in arguments))
    assert status in (1, 2) and out == "" and words.replace("{here}", str(tmp_path)) in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_the_bytes_of_one_that_was_not_and_pays_nothing_twice(source, tmp_path):
    def command(server, out, concurrency):
        return [
            "synthesize", str(source), "--out", str(out), "--writer", "endpoint", "--endpoint", server.url, "--model", "m",
            "--count", "30", "--samples", "2", "--shard-units", "25", "--concurrency", str(concurrency), "--stage", "1-3",
        ]  # fmt: skip

    def content(out):
        names = [
            path for stage in ("1_instructions", "2_evolved", "3_responses") for path in (out / stage).glob("*.jsonl")
        ]
        return {path.relative_to(out): path.read_bytes() for path in [*names, out / "dropped.jsonl"] if path.exists()}

    with Server(answer) as server:
        assert main.run(command(server, tmp_path / "whole", 1)) == 0
        unique = len(server.calls)
    server = Server(lambda call: Act(text=answer(call).text, seconds=0.01))
    with server:
        for served in (10, 90):
            process = subprocess.Popen(
                [sys.executable, "-m", "hunyuan_cli", *command(server, tmp_path / "killed", 6)],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while len(server.served) < served and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            process.wait()
        assert main.run(command(server, tmp_path / "killed", 3)) == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole") and len(content(tmp_path / "whole")) > 4
    journal = Journal(tmp_path / "killed" / "requests" / "endpoint.jsonl")
    journal.close()
    assert unique <= len(server.calls) <= unique + journal.unsettled_attempts
    assert journal.unsettled_attempts <= 2 * 6
