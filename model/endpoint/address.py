"""Where an endpoint is: its URL taken apart, the proxy on the way, and the key, which is never shown or written."""

import base64
import os
import urllib.request
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from model.errors import ConfigError

PATH = "/chat/completions"


@dataclass(frozen=True)
class Address:
    """The place of chat completions. `target` is the path with the query, as an HTTP request names it."""

    secure: bool
    host: str
    port: int
    target: str

    @property
    def shown(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.target.partition('?')[0]}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """A base URL as the client libraries take it, or that of chat completions itself; a bare host gets /v1.

    https://host/v1, https://host/v1/ and https://host/v1/chat/completions are the same. A query, such as ?api-version=1,
    stays.
    """
    if problems := address_problems(url):
        raise ConfigError(problems)
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    if not path.endswith(PATH):
        path = (path or "/v1") + PATH
    secure = parts.scheme == "https"
    target = path + (f"?{parts.query}" if parts.query else "")
    return Address(secure, parts.hostname or "", parts.port or (443 if secure else 80), target)


def address_problems(url: str) -> list[str]:
    """A sentence on what cannot be asked; none of them repeats a key that stands in the URL."""
    try:
        parts: SplitResult = urlsplit(url.strip())
        parts.port  # noqa: B018 (ValueError where it is no number)
    except ValueError:
        return ["the endpoint's URL cannot be read: write it as https://api.example.com/v1"]
    if parts.username is not None or parts.password is not None:
        return ["the endpoint's URL holds a user name or password: leave it out, and name a variable with --key-env"]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [f"the endpoint {url!r} is no URL: write http:// or https://, a host, and a path such as /v1"]
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in url.strip()):
        return [f"the URL {url!r} has characters that no URL can hold: write them as %20 and the like"]
    if parts.fragment:
        return [f"the URL {url!r} has a part after '#', which is never sent: leave it out"]
    return []


class Key:
    """A secret that shows itself only as a header."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(hidden)"

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret}"}

    def hidden(self, content: bytes) -> bytes:
        """Content without the key, should a server repeat it."""
        return content.replace(self._secret.encode(), b"[key]")


def read_key(variable: str) -> Key | None:
    """The key in an environment variable; None where no variable is named."""
    if not variable:
        return None
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ConfigError([f"the environment variable {variable} is not set: put the endpoint's key there"])
    if not all(32 < ord(letter) < 127 for letter in secret):
        raise ConfigError([f"the environment variable {variable} holds characters that no key has: set it again"])
    return Key(secret)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy from HTTPS_PROXY or HTTP_PROXY, for a host that NO_PROXY does not except."""

    host: str
    port: int
    headers: tuple[tuple[str, str], ...] = ()  # with the password, so it is not shown

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def proxy_for(address: Address) -> Proxy | None:
    """The proxy that the environment names for this address; ConfigError where it is of a kind that is not spoken here."""
    scheme = "https" if address.secure else "http"
    url = urllib.request.getproxies().get(scheme)
    if not url or urllib.request.proxy_bypass(address.authority):
        return None
    variable = f"{scheme.upper()}_PROXY"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError([f"the environment variable {variable} is no URL: write http://host:port"]) from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            [
                f"the proxy in {variable} is of a kind ({parts.scheme}) that is not supported: name an http:// one, or unset it"
            ]
        )
    if parts.username is None:
        return Proxy(parts.hostname, port)
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(parts.hostname, port, (("Proxy-Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"),))
