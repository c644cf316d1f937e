"""`hunyuan scale-plan`: a budget in FLOPs turned into a shape, tokens, steps, batch, rates, memory and hours, as a run file."""

from pathlib import Path

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.files import save_figure, write_output
from hunyuan_cli.options.common import Format, Output, Plot
from hunyuan_cli.options.scale_plan import (
    BatchTokens,
    Budgets,
    Context,
    ContextParallel,
    Devices,
    ExpertParallel,
    FamilyName,
    Gpu,
    Law,
    LearningRate,
    Loss,
    Mfu,
    Model,
    Out,
    Price,
    Rates,
    VocabSize,
)
from hunyuan_cli.options.sizes import parse_context, parse_count, parse_fraction, parse_number, split_numbers
from hunyuan_cli.results import emit, result_format
from hunyuan_cli.views.scale_plan import notes, row, tables


def scale_plan(
    flops: Budgets,
    law: Law = "paper",
    family: FamilyName = None,
    model: Model = None,
    vocab_size: VocabSize = None,
    context: Context = None,
    batch_tokens: BatchTokens = None,
    learning_rate: LearningRate = None,
    loss: Loss = None,
    rates: Rates = None,
    out: Out = None,
    gpu: Gpu = "h200",
    mfu: Mfu = "0.35",
    devices: Devices = 1,
    expert_parallel: ExpertParallel = None,
    context_parallel: ContextParallel = None,
    price_per_hour: Price = None,
    plot: Plot = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """What to train with a budget, at the optimum of a scaling law: shape, tokens, batch, rates, memory and time.

    Example: hunyuan scale-plan --flops 3.1e24 --family hunyuan-large --devices 2048 --expert-parallel 16

    Then train: hunyuan scale-plan --flops 1e14 --law law.json --out run.toml && hunyuan train --config run.toml
    """
    from analyses.devices import find_device
    from analyses.planning.plan import Request, plan_report
    from analyses.planning.run_file import run_file
    from analyses.scaling.laws import LAWS, read_law
    from model.sweep.rates import read_rates

    budgets = list(dict.fromkeys(parse_number(item) for text in flops for item in split_numbers(text)))
    if family and model:
        raise typer.BadParameter("--family and --model both name the shape: give one of them")
    if out is not None and len(budgets) > 1:
        raise typer.BadParameter(f"--out holds one plan, not {len(budgets)}: give --flops once")
    if law not in LAWS and not Path(law).exists():
        raise typer.BadParameter(f"--law '{law}' is neither a file nor one of {', '.join(LAWS)}")
    request = Request(
        family=family or "report",
        model=model,
        vocab_size=vocab_size,
        context=parse_context(context) if context else None,
        batch_tokens=parse_count(batch_tokens) if batch_tokens else None,
        learning_rate=learning_rate,
        loss=loss,
        gpu=find_device(gpu),
        mfu=parse_fraction(mfu),
        devices=devices,
        expert_parallel=expert_parallel,
        context_parallel=context_parallel,
        rates=read_rates(rates) if rates else None,
        price_per_hour=price_per_hour,
    )
    chosen = LAWS[law] if law in LAWS else read_law(law)
    report = plan_report(chosen, budgets, request)
    for warning in report["warnings"]:
        stderr(f"warning: {warning['message']}")
    if out is not None:
        write_output(out, run_file(report).encode())
    if plot is not None:
        from analyses.planning.plots import plot_plans

        save_figure(plot_plans(report, chosen), plot)
    kind = result_format(format, output)
    if kind == "csv":
        emit([row(plan) for plan in report["plans"]], format=kind, output=output)
    else:
        emit(tables(report) if kind == "table" else report, format=kind, output=output, note=notes(report))
