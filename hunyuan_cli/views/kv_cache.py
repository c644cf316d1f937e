"""The document of `hunyuan kv-cache` as tables for eyes."""

from typing import Any

from hunyuan_cli.console import human

TITLES = {
    "rows": "keys and values",
    "largest_batch": "the largest batch of a replica, and the bytes on each of its devices",
    "longest_context": "the longest context of a batch, and the bytes on each device of a replica",
    "decoding": "decoding at the limit of memory bandwidth, and what each device reads in a step",
    "measured": "allocated and by formula",
}
TOLD_ONCE = ("model", "context", "batch", "dtype", "reserve_bytes", "trained_context")


def document_tables(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a document for eyes: what is the same in every row goes into the title, the own variant is marked."""
    tables = {}
    for key, title in TITLES.items():
        rows = document.get(key)
        if not rows:
            continue
        same = [name for name in TOLD_ONCE if name in rows[0] and len({row[name] for row in rows}) == 1]
        same = same if len(rows) > 1 else []
        told = [f"{name.replace('_', ' ').removesuffix(' bytes')} {human(rows[0][name], name)}" for name in same]
        tables[f"{title} ({', '.join(told)})" if told else title] = [
            {name: value for name, value in _shown(row).items() if name not in same} for row in rows
        ]
    return tables


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    exact = {name: f"{row[name]:,}" for name in ("measured_bytes", "closed_form_bytes") if name in row}
    mark = " *" if row.get("own") else ""
    return {name: value for name, value in row.items() if name != "own"} | {"variant": row["variant"] + mark} | exact
