"""Results in files, whole or not at all: documents, figures, and lines that are kept as they come."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import stderr
from model.errors import HunyuanError
from model.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
# What run folders and folders from Hugging Face are made of.
RECORDS = (
    "config.json", "run.toml", "metrics.jsonl", "environment.json", "summary.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json", "model.safetensors",
)  # fmt: skip


def check_output(path: Path, arguments: Sequence[str] = ()) -> None:
    """Refuse a place for a result where it would be lost, or take the place of what the command reads.

    An older result of the same name is replaced: to run a command again is normal. A new folder for it is made, in one that
    is there: more that is missing looks like a mistyped path. `arguments` is the command line: a file that it names a second
    time is read. Raises HunyuanError.
    """
    if path.is_dir():
        raise HunyuanError(f"'{path}' is a folder: name a file to write")
    folder = path.absolute().parent
    if not folder.is_dir() and (folder.exists() or not folder.parent.is_dir()):
        raise HunyuanError(
            f"'{path}' cannot be written: there is no folder '{path.parent}'; check the path, or make it"
        )
    if not path.is_file():
        return
    named = [Path(part) for argument in arguments for part in (argument, argument.partition("=")[2]) if part]
    if sum(_is_same_file(other, path) for other in named) > 1:
        raise HunyuanError(f"'{path}' is also what this command reads: name another file to write")
    if path.name in RECORDS and ((path.parent / "metrics.jsonl").exists() or any(path.parent.glob("*.safetensors"))):
        raise HunyuanError(f"'{path}' belongs to the model in that folder: name another file to write")


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):  # no file at all, or no name of one
        return False


def write_output(path: Path, content: bytes, *, quiet: bool = False) -> None:
    """Write the whole file or leave what was there, and say so; pipes and devices are written into."""
    check_output(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    replaced = " (replaced)" if path.exists() else ""
    path.parent.mkdir(exist_ok=True)
    write_file(path, content)
    if not quiet:
        stderr(f"wrote {path.resolve()}{replaced}")


def save_figure(figure: "Figure", path: Path, *, quiet: bool = False) -> None:
    """Save a figure in the format of its suffix, without the date and version that would change its bytes."""
    import matplotlib

    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    suffix = path.suffix.lower()
    if suffix not in metadata:
        raise HunyuanError(f"cannot draw '{path}': a figure must end in {', '.join(FIGURE_SUFFIXES)}")
    content = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hunyuan"}):  # element names in an SVG are random otherwise
        figure.savefig(content, format=suffix[1:], dpi=150, metadata=metadata[suffix])
    write_output(path, content.getvalue(), quiet=quiet)


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
    check_output(output)
    if output.exists() and not output.is_file():  # a pipe, a device
        with output.open("w", encoding="utf-8") as stream:
            yield lambda line: print(line, file=stream, flush=True)
        return
    output = output.resolve()  # a link stays a link
    output.parent.mkdir(exist_ok=True)
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
                replaced = " (replaced)" if output.exists() else ""
                partial.replace(output)
                stderr(f"wrote {written:,} lines to {output}{replaced}")
            else:
                partial.unlink(missing_ok=True)
