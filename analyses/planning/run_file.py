"""A plan (plan.py) as the run file that `hunyuan train --config` takes. Comments say where each number comes from."""

from typing import Any

from analyses.planning.batch import LEAST_STEPS, RATE_RULE
from analyses.planning.plan import MICRO_TOKENS
from model.config.hunyuan import HunyuanConfig
from model.training.config import TrainingConfig
from model.training.settings import RunSettings


def _of_batch(plan: dict[str, Any]) -> str:
    """Where the batch comes from."""
    steps = f"at least {LEAST_STEPS} steps unless given"
    if plan["critical_batch_tokens"] is None:
        return f"{plan['batch_source']}; {steps}; no critical batch, for the loss is unknown"
    critical = f"the critical batch is {plan['critical_batch_tokens']:.3g} at a loss of {plan['loss_estimate']:.3g}"
    return f"by {plan['batch_source']}; {critical} ({plan['loss_source']}); {steps}"


def run_file(report: dict[str, Any]) -> str:
    """The first plan of a report as TOML, with all settings and comments on where the numbers come from."""
    law, plan = report["law"], report["plans"][0]
    training = TrainingConfig(
        steps=plan["steps"],
        sequence_length=plan["context"],
        global_batch_tokens=plan["batch_tokens"],
        micro_batch_size=plan["memory"]["micro_batch_size"],
        learning_rate=plan["learning_rate"],
        recompute=plan["memory"]["recompute"],
    )
    settings = RunSettings(model=HunyuanConfig.from_dict(plan["model"]), training=training)
    kind = f"family {plan['family']}" if plan["family"] else "the given model"
    rate = plan["learning_rate_source"]
    comments = {
        "hidden_size": f"{kind}: {plan['activated_params']:,} activated, {plan['miss_fraction']:+.1%} off N_opt",
        "sources": "name your own: the standard library has some millions of tokens, and is read again and again",
        "steps": f"{plan['tokens']:,} tokens, {plan['flops']:g} FLOPs over {plan['flops_per_token']:,} a token, in whole steps",
        "global_batch_tokens": _of_batch(plan),
        "micro_batch_size": f"at most {MICRO_TOKENS} tokens of each of {plan['devices']} devices",
        "learning_rate": f"{rate}, N activated" if rate == RATE_RULE else rate,
        "batch_noise_ratio": f"of the routed experts' rate: {plan['expert_lr_scale'] or 1:.3g} of the others'",
        "warmup_fraction": f"{plan['schedule']['warmup_steps']:,} steps",
        "anneal_fraction": f"{plan['schedule']['anneal_steps']:,} steps",
        "recompute": f"{plan['gpu']}: a step takes {plan['memory']['bytes']:.3g} bytes, recomputed "
        f"{plan['memory']['recomputed_bytes']:.3g}",
    }
    lines = [
        f"# hunyuan scale-plan --flops {plan['flops']:g}: N_opt {plan['params_opt']:.4g}, D_opt {plan['tokens_opt']:.4g}",
        f"# by the law {law['name']!r}: {law['source']}",
        *(f"# {warning['code']}: {warning['message']}" for warning in report["warnings"]),
        "",
    ]
    for line in settings.to_toml().splitlines():
        key, equals, _ = line.partition(" = ")
        comment = comments.get(key) if equals else None
        lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"
