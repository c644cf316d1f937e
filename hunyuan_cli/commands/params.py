"""`hunyuan params`: parameters by component, FLOPs per token, and training memory, of a preset or any known config.json."""

from typing import Any

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.options.common import Format, Models, ModelSet, Output
from hunyuan_cli.options.models import CountAs, counted_models
from hunyuan_cli.options.params import Batch, Context, ContextParallel, Devices, ExpertParallel, Gpus, Precision
from hunyuan_cli.options.sizes import parse_context, parse_count, parse_list
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.layouts import layout_row
from hunyuan_cli.views.params import components, report_tables, side_by_side


def params(
    model: Models = None,
    settings: ModelSet = None,
    counted_as: CountAs = None,
    context: Context = "4K",
    batch: Batch = None,
    precision: Precision = "bfloat16",
    devices: Devices = "1",
    expert_parallel: ExpertParallel = None,
    context_parallel: ContextParallel = None,
    gpu: Gpus = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Total and activated parameters by component, FLOPs per token, and the memory of training.

    Example: hunyuan params --model hunyuan-large --devices 512 --expert-parallel 16 --context 8K

    The fastest layout that fits: hunyuan params --devices 512,1024 --gpu h100,h200 --context 8K,32K,256K

    Side by side: hunyuan params --model mixtral-8x22b --model deepseek-v3 --model downloads/config.json

    A type that is not known: hunyuan params --model Kimi-K2/config.json --as deepseek_v3
    """
    from analyses.devices import find_device
    from analyses.memory.params import params_report
    from analyses.planning.sharing import sharing_plan, sharing_report
    from model.parallel.layout import Layout

    models = counted_models(model, settings, counted_as)
    counts, contexts = parse_list(devices, parse_count), parse_list(context, parse_context)
    gpus = list(dict.fromkeys(find_device(name) for given in gpu or [] for name in given.split(",")))
    how: dict[str, Any] = {"batch": batch, "precision": precision}
    how |= {"expert_parallel": expert_parallel, "context_parallel": context_parallel}
    if len(counts) * len(contexts) * max(1, len(gpus)) > 1:
        if not gpus or len(models) > 1:
            raise typer.BadParameter("several --devices or --context are of one --model, and with --gpu: say which GPU")
        with progress("trying layouts", total=None):
            found = sharing_report(models[0].shape, devices=counts, contexts=contexts, gpus=gpus, **how)
        rows = [layout_row(plan) for plan in found["layouts"]]
        note = "\n".join(f"note: {note}" for note in found["notes"])
        emit(found if result_format(format, output) == "json" else rows, format=format, output=output, note=note)
        return

    reports: list[dict[str, Any]] = []
    for counted in models:
        here: dict[str, Any] = how | {"context": contexts[0]}
        plan = sharing_plan(counted.shape, devices=counts[0], gpu=next(iter(gpus), None), **here)
        report = params_report(
            counted.shape,
            context=contexts[0],
            batch=plan["micro_batch_size"],
            precision=precision,
            layout=Layout(
                processes=counts[0],
                expert_parallel=plan["expert_parallel"],
                context_parallel=plan["context_parallel"],
            ),
        )
        report |= {"layout": plan} if counts[0] > 1 or gpus else {}
        reports.append(report | ({"notes": list(counted.notes)} if counted.notes else {}))
    kind = result_format(format, output)
    if kind == "json":
        emit(reports[0] if len(reports) == 1 else {"models": reports}, format="json", output=output)
        return
    notes = "\n".join(f"note: {note}" for report in reports for note in report.get("notes", []))
    if kind == "csv":
        stderr(notes)
    if len(reports) > 1:
        emit(side_by_side(reports), format=kind, output=output, note=notes)
    else:
        shown = components(reports[0]) if kind == "csv" else report_tables(reports[0])
        emit(shown, format=kind, output=output, note=notes)
