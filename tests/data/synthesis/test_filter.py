"""The filters over a file: what is kept, why the rest is not, the same after any stop, and in bounded memory."""

import json
import random
import tracemalloc

import pytest

from model.data.synthesis import duplicates, filter_run
from model.data.synthesis.filter import FILTERS, FilterConfig, RecordFilters
from model.data.synthesis.filter_files import filter_file
from model.errors import HunyuanError


def write(path, records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records) + "\n")
    return path


def pair(number, instruction, response, **more):
    return {"id": f"r{number}", "instruction": instruction, "response": response, **more}


def sums(count, wrong=()):
    """Arithmetic pairs, some of which are wrong."""
    for number in range(count):
        check = {"kind": "arithmetic", "expression": f"{number} + {number * 7}"}
        yield pair(number, f"What is {number} + {number * 7}?", f"It is {number * 8 + (number in wrong)}.", check=check)


def read(folder):
    return [[json.loads(line) for line in (folder / name).open()] for name in ("kept.jsonl", "dropped.jsonl")]


def test_each_filter_drops_its_record(tmp_path):
    item = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    (tmp_path / "eval.txt").write_text(item)
    long = (
        "The sea was calm, the dog was tired, and the long way back led through the dunes behind the old town; nobody "
    )
    long += "spoke, for the wind had taken every word, and what was left of the light lay red on the roofs. "
    records = [
        pair(0, "Compute 6 * 7.", "The answer is 42.", check={"kind": "arithmetic", "expression": "6 * 7"}),
        pair(1, "Compute 6 * 8.", "The answer is 42.", check={"kind": "arithmetic", "expression": "6 * 8"}),
        pair(2, "What is printed?", "3", check={"kind": "python_stdout", "program": "print(1 + 2)"}),
        pair(3, "What is shown?", "4", check={"kind": "python_stdout", "program": "print(1 + 2)"}),
        "{no json", '["a list"]', pair(4, "No response", None),
        pair(5, "Say something.", ""),
        pair(6, "Say it again.", "again and again " * 50),
        pair(7, "Sag etwas.", "Это по-русски."),
        pair(8, "Tell me.", "I'm sorry, but I can't."),
        pair(9, "A question", f"{item} How many?".upper()),
        pair(10, "Tell a story.", long + "The end."),
        pair(11, "Tell the story.", long + "An end."),
        pair(12, "Vote", "7"), pair(13, "Vote", "7.0"), pair(14, "Vote", "8"),
        pair(15, "Magic", "1", check={"kind": "magic"}),
    ]  # fmt: skip
    config = FilterConfig(
        languages=("en",), against=(str(tmp_path / "eval.txt"),), vote=True, duplicates=0.7, allow_weaker=True
    )
    counts = filter_file(write(tmp_path / "pairs.jsonl", records), config, tmp_path / "out")
    kept, dropped = read(tmp_path / "out")
    assert [record["id"] for record in kept] == ["r0", "r2", "r10", "r12", "r13"]
    assert kept[0] == records[0]
    by_filter = {}
    for record in dropped:
        by_filter.setdefault(record["filter"], []).append(record.get("id", "line"))
    assert by_filter == {
        "check": ["r1", "r15"], "execution": ["r3"], "format": ["line", "line", "r4"], "length": ["r5"], "repetition": ["r6"],
        "language": ["r7"], "refusal": ["r8"], "contamination": ["r9"], "duplicate": ["r11"], "vote": ["r14"],
    }  # fmt: skip
    assert counts == {
        "read": 18,
        "kept": 5,
        "dropped": {name: len(by_filter[name]) for name in FILTERS if name in by_filter},
    }
    reasons = {record.get("id"): record["reason"] for record in dropped if "id" in record}
    assert reasons["r1"] == "the answer is 48, not 42" and "like the record r10" in reasons["r11"]
    assert "line 5" in next(record["reason"] for record in dropped if record.get("line") == "{no json")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "dropped.jsonl", "kept.jsonl"]


def test_switches_turn_filters_off(tmp_path):
    records = [
        pair(1, "Compute.", "41", check={"kind": "arithmetic", "expression": "42"}),
        pair(2, "What is printed?", "4", check={"kind": "python_stdout", "program": "print(1 + 2)"}),
        pair(3, "Again.", "again and again " * 50), pair(4, "Tell me.", "I'm sorry, but I can't."),
        pair(5, "Same", "same"), pair(6, "Same", "same"),
    ]  # fmt: skip
    config = FilterConfig(checks=False, execute=False, repetition=0, refusals=False, duplicates=0)
    assert filter_file(write(tmp_path / "pairs.jsonl", records), config, tmp_path)["kept"] == 6


