"""The key goes to the endpoint and nowhere else, and https is what it says."""

import http.server
import shutil
import ssl
import subprocess
import threading

import pytest

from model.errors import EndpointError
from tests.endpoint.conftest import asked
from tests.endpoint.server import Act, Server

SECRET = "sk-do-not-write-7f3a"


def echo(call):
    """A server that repeats the key wherever it can."""
    key = call.headers["Authorization"]
    if call.prompt == "refused":
        return Act(status=400, content=f'{{"error": {{"message": "bad key {key}"}}}}'.encode())
    if call.prompt == "trouble" and call.nth == 1:
        return Act(status=500, content=f"<p>{key}</p>".encode(), headers={"Retry-After": "0.01", "Trace": key})
    if call.prompt == "end":
        return Act(status=401, content=f'{{"error": {{"message": "Incorrect API key provided: {key}"}}}}'.encode())
    return Act(text=f"your key is {key}")


def test_the_key_is_sent_and_never_written_or_said(client_of, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("TEST_KEY", SECRET)
    said = []
    with Server(echo) as server, client_of(server, key_env="TEST_KEY", note=said.append, concurrency=1) as client:
        asking = client.ask(asked("a", "refused", "trouble", "end"))
        with pytest.raises(EndpointError) as caught:
            for pair in asking:
                said.append(repr(pair))
    assert all(call.headers["Authorization"] == f"Bearer {SECRET}" for call in server.calls) and len(server.calls) == 5
    assert "your key is Bearer [key]" in " ".join(said) and "Bearer [key]" in str(caught.value)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in content for content in written)
    assert SECRET not in " ".join(
        [*said, str(caught.value), repr(client.config), repr(vars(client)), *capfd.readouterr()]
    )


def test_an_unencrypted_way_for_a_key_is_told(client_of, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    said = []
    with client_of("http://far.example/v1", key_env="TEST_KEY", note=said.append):
        assert "without encryption" in said[0]
    with client_of("http://localhost:8000/v1", key_env="TEST_KEY", note=said.append):
        assert len(said) == 1


def test_a_redirect_is_not_followed_with_the_key(client_of):
    with Server() as other, Server(lambda call: Act(status=307, headers={"Location": other.url})) as server:
        with client_of(server) as client, pytest.raises(EndpointError, match=f"moved to {other.url}: give that URL"):
            list(client.ask(asked("a")))
        assert other.calls == []


def test_a_proxy_is_asked_for_the_whole_url(client_of, monkeypatch):
    with Server() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        said = []
        with client_of("http://models.example:81/v1", note=said.append) as client:
            assert [reply.text for _, reply in client.ask(asked("ab"))] == ["ba"]
    assert proxy.calls[0].path == "http://models.example:81/v1/chat/completions"
    assert proxy.calls[0].headers["Host"] == "models.example:81" and "through the proxy" in said[0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_a_certificate_that_nobody_signed_is_refused_at_once(client_of, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.handle_request, daemon=True).start()
    with client_of(f"https://localhost:{server.server_address[1]}/v1") as client:
        asking = client.ask(asked("a"))
        with pytest.raises(EndpointError, match="certificate cannot be verified"):
            list(asking)
    assert client.counts.retries == 0
    server.server_close()
