"""Stub."""

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed.")


@app.callback()
def bench() -> None:
    """Measure speed."""


@app.command("train")
def train() -> None:
    """Stub."""
