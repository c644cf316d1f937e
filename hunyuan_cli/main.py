"""The `hunyuan` program: its commands, and the one place where an error becomes a sentence and an exit status.

    0 done   1 a mistake to put right (one sentence)   2 wrong usage   3 a part failed   130 interrupted

Command modules import torch, pandas and matplotlib inside their functions, so that `hunyuan --help` loads none of them.
"""

import errno
import os
import shlex
import sys
import traceback
from typing import Annotated, Any

import typer

from hunyuan_cli.commands import (
    bench,
    chat,
    compare,
    convert,
    infer,
    kv_cache,
    params,
    scale_fit,
    scale_plan,
    sweep,
    train,
)
from hunyuan_cli.console import stderr
from model.errors import HunyuanError

# The base of Typer's own errors, which Typer has moved from package to package: BadParameter, UsageError, this one.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="hunyuan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("infer")(infer.infer)
app.command("chat")(chat.chat)
app.command("convert")(convert.convert)
app.command("compare")(compare.compare)
app.command("kv-cache")(kv_cache.kv_cache)
app.command("params")(params.params)
app.command("sweep")(sweep.sweep)
app.command("scale-fit")(scale_fit.scale_fit)
app.command("scale-plan")(scale_plan.scale_plan)
app.add_typer(bench.app, name="bench")


def print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"hunyuan {version('hunyuan')}")
        except PackageNotFoundError:
            typer.echo("hunyuan, a checkout that is not installed")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, study and budget mixture-of-experts language models, after the Hunyuan-Large report.

    Start with: hunyuan train --out runs/first --steps 100

    Then: hunyuan compare runs/first --plot first.png
    """
    context.obj["debug"] = debug


def main() -> None:
    """Run the command line; exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "±" is no reason to fail
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit status of one command line; every error ends here."""
    state = {"debug": False}
    try:
        status = app(arguments, prog_name="hunyuan", standalone_mode=False, obj=state)
        sys.stdout.flush()  # here, so that a closed pipe is met inside this try
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except CommandLineError as error:
        stderr(_usage_sentence(error))
        return getattr(error, "exit_code", 2)
    except Exception as error:
        if state["debug"]:
            traceback.print_exc()
        else:
            stderr(f"error: {_sentence(error, arguments)}")
        return 1


def _usage_sentence(error: Any) -> str:
    message = _one_line(error.format_message()).rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "hunyuan"
    return f"error: {message} (see {command} --help)" if message else ""  # a bare `hunyuan` has shown its help


def _sentence(error: Exception, arguments: list[str]) -> str:
    """What went wrong and what to do, in one sentence."""
    torch = sys.modules.get("torch")
    if isinstance(error, HunyuanError):
        return _one_line(str(error))
    out_of_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(
        error
    )  # torch's words on a processor
    if out_of_memory or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return "the device is out of memory: lower the batch size or the sequence length, or take a smaller model"
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        advice = ", free some space or write elsewhere" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}{advice}"
    what = _one_line(f"{type(error).__name__}: {error}")
    return f"this is a bug in hunyuan ({what}); rerun as hunyuan --debug {shlex.join(arguments)} to see where"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
