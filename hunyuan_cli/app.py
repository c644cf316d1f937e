"""The commands of `hunyuan`, each loaded when it is asked for.

A module of hunyuan_cli/commands holds either a function of its own name or, for a group such as `bench`, an `app`. Command
modules import torch, pandas and matplotlib inside their functions, so that `hunyuan --help` loads none of them.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

COMMANDS = (
    "train", "sft", "reward", "dpo", "infer", "chat", "convert", "compare", "kv-cache", "params", "sweep", "scale-fit",
    "scale-plan", "bench", "synthesize", "paper",
    "eval",
)  # fmt: skip

# The base of Typer's own errors, which Typer has moved from package to package: BadParameter, UsageError, this one.
CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def build(arguments: Sequence[str]) -> typer.Typer:
    """The program with the command that the arguments name, or with all of them where they name none."""
    app = typer.Typer(
        name="hunyuan",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [named] if named in COMMANDS else COMMANDS:
        function = name.replace("-", "_")
        module = import_module(f"hunyuan_cli.commands.{function}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, function))
    return app


def print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"hunyuan {version('hunyuan')}")
        except PackageNotFoundError:
            typer.echo("hunyuan, a checkout that is not installed")
        raise typer.Exit


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
    context.obj["begin"]()
