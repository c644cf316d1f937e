"""`hunyuan scale-plan`: a budget in FLOPs turned into a shape, tokens, steps, batch, rates, memory and hours, as a run file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hunyuan_cli.console import human_time, stderr
from hunyuan_cli.files import write_output
from hunyuan_cli.options.common import Format, Output
from hunyuan_cli.options.sizes import parse_context, parse_count, parse_fraction, parse_number
from hunyuan_cli.results import emit, result_format

_RUN = "How the model is trained"
_COST = "Memory and time"

Budgets = Annotated[
    list[str], typer.Option("--flops", metavar="FLOPS", help="Budget of training, such as 1e21; repeatable.")
]
Law = Annotated[
    str,
    typer.Option("--law", metavar="NAME|FILE", help="paper, chinchilla, or the JSON that hunyuan scale-fit writes."),
]
FamilyName = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME",
        help="Shapes to choose from: report (the default, as the ladder), or hunyuan-large, its proportions.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME|PATH", help="Plan for this shape instead of a family's.")
]
VocabSize = Annotated[
    int | None,
    typer.Option("--vocab-size", min=2, max=10**9, help="Rows of the embedding; by default as presets of that size."),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="TOKENS", help="Tokens of a sequence; by default 4 times the hidden size, up to 8K.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
BatchTokens = Annotated[
    str | None,
    typer.Option(
        "--batch-tokens", metavar="TOKENS", help="Tokens of a step; by default the critical batch, with 1,000 steps at least.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="Peak rate; by default 4e-3 * (1.22e6 / N)^0.3.", rich_help_panel=_RUN),
]
Loss = Annotated[
    float | None,
    typer.Option(
        "--loss", help="Loss at the end, nats a token, for the critical batch; by default Chinchilla's.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option("--out", dir_okay=False, help="Write the run file that hunyuan train --config takes."),
]
Gpu = Annotated[str, typer.Option("--gpu", metavar="NAME", help="The device, such as h200.", rich_help_panel=_COST)]
Mfu = Annotated[
    str,
    typer.Option("--mfu", metavar="SHARE", help="Share of its bf16 peak that is used: 0.35.", rich_help_panel=_COST),
]
Devices = Annotated[int, typer.Option("--devices", min=1, max=10**6, help="Devices (FSDP).", rich_help_panel=_COST)]
ExpertParallel = Annotated[
    int,
    typer.Option(
        "--expert-parallel", min=1, max=10**6, help="Devices that share out a layer's experts.", rich_help_panel=_COST
    ),
]


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
    out: Out = None,
    gpu: Gpu = "h200",
    mfu: Mfu = "0.35",
    devices: Devices = 1,
    expert_parallel: ExpertParallel = 1,
    format: Format = "table",
    output: Output = None,
) -> None:
    """What to train with a budget, at the optimum of a scaling law: shape, tokens, batch, rates, memory and time.

    Example: hunyuan scale-plan --flops 3.1e24 --family hunyuan-large --devices 2048 --expert-parallel 16

    Then train: hunyuan scale-plan --flops 1e14 --law law.json --out run.toml && hunyuan train --config run.toml
    """
    from analyses.planning.plan import Request, plan_report
    from analyses.planning.run_file import run_file
    from analyses.scaling.laws import LAWS, read_law

    budgets = list(dict.fromkeys(parse_number(text) for text in flops))
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
        gpu=gpu,
        mfu=parse_fraction(mfu),
        devices=devices,
        expert_parallel=expert_parallel,
    )
    report = plan_report(LAWS[law] if law in LAWS else read_law(law), budgets, request)
    for warning in report["warnings"]:
        stderr(f"warning: {warning['message']}")
    if out is not None:
        write_output(out, run_file(report).encode())
    kind = result_format(format, output)
    if kind == "json":
        emit(report, format=kind, output=output)
    elif kind == "csv":
        emit([_row(plan) for plan in report["plans"]], format=kind, output=output)
    else:
        law_of, fits = report["law"], ("n_opt", "d_opt")
        n_opt, d_opt = (f"{law_of[key]['coefficient']:.3g} C^{law_of[key]['exponent']:.4g}" for key in fits)
        told = [f"N_opt = {n_opt} and D_opt = {d_opt}: {law_of['source']}; {law_of['of']}", *report["notes"]]
        marked = ["* the plan"] if len(budgets) == 1 else []
        notes = "\n".join([*marked, *(f"note: {note}" for note in told)])
        emit(_tables(report), format=kind, output=output, note=notes)


def _row(plan: dict[str, Any]) -> dict[str, Any]:
    """One plan in one line."""
    model, memory = plan["model"], plan["memory"]
    keys = "flops params_opt tokens_opt activated_params total_params miss_fraction context tokens steps batch_tokens"
    return (
        {key: plan[key] for key in keys.split()}
        | {"hidden_size": model["hidden_size"], "layers": model["num_hidden_layers"]}
        | {key: plan[key] for key in ("learning_rate", "expert_learning_rate")}
        | {"memory_bytes": memory["bytes"], "memory_recomputed_bytes": memory["recomputed_bytes"]}
        | {key: plan[key] for key in ("gpu", "devices", "device_hours", "days")}
    )


def _tables(report: dict[str, Any]) -> dict[str, Any]:
    """For eyes: one budget in full, several side by side."""
    plans, title = report["plans"], f"law {report['law']['name']}"
    if len(plans) > 1:
        return {title: [_shown(plan) for plan in plans]}
    plan = plans[0]
    model, memory = plan["model"], plan["memory"]
    sizes = (
        "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size num_experts"
    )
    sizes += " moe_topk num_shared_expert cla_share_factor vocab_size"
    where = f"devices {memory['devices']}, micro-batch {memory['micro_batch_size']}"
    where += f", expert parallel {memory['expert_parallel']}" if memory["expert_parallel"] > 1 else ""
    hours = f"{plan['gpu']} at {plan['mfu']:.0%} of its peak"
    return {
        title: [_shown(plan)],
        "shape": [{key.removeprefix("num_"): model[key] for key in sizes.split()}],
        f"around the optimum, {plan['flops']:.3g} FLOPs each": [
            {"": "*" if row["chosen"] else "", **{key: value for key, value in row.items() if key != "chosen"}}
            for row in plan["candidates"]
        ],
        "steps": [
            {
                "batch_tokens": plan["batch_tokens"],
                "critical_batch_tokens": plan["critical_batch_tokens"],
                "at_loss": plan["loss_estimate"],
                "min_flops": plan["flops_min"],
                "steps": plan["steps"],
                "warmup_steps": plan["schedule"]["warmup_steps"],
                "anneal_steps": plan["schedule"]["anneal_steps"],
                "lr": plan["learning_rate"],
                "experts_lr": plan["expert_learning_rate"],
            }
        ],
        f"training memory of one device ({where})": [
            {"activations": name, "bytes": memory[key], "least_device": _least_device(memory[fits])}
            for name, key, fits in (("kept", "bytes", "fits"), ("recomputed", "recomputed_bytes", "fits_recomputed"))
        ],
        f"time ({hours})": [
            {
                "device_hours": plan["device_hours"],
                "device_hours_by_6N": plan["device_hours_by_six_n"],
                "on_these_devices": human_time(plan["days"] * 86_400),
                "least_devices_for_the_memory": memory["devices_to_fit"],
            }
        ],
    }


def _least_device(names: list[str]) -> str:
    """The one with the least memory, for all with more hold it, too."""
    from analyses.devices import DEVICES

    return min(names, key=lambda name: DEVICES[name].memory, default="none that is known")


def _shown(plan: dict[str, Any]) -> dict[str, Any]:
    keys = "flops params_opt activated_params miss_fraction total_params tokens_opt tokens context steps batch_tokens"
    renamed = {"params_opt": "law_params", "tokens_opt": "law_tokens"}
    row = {renamed.get(key, key): plan[key] for key in keys.split()}
    return row | {"lr": plan["learning_rate"], "device_hours": plan["device_hours"]}
