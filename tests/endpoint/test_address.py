"""URLs, keys and proxies: what is asked, and what is never shown."""

import pytest

from model.endpoint.address import Key, address_of, proxy_for, read_key
from model.endpoint.config import EndpointConfig
from model.errors import ConfigError

CHAT = "https://api.example.com/v1/chat/completions"


@pytest.mark.parametrize(
    ("url", "shown", "target"),
    [
        ("https://api.example.com/v1", CHAT, "/v1/chat/completions"),
        ("https://api.example.com/v1/", CHAT, "/v1/chat/completions"),
        (" https://API.example.com:443/v1/chat/completions/ ", CHAT, "/v1/chat/completions"),
        ("https://api.example.com", CHAT, "/v1/chat/completions"),
        ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions", "/v1/chat/completions"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions", "/v1/chat/completions"),
        ("https://h/d/x?version=1", "https://h/d/x/chat/completions", "/d/x/chat/completions?version=1"),
    ],
)  # fmt: skip
def test_a_base_url_becomes_that_of_chat_completions(url, shown, target):
    address = address_of(url)
    assert (address.shown, address.target) == (shown, target)


@pytest.mark.parametrize(
    "url", ["", "api.example.com/v1", "ftp://a/v1", "https://", "http://a:b/v1", "http://a/v 1", "http://a#b"]
)
def test_what_is_no_url_is_one_sentence(url):
    with pytest.raises(ConfigError, match="URL"):
        address_of(url)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as caught:
        EndpointConfig(url="https://me:sk-secret@a/v1", model="m")
    assert "sk-secret" not in str(caught.value) and "--key-env" in str(caught.value)


def test_a_key_comes_from_its_variable_and_shows_itself_in_the_header_alone(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret\n")
    key = read_key("SOME_KEY")
    assert key is not None and key.header() == {"Authorization": "Bearer sk-secret"}
    assert "secret" not in f"{key!r} {key}" and key.hidden(b"bad key sk-secret!") == b"bad key [key]!"
    assert read_key("") is None


@pytest.mark.parametrize("value", ["", "  ", "two words", "schlüssel"])
def test_a_key_that_is_none_is_refused_without_a_word_of_it(value, monkeypatch):
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ConfigError, match="SOME_KEY") as caught:
        read_key("SOME_KEY")
    assert not value.strip() or value not in str(caught.value)


def test_a_proxy_of_the_environment_is_taken_but_where_no_proxy_excepts_the_host(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://me:p%40ss@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    proxy = proxy_for(address_of(CHAT))
    assert proxy is not None and (proxy.host, proxy.port) == ("proxy.example", 3128)
    assert dict(proxy.headers) == {"Proxy-Authorization": "Basic bWU6cEBzcw=="} and "bWU6" not in repr(proxy)
    assert proxy_for(address_of("https://inside.example/v1")) is None
    assert proxy_for(address_of("http://api.example.com/v1")) is None


def test_a_proxy_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://proxy.example")
    with pytest.raises(ConfigError, match="socks5"):
        proxy_for(address_of(CHAT))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": ""}, "endpoint.model is empty"),
        ({"concurrency": 0}, "endpoint.concurrency is 0"),
        ({"attempts": 0}, "endpoint.attempts is 0"),
        ({"timeout": 0.0}, "endpoint.timeout is 0.0"),
        ({"requests_per_minute": 0}, "endpoint.requests_per_minute is 0"),
        ({"tokens_per_minute": float("nan")}, "endpoint.tokens_per_minute is nan"),
        ({"temperature": "hot"}, "endpoint.temperature is 'hot'"),
        ({"max_cost": 1.0}, "needs prices"),
        ({"parameters": {"messages": []}}, "endpoint.parameters.messages cannot be set"),
        ({"parameters": {"temperature": 1}}, "the setting endpoint.temperature"),
        ({"max_tokens": 1.5}, "endpoint.max_tokens is 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        EndpointConfig(**({"url": CHAT, "model": "m"} | settings))


def test_a_table_of_a_file_is_checked_under_its_own_name():
    with pytest.raises(ConfigError) as caught:
        EndpointConfig.from_table({"url": CHAT, "modle": "m"}, "writers.big")
    assert caught.value.problems == [
        "writers.big.modle is not a setting: did you mean 'model'?",
        "writers.big.model is missing",
    ]
    with pytest.raises(ConfigError, match=r"^writers\.big\.attempts is 0"):
        EndpointConfig.from_table({"url": CHAT, "model": "m", "attempts": 0}, "writers.big")


def test_the_body_has_what_was_set_and_one_limit_of_tokens():
    config = EndpointConfig(url=CHAT, model="m", temperature=0.0, max_tokens=9, parameters={"seed": 3})
    assert config.body([]) == {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.0, "seed": 3}
    newer = EndpointConfig(url=CHAT, model="m", parameters={"max_completion_tokens": 50})
    assert newer.body([]) == {"model": "m", "messages": [], "max_completion_tokens": 50}
    assert newer.longest_reply(newer.body([])) == 50


def test_a_key_is_no_part_of_what_is_shown_of_the_settings(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    assert "secret" not in repr(EndpointConfig(url=CHAT, model="m", key_env="SOME_KEY")) + repr(Key("sk-secret"))
