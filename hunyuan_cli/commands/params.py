"""`hunyuan params`: parameters by component, FLOPs per token, and training memory, of a preset or any known config.json."""

from typing import Any

from hunyuan_cli.console import stderr
from hunyuan_cli.options.common import Format, Models, ModelSet, Output
from hunyuan_cli.options.models import CountAs, counted_models
from hunyuan_cli.options.params import Batch, Context, ContextParallel, Devices, ExpertParallel, Precision
from hunyuan_cli.options.sizes import parse_context
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.params import components, report_tables, side_by_side


def params(
    model: Models = None,
    settings: ModelSet = None,
    counted_as: CountAs = None,
    context: Context = "4K",
    batch: Batch = 1,
    precision: Precision = "bfloat16",
    devices: Devices = 1,
    expert_parallel: ExpertParallel = 1,
    context_parallel: ContextParallel = 1,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Total and activated parameters by component, FLOPs per token, and the memory of training.

    Example: hunyuan params --model hunyuan-large --devices 512 --expert-parallel 16 --context 8K

    Side by side: hunyuan params --model mixtral-8x22b --model deepseek-v3 --model downloads/config.json

    A type that is not known: hunyuan params --model Kimi-K2/config.json --as deepseek_v3
    """
    from analyses.memory.params import params_report
    from model.parallel.layout import Layout

    reports: list[dict[str, Any]] = []
    for counted in counted_models(model, settings, counted_as):
        report = params_report(
            counted.shape,
            context=parse_context(context),
            batch=batch,
            precision=precision,
            layout=Layout(processes=devices, expert_parallel=expert_parallel, context_parallel=context_parallel),
        )
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
