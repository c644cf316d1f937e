"""examples/stdlib_chats.py: what is asked of a function, which file it is in, and what counts as an answer in form."""

import json
import runpy
from pathlib import Path

import pytest

from model.data.instructions.conversations import read_chats
from tests.cli.speaking import write_run

SOURCE = '''\
class Shelf:
    def take(self, key, /, *, late=False):
        """Take the book of that key. It must be there.

        More on it.
        """

    def __len__(self):
        """Return the number of books."""

    def silent(self, key): pass

def empty():
    """Return a shelf without any books."""
'''


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "stdlib_chats.py"))


def test_a_documented_function_gives_three_questions(script):
    (found,) = script["functions"](SOURCE)
    signature = "def take(self, key, /, *, late=False):"
    assert found == ("take", signature, ["self", "key", "late"], "Take the book of that key.")
    chats = {chat["kind"]: [m["content"] for m in chat["messages"]] for chat in script["chats_of"](*found)}
    assert chats == {
        "signature": ["Write the signature of take: Take the book of that key.", signature],
        "summary": [f"What does this function do?\n{signature}", "Take the book of that key."],
        "arguments": [f"List the arguments of this function.\n{signature}", "- self\n- key\n- late"],
    }


def test_a_function_is_in_one_file_with_all_its_questions(script, tmp_path):
    code = "".join(f'def f{n}(x{n}):\n    """Return the number {n} of the list."""\n' for n in range(60))
    (tmp_path / "code.py").write_text(code + code)
    counts = script["make"](tmp_path / "out", str(tmp_path / "code.py"))
    files = [list(read_chats(str(tmp_path / "out" / name))) for name in ("chats.jsonl", "held_out.jsonl")]
    assert counts == {"chats": len(files[0]), "held_out": len(files[1])} and sum(map(len, files)) == 180
    names = [{json.loads(line)["name"] for line in (tmp_path / "out" / name).read_text().splitlines()}
             for name in ("chats.jsonl", "held_out.jsonl")]  # fmt: skip
    assert names[1] and not names[0] & names[1]


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("signature", "def take(self, key):", True), ("signature", "def other(self):", False),
        ("signature", "def take(self,", False), ("signature", "take", False), ("summary", "Take a whole book.", True),
        ("summary", "Take it", False), ("summary", "Take it all.\nAnd more.", False), ("arguments", "- self\n- key", True),
        ("arguments", "self, key", False), ("arguments", "", False),
    ],
)  # fmt: skip
def test_the_form_of_an_answer(script, kind, answer, expected):
    assert script["in_form"](kind, "take", answer) is expected


def test_every_model_is_asked_the_same(script, tmp_path, capsys):
    run = write_run(tmp_path / "run", max_position_embeddings=256)
    chats = tmp_path / "held_out.jsonl"
    chats.write_text(
        "".join(json.dumps(chat) + "\n" for chat in script["chats_of"](*next(script["functions"](SOURCE))))
    )
    script["main"](["score", str(run), "--questions", str(chats)])
    (scores,) = json.loads(capsys.readouterr().out).values()
    assert set(scores) == {"signature", "summary", "arguments"}
    assert scores["summary"] == {"questions": 1, "ended": 0.0, "in_form": 0.0, "right": 0.0}
