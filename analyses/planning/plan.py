"""From a budget in FLOPs to a training run: shape, tokens, steps, batch, learning rates, memory and time.

    plan_report(LAWS["paper"], [3.1e24], Request(family="hunyuan-large"))   the document of `hunyuan scale-plan`
    run_file(report), in run_file.py                                        what `hunyuan train --config` takes

The scaling law gives the number of parameters. The tokens follow from the budget and the exact FLOPs of a token.
"""

import math
from dataclasses import dataclass
from typing import Any

from analyses.devices import DEVICES, Device
from analyses.planning.batch import RATE_RULE, batch_of, learning_rate_for, power_of_two, sequences_of
from analyses.planning.families import FAMILIES, Family, Rung, candidates, nearest
from analyses.planning.fit import memory_of
from analyses.planning.layouts import Step, choose_layout, nothing_fits
from analyses.scaling.laws import LAWS, ScalingLaw
from model.config.architectures import buildable_config
from model.config.hunyuan import HunyuanConfig
from model.config.load import load_values
from model.config.shape import shape_of
from model.counts import activated_params, total_params, training_flops_per_token
from model.errors import ConfigError, HunyuanError
from model.sweep.rates import RateLaws
from model.training.config import TrainingConfig
from model.training.schedule import anneal_start, expert_lr_scale, warmup_steps

