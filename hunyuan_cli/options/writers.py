"""The options that say who writes: an endpoint, a local model, the embedded problems, or writers named in a file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.data.synthesis.writers import Writers

WriterName = Annotated[
    str,
    typer.Option(
        "--writer", metavar="endpoint|local|embedded|NAME",
        help="What writes: an OpenAI-compatible service, a local model, the embedded problems, or a name of --writers.",
    ),
]  # fmt: skip
WritersFile = Annotated[
    Path | None,
    typer.Option(
        "--writers", exists=True, dir_okay=False,
        help="TOML with tables [writers.NAME] (kind, url, model, key_env, price_in, ... or folder) and [routes].",
    ),
]  # fmt: skip
Routes = Annotated[
    list[str] | None,
    typer.Option("--route", metavar="DOMAIN=WRITER", help="Which writer answers a domain in stage 3; repeatable."),
]
Url = Annotated[
    str | None,
    typer.Option("--endpoint", "--url", metavar="URL", help="Of --writer endpoint, such as http://localhost:8000/v1."),
]
ModelName = Annotated[str | None, typer.Option("--model", help="What the endpoint calls the model.")]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        "--key-env", metavar="VARIABLE", help="The environment variable that holds the key; it is never written."
    ),
]
Concurrency = Annotated[int | None, typer.Option("--concurrency", help="Requests under way at a time; by default 16.")]
RequestsPerMinute = Annotated[float | None, typer.Option("--requests-per-minute", help="At most, retries included.")]
TokensPerMinute = Annotated[
    float | None, typer.Option("--tokens-per-minute", help="At most, of prompts and replies together.")
]
PriceIn = Annotated[float | None, typer.Option("--price-in", help="For a million prompt tokens, in any currency.")]
PriceOut = Annotated[float | None, typer.Option("--price-out", help="For a million tokens of replies.")]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", help="Stop before all runs of this folder have cost more; needs the prices."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--from", "--checkpoint", file_okay=False, help="Of --writer local: a run folder or a Hugging Face folder."
    ),
]
WriterSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="Any other setting of the endpoint or local writer: temperature, max_tokens, timeout, attempts, batch_size, "
        "...; repeatable.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say how many requests and tokens it takes, and the price; send nothing.")
]

OPTIONS = {  # those with names of their own, by the key of a writer's table
    "url": "--endpoint", "model": "--model", "key_env": "--key-env", "folder": "--from", "concurrency": "--concurrency",
    "requests_per_minute": "--requests-per-minute", "tokens_per_minute": "--tokens-per-minute", "price_in": "--price-in",
    "price_out": "--price-out", "max_cost": "--max-cost",
}  # fmt: skip
NEEDED = {"endpoint": ("url", "model"), "local": ("folder",)}


def chosen_writers(
    writer: str, file: Path | None, routes: list[str] | None, given: Mapping[str, Any], settings: list[str] | None
) -> "Writers":
    """Writers and routes of the file and of the command line, which has the last word; every name in use is there.

    `given` are the options of one writer, by the key of its table, None where they were left out.
    """
    from model.data.synthesis.writers import EMBEDDED, KINDS, Writers, read_writers, writer_config

    known = read_writers(file) if file else Writers()
    chosen_routes = {**known.routes, **_parse_routes(routes)}
    used = {writer, *chosen_routes.values()}
    configs = dict(known.configs)
    table = {key: value for key, value in given.items() if value is not None} | parse_settings(settings)
    unnamed = [kind for kind in KINDS if kind in used and kind not in configs]
    if table and len(unnamed) != 1:
        why = "both endpoint and local are" if unnamed else "neither endpoint nor local is"
        raise typer.BadParameter(
            f"{', '.join(_option(key) for key in table)}: {why} in use; name writers in --writers FILE"
        )
    for kind in unnamed:
        if missing := [OPTIONS[key] for key in NEEDED[kind] if key not in table]:
            raise typer.BadParameter(f"--writer {kind} needs {' and '.join(missing)}")
        configs[kind] = writer_config(kind, {"kind": kind, **table})
    if unknown := sorted(used - set(configs) - {EMBEDDED}):
        names = ", ".join(sorted({*configs, *KINDS, EMBEDDED}))
        raise typer.BadParameter(f"there is no writer '{unknown[0]}': choose {names}, or name it in --writers FILE")
    return Writers({name: configs[name] for name in sorted(used & set(configs))}, chosen_routes)


def _option(key: str) -> str:
    return OPTIONS.get(key, f"--set {key}")


def parse_settings(settings: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """KEY=VALUE with values as TOML has them, and plain text where they are none."""
    found: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not (equals and key.strip()):
            raise typer.BadParameter(f"{option} '{setting}' is not of the form KEY=VALUE, such as temperature=0.7")
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text.strip()
    return found


def _parse_routes(routes: list[str] | None) -> dict[str, str]:
    found = {}
    for route in routes or []:
        domain, _, name = route.partition("=")
        if not (domain and name):
            raise typer.BadParameter(f"--route '{route}' is not of the form DOMAIN=WRITER, such as code=local")
        found[domain] = name
    return found
