"""Clients of the test server that do not wait long."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model.endpoint.client import ChatRequest, Client
from model.endpoint.config import EndpointConfig
from tests.endpoint.server import Server


def asked(*prompts: str, **fields: Any) -> list[ChatRequest]:
    return [ChatRequest(({"role": "user", "content": prompt},), id=prompt, **fields) for prompt in prompts]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("model.endpoint.retry.FIRST_SECONDS", 0.004)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def client_of(tmp_path) -> Callable[..., Any]:
    """client_of(server, **settings): a client whose journal is in tmp_path."""

    @contextmanager
    def make(
        server: Server | str, *, journal: Path | None = tmp_path / "requests.jsonl", note=lambda text: None, **settings
    ):
        url = server if isinstance(server, str) else server.url
        config = EndpointConfig(**({"url": url, "model": "m", "concurrency": 4, "timeout": 5.0} | settings))
        with Client(config, journal=journal, note=note) as client:
            yield client

    return make
