"""What is on the disk after replies, crashes and damage, and the budget that it keeps."""

import json
from collections import Counter

import pytest

from model.endpoint.answers import Reply
from model.endpoint.journal import Journal, request_key
from model.errors import DataError, EndpointError
from tests.endpoint.conftest import asked
from tests.endpoint.server import Act, Server

REPLY = Reply("four\u2028 \u00e9", prompt_tokens=3, completion_tokens=2, cost=0.25)
PRICES = {"price_in": 1.0, "price_out": 1000.0, "max_tokens": 5}  # 10 and 5 tokens of the test server: 0.00501


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.jsonl"


def reopened(path):
    journal = Journal(path)
    journal.close()
    return journal


def test_a_key_is_the_whole_body_and_the_sample():
    body = {"model": "m", "messages": [{"role": "user", "content": "é"}], "temperature": 1.0}
    changed = [body | {"model": "n"}, body | {"messages": []}, body | {"temperature": 0.5}, body | {"seed": 1}]
    keys = {request_key(body, 0), request_key(body, 1), *(request_key(other, 0) for other in changed)}
    assert len(keys) == 6 and request_key(dict(reversed(body.items())), 0) == request_key(body, 0)


def test_replies_come_back_after_a_crash_and_a_torn_line_is_cut_off(path):
    journal = Journal(path)
    journal.sent("a", 1.0)
    journal.keep("a", REPLY)
    journal.sent("b", 2.0)
    journal.close()
    whole = path.read_bytes()
    for torn in (b"", b"{", b'{"key": "b", "reply": {"text": "fo', b'{"free": "b"}'):  # the last lacks its newline
        path.write_bytes(whole + torn)
        journal = Journal(path)
        found = journal.find("a")
        assert found is not None and (found.text, found.cost, found.cached) == (REPLY.text, 0.25, True)
        assert journal.find("b") is None
        assert (journal.spent, journal.unsettled, journal.unsettled_attempts) == (0.25, 2.0, 1)
        journal.keep("b", REPLY)
        journal.close()
        assert reopened(path).unsettled_attempts == 0
        path.write_bytes(whole)


def test_attempts_without_an_end_are_counted_at_their_most(path):
    journal = Journal(path)
    for _ in range(3):
        journal.sent("a", 2.0)
    journal.free("a")
    journal.lost(2.0)
    journal.keep("a", REPLY)
    assert (journal.unsettled, journal.unsettled_attempts) == (2.0, 1)
    journal.close()
    assert (reopened(path).unsettled, reopened(path).unsettled_attempts) == (2.0, 1)


def test_a_line_is_written_whole_or_not_at_all(path, monkeypatch):
    import os

    journal, write = Journal(path), os.pwrite
    journal.keep("a", REPLY)
    before = path.read_bytes()

    def half(file, data, place):
        monkeypatch.setattr("os.pwrite", full)
        return write(file, data[: len(data) // 2], place)

    def full(file, data, place):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", half)
    with pytest.raises(OSError, match="No space"):
        journal.keep("b", REPLY)
    assert path.read_bytes() == before
    monkeypatch.setattr("os.pwrite", write)
    journal.keep("c", REPLY)
    journal.close()
    assert [json.loads(line)["key"] for line in path.read_bytes().splitlines()] == ["a", "c"]


@pytest.mark.parametrize(
    "line", [b"text\n", b"[]\n", b'{"key": "a"}\n{"reply": 1}\n', b'{"key": "a", "reply": {"colour": 1}}\n']
)
def test_a_damaged_line_is_named(path, line):
    path.write_bytes(b'{"sent": "a", "most": 1}\n' + line)
    with pytest.raises(DataError, match=r"line [23], is damaged"):
        Journal(path)


def test_two_processes_do_not_write_one_journal(path):
    journal = Journal(path)
    with pytest.raises(DataError, match="another process"):
        Journal(path)
    journal.close()
    reopened(path)


def test_a_budget_is_never_passed_over_runs_and_threads(client_of):
    prompts = [str(number) for number in range(100)]
    with Server() as server:
        for budget, most in ((0.03, 5), (0.05, 9), (0.05, 9)):
            with client_of(server, max_cost=budget, concurrency=8, **PRICES) as client:
                asking = client.ask(asked(*prompts))
                with pytest.raises(EndpointError, match=r"the budget of .* is used up: .*raise --max-cost"):
                    list(asking)
                assert client.cost <= budget and len(server.calls) == most
        with client_of(server, **PRICES) as client:
            assert len(list(client.ask(asked(*prompts)))) == 100
            assert client.cost == pytest.approx(100 * 0.00501)
    assert Counter(prompt for _, prompt in server.served) == Counter(prompts)


def test_what_may_have_been_charged_counts_against_the_budget(client_of):
    with Server(lambda call: Act(kind="reset")) as server, client_of(server, max_cost=0.02, **PRICES) as client:
        asking = client.ask(asked("a"))
        with pytest.raises(EndpointError, match="budget"):
            list(asking)
        assert len(server.calls) == client.journal.unsettled_attempts == 3
    assert reopened(client.journal._path).unsettled == pytest.approx(client.cost)


def test_an_estimate_sends_nothing_and_knows_what_is_paid(client_of):
    with Server() as server, client_of(server, price_in=2.0, price_out=4.0, max_tokens=50) as client:
        list(client.ask(asked("a" * 40)))
        estimate = client.estimate(asked("a" * 40, "b" * 40, "c" * 40))
        assert len(server.calls) == 1
    assert (estimate.requests, estimate.cached, estimate.prompt_tokens) == (3, 1, 20)  # 10 tokens for 40 bytes, as seen
    assert estimate.most_completion_tokens == 100 and estimate.spent == client.cost
    assert estimate.prompt_cost == pytest.approx(20 * 2e-6)
    assert estimate.most_cost == pytest.approx(20 * 2e-6 + 100 * 4e-6)
    with client_of("http://localhost:1/v1", journal=None) as unpriced:
        assert unpriced.estimate(asked("a")).most_cost is None


def test_a_server_that_tells_no_usage_is_counted_by_length(client_of):
    with Server(lambda call: Act(text="x" * 40, usage=None)) as server, client_of(server, **PRICES) as client:
        ((_, reply),) = client.ask(asked("y" * 80))
    assert (reply.prompt_tokens, reply.completion_tokens) == (20, 10)