MICRO_TOKENS = 16_384  # of a micro-batch on one device, if the batch has as many: matrix products are efficient then
FAR = 100  # a plan more than so many times beyond the law's budgets has a warning
OFF, FAR_OFF = 2, 100  # factors between N_opt and the family's nearest shape: a warning, and a refusal


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a plan is made for. None means that a rule chooses. ConfigError lists the values that cannot be."""

    family: str = "report"
    model: str | None = None  # a fixed shape instead of a family
    vocab_size: int | None = None
    context: int | None = None
    batch_tokens: int | None = None
    learning_rate: float | None = None
    loss: float | None = None  # nats per token at the end, for the critical batch
    gpu: str = "h200"
    mfu: float = 0.35
    devices: int = 1
    expert_parallel: int | None = None
    context_parallel: int | None = None
    rates: RateLaws | None = None  # of the learning rate and the batch, from one's own runs
    price_per_hour: float | None = None  # of one device, in any currency

    def __post_init__(self) -> None:
        problems = []
        if self.family not in FAMILIES:
            problems.append(f"there is no family {self.family!r}: choose one of {', '.join(FAMILIES)}")
        if self.gpu not in DEVICES:
            problems.append(f"there is no device {self.gpu!r}: choose one of {', '.join(DEVICES)}")
        elif DEVICES[self.gpu].peak_flops is None:
            problems.append(f"{self.gpu} has no published bfloat16 peak: take another device for the hours")
        if not 0 < self.mfu <= 1:
            problems.append(f"mfu is {self.mfu:g}: give the share of the peak that is used, above 0 and at most 1")
        for name, most in (("loss", 20.0), ("learning_rate", 1.0), ("price_per_hour", 1e6)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                problems.append(f"{name} is {value:g}: it must be above 0 and at most {most:g}")
        if problems:
            raise ConfigError(problems)

    @property
    def device(self) -> Device:
        return DEVICES[self.gpu]


def plan_report(law: ScalingLaw, budgets: list[float], request: Request) -> dict[str, Any]:
    """The document of `hunyuan scale-plan`: the law, a plan for each budget, warnings and notes."""
    warnings: list[dict[str, Any]] = []
    plans = [_plan(law, flops, request, warnings) for flops in budgets]
    return {
        "law": {
            "name": law.name,
            "source": law.source,
            "of": law.of,
            "n_opt": {"coefficient": law.n_opt.coefficient, "exponent": law.n_opt.exponent},
            "d_opt": {"coefficient": law.d_opt.coefficient, "exponent": law.d_opt.exponent},
            "valid_flops": law.valid and list(law.valid),
        },
        "plans": plans,
        "warnings": warnings,
        "notes": _notes(law, plans, request),
    }


def _notes(law: ScalingLaw, plans: list[dict[str, Any]], request: Request) -> list[str]:
    """Sentences that explain the numbers."""
    notes = [
        f"{plan['flops']:.3g} FLOPs train {plan['tokens'] / plan['tokens_opt']:.2f} times D_opt tokens: this shape has "
        f"{plan['activated_params'] / plan['params_opt']:.2f} times N_opt parameters, and takes "
        f"{plan['flops_per_param_token']:.3g} FLOPs per parameter and token at a context of {plan['context']:,}, where the law "
        f"has {plan['law_flops_per_param_token']:.3g}"
        for plan in plans
    ]
    if law.name not in LAWS:
        notes.append("the law counts N and C as its runs did: give their --vocab-size and --context")
    if "hunyuan-large" in (request.model, request.family):
        config, tokens = HunyuanConfig.from_name("hunyuan-large"), 7e12
        activated, per_token = activated_params(config), training_flops_per_token(config, 8192)
        notes.append(
            f"the report's run of {activated / 1e9:.1f}B activated parameters on 7T tokens took {tokens * per_token:.3g} FLOPs "
            f"by the exact count at 8,192 tokens, and {tokens * (9.59 * activated + 2.3e8):.3g} by its rule, 9.59 N + 2.3e8 a "
            "token"
        )
    return [
        *notes,
        "device_hours are the exact FLOPs divided by peak * mfu; if your mfu counts 6 N, as hunyuan train's does, take "
        "device_hours_by_six_n",
        *_rate_notes(request),
    ]


def _rate_notes(request: Request) -> list[str]:
    if request.rates is not None or request.learning_rate is not None:
        return []
    return [
        f"the learning rate is only a first guess: {RATE_RULE}, which fits the toy and is within 11% of Llama 3.1's; --rates "
        "takes a law of your own runs"
    ]


def _plan(law: ScalingLaw, flops: float, request: Request, warnings: list[dict[str, Any]]) -> dict[str, Any]:
    def warn(code: str, message: str) -> None:
        warnings.append({"code": code, "flops": flops, "message": message})

    if not 0 < flops < math.inf:
        raise HunyuanError(f"the budget is {flops:g} FLOPs: give a positive number such as 1e15")
    if (factor := law.beyond(flops)) > FAR:
        side = "below the smallest" if law.valid and flops < law.valid[0] else "above the largest"
        warn("extrapolation", f"{flops:.3g} FLOPs are a factor {factor:,.0f} {side} budget behind the law {law.name}")
    params_opt, tokens_opt = law.n_opt(flops), law.d_opt(flops)

    config, rungs = _shape(params_opt, flops, request, warn)
    activated = activated_params(config)
    context = request.context or _context(config)
    if context > config.max_position_embeddings:
        raise HunyuanError(
            f"the context is {context:,} tokens, {request.model} is meant for {config.max_position_embeddings:,}: "
            "lower --context"
        )
    per_token = training_flops_per_token(config, context)
    tokens = int(flops // per_token)
    rates = request.rates
    batch = batch_of(law, flops, activated, tokens, config.vocab_size, request.loss, rates)
    sequences = _given_sequences(request.batch_tokens, context) or sequences_of(batch.tokens, context, tokens)
    if sequences * context > tokens:
        raise HunyuanError(
            f"{flops:.3g} FLOPs buy {tokens:,} tokens of a model with {activated:,} activated parameters, less than one "
            f"step of {sequences * context:,}: raise --flops, or lower --vocab-size, --context or --batch-tokens"
        )
    rate, rate_source = learning_rate_for(request.learning_rate, rates, activated, tokens, sequences * context)
    if rates is not None and (outside := rates.beyond(activated, tokens)) > FAR:
        warn(
            "rates_extrapolation", f"{flops:.3g} FLOPs are a factor {outside:,.0f} outside of the runs of {rates.name}"
        )
    share = max(1, min(MICRO_TOKENS // context, sequences // request.devices))  # sequences of a device at a time
    micro = min(power_of_two(share), sequences & -sequences)  # the second: the largest power of two that divides them
    layout = None  # of one device, or of several that cannot share out a step evenly
    if request.devices > 1:
        layout = choose_layout(
            shape_of(config),
            request.devices,
            request.gpu,
            Step(context=context),
            expert_parallel=request.expert_parallel,
            context_parallel=request.context_parallel,
            sequences=sequences,
        )
    sizes: dict[str, Any] = {"devices": request.devices, "expert_parallel": request.expert_parallel}
    if layout is not None:
        micro = layout["micro_batch_size"]
        sizes |= {name: layout[name] for name in ("expert_parallel", "context_parallel")}
    if layout is None and sequences < request.devices:
        warn("idle_devices", f"a batch of {sequences} sequences leaves some of {request.devices} devices idle")
    training = TrainingConfig(
        flops=flops,
        sequence_length=context,
        global_batch_tokens=sequences * context,
        micro_batch_size=micro,
        learning_rate=rate,
    )
    steps = training.total_steps(per_token)
    memory = memory_of(config, context, micro, device=request.device, **sizes)
    if layout is not None and layout["fits"] is False:
        warn("memory", nothing_fits(layout, request.model or f"the shape for {flops:.3g} FLOPs"))
    elif layout is None and (needed := memory["recomputed_bytes"]) > request.device.memory:
        least = memory["devices_to_fit"]
        advice = (
            f"take --devices {least}" if least else "take more --expert-parallel, for no number of devices is enough"
        )
        room = f"{request.gpu}, which has {request.device.memory / 1e9:,.0f}"
        warn("memory", f"a step for {flops:.3g} FLOPs takes {needed / 1e9:,.0f} GB of each {room}: {advice}")
    speed = (request.device.peak_flops or math.nan) * request.mfu  # never nan: Request has refused such a device
    scale = expert_lr_scale(config, training)
    warmup = warmup_steps(training, steps)
    return {
        "flops": flops,
        "params_opt": params_opt,
        "tokens_opt": tokens_opt,
        "family": None if request.model else request.family,
        "model": config.to_dict(),
        "activated_params": activated,
        "total_params": total_params(config),
        "miss_fraction": activated / params_opt - 1,
        "context": context,
        "flops_per_token": per_token,
        "tokens": tokens,
        "tokens_by_law_cost": flops / (law.cost[0] * activated + law.cost[1]) if law.cost else None,
        "law_flops_per_param_token": flops / params_opt / tokens_opt,
        "flops_per_param_token": per_token / activated,
        "steps": steps,
        "run_flops": steps * training.global_batch_tokens * per_token,  # whole steps: up to one more than the budget
        "batch_tokens": training.global_batch_tokens,
        "batch_sequences": sequences,
        "batch_source": "given" if request.batch_tokens else batch.source,
        "critical_batch_tokens": batch.critical,
        # The report's C_min: of as good a run in small batches.
        "flops_min": flops / (1 + sequences * context / batch.critical) if batch.critical else None,
        "loss_estimate": batch.loss,
        "loss_source": batch.loss_source,
        "learning_rate": rate,
        "learning_rate_source": rate_source,
        "expert_learning_rate": None if config.is_dense else rate * scale,
        "expert_lr_scale": None if config.is_dense else scale,
        "schedule": {
            "warmup_steps": warmup,
            "decay_ratio": training.decay_ratio,
            "anneal_steps": steps - anneal_start(training, steps),
            "final_ratio": training.final_ratio,
        },
        "memory": memory,
        "layout": layout,
        "layout_days": _layout_days(layout, steps),
        "gpu": request.gpu,
        "mfu": request.mfu,
        "devices": request.devices,
        "device_hours": flops / speed / 3600,
        "device_hours_by_six_n": 6 * activated * tokens / speed / 3600,
        "days": flops / speed / 86_400 / (min(request.devices, sequences) if layout is None else request.devices),
        # Every device-hour at the price of one, however many run at a time.
        "price": request.price_per_hour and flops / speed / 3600 * request.price_per_hour,
        "price_per_hour": request.price_per_hour,
        "candidates": [_candidate(rung, flops, context, training, params_opt, tokens_opt, config) for rung in rungs],
    }


def _layout_days(layout: dict[str, Any] | None, steps: int) -> list[float] | None:
    """Days of all steps by the layout's terms: where all that can overlap does, and where nothing does."""
    if layout is None or layout["step_seconds"] is None:
        return None
    return [steps * layout[name] / 86_400 for name in ("step_seconds", "step_seconds_without_overlap")]


