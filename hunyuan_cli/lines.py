"""Results that are written one line at a time, so that what is done is not lost when a command is interrupted."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hunyuan_cli.console import stderr
from model.errors import HunyuanError


@contextmanager
def line_writer(output: Path | None) -> Iterator[Callable[[str], None]]:
    """A function that writes a line to standard output or to a file.

    A file's lines gather beside it and take its name at the end, also of an interruption: what was there before stays until
    there is a first line to replace it with.
    """
    if output is None:

        def show(line: str) -> None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

        yield show
        return
    if output.is_dir():
        raise HunyuanError(f"'{output}' is a folder: name a file to write")
    if output.exists() and not output.is_file():  # a pipe, a device
        with output.open("w", encoding="utf-8") as stream:
            yield lambda line: print(line, file=stream, flush=True)
        return
    output = output.resolve()  # a link stays a link
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    written = 0
    with partial.open("w", encoding="utf-8") as file:

        def keep(line: str) -> None:
            nonlocal written
            file.write(line + "\n")
            file.flush()
            written += 1

        try:
            yield keep
        finally:
            if written:
                partial.replace(output)
                stderr(f"wrote {written:,} lines to {output}")
            else:
                partial.unlink(missing_ok=True)
