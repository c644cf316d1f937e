"""How a step is shared out among GPUs, as tables for eyes: the layout, what a rank sends, what it computes."""

from collections.abc import Sequence
from typing import Any


def layout_row(plan: dict[str, Any]) -> dict[str, Any]:
    """One layout in one line."""
    keys = "gpu devices context data_parallel expert_parallel context_parallel recompute micro_batch_size micro_batches"
    keys += (
        " tokens_per_step memory_bytes fits sent_bytes compute_seconds overlapped_seconds waiting_seconds step_seconds"
    )
    row = {key: plan[key] for key in keys.split()}
    return row | {
        "without_overlap_seconds": plan["step_seconds_without_overlap"],
        "tokens_per_second": plan["tokens_per_second"],
        "mfu": plan["mfu"],
    }


def layout_tables(plan: dict[str, Any]) -> dict[str, Any]:
    """One layout in full."""

    sent = ("exchange", "collective", "ranks", "bytes", "bytes_per_second", "seconds", "overlaps", "rule")
    computed = ("part", "flops", "flops_per_second", "seconds", "source")
    tables = {
        "layout (a plan, not a run)": [layout_row(plan)],
        "sent by a rank in a step": _shown(plan["sent"], sent),
    }
    if plan["computed"]:
        tables["computed by a rank in a step"] = _shown(plan["computed"], computed)
    return tables


def _shown(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    renamed = {"bytes": "sent_bytes", "bytes_per_second": "GB_per_second"}
    shown = [{renamed.get(key, key): row[key] for key in keys} for row in rows]
    for row in shown:
        if row.get("GB_per_second") is not None:
            row["GB_per_second"] /= 1e9
    return shown
