"""`hunyuan params`: parameters by component, FLOPs per token, and training memory, of a preset or any known config.json."""

from typing import Annotated, Literal

import typer

from hunyuan_cli.options.common import Format, Models, ModelSet, Output
from hunyuan_cli.options.sizes import parse_context
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.params import components, report_tables, side_by_side

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
        emit(side_by_side(reports), format=kind, output=output)
    else:
        emit(components(reports[0]) if kind == "csv" else report_tables(reports[0]), format=kind, output=output)
