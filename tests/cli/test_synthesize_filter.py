"""`hunyuan synthesize filter` as it is called."""

import json

import pytest

from hunyuan_cli import main
from model.data import confinement
from model.data.confinement import pool

WEAK = "from model.data.confinement import kernel; kernel.landlock_abi = lambda: 0;"
PAIRS = [
    {"id": "a", "instruction": "6 * 7?", "response": "42", "check": {"kind": "arithmetic", "expression": "6 * 7"}},
    {"id": "b", "instruction": "6 * 8?", "response": "42", "check": {"kind": "arithmetic", "expression": "6 * 8"}},
    {"id": "c", "instruction": "Tell me.", "response": "As an AI language model, I cannot."},
]


@pytest.fixture
def filtered(capfd, tmp_path):
    """filtered(...) -> (status, stdout, stderr) of the command on the pairs and a line that is none."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS) + "no record\n")

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["synthesize", "filter", str(path), "--out", str(tmp_path / "out"), *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def lines(path):
    return [json.loads(line) for line in path.open()]


def test_json_has_the_fixed_keys(filtered, tmp_path):
    status, out, err = filtered("--format", "json")
    assert (status, json.loads(out)) == (0, {"read": 4, "kept": 1, "dropped": {"format": 1, "refusal": 1, "check": 1}})
    assert "hold no record" in err
    assert lines(tmp_path / "out" / "kept.jsonl") == PAIRS[:1]
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert [(record.get("id"), record["filter"]) for record in dropped] == [
        ("b", "check"), ("c", "refusal"), (None, "format")
    ]  # fmt: skip
    assert dropped[0]["reason"] == "the answer is 48, not 42" and dropped[0]["response"] == "42"


def test_options_reach_the_filters(filtered, tmp_path):
    (tmp_path / "eval.txt").write_text("Tell me.")
    assert json.loads(filtered("--no-checks", "--keep-refusals", "--format", "json")[1])["kept"] == 3
    status, out, _ = filtered(
        "--keep-refusals", "--against", tmp_path / "eval.txt", "--language", "zh", "--format", "json"
    )
    assert (status, json.loads(out)["dropped"]) == (0, {"format": 1, "language": 1, "check": 1})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--duplicates", "0.1"), 1, "give 0.4 to 1"),
        (("--language", "xx"), 1, "no script is known of the language xx"),
        (("--min-characters", "9", "--max-characters", "1"), 1, "swap them"),
        (("--against", "nowhere.jsonl"), 2, "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(filtered, arguments, status, words):
    found, out, err = filtered(*arguments)
    assert (found, out) == (status, "") and words in " ".join(err.split()) and "Traceback" not in err


@pytest.mark.skipif(not confinement.level().full, reason="a layer is missing already")
def test_programs_are_not_run_where_they_cannot_be_confined(filtered, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_START", pool._START.replace("; from", f"; {WEAK} from", 1))
    confinement.close()
    program = {"instruction": "?", "response": "1", "check": {"kind": "python_stdout", "program": "print(1)"}}
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write(json.dumps(program) + "\n")
    try:
        status, _, err = filtered()
        assert status == 1 and "--allow-weaker-confinement" in err and "Traceback" not in err
        assert filtered("--no-execute")[0] == filtered("--allow-weaker-confinement")[0] == 0
    finally:
        confinement.close()


def test_help_teaches_with_an_example(capfd):
    assert main.run(["synthesize", "filter", "--help"]) == 0
    assert "Example: hunyuan synthesize filter" in " ".join(capfd.readouterr().out.split())
