"""`hunyuan params`: parameters by component, FLOPs per token, and training memory, of a preset or any known config.json."""

from typing import Annotated, Any, Literal

import typer

from hunyuan_cli.console import emit, human_count, result_format
from hunyuan_cli.options import Format, Models, ModelSet, Output, parse_context

Context = Annotated[
    str, typer.Option("--context", metavar="TOKENS", help="Context of attention and training, such as 8K.")
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, max=10**9, help="Sequences per device and micro-batch in training.")
]
Precision = Annotated[
    Literal["bfloat16", "float32"], typer.Option("--precision", help="Precision of training's matrix products.")
]
Devices = Annotated[
    int, typer.Option("--devices", min=1, max=10**6, help="Devices that share the training state (FSDP).")
]
ExpertParallel = Annotated[
    int, typer.Option("--expert-parallel", min=1, max=10**6, help="Devices that share out the experts of a layer.")
]


def params(
    model: Models = None,
    settings: ModelSet = None,
    context: Context = "4K",
    batch: Batch = 1,
    precision: Precision = "bfloat16",
    devices: Devices = 1,
    expert_parallel: ExpertParallel = 1,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Total and activated parameters by component, FLOPs per token, and the memory of training.

    Example: hunyuan params --model hunyuan-large --devices 512 --expert-parallel 16 --context 8K

    Side by side: hunyuan params --model mixtral-8x22b --model deepseek-v3 --model downloads/config.json
    """
    from analyses.memory.params import params_report
    from hunyuan_cli.models import model_shapes

    reports = [
        params_report(
            shape,
            context=parse_context(context),
            batch=batch,
            precision=precision,
            devices=devices,
            expert_parallel=expert_parallel,
        )
        for shape in model_shapes(model or ["hunyuan-large"], settings)
    ]
    kind = result_format(format, output)
    if kind == "json":
        emit(reports[0] if len(reports) == 1 else {"models": reports}, format="json", output=output)
    elif len(reports) > 1:
        emit(_side_by_side(reports), format=kind, output=output)
    else:
        emit(_components(reports[0]) if kind == "csv" else _tables(reports[0]), format=kind, output=output)


def _components(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"component": name} | counts for name, counts in report["components"].items()]
    return [*rows, {"component": "sum", "total": report["total"], "activated": report["activated"], "rule": ""}]


def _tables(report: dict[str, Any]) -> dict[str, Any]:
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
    title = (
        f"{report['model']}: {human_count(report['total'])} parameters, {human_count(report['activated'])} activated"
    )
    return {
        title: _whole(_components(report), "total", "activated"),
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
    }


def _side_by_side(reports: list[dict[str, Any]]) -> dict[str, Any]:
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
