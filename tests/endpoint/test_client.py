"""The client against a server: what helps is tried again, what does not ends, and nothing is asked or paid twice."""

import threading
import time
from collections import Counter

import pytest

from model.errors import DataError, EndpointError
from tests.endpoint.conftest import asked
from tests.endpoint.server import Act, Server

TROUBLE = (
    Act(status=408),
    Act(status=409),
    Act(status=429, headers={"Retry-After": "0.01"}),
    Act(status=500),
    Act(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    Act(status=529),
    Act(kind="reset"),
    Act(kind="half"),
    Act(kind="short"),
    Act(content=b"<html>"),
    Act(content=b'{"choices": []}'),
)


def test_every_request_is_answered_once_through_every_kind_of_trouble(client_of):
    prompts = [f"question {number}" for number in range(44)]
    with (
        Server(lambda call: TROUBLE[call.number % 11] if call.nth == 1 else Act()) as server,
        client_of(server) as client,
    ):
        replies = {request.id: reply for request, reply in client.ask(asked(*prompts))}
    assert {prompt: reply.text for prompt, reply in replies.items()} == {prompt: prompt[::-1] for prompt in prompts}
    assert Counter(prompt for _, prompt in server.served) == Counter(prompts)
    assert client.counts.retries == client.counts.attempts - 44 >= 44
    assert all(call.path == "/v1/chat/completions" and "Authorization" not in call.headers for call in server.calls)


def test_a_request_that_is_refused_fails_alone_and_says_why(client_of):
    def rule(call):
        return Act(status=400 if call.prompt == "b" else 422 if call.prompt == "c" else 200)

    with Server(rule) as server, client_of(server) as client:
        replies = {request.id: reply for request, reply in client.ask(asked("a", "b", "c", "d"))}
    assert {id: reply.status for id, reply in replies.items()} == {
        "a": "stop",
        "b": "refused",
        "c": "refused",
        "d": "stop",
    }
    assert replies["b"].reason == "HTTP 400: told to say 400"
    assert len(server.calls) == 4


def test_a_reply_that_was_cut_off_is_no_whole_answer_and_is_paid(client_of):
    with Server(lambda call: Act(finish="length")) as server, client_of(server, price_in=1.0, price_out=2.0) as client:
        ((_, reply),) = client.ask(asked("a"))
    assert (reply.status, reply.text, reply.usable) == ("length", "a", False)
    assert reply.cost == client.cost == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_wrong_for_all_stops_the_run_and_the_next_one_goes_on(client_of, status):
    with Server(lambda call: Act(status=status if call.number == 4 else 200)) as server:
        with client_of(server, concurrency=1) as client:
            got = []
            with pytest.raises(EndpointError, match=f"HTTP {status}.*the same command goes on"):
                for request, _ in client.ask(asked(*"abcdefgh")):
                    got.append(request.id)
        assert got == ["a", "b", "c"] and len(server.calls) == 4
        with client_of(server) as client:
            assert {request.id for request, _ in client.ask(asked(*"abcdefgh"))} == set("abcdefgh")
        assert client.counts.cached == 3
        assert Counter(prompt for _, prompt in server.served) == Counter("abcdefgh")


def test_no_money_stops_the_run_though_its_status_is_429(client_of):
    content = b'{"error": {"message": "You exceeded your quota", "type": "insufficient_quota"}}'
    with Server(lambda call: Act(status=429, content=content)) as server, client_of(server) as client:
        with pytest.raises(EndpointError, match="You exceeded your quota"):
            list(client.ask(asked("a")))
        assert len(server.calls) == 1


def test_an_endpoint_that_refuses_everything_is_not_asked_to_the_end(client_of):
    with Server(lambda call: Act(status=400)) as server, client_of(server) as client:
        with pytest.raises(EndpointError, match="20 requests in a row"):
            list(client.ask(asked(*map(str, range(200)))))
        assert 20 <= len(server.calls) < 30


def test_an_endpoint_that_is_down_is_given_up_and_one_bad_request_is_not(client_of):
    with Server(lambda call: Act(status=500 if call.prompt == "bad" else 200)) as server, client_of(server) as client:
        replies = {request.id: reply for request, reply in client.ask(asked("a", "bad", "b"))}
        assert replies["bad"].status == "unanswered" and replies["bad"].reason.endswith("after 6 attempts")
        assert replies["a"].usable and replies["b"].usable
        url = server.url
    notes = []
    with client_of(url, note=notes.append, attempts=2) as client:
        with pytest.raises(EndpointError, match="cannot be reached"):
            list(client.ask(asked(*map(str, range(50)))))
        assert client.counts.unanswered >= 8 and client.journal.unsettled_attempts == 0  # nobody was there to charge
    assert "cannot be reached" in notes[0]


def test_a_server_that_hangs_or_trickles_is_left_at_the_deadline(client_of):
    kinds = {"hang": Act(kind="hang"), "trickle": Act(kind="trickle"), "late": Act(seconds=9.0)}
    with Server(lambda call: kinds[call.prompt]) as server, client_of(server, timeout=0.15, attempts=1) as client:
        begin = time.monotonic()
        replies = [reply for _, reply in client.ask(asked(*kinds))]
        assert time.monotonic() - begin < 2.0
    assert [reply.status for reply in replies] == ["unanswered"] * 3
    assert all("no answer in 0.15 seconds" in reply.reason for reply in replies)
    assert client.journal.unsettled_attempts == 3


def test_a_long_wait_ends_the_run_and_says_when_to_come_back(client_of):
    with Server(lambda call: Act(status=429, headers={"Retry-After": "7200"})) as server, client_of(server) as client:
        asking = client.ask(asked("a"))
        with pytest.raises(EndpointError, match="a wait of 7,200 seconds is asked for"):
            list(asking)


def test_retry_after_holds_all_requests_back(client_of):
    second, told = threading.Event(), []

    def rule(call):
        if call.number == 1:
            second.wait(5)  # until another one is under way
            told.append(time.monotonic())
            return Act(status=429, headers={"Retry-After": "0.3"})
        second.set()
        return Act(seconds=0.1 if call.number == 2 else 0.0)

    with Server(rule) as server, client_of(server, concurrency=2) as client:
        assert len(list(client.ask(asked("a", "b", "c", "d")))) == 4
    assert len(server.calls) == 5 and all(call.at >= told[0] + 0.3 for call in server.calls[2:])


def test_samples_of_one_prompt_are_several_requests_and_equal_requests_are_one(client_of):
    with Server(lambda call: Act(text=f"answer {call.number}")) as server, client_of(server) as client:
        requests = [*asked("a", "a", "a"), *asked("a", sample=1), *asked("a", sample=2)]
        first = list(client.ask(requests))
        again = list(client.ask(requests))
    assert len(server.calls) == 3 and len(first) == len(again) == 5
    texts = {(request.sample, reply.text) for request, reply in first}
    assert len(texts) == 3 and texts == {(request.sample, reply.text) for request, reply in again}
    assert [reply.cached for _, reply in first].count(True) == 2 and all(reply.cached for _, reply in again)


def test_no_more_is_under_way_than_allowed_and_connections_are_kept(client_of):
    with Server(lambda call: Act(seconds=0.01)) as server, client_of(server, concurrency=3) as client:
        assert len(list(client.ask(asked(*map(str, range(30)))))) == 30
    assert server.most_under_way == server.connections == 3


def test_requests_are_pulled_no_further_ahead_than_they_are_sent(client_of):
    pulled = []

    def source():
        for request in asked(*map(str, range(100))):
            pulled.append(request.id)
            yield request

    with Server() as server, client_of(server, concurrency=2) as client:
        replies = client.ask(source())
        next(replies)
        assert len(pulled) <= 5
        replies.close()
    assert len(server.calls) <= 5


def test_after_a_stop_nothing_is_sent_and_what_is_under_way_is_given_and_kept(client_of):
    stop = threading.Event()
    with Server(lambda call: Act(seconds=0.1)) as server, client_of(server, concurrency=3) as client:
        got = []
        for request, reply in client.ask(asked(*map(str, range(50))), stop.is_set):
            got.append(request.id)
            assert reply.usable
            stop.set()
        assert len(got) == len(server.calls) <= 6
        assert all(client.journal.find(key) for key in client.journal._places)


def test_ctrl_c_waits_for_what_is_under_way_so_that_it_is_not_paid_again(client_of):
    def interrupted():
        yield from asked("a", "b")
        time.sleep(0.05)  # both are on their way
        raise KeyboardInterrupt

    with Server(lambda call: Act(seconds=0.2)) as server:
        with client_of(server) as client, pytest.raises(KeyboardInterrupt):
            list(client.ask(interrupted()))
        with client_of(server) as client:
            assert all(reply.cached for _, reply in client.ask(asked("a", "b")))
        assert len(server.calls) == 2


def test_an_error_of_the_callers_requests_comes_out_as_it_is(client_of):
    def source():
        yield from asked("a")
        raise DataError("line 2 is damaged")

    with Server() as server, client_of(server) as client, pytest.raises(DataError, match="line 2"):
        list(client.ask(source()))


def test_a_full_disk_ends_the_run(client_of, monkeypatch):
    with Server() as server, client_of(server) as client:

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            list(client.ask(asked("a", "b")))
        assert server.calls == []  # what cannot be written down is not sent