# --- the shape --------------------------------------------------------------------------------------------------------


def _shape(params_opt: float, flops: float, request: Request, warn: Any) -> tuple[HunyuanConfig, list[HunyuanConfig]]:
    """The shape nearest to N_opt and the candidates around it, or the fixed model alone."""
    if request.model:
        values = load_values(request.model) | ({"vocab_size": request.vocab_size} if request.vocab_size else {})
        config = buildable_config(values, request.model)
        return config, [config]
    family = FAMILIES[request.family]
    vocab = request.vocab_size or family.vocab_size(params_opt)
    rungs = family.rungs(vocab)
    chosen = nearest(rungs, params_opt)
    wanted = f"the law wants {params_opt:.3g} activated parameters for {flops:.3g} FLOPs"
    if chosen.activated * OFF < params_opt:
        raise HunyuanError(
            f"{wanted}, the largest shape of the family {family.name} has {chosen.activated:.3g}: lower --flops"
        )
    if chosen.activated > OFF * params_opt:
        smallest = f"{wanted}, the smallest shape of the family {family.name} has {chosen.activated:,}"
        smallest += f" with a vocabulary of {vocab:,}: lower --vocab-size or raise --flops"
        if chosen.activated > FAR_OFF * params_opt:
            raise HunyuanError(smallest)
        warn("smallest_shape", smallest)
    longest = max(8192, request.context or 0)

    def build(rung: Rung) -> HunyuanConfig:
        return _config(family, rung, vocab, longest)

    return build(chosen), [build(rung) for rung in candidates(rungs, chosen, params_opt)]


