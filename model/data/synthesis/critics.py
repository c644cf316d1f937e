"""Who criticizes in the last filter: a model of this machine by its folder, or an endpoint by its name in a file of writers."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.data.synthesis.filter_run import Critique
from model.data.synthesis.writers import REQUESTS, read_writers
from model.endpoint.client import Client
from model.endpoint.config import EndpointConfig
from model.errors import ConfigError

LEAST_NATS, LEAST_SCORE = 0.0, 6.0  # where the user does not say how good is good enough


def critic_config(name: str, writers: Path | None) -> EndpointConfig | None:
    """The endpoint of that name; None where it is a folder, or empty."""
    if not name or (writers is None and Path(name).is_dir()):
        return None
    if writers is None:
        raise ConfigError(
            [f"--critique {name} is no folder: name a model's folder, or an endpoint of a file with --writers"]
        )
    config = read_writers(writers).configs.get(name)
    if not isinstance(config, EndpointConfig):
        raise ConfigError([f"--critique {name} is no endpoint of {writers}: write a table [writers.{name}] there"])
    return config


@contextmanager
def opened_critic(
    name: str,
    config: EndpointConfig | None,
    folder: Path,
    *,
    note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Critique | None]:
    """The critic while it is needed; an endpoint's journal lies in `folder`. None where nobody is named."""
    if config is not None:
        from model.data.synthesis.endpoint_critique import EndpointCritique

        journal = folder / REQUESTS / f"critique-{name}.jsonl"
        with Client(config, journal=journal, generator=random.Random(0), note=note) as client:
            yield EndpointCritique(client, should_stop)
    elif name:
        from model.data.synthesis.critique import LikelihoodRatio  # needs torch

        yield LikelihoodRatio(Path(name))
    else:
        yield None
