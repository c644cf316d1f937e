"""What statuses and bodies mean, and how long is waited."""

import json
import random
from datetime import UTC, datetime

import pytest

from model.endpoint.answers import Fault, Reply, read_answer
from model.endpoint.exchange import Answer
from model.endpoint.retry import LONGEST_SECONDS, backoff, retry_after


def meaning(status: int, body: object = None, **headers: str) -> Reply | Fault:
    content = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "said"}}).encode()
    return read_answer(Answer(status, headers, content))


def completion(content: object = "four", finish: str | None = "stop", **more: object) -> dict:
    return {"choices": [{"message": {"content": content}, "finish_reason": finish}]} | more


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((408, 409, 425, 429, 500, 502, 503, 504, 520, 529), "again"),
        ((401, 402, 403, 404, 405, 301, 307), "stop"),
        ((400, 413, 415, 422), "refused"),
    ],
)
def test_a_status_is_tried_again_or_ends_the_request_or_the_run(statuses, kind):
    found = [meaning(status) for status in statuses]
    assert [fault.kind for fault in found] == [kind] * len(statuses)
    assert all(fault.reason == f"HTTP {status}: said" for fault, status in zip(found, statuses, strict=True))
    assert not any(fault.paid for fault in found)


@pytest.mark.parametrize("field", ["code", "type"])
def test_no_money_stops_the_run_whatever_the_status(field):
    error = {"error": {"message": "buy more", field: "insufficient_quota"}}
    assert [meaning(status, error).kind for status in (429, 400, 500, 200)] == ["stop"] * 4


def test_a_redirect_says_where_to():
    assert (
        meaning(308, b"", location="https://b.example/v1").reason
        == "HTTP 308, moved to https://b.example/v1: give that URL"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices": [{"mess',
        b"[" * 100_000,
        {"choices": []},
        {"choices": [{}]},
        completion(7),
        {"a": 1},
        [1],
    ],
)
def test_a_body_without_a_reply_is_asked_for_again_and_may_have_been_paid(body):
    fault = meaning(200, body)
    assert (fault.kind, fault.paid) == ("again", True)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (completion(), "stop", "four"),
        (completion(finish=None), "stop", "four"),
        (completion([{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]), "stop", "four"),
        (completion(finish="length"), "length", "four"),
        (completion(finish="content_filter"), "filtered", "four"),
        (completion(None), "filtered", ""),
        (completion(" \n"), "filtered", " \n"),
        (completion("a\ud800b"), "stop", "a?b"),
    ],
)
def test_a_reply_is_whole_or_says_why_not(body, status, text):
    reply = meaning(200, body)
    assert (reply.status, reply.text, reply.usable) == (status, text, status == "stop")
    assert bool(reply.reason) == (status != "stop")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        (None, (0, 0)),
        ({"prompt_tokens": "7"}, (0, 0)),
        ([], (0, 0)),
    ],
)
def test_usage_is_read_where_it_is_told(usage, tokens):
    reply = meaning(200, completion(usage=usage))
    assert (reply.prompt_tokens, reply.completion_tokens) == tokens


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0.0),  # gone by
        ({"retry-after": "Wed, 21 Oct 2026 09:00:05 GMT", "date": "Wed, 21 Oct 2026 09:00:00 GMT"}, 5.0),  # its clock
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(headers, seconds):
    assert retry_after(headers, now=datetime(2026, 10, 21, 7, 28, 0, tzinfo=UTC)) == seconds


def test_waits_double_up_to_a_limit_and_half_of_each_is_drawn(monkeypatch):
    monkeypatch.setattr("model.endpoint.retry.FIRST_SECONDS", 1.0)
    generator = random.Random(1)
    for attempt, most in enumerate((1, 2, 4, 8, 16, 32, LONGEST_SECONDS, LONGEST_SECONDS), start=1):
        waits = [backoff(attempt, generator) for _ in range(200)]
        assert most / 2 <= min(waits) < 0.55 * most and 0.95 * most < max(waits) <= most
    assert backoff(3, random.Random(5)) == backoff(3, random.Random(5))
