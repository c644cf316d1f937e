"""Which learning rate the report's rule gives to routed experts, from the noise scale that a run measured.

    expert_rates_table(groups)    three rows a group of runs with training.measure_noise_scale: at 25%, 50% and 100% of it

The rule (Hunyuan-Large, arXiv:2411.02265): AdamW's best rate at a batch of B is lr(B) = 2 lr_max / (sqrt(B_noise/B) +
sqrt(B/B_noise)), and one of n experts sees B/n, so it takes lr(B/n) / lr(B). B_noise is that of the shared part. The rule
supposes that an expert's B_noise is the same in tokens of its own; `by_both_noise_scales` supposes nothing of the kind and
takes f(B / B_routed) / f(B / B_shared) with f = lr / lr_max, over tokens of the whole batch: equal where B_routed = n B_shared.

The noise scale that is measured is the simple one of McCandlish et al., of plain gradients; the rule speaks of AdamW.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analyses.training.runs import Run, RunGroup
from model.config.hunyuan import HunyuanConfig
from model.training.config import TrainingConfig
from model.training.schedule import batch_learning_rate, expert_lr_scale

MOMENTS = (0.25, 0.5, 1.0)  # of the run
ROLES = ("shared", "routed")


def expert_rates_table(groups: Sequence[RunGroup]) -> pd.DataFrame:
    """Empty where no run of a mixture has measured its noise scale.

    noise_scale_shared and noise_scale_routed in tokens: S / |G|^2, each of them first averaged over the seeds of the group;
    batch_noise_ratio is B / B_noise; `used` is the expert_lr_scale that the runs were trained with.
    """
    rows = []
    for group in groups:
        measured = [run for run in group.runs if "gradient_noise_routed" in run.metrics and run.config]
        if not measured:
            continue
        model = HunyuanConfig.from_dict(measured[0].config)
        training = TrainingConfig(**measured[0].settings.get("training", {}))
        batch = training.global_batch_tokens
        for moment in MOMENTS:
            shared, routed = (_noise_scale(measured, role, moment) for role in ROLES)
            row: dict[str, Any] = {"name": group.name, "of_the_run": moment, "batch_tokens": batch}
            row |= {"noise_scale_shared": shared, "noise_scale_routed": routed, "batch_noise_ratio": batch / shared}
            rule = both = math.nan
            if shared > 0:
                ruled = replace(training, expert_lr_scale=0.0, batch_noise_ratio=batch / shared)
                rule = expert_lr_scale(model, ruled)
            if shared > 0 and routed > 0:
                both = batch_learning_rate(batch / routed) / batch_learning_rate(batch / shared)
            used = expert_lr_scale(model, training)
            rows.append(row | {"by_the_rule": rule, "by_both_noise_scales": both, "used": used})
    return pd.DataFrame(rows)


def _noise_scale(runs: Sequence[Run], role: str, moment: float) -> float:
    """S / |G|^2 of a role in tokens, from the averages that were logged last before that part of the run; else NaN."""
    columns = [f"gradient_noise_{role}", f"gradient_signal_{role}"]
    found = []
    for run in runs:
        logged = run.metrics[["tokens", *columns]].dropna()
        logged = logged[logged["tokens"] <= moment * run.metrics["tokens"].max()]
        found.append(logged[columns].iloc[-1] if len(logged) else pd.Series(math.nan, columns))
    noise, signal = pd.concat(found, axis=1).mean(axis=1)
    return float(noise / signal) if signal > 0 else math.nan