@pytest.mark.parametrize("stop_after", range(5))
def test_a_run_that_was_stopped_or_killed_gives_the_same_files(stop_after, tmp_path, monkeypatch):
    monkeypatch.setattr(filter_run, "CHUNK", 10)
    pairs = write(tmp_path / "pairs.jsonl", [*sums(40, wrong={3, 17, 33}), "torn {"])
    whole = filter_file(pairs, FilterConfig(), tmp_path / "whole")
    asked = iter(range(100))
    judged = []
    call = RecordFilters.__call__
    monkeypatch.setattr(RecordFilters, "__call__", lambda self, record: judged.append(record) or call(self, record))
    out = tmp_path / "stopped"
    assert filter_file(pairs, FilterConfig(), out, should_stop=lambda: next(asked) >= stop_after) is None
    assert not (out / "kept.jsonl").exists()
    with (out / ".filtering" / "verdicts.jsonl").open("ab") as file:
        file.write(b'["check", "the ans')  # killed in the middle of a line
    assert filter_file(pairs, FilterConfig(), out) == whole
    assert len(judged) == 41  # none twice
    for name in ("kept.jsonl", "dropped.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_settings_begin_anew(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", sums(5, wrong={2}))
    assert filter_file(pairs, FilterConfig(), tmp_path / "out", should_stop=lambda: True) is None
    assert filter_file(pairs, FilterConfig(checks=False), tmp_path / "out")["kept"] == 5
    assert filter_file(pairs, FilterConfig(), tmp_path / "out")["kept"] == 4


def test_threads_change_nothing(tmp_path):
    programs = [pair(n, f"{n}", str(n % 3), check={"kind": "python_stdout", "program": f"print({n} % 3 + {n == 4})"})
                for n in range(8)]  # fmt: skip
    pairs = write(tmp_path / "pairs.jsonl", [*sums(9, wrong={1}), *programs])
    outs = [
        filter_file(pairs, FilterConfig(allow_weaker=True), tmp_path / str(threads), threads=threads)
        for threads in (1, 3)
    ]
    assert outs[0] == outs[1] == {"read": 17, "kept": 15, "dropped": {"check": 1, "execution": 1}}
    assert read(tmp_path / "1") == read(tmp_path / "3")


def test_votes_do_not_depend_on_the_order_of_the_file(tmp_path):
    answers = {"q": ["1/2", "0.5", "#### .5", "2"], "tie": ["a", "b"], "alone": ["x"], "lead": ["1", "1", "2", "3"]}
    records = [
        pair(f"{question}{n}", question, answer)
        for question, given in answers.items()
        for n, answer in enumerate(given)
    ]
    kept = set()
    for seed in range(3):
        random.Random(seed).shuffle(records)
        filter_file(write(tmp_path / "pairs.jsonl", records), FilterConfig(vote=True, duplicates=0), tmp_path / "out")
        kept.add(frozenset(record["id"] for record in read(tmp_path / "out")[0]))
    assert kept == {frozenset({"rq0", "rq1", "rq2", "ralone0"})}


def test_a_critique_drops_what_its_instruction_does_not_explain(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair(0, "a", "good"), pair(1, "b", "bad"), pair(2, "c", "fair")])
    scores = {"good": 1.5, "bad": -0.5, "fair": 0.2}
    asked = []

    class Critic:
        def __call__(self, pairs):
            for number, _, response in pairs:
                asked.append(response)
                if len(asked) == 2:
                    raise KeyboardInterrupt
                yield number, scores[response]

        def reason(self, score):
            return f"only {score}"

    critique = Critic()
    config = FilterConfig(critique="model", critique_least=0.1)
    with pytest.raises(KeyboardInterrupt):
        filter_file(pairs, config, tmp_path, critique=critique)
    assert filter_file(pairs, config, tmp_path, critique=critique)["dropped"] == {"critique": 1}
    kept, dropped = read(tmp_path)
    assert [record["id"] for record in kept] == ["r0", "r2"] and asked == ["good", "bad", "bad", "fair"]
    assert dropped[0]["scores"]["critique"] == -0.5 and dropped[0]["reason"] == "only -0.5"


def test_the_file_that_is_read_is_not_replaced(tmp_path):
    pairs = write(tmp_path / "kept.jsonl", sums(2))
    with pytest.raises(HunyuanError, match="--out"):
        filter_file(pairs, FilterConfig(), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"duplicates": 0.1}, "0.4 to 1"), ({"repetition": 2}, "share"), ({"languages": ("xx",)}, "no script is known"),
     ({"min_characters": 9, "max_characters": 1}, "swap")],
)  # fmt: skip
def test_wrong_settings_are_sentences(wrong, words):
    with pytest.raises(HunyuanError, match=words):
        FilterConfig(**wrong)


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    """A record costs less than 200 bytes, whatever its length (all of them held would be over a thousand each)."""
    monkeypatch.setattr(filter_run, "CHUNK", 50)
    monkeypatch.setattr(duplicates, "BUFFER", 50)
    draw = random.Random(0)

    def peak(count):
        words = [[f"w{draw.randrange(10**6)}" for _ in range(100)] for _ in range(count)]
        path = write(
            tmp_path / f"{count}.jsonl", [pair(n, " ".join(text[:5]), " ".join(text)) for n, text in enumerate(words)]
        )
        del words
        tracemalloc.start()
        filter_file(path, FilterConfig(), tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(200), peak(600)
    assert (large - small) / 400 < 200
