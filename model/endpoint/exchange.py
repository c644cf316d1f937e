"""One POST and its answer, over a connection that is kept open, before a deadline for the whole of it."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from model.endpoint.address import Address, Key, Proxy

IDLE_SECONDS = 4.0  # servers close what idles for longer, usually after 5; what is sent into that is lost
LARGEST_ANSWER = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Answer:
    """What a server said; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class NoAnswer(Exception):
    """The exchange failed. `sent`: the server may have read the request, and may charge for it."""

    def __init__(self, reason: str, *, sent: bool, fatal: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.sent, self.fatal = reason, sent, fatal  # fatal: another attempt will fare no better


class Transport(Protocol):
    """What the client posts through, one for each thread."""

    def post(self, body: bytes) -> Answer: ...

    def close(self) -> None: ...


class Connection:
    """A connection to an endpoint. Certificates are verified; redirects are not followed, for they would take the key along."""

    def __init__(self, address: Address, key: Key | None, proxy: Proxy | None, seconds: float) -> None:
        self.address, self.key, self.proxy, self.seconds = address, key, proxy, seconds
        self._open: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        own = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "hunyuan"}
        self._headers = own | ({} if key is None else key.header())
        self._target = address.target
        if proxy is not None and not address.secure:  # a proxy is asked for whole URLs, and tunnels what is encrypted
            self._target = f"http://{address.authority}{address.target}"
            self._headers |= dict(proxy.headers)

    def post(self, body: bytes) -> Answer:
        """The answer, without the key in it; NoAnswer where there is none."""
        deadline = time.monotonic() + self.seconds
        connection = self._connection(deadline)
        try:
            connection.request("POST", self._target, body, self._headers)
            with connection.getresponse() as response:
                content = response.read(LARGEST_ANSWER + 1)
                headers = {name.lower(): self._hidden(value.encode()).decode() for name, value in response.getheaders()}
                if response.length and len(content) <= LARGEST_ANSWER:  # bytes that were announced and did not come
                    raise http.client.IncompleteRead(content, response.length)
            if len(content) > LARGEST_ANSWER:
                raise NoAnswer(f"the answer is longer than {LARGEST_ANSWER:,} bytes", sent=True)
        except TimeoutError as error:
            self.close()
            raise NoAnswer(f"no answer in {self.seconds:g} seconds", sent=True) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswer(f"the connection broke ({_words(error)})", sent=True) from error
        except BaseException:
            self.close()
            raise
        self._used_at = time.monotonic()
        return Answer(response.status, headers, self._hidden(content))

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _hidden(self, content: bytes) -> bytes:
        return content if self.key is None else self.key.hidden(content)

    def _connection(self, deadline: float) -> http.client.HTTPConnection:
        closed = self._open is not None and self._open.sock is None  # by the server, with its last answer
        if closed or time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
        if self._open is None:
            self._open = self._connected()
        self._open.sock.settimeout(self.seconds)
        self._open.response_class = _until(deadline)  # type: ignore[assignment]
        return self._open

    def _connected(self) -> http.client.HTTPConnection:
        host, port = (
            (self.address.host, self.address.port) if self.proxy is None else (self.proxy.host, self.proxy.port)
        )
        connection: http.client.HTTPConnection
        if self.address.secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=self.seconds, context=context)
            if self.proxy is not None:
                connection.set_tunnel(self.address.host, self.address.port, dict(self.proxy.headers))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.seconds)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise NoAnswer(
                f"its certificate cannot be verified ({error.verify_message})", sent=False, fatal=True
            ) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(f"{host}:{port} cannot be reached ({_words(error)})", sent=False) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _words(error: Exception) -> str:
    """What an exception says in a few words, or its name where it says nothing."""
    if isinstance(error, http.client.IncompleteRead):
        return "the answer ended too early"
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(str(said).split()) or type(error).__name__


class _Deadline(io.RawIOBase):
    """A socket's bytes until a moment, so that an answer that trickles ends, too."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Reading:
    """What http.client asks of a socket: a file to read."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Deadline(self._sock, self._deadline))


def _until(deadline: float) -> Callable[..., http.client.HTTPResponse]:
    def response(sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Reading(sock, deadline), **options)  # type: ignore[arg-type]

    return response
