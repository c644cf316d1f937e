"""Responses that a judge scores: kept, dropped, and dropped for having no score; asked once, also over a stop."""

import json

import pytest

from hunyuan_cli import main
from tests.endpoint.server import Act, Server

PAIRS = {"fine": "9", "fair": "6", "poor": "5.5", "mute": "", "refused": ""}


def judge(call):
    name = next(name for name in PAIRS if f"\n{name} answer\n" in call.prompt)
    return Act(status=400) if name == "refused" else Act(text=f"Well. Score: [[{PAIRS[name]}]]")


@pytest.fixture
def filtered(tmp_path, capfd):
    """filtered(server, ...) -> (status, stdout, stderr) of pairs with these names, into tmp_path / out."""
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"id": name, "instruction": f"about {name}", "response": f"{name} answer"} for name in PAIRS]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def call(url, *arguments):
        writers = tmp_path / "writers.toml"
        writers.write_text(f'[writers.critic]\nkind = "endpoint"\nurl = "{url}"\nmodel = "m"\nattempts = 1\n')
        capfd.readouterr()
        given = [
            "synthesize",
            "filter",
            pairs,
            "--out",
            tmp_path / "out",
            "--writers",
            writers,
            "--format",
            "json",
            *arguments,
        ]
        status = main.run([str(part) for part in given])
        return status, *capfd.readouterr()

    return call


def test_what_a_judge_scores_too_low_or_not_at_all_is_dropped(filtered, tmp_path):
    with Server(judge) as server:
        status, out, _ = filtered(server.url, "--critique", "critic")
        assert (status, json.loads(out)["dropped"], len(server.calls)) == (0, {"critique": 3}, 5)
        assert json.loads(filtered(server.url, "--critique", "critic", "--critique-least", 9)[1])["kept"] == 1
        assert len(server.calls) == 6  # only the refused one was not paid for
    kept = [json.loads(line)["id"] for line in (tmp_path / "out" / "kept.jsonl").open()]
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").open()]
    reasons = {row["id"]: (row["filter"], row["reason"], row["scores"].get("critique")) for row in dropped}
    assert kept == ["fine"] and reasons["poor"] == ("critique", "the judge gives it 5.5 of 10", 5.5)
    assert reasons["mute"] == reasons["refused"] == ("critique", "the judge gave no score", None)


def test_a_judge_that_is_down_ends_the_run_and_is_asked_again(filtered, monkeypatch):
    monkeypatch.setattr("model.endpoint.attempts.GIVE_UP_AFTER", 3)
    with Server(lambda call: Act(status=503)) as server:
        status, _, err = filtered(server.url, "--critique", "critic")
        assert status == 1 and "the same command goes on" in err
        server.rule = judge
        status, out, _ = filtered(server.url, "--critique", "critic")
    assert (status, json.loads(out)["kept"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--critique", "nobody"], "no endpoint of"), (["--critique", "writers"], "[writers.writers]")],
)
def test_a_critic_that_is_not_there_is_a_sentence(filtered, arguments, words):
    status, out, err = filtered("http://localhost:1", *arguments)
    assert (status, out) == (1, "") and words in err
