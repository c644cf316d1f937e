"""config.json of the released families and this project's configuration, in both directions.

    hunyuan            Hunyuan-Large's release: CLA, raw top-1 weight, bfloat16 frequencies where nothing scales them
    hunyuan_v1_moe     Hunyuan-A13B and transformers' HunYuanMoEV1: no CLA, weights always renormalised, float32 frequencies
    hunyuan_v1_dense   transformers' HunYuanDenseV1: the same with a plain MLP

Read as released (`rope_theta` with `rope_scaling`, `torch_dtype`) and as transformers 5 writes it (`rope_parameters`, `dtype`).
The release's overlapping flags (use_cla, use_mixed_mlp_moe, moe_drop_tokens, moe_random_routing_dropped_token) end here.
"""

import reprlib
from typing import Any, Literal

from model.config.architectures import SWITCHES, buildable_config
from model.config.hunyuan import Convention, HunyuanConfig
from model.errors import CheckpointError, ConfigError

Layout = Literal["hunyuan", "transformers"]
CONVENTION_OF: dict[str, Convention] = {
    "hunyuan": "hunyuan-large",
    "hunyuan_v1_moe": "hunyuan-a13b",
    "hunyuan_v1_dense": "hunyuan-a13b",
}


def is_released(values: dict[str, Any]) -> bool:
    """Whether a config.json is of one of these families."""
    kind = values.get("model_type")
    return isinstance(kind, str) and kind in CONVENTION_OF


def read_config(values: dict[str, Any], name: str) -> HunyuanConfig:
    """The configuration that computes what a released config.json describes; ConfigError lists why none does."""
    kind = values.get("model_type")
    if not is_released(values):
        raise ConfigError(
            [f"{name} has the model type {reprlib.repr(kind)}: this project runs {', '.join(CONVENTION_OF)}"]
        )
    problems = [
        f"{name} has {key} {reprlib.repr(values[key])}, which this project does not compute: it knows {allowed[0]!r}"
        for key, (allowed, _) in SWITCHES.items()
        if values.get(key) is not None and values[key] not in allowed
    ]
    if kind != "hunyuan" and values.get("use_cla"):
        problems.append(f"{name} has use_cla true, which {kind} does not know: only hunyuan has cross-layer attention")
    theta, scaling = _read_rope(values, name, problems)
    if problems:
        raise ConfigError(problems)
    drops, recycles = values.get("moe_drop_tokens"), values.get("moe_random_routing_dropped_token")
    config = buildable_config(values, name).replace(
        convention=CONVENTION_OF[str(kind)],
        rope_theta=theta,
        rope_scaling=scaling,
        moe_routing=("recycle" if recycles else "drop") if drops else "dropless",
    )
    factor = values.get("capacity_factor")
    return (
        config
        if isinstance(factor, bool) or not isinstance(factor, int | float)
        else config.replace(capacity_factor=factor)
    )


def _read_rope(values: dict[str, Any], name: str, problems: list[str]) -> tuple[float, dict[str, Any] | None]:
    """The base and the scaling, of either spelling."""
    key = "rope_parameters" if values.get("rope_parameters") is not None else "rope_scaling"
    rope = values.get(key) or {}
    if not isinstance(rope, dict):
        problems.append(f"{name} has {key} {reprlib.repr(rope)}: it must be an object, or null")
        return 1.0, None
    theta = rope.get("rope_theta", values.get("rope_theta"))
    theta = 10_000.0 if theta is None else theta
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        problems.append(f"{name} has rope_theta {reprlib.repr(theta)}: it must be a number")
        theta = 1.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "dynamic" and rope.get("alpha"):
        return theta, {"type": "dynamic", "alpha": rope["alpha"], "factor": 1.0}
    if kind == "linear":
        return theta, {"type": "linear", "factor": rope.get("factor")}
    problems.append(f"{name} has the RoPE scaling {reprlib.repr(rope)}: linear, and dynamic with alpha, are known here")
    return theta, None