def _config(family: Family, rung: Rung, vocab: int, longest: int) -> HunyuanConfig:
    values = family.settings(rung.hidden_size, rung.layers, vocab)
    return HunyuanConfig.from_dict(
        values | {"max_position_embeddings": max(longest, values["max_position_embeddings"])}
    )


def _candidate(
    config: HunyuanConfig,
    flops: float,
    context: int,
    training: TrainingConfig,
    params_opt: float,
    tokens_opt: float,
    chosen: HunyuanConfig,
) -> dict[str, Any]:
    activated, per_token = activated_params(config), training_flops_per_token(config, context)
    tokens = int(flops // per_token)
    return {
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "activated_params": activated,
        "total_params": total_params(config),
        "tokens": tokens,
        "steps": training.total_steps(per_token),
        "tokens_per_param": tokens / activated,
        "params_over_opt": activated / params_opt,
        "tokens_over_opt": tokens / tokens_opt,
        "chosen": config == chosen,
    }


# --- batch ------------------------------------------------------------------------------------------------------------


def _context(config: HunyuanConfig) -> int:
    """4 times the hidden size as a power of two, at most 8K as in the report's sweep: attention stays a small cost."""
    return min(power_of_two(4 * config.hidden_size), 8192, config.max_position_embeddings)


def _given_sequences(batch_tokens: int | None, context: int) -> int | None:
    """The sequences of a batch that was given."""
    if batch_tokens is not None and batch_tokens % context:
        raise HunyuanError(
            f"a batch of {batch_tokens:,} tokens is no whole number of sequences of {context:,}: "
            "give a multiple of it, or another --context"
        )
    return batch_tokens and batch_tokens // context
