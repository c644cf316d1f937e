"""Writers by name, from a TOML file: which there are, and which of them answers which domain.

    [writers.big]                          [writers.small]                 [routes]
    kind = "endpoint"                      kind = "local"                  code = "big"
    url = "https://api.example.com/v1"     folder = "runs/first"           prose = "small"
    model = "m"                            temperature = 0.8
    key_env = "EXAMPLE_KEY"

The other keys are the fields of EndpointConfig and LocalConfig. "embedded" is always there, and needs no table.
"""

import random
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from model.config.checks import unknown_key
from model.data.synthesis.endpoint import EndpointWriter
from model.data.synthesis.local_config import LocalConfig
from model.data.synthesis.writer import Writer
from model.endpoint.client import Client
from model.endpoint.config import EndpointConfig
from model.errors import ConfigError, DataError

WriterConfig = EndpointConfig | LocalConfig
EMBEDDED = "embedded"
REQUESTS = "requests"  # the folder of journals, beside the stages
KINDS = ("endpoint", "local")
NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Writers:
    """Settings by name, and names by domain."""

    configs: Mapping[str, WriterConfig] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)


def read_writers(path: Path) -> Writers:
    """ConfigError lists everything that is wrong with the file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError([f"{path} is not TOML: {error}"]) from error
    tables, routes = content.pop("writers", {}), content.pop("routes", {})
    problems = [unknown_key(key, ("writers", "routes"), path.name) for key in content]
    configs: dict[str, WriterConfig] = {}
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()) or not tables:
        problems.append(f"{path} names no writer: write a table such as [writers.big]")
        tables = {}
    for name, table in tables.items():
        try:
            configs[name] = writer_config(name, table)
        except ConfigError as error:
            problems += error.problems
    if not isinstance(routes, dict) or not all(isinstance(name, str) for name in routes.values()):
        problems.append(f'{path} has routes that are no names: write code = "big" in the table [routes]')
    elif unknown := sorted({name for name in routes.values() if name not in tables and name != EMBEDDED}):
        problems.append(f"{path} routes to {', '.join(unknown)}: there is no such writer in it")
    if problems:
        raise ConfigError(problems)
    return Writers(configs, routes)


def writer_config(name: str, table: Mapping[str, Any]) -> WriterConfig:
    """One table [writers.NAME]."""
    section = f"writers.{name}"
    if not NAME.fullmatch(name) or name == EMBEDDED:
        raise ConfigError([f"a writer cannot be called {name!r}: take letters, digits, - and _, and not 'embedded'"])
    settings = dict(table)
    kind = settings.pop("kind", None)
    if kind == "endpoint":
        return EndpointConfig.from_table(settings, section)
    if kind != "local":
        raise ConfigError([f"{section}.kind is {kind!r}: choose one of {', '.join(KINDS)}"])
    known = [field.name for field in fields(LocalConfig)]
    problems = [unknown_key(key, known, section) for key in settings if key not in known]
    if not isinstance(settings.get("folder"), str):
        problems.append(f"{section}.folder is missing: give a run folder or a Hugging Face folder")
    if problems:
        raise ConfigError(problems)
    try:
        return LocalConfig(**settings | {"folder": Path(settings["folder"])})
    except ConfigError as error:
        raise ConfigError([f"{section}: {problem}" for problem in error.problems]) from error


def open_writer(
    name: str,
    config: WriterConfig,
    folder: Path | None,
    *,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Writer:
    """The writer; an endpoint's journal lies in the synthesis's `folder`. Nothing is loaded or sent yet."""
    if isinstance(config, LocalConfig):
        from model.data.synthesis.local import LocalWriter  # needs torch, which the others do without

        return LocalWriter(name, config)
    journal = None if folder is None else folder / REQUESTS / f"{name}.jsonl"
    client = Client(config, journal=journal, generator=random.Random(seed), note=note)
    return EndpointWriter(name, client, should_stop)
