"""What a person sees of a plan: its tables, and notes under them; and its one row for csv."""

from typing import Any

from hunyuan_cli.console import human_time
from hunyuan_cli.views.layouts import layout_tables


def row(plan: dict[str, Any]) -> dict[str, Any]:
    """One plan in one line."""
    model, memory = plan["model"], plan["memory"]
    keys = "flops params_opt tokens_opt activated_params total_params miss_fraction context tokens steps batch_tokens"
    return (
        {key: plan[key] for key in keys.split()}
        | {"hidden_size": model["hidden_size"], "layers": model["num_hidden_layers"]}
        | {key: plan[key] for key in ("learning_rate", "expert_learning_rate")}
        | {"memory_bytes": memory["bytes"], "memory_recomputed_bytes": memory["recomputed_bytes"]}
        | {key: plan[key] for key in ("gpu", "devices", "device_hours", "days", "price")}
    )


def tables(report: dict[str, Any]) -> dict[str, Any]:
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
    for name in ("expert_parallel", "context_parallel"):
        where += f", {name.replace('_', ' ')} {memory[name]}" if memory[name] > 1 else ""
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
                "by": plan["batch_source"],
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
                "by_the_layout": _range(plan["layout_days"]),
                "least_devices_for_the_memory": memory["devices_to_fit"],
                "price": plan["price"],
            }
        ],
        **(layout_tables(plan["layout"]) if plan["layout"] else {}),
    }


def _range(days: list[float] | None) -> str | None:
    """With all overlap and with none."""
    return None if days is None else " to ".join(human_time(each * 86_400) for each in days)


def _least_device(names: list[str]) -> str:
    """The one with the least memory, for all with more hold it, too."""
    from analyses.devices import DEVICES

    return min(names, key=lambda name: DEVICES[name].memory, default="none of the known ones")


def _shown(plan: dict[str, Any]) -> dict[str, Any]:
    keys = "flops params_opt activated_params miss_fraction total_params tokens_opt tokens context steps batch_tokens"
    renamed = {"params_opt": "law_params", "tokens_opt": "law_tokens"}
    row = {renamed.get(key, key): plan[key] for key in keys.split()}
    return row | {"lr": plan["learning_rate"], "device_hours": plan["device_hours"], "price": plan["price"]}


def notes(report: dict[str, Any]) -> str:
    """Sentences under the tables."""
    law, plans = report["law"], report["plans"]
    n_opt, d_opt = (f"{law[key]['coefficient']:.3g} C^{law[key]['exponent']:.4g}" for key in ("n_opt", "d_opt"))
    told = [f"N_opt = {n_opt} and D_opt = {d_opt}: {law['source']}; {law['of']}", *report["notes"]]
    return "\n".join([*(["* the plan"] if len(plans) == 1 else []), *(f"note: {note}" for note in told)])