def write_config(config: HunyuanConfig, layout: Layout, dtype: str, tokens: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an exported model; CheckpointError says why the layout cannot hold it.

    `dtype` is that of the weights, such as "bfloat16"; `tokens` the ids of special tokens.
    """
    reasons = reasons_against(config, layout)
    if reasons:
        other: Layout = "transformers" if layout == "hunyuan" else "hunyuan"
        possible = not reasons_against(config, other)
        offer = f"write {_LAYOUT[other]}, --to {other}" if possible else "it runs here only"
        raise CheckpointError(f"{_CLASS[layout]} does not compute what this model does ({'; '.join(reasons)}): {offer}")
    alike = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
        max_position_embeddings rms_norm_eps initializer_range tie_word_embeddings attention_bias""".split()
    values = {name: getattr(config, name) for name in alike} | {
        "hidden_act": "silu", "attention_dropout": 0.0, "use_cache": True, "num_experts": config.num_experts,
        "moe_topk": config.moe_topk, **tokens,
    }  # fmt: skip
    if layout == "hunyuan":
        return _released(config) | values | {"torch_dtype": dtype}
    kind, name = ("hunyuan_v1_dense", "HunYuanDenseV1") if config.is_dense else ("hunyuan_v1_moe", "HunYuanMoEV1")
    if config.is_dense:
        del values["num_experts"], values["moe_topk"]
    rope = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = {key: value for key, value in config.rope_scaling.items() if key != "type"}
        rope |= {"rope_type": config.rope_scaling["type"]} | scaling
    return (
        {"model_type": kind, "architectures": [f"{name}ForCausalLM"]}
        | values
        | {"rope_parameters": rope, "dtype": dtype}
    )


_CLASS = {"hunyuan": "the released code", "transformers": "transformers' class"}
_LAYOUT = {"hunyuan": "the released layout", "transformers": "that of transformers' class"}


def _released(config: HunyuanConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None and config.convention != "hunyuan-large":
        scaling = {"type": "dynamic", "alpha": 1.0, "factor": 1.0}  # the same base, and frequencies kept in float32
    return {
        "model_type": "hunyuan",
        "architectures": ["HunYuanForCausalLM"],
        "use_qk_norm": config.use_qk_norm,
        "use_cla": config.cla_share_factor > 1,
        "cla_share_factor": config.cla_share_factor,
        "use_mixed_mlp_moe": config.num_shared_expert > 0,
        "num_shared_expert": max(1, config.num_shared_expert),
        "capacity_factor": config.capacity_factor,
        "moe_drop_tokens": config.moe_routing != "dropless",
        "moe_random_routing_dropped_token": config.moe_routing == "recycle",
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
    }


def reasons_against(c: HunyuanConfig, layout: Layout) -> list[str]:
    """Why a layout's code would compute something else than this model."""
    raw_top_1 = not c.is_dense and c.convention != "hunyuan-a13b" and 1 in map(c.topk, range(c.num_hidden_layers))
    unit_top_1 = not c.is_dense and c.convention == "hunyuan-a13b" and 1 in map(c.topk, range(c.num_hidden_layers))
    if layout == "hunyuan":
        against = {
            "its experts' top-1 weight is 1, there it is the softmax probability": unit_top_1,
            "its RoPE is scaled linearly, which that code computes in bfloat16": (c.rope_scaling or {}).get("type")
            == "linear",
        }
    else:
        against = {
            f"it shares keys and values over {c.cla_share_factor} layers (CLA)": c.cla_share_factor > 1,
            "the weight of its top-1 expert is the softmax probability, there it is 1": raw_top_1,
            "its RoPE frequencies are rounded to bfloat16": c.convention == "hunyuan-large" and c.rope_scaling is None,
            "it has no norms of queries and keys": not c.use_qk_norm,
            f"it has {c.num_shared_expert} shared experts, there it is 1": not c.is_dense and c.num_shared_expert != 1,
        }
    return [reason for reason, holds in against.items() if holds]
