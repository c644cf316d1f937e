"""The report of `hunyuan paper` as tables for eyes."""

from collections import Counter
from typing import Any

from hunyuan_cli.console import human


def tables(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "numbers of the report and ours": [_row(row) for row in report["rows"]],
        "where report, release and this project differ": report["differences"],
        "tokens without an expert by capacity factor, 16 experts": [
            {
                "router": row["router"],
                "busiest over mean": row["load_imbalance"],
                "capacity factor": row["capacity_factor"],
                "drop_fraction": row["drop"],
                "recycle_fraction": row["recycle"],
            }
            for row in report["routing"]
        ],
        "RULER of Llama 3.1 70B, report and NVIDIA": [
            {
                "range": row["range"],
                "report": row["report"],
                "NVIDIA": row["nvidia"],
                "at": f"{row['nvidia_length'] // 1024}K",
                "NVIDIA, other end": row["nvidia_upper"],
                "at its": f"{row['nvidia_upper_length'] // 1024}K" if row["nvidia_upper_length"] else None,
            }
            for row in report["ruler"]
        ],
    }


def note(report: dict[str, Any]) -> str:
    counts = Counter(row["verdict"] for row in report["rows"])
    told = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
    return (
        f"{len(report['rows'])} numbers: {told}. A dash: the report prints the parts and not the result.\n"
        "LV-Eval: its authors measure about 38 for Llama 3.1 70B where the report prints 75.7; that is another scorer, and "
        "nothing here is compared with it."
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    unit = row["unit"]
    return {
        "quantity": row["quantity"],
        "published": _value(row["published"], unit),
        "recomputed": _value(row["value"], unit),
        "difference": _value(row["difference"], unit, sign=True),
        "verdict": row["verdict"],
        "formula": row["formula"],
        "where": row["where"],
    }


def _value(value: float | None, unit: str, *, sign: bool = False) -> str | None:
    """The number with its unit. A difference has a sign, and is 0 where it cannot be seen."""
    if value is None:
        return None
    if sign and abs(value) < 1e-9:
        return "0"
    plus = "+" if sign and value > 0 else ""
    match unit:
        case "percent":
            return f"{plus}{value:.4g}%"
        case "bytes":
            return f"{plus}{value:,.0f}"
        case "params" | "tokens":
            scale, letter = (1e12, "T") if abs(value) >= 1e12 else (1e9, "B")
            return f"{plus}{value / scale:.4g}{letter}"
        case "flops":
            return f"{plus}{value:.4g}"
        case "points":
            return f"{plus}{value:.6g}"
    return f"{plus}{value:.4g}" if abs(value) < 1e4 or abs(value) >= 1e7 else f"{plus}{human(round(value))}"
