"""The writer that asks an endpoint: what becomes of every kind of reply, and of a run that is stopped."""

import pytest

from model.data.synthesis.endpoint import EndpointWriter
from model.data.synthesis.writer import Request, WriterStopped
from model.endpoint.client import Client
from model.endpoint.config import EndpointConfig
from tests.endpoint.server import Act, Server


def writer_of(server, tmp_path, **settings):
    config = EndpointConfig(url=server.url, model="m", **({"concurrency": 2, "attempts": 1} | settings))
    return EndpointWriter("big", Client(config, journal=tmp_path / "requests.jsonl"))


def wanted(*prompts, **fields):
    return [Request(f"id of {prompt}", ({"role": "user", "content": prompt},), **fields) for prompt in prompts]


def test_replies_carry_the_ids_of_their_requests_and_say_how_they_ended(tmp_path):
    acts = {"cut": Act(finish="length"), "refused": Act(status=400), "down": Act(status=500), "empty": Act(text="")}
    with Server(lambda call: acts.get(call.prompt, Act())) as server:
        writer = writer_of(server, tmp_path, price_in=1.0, price_out=2.0)
        replies = list(writer.write(wanted("down", "fine", *acts)))
        writer.close()
    found = {reply.id: reply for reply in replies}
    finishes = {"fine": "stop", "cut": "length", "refused": "error", "down": "error", "empty": "error"}
    assert {id: reply.finish for id, reply in found.items()} == {f"id of {name}": end for name, end in finishes.items()}
    assert found["id of fine"].text == "enif" and found["id of fine"].error == ""
    assert found["id of fine"].usage == {"prompt_tokens": 10, "completion_tokens": 5, "cost": pytest.approx(2e-5)}
    assert "HTTP 400" in found["id of refused"].error and found["id of refused"].usage == {}
    assert replies[-1].id == "id of down"  # what nobody answered comes last


def test_samples_of_an_instruction_are_several_replies(tmp_path):
    with Server(lambda call: Act(text=str(call.number))) as server:
        writer = writer_of(server, tmp_path)
        requests = [request for sample in range(3) for request in wanted("a", sample=sample)]
        assert len({reply.text for reply in writer.write(requests)}) == 3


def test_where_an_endpoint_goes_down_the_unanswered_are_asked_again_by_the_next_run(tmp_path):
    prompts = [f"question {number}" for number in range(30)]
    up = True
    with Server(lambda call: Act(status=200 if up and call.number < 6 else 500)) as server:
        writer = writer_of(server, tmp_path)
        first = []
        with pytest.raises(WriterStopped, match="the same command goes on"):
            for reply in writer.write(wanted(*prompts)):
                first.append(reply)
        writer.close()
        assert len(first) == 5 and all(reply.finish == "stop" for reply in first)
        server.rule = lambda call: Act()
        writer = writer_of(server, tmp_path)
        again = list(writer.write(wanted(*prompts)))
        assert len(again) == 30 and all(reply.finish == "stop" for reply in again)
        assert len(server.served) == 30


def test_after_a_stop_what_is_under_way_is_given(tmp_path):
    stop = []
    with Server(lambda call: Act(seconds=0.05)) as server:
        writer = writer_of(server, tmp_path)
        writer._should_stop = lambda: bool(stop)
        for reply in writer.write(wanted(*map(str, range(50)))):
            stop.append(reply.id)
        assert len(stop) == len(server.calls) <= 4


def test_its_identity_is_what_answers_depend_on_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with Server() as server:
        one = writer_of(server, tmp_path / "1", key_env="SOME_KEY", temperature=0.5)
        two = writer_of(server, tmp_path / "2", concurrency=9, requests_per_minute=5.0, temperature=0.5)
        three = writer_of(server, tmp_path / "3", temperature=0.6)
    assert one.identity == two.identity != three.identity
    assert "sk-secret" not in repr(one.identity) + repr(vars(one))
