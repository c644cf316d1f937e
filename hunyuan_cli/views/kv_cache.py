"""The document of `hunyuan kv-cache` as tables for eyes, and what its command says while it measures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import human, progress, stderr
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from analyses.memory.report import Question

TITLES = {
    "rows": "keys and values",
    "largest_batch": "the largest batch of a replica, and the bytes on each of its devices",
    "longest_context": "the longest context of a batch, and the bytes on each device of a replica",
    "decoding": "decoding at the limit of memory bandwidth, and what each device reads in a step",
    "measured": "allocated and by formula",
}
TOLD_ONCE = ("model", "gpu", "weights", "context", "batch", "dtype", "reserve_bytes", "trained_context")
WINDOWED = ("bytes_per_token_at_context", "capped_layers")  # columns that say something where a window caps the cache


def show_document(document: dict[str, Any], *, table: str | None, format: str, output: Path | None) -> None:
    """All tables or the one asked for; of csv, which has one, the sentence on standard error names those left out."""
    kind = result_format(format, output)
    tables = [name for name in TITLES if document.get(name)]
    if table is not None and table not in tables:
        raise typer.BadParameter(f"--table {table} is not there without {_NEEDS[table]}: there is {', '.join(tables)}")
    if table is not None and kind == "json":
        raise typer.BadParameter("--table chooses a table, and json has all of them: leave one of the two out")
    notes = [f"note: {note}" for note in document.get("notes", [])]
    if kind == "csv":
        chosen = table or tables[0]
        others = [name for name in tables if name != chosen]
        if others and table is None:
            stderr(f"csv has one table, here {chosen}: --table {' or '.join(others)} gives another, --format json all")
        for note in notes:
            stderr(note)
        emit(document[chosen], format=kind, output=output)
        return
    shown = document if table is None else {name: value for name, value in document.items() if name in (table, "model")}
    content = document if kind == "json" else document_tables(shown)
    emit(content, format=kind, output=output, note="\n".join(["* the model's own", *notes]))


_NEEDS = {
    "largest_batch": "--gpu or --memory",
    "longest_context": "--gpu or --memory",
    "decoding": "--gpu or --bandwidth",
    "measured": "--measure",
}


def document_tables(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a document for eyes: what is the same in every row goes into the title, the own variant is marked."""
    tables = {}
    for key, title in TITLES.items():
        rows = document.get(key)
        if not rows:
            continue
        same = [name for name in TOLD_ONCE if name in rows[0] and len({row[name] for row in rows}) == 1]
        same = same if len(rows) > 1 else []
        hidden = [*same, *(() if any(row.get("capped_layers") for row in rows) else WINDOWED)]
        told = [f"{name.replace('_', ' ').removesuffix(' bytes')} {human(rows[0][name], name)}" for name in same]
        tables[f"{title} ({', '.join(told)})" if told else title] = [
            {name: value for name, value in _shown(row).items() if name not in hidden} for row in rows
        ]
    return tables


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    exact = {name: f"{row[name]:,}" for name in ("measured_bytes", "closed_form_bytes") if name in row}
    mark = " *" if row.get("own") else ""
    return {name: value for name, value in row.items() if name != "own"} | {"variant": row["variant"] + mark} | exact


def measured_rows(question: "Question") -> list[dict[str, Any]]:
    """The real cache of every variant that this project builds, allocated with a bar on standard error."""
    from analyses.memory.kv_cache import check_measured, measure_cache
    from model.config.architectures import buildable_config

    check_measured(question.storages)
    context, batch = max(question.contexts), max(question.batches)
    configs = [buildable_config(model.values, model.shape.name) for model in question.models]
    pairs = [
        (config, variant)
        for config, model in zip(configs, question.models, strict=True)
        for variant in question.variants_of(model)
    ]
    rows = []
    with progress("allocating caches", total=len(pairs) * len(question.storages)) as advance:
        for config, variant in pairs:
            name = f"{variant.shape.name} {variant.name}"
            for storage in question.storages:
                row = measure_cache(config, variant, context=context, batch=batch, storage=storage)
                if row is None:
                    stderr(f"{name} is not built here: not measured")
                elif row["context"] < context:
                    stderr(f"{name} at {context:,} tokens does not fit: measured at {row['context']:,}")
                rows += [row] if row else []
                advance(1)
    return rows
