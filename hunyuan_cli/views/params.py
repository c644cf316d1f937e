"""The report of `hunyuan params` as tables for eyes."""

from typing import Any

from hunyuan_cli.console import human_count
from hunyuan_cli.views.layouts import layout_tables


def components(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"component": name} | counts for name, counts in report["components"].items()]
    return [*rows, {"component": "sum", "total": report["total"], "activated": report["activated"], "rule": ""}]


def report_tables(report: dict[str, Any]) -> dict[str, Any]:
    """One model's tables: components, FLOPs, memory."""
    flops, memory = report["flops_per_token"], report["training_memory"]
    per_token = [
        {"FLOPs per token": name, "forward": part["forward"], "share_fraction": part["forward"] / flops["forward"]}
        | {"rule": part["rule"]}
        for name, part in flops["components"].items()
    ]
    ways = {
        "exact: training, 3 times forward": flops["exact"],
        "6 N, N activated": flops["six_n"],
        "the report: 9.59 N + 2.3e8": flops["paper"],
    }
    training = [
        {"training FLOPs per token": name, "flops": value, "of exact": value / flops["exact"]}
        for name, value in ways.items()
    ]
    where = f"batch {memory['batch']}, {memory['precision']}, devices {memory['devices']}"
    where += f", expert parallel {memory['expert_parallel']}" if memory["expert_parallel"] > 1 else ""
    where += f", context parallel {memory['context_parallel']}" if memory["context_parallel"] > 1 else ""
    title = (
        f"{report['model']}: {human_count(report['total'])} parameters, {human_count(report['activated'])} activated"
    )
    return {
        title: _whole(components(report), "total", "activated"),
        f"at a context of {flops['context']:,} tokens": _whole(per_token, "forward"),
        "by other rules": training,
        f"training memory of one device ({where})": [
            {
                "part": part,
                "kept_bytes": sizes["bytes"],
                "recomputed_bytes": sizes["recomputed_bytes"],
                "rule": sizes["rule"],
            }
            for part, sizes in memory["per_device"].items()
        ],
        **(layout_tables(report["layout"]) if "layout" in report else {}),
    }


def side_by_side(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One row a model."""
    rows = [
        {"model": report["model"], "total_params": report["total"], "activated_params": report["activated"]}
        | {f"{name}_params": counts["total"] for name, counts in report["components"].items()}
        for report in reports
    ]
    costs = [
        {"model": report["model"]}
        | {f"{rule}_flops": report["flops_per_token"][rule] for rule in ("exact", "six_n", "paper")}
        | {
            f"training{name}_bytes": report["training_memory"]["per_device"]["total"][key]
            for name, key in (("", "bytes"), ("_recomputed", "recomputed_bytes"))
        }
        for report in reports
    ]
    first = reports[0]
    heading = f"training FLOPs per token at {first['flops_per_token']['context']:,} tokens, and bytes per device"
    return {"parameters": rows, heading: costs}


def _whole(rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """These numbers to the last digit, as text, so that a count can be checked."""
    width = max(len(f"{row[key]:,}") for row in rows for key in keys)
    return [{key: f"{value:>{width},}" if key in keys else value for key, value in row.items()} for row in rows]
