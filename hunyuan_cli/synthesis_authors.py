"""The writers of a synthesis, opened for a while: each by its name, as the stages ask them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hunyuan_cli.console import stderr

if TYPE_CHECKING:
    from model.data.synthesis.author import Author
    from model.data.synthesis.writers import Writers


@contextmanager
def authors(
    chosen: "Writers",
    folder: Path | None,
    problems: tuple[str | None, str, float],
    seed: int,
    should_stop: Callable[[], bool],
) -> "Iterator[dict[str, Author]]":
    """The embedded writer with its families, split and error rate, and those of `chosen`; journals lie in `folder`."""
    from model.data.synthesis.embedded import EmbeddedWriter
    from model.data.synthesis.prompted import PromptedWriter
    from model.data.synthesis.writers import open_writer

    families, split, error_rate = problems
    names = [name.strip() for name in families.split(",")] if families else []
    with ExitStack() as stack:
        opened: dict[str, Author] = {"embedded": EmbeddedWriter(names, split, error_rate)}
        for name, config in chosen.configs.items():
            writer = open_writer(name, config, folder, seed=seed, note=stderr, should_stop=should_stop)
            stack.callback(writer.close)
            opened[name] = PromptedWriter(writer)
        yield opened
