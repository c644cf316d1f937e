"""Records that a model writes: what it is asked, what becomes of its replies, and that few requests are under way at once."""

import json

import pytest

from model.data.synthesis.config import SynthesisConfig
from model.data.synthesis.pipeline import Synthesis
from model.data.synthesis.prompted import PromptedWriter
from model.data.synthesis.store import StageStore
from model.data.synthesis.writer import Reply, WriterStopped
from model.endpoint.journal import request_key

TEXT = "\n\n".join(f"Chapter {n} tells of {word} and how it is grown, stored, sold and eaten in many lands." * 3
                   for n, word in enumerate(["barley", "rice", "maize", "millet", "oats", "rye"]))  # fmt: skip


class Scripted:
    """A Writer that answers from a function, last request of every window first."""

    name = "scripted"
    identity = {"kind": "scripted"}  # noqa: RUF012

    def __init__(self, answer, window=3):
        self.answer, self.window, self.asked, self.ahead = answer, window, [], 0

    def write(self, requests):
        waiting = []
        for request in requests:
            self.asked.append(request)
            waiting.append(request)
            self.ahead = max(self.ahead, len(waiting))
            while len(waiting) >= self.window:
                yield self._reply(waiting.pop())
        yield from map(self._reply, reversed(waiting))

    def _reply(self, request):
        said = self.answer(request)
        return said if isinstance(said, Reply) else Reply(request.id, said, usage={"completion_tokens": 3, "cost": 0.5})

    def close(self):
        pass


class Silent:
    def begun(self, *_):
        pass

    advanced = ended = begun


def run(folder, writer, tmp_path, stages=(1, 2, 3), **options):
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    config = SynthesisConfig(sources=(str(source),), **({"count": 6, "harder": 1.0, "shard_units": 4} | options))
    others = {"other": PromptedWriter(Scripted(lambda request: "From the other."))}
    synthesis = Synthesis(folder, config, {"main": PromptedWriter(writer), **others}, "main", Silent())
    with synthesis.held():
        return synthesis.run(stages)


def records(folder, stage):
    return list(StageStore(folder, stage, {}).records())


def plain(request):
    text = request.messages[-1]["content"]
    return f"Say what {hash_of(text)} means, in {len(text)} words." if "alone" in text else f"It means {hash_of(text)}."


def hash_of(text):
    return request_key({"text": text}, 0)[:6]


def test_three_stages_of_prompts(tmp_path):
    writer = Scripted(plain)
    assert run(tmp_path / "out", writer, tmp_path)
    seeds, evolved, answered = (records(tmp_path / "out", stage) for stage in (1, 2, 3))
    assert len(seeds) == 6 and all("Passage" in request.messages[0]["content"] for request in writer.asked[:6])
    assert {record["operation"] for record in evolved} >= {"clarity", "difficulty"}
    assert {record["difficulty"] for record in evolved if record["operation"] == "difficulty"} == {1.0}
    assert len(answered) == len(evolved) and all(record["response"].startswith("It means") for record in answered)
    asked = {request.messages[0]["content"] for request in writer.asked}
    assert {record["instruction"] for record in answered} <= asked  # the instruction and nothing else
    assert answered[0]["usage"] == {"completion_tokens": 3, "cost": 0.5} and answered[0]["writer"] == "scripted"
    manifest = StageStore(tmp_path / "out", 3, {}).manifest()
    assert manifest["usage"] == {"completion_tokens": 3 * len(answered), "cost": 0.5 * len(answered)}
    assert manifest["config"]["writers"]["main"]["prompts"] == 1


def test_requests_are_pulled_no_faster_than_they_are_worked_on(tmp_path):
    writer = Scripted(plain, window=2)
    run(tmp_path / "out", writer, tmp_path)
    assert writer.ahead == 2


def test_samples_of_one_instruction_are_told_apart(tmp_path):
    writer = Scripted(plain)
    run(tmp_path / "out", writer, tmp_path, samples=3)
    answers = [request for request in writer.asked if "alone" not in request.messages[0]["content"]]
    assert len({request_key({"m": r.messages[0]["content"]}, r.sample) for r in answers}) == len(answers)


def test_domains_are_answered_by_their_writers(tmp_path):
    run(tmp_path / "out", Scripted(plain), tmp_path, routes={"prose": "other"})
    answered = records(tmp_path / "out", 3)
    assert {record["response"] for record in answered if record["domain"] == "prose"} == {"From the other."}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"text": "half an ans", "finish": "length"}, "writer: cut off at the longest answer"),
        ({"text": "", "finish": "error", "error": "400: too long"}, "writer: 400: too long"),
        ({"text": "  "}, "writer: the answer is empty"),
    ],
)
def test_replies_that_are_no_answer_are_dropped_and_paid(tmp_path, reply, reason):
    def answer(request):
        said = plain(request)
        return Reply(request.id, **reply, usage={"cost": 1.0}) if said.startswith("It means") else said

    run(tmp_path / "out", Scripted(answer), tmp_path)
    assert not records(tmp_path / "out", 3)
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert {row["reasons"][0] for row in dropped if row["stage"] == 3} == {reason}
    manifest = StageStore(tmp_path / "out", 3, {}).manifest()
    assert manifest["usage"]["cost"] == manifest["dropped"]["writer"]


def test_evolutions_that_are_no_gain_are_dropped(tmp_path):
    def answer(request):
        text = request.messages[0]["content"]
        if "harder" in text:
            return "Here is the rewritten prompt: say more."
        if "says clearly" in text:
            return text.rpartition("\n\n")[2]
        return plain(request)

    run(tmp_path / "out", Scripted(answer), tmp_path, stages=(1, 2))
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert {(row["operation"], row["reasons"][0]) for row in dropped} == {
        ("clarity", "evolution: it adds nothing"), ("difficulty", "evolution: it speaks of its prompt")
    }  # fmt: skip
    assert "original" in {record["operation"] for record in records(tmp_path / "out", 2)}


def test_a_writer_that_stops_the_run_loses_nothing(tmp_path):
    paid = []

    def answer(request):
        if len(paid) == 3:
            raise WriterStopped("the budget of 2.00 is spent: raise --max-cost")
        paid.append(request.id)
        return plain(request)

    with pytest.raises(WriterStopped, match="--max-cost"):
        run(tmp_path / "out", Scripted(answer), tmp_path)
    writer = Scripted(plain)
    assert run(tmp_path / "out", writer, tmp_path, stages=(1,))
    assert not {request.id for request in writer.asked} & set(paid)


def test_instructions_too_close_to_an_earlier_one_are_dropped(tmp_path):
    run(
        tmp_path / "out",
        Scripted(lambda request: "Say how barley is grown and sold."),
        tmp_path,
        stages=(1,),
        overlap=0.7,
    )
    assert len(records(tmp_path / "out", 1)) == 1
    assert StageStore(tmp_path / "out", 1, {}).manifest()["dropped"] == {"overlap": 5}
