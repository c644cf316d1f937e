"""HunyuanConfig: the shape of a model, in the field names of the released Hugging Face config.json.

Frozen, checked as a whole when it is made, and free of torch: counts and budgets come from it before anything is built.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from model.config.checks import type_problems, unknown_key
from model.errors import ConfigError

RoutingPolicy = Literal["dropless", "drop", "recycle"]
ROUTING_POLICIES: tuple[str, ...] = get_args(RoutingPolicy)
# Whose tokens are routed as one where several processes train (model/parallel/places.py); alone both mean the same.
#   micro_batch   those of each micro-batch: no number depends on how many processes there are
#   global        those of all micro-batches that the processes compute at a time, not of all that a step accumulates: the
#                 numbers depend on how many processes there are
RoutingScope = Literal["micro_batch", "global"]
ROUTING_SCOPES: tuple[str, ...] = get_args(RoutingScope)
# What the released families compute differently (model/moe/router.py, model/layers/rope.py):
#                 weight of a top-1 expert     inverse frequencies of RoPE without scaling
#   report        its softmax probability      float32
#   hunyuan-large its softmax probability      rounded to bfloat16
#   hunyuan-a13b  renormalised, so 1           float32
Convention = Literal["report", "hunyuan-large", "hunyuan-a13b"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)


@dataclass(frozen=True, kw_only=True)
class HunyuanConfig:
    """Sizes and switches of one model; ConfigError lists every invalid value at once.

    The defaults are those of the `toy` preset, apart from sizes, which have none.
    """

    vocab_size: int  # rows of the embedding
    hidden_size: int
    intermediate_size: int  # of each expert's SwiGLU, and of a dense block's
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int  # = num_attention_heads is MHA, 1 is MQA, between is GQA
    head_dim: int  # even, for RoPE
    max_position_embeddings: int = 1024  # the longest context the model is meant for, tokens
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02  # standard deviation of a weight matrix at the start
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    use_qk_norm: bool = True  # RMSNorm on each head of q and k, after RoPE
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None  # {"type": "linear", "factor": f} or {"type": "dynamic", "alpha": a}
    convention: Convention = "report"  # whose numbers the model computes, see CONVENTIONS
    cla_share_factor: int = 1  # consecutive layers that share one key-value cache; 1 switches sharing off
    num_experts: int = 16  # routed experts; 1 makes every block dense
    num_shared_expert: int = 1  # experts that every token visits; 0 switches them off
    moe_topk: int | tuple[int, ...] = 1  # routed experts per token: one number, or one for each layer
    moe_routing: RoutingPolicy = "dropless"  # what happens to a choice of a full expert, in training
    capacity_factor: float = 1.25  # places per expert over the mean load; not read when dropless
    capacity_scope: RoutingScope = "micro_batch"  # whose tokens share an expert's places, see ROUTING_SCOPES
    router_aux_loss_coef: float = 0.01  # of the load-balance loss, per layer
    balance_scope: RoutingScope = "micro_batch"  # whose choices the load-balance loss counts
    router_z_loss_coef: float = 0.0
    expert_bias_update_rate: float = 0.0  # balancing without a loss: step of the selection bias; 0 switches it off

    def __post_init__(self) -> None:
        if isinstance(self.moe_topk, list | tuple):  # JSON and TOML know lists; of equal numbers one is enough
            several = len(self.moe_topk) == self.num_hidden_layers and len(set(map(repr, self.moe_topk))) == 1
            object.__setattr__(self, "moe_topk", self.moe_topk[0] if several else tuple(self.moe_topk))
        problems = _problems(self)
        if problems:
            raise ConfigError(problems)
        if self.rope_scaling is not None:  # a copy of its own: what is frozen must not change through the caller's dict
            object.__setattr__(self, "rope_scaling", dict(self.rope_scaling))

    @property
    def is_dense(self) -> bool:
        return self.num_experts == 1

    @property
    def cache_layers(self) -> tuple[int, ...]:
        """Layers that own keys and values: the first of every group of cla_share_factor."""
        return tuple(range(0, self.num_hidden_layers, self.cla_share_factor))

    @property
    def rope_base(self) -> float:
        """The base of RoPE's frequencies; alpha scaling raises it to theta * alpha^(P / (P - 2)), P the head size."""
        if self.rope_scaling is None or self.rope_scaling["type"] != "dynamic":
            return self.rope_theta
        return self.rope_theta * self.rope_scaling["alpha"] ** (self.head_dim / (self.head_dim - 2))

    def topk(self, layer: int) -> int:
        """Routed experts that a token visits in this layer."""
        return self.moe_topk if isinstance(self.moe_topk, int) else self.moe_topk[layer]

    def capacity(self, tokens: int, layer: int = 0) -> int:
        """Places per expert for `tokens` tokens: ceil(capacity_factor * moe_topk * tokens / num_experts)."""
        # Rounded first: 1.1 * 800 / 16 is 55.00000000000001 in binary, which must not buy a 56th place.
        return max(1, math.ceil(round(self.capacity_factor * self.topk(layer) * tokens / self.num_experts, 9)))

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A config from a mapping; unknown and missing keys are refused by name."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        problems = [unknown_key(key, fields, "model") for key in values if key not in fields]
        problems += [
            f"model.{name} is missing"
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in values
        ]
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    @classmethod
    def from_name(cls, name: str, **changes: Any) -> Self:
        """A preset by name (model/config/presets.py), with some fields changed."""
        from model.config.load import named_config

        return cls.from_dict(named_config(name, changes).to_dict())

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """A config from a config.json, or from the folder that holds one: this project's, or of a released family."""
        from model.config.load import config_of, read_config_file

        return cls.from_dict(config_of(read_config_file(Path(path)), str(path)).to_dict())


def _problems(c: HunyuanConfig) -> list[str]:
    wrong_types = type_problems(c, "model")
    if wrong_types:
        return wrong_types  # comparisons below would fail on them
    problems: list[str] = []

    def require(holds: bool, sentence: str) -> None:
        if not holds:
            problems.append(sentence)

    positive = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
                "head_dim max_position_embeddings cla_share_factor num_experts rope_theta rms_norm_eps "
                "initializer_range capacity_factor").split()  # fmt: skip
    for name in positive:
        require(getattr(c, name) > 0, f"model.{name} is {getattr(c, name)}: it must be above 0")
    for name in positive[: positive.index("rope_theta")]:
        most = {"num_hidden_layers": 10_000, "num_attention_heads": 100_000}.get(name, 10**9)  # as in other config.json
        require(getattr(c, name) <= most, f"model.{name} is {getattr(c, name)}: it must be at most {most:,}")
    for name in "num_shared_expert router_aux_loss_coef router_z_loss_coef expert_bias_update_rate".split():
        require(getattr(c, name) >= 0, f"model.{name} is {getattr(c, name)}: it must be 0 (off) or above")
    require(c.head_dim % 2 == 0, f"model.head_dim is {c.head_dim}: RoPE turns pairs, so it must be even")
    if 0 < c.num_attention_heads <= 100_000 and c.num_key_value_heads > 0:
        divisors = [g for g in range(1, c.num_attention_heads + 1) if c.num_attention_heads % g == 0]
        require(
            c.num_key_value_heads in divisors,
            f"model.num_key_value_heads is {c.num_key_value_heads}: with {c.num_attention_heads} attention heads it must "
            f"be one of {', '.join(map(str, divisors))}",
        )
    require(
        c.num_hidden_layers < 1 or c.cla_share_factor <= c.num_hidden_layers,
        f"model.cla_share_factor is {c.cla_share_factor}: with {c.num_hidden_layers} layers it must be between 1 and "
        f"{c.num_hidden_layers}",
    )
    problems += _topk_problems(c)
    require(
        c.convention in CONVENTIONS, f"model.convention is {c.convention!r}: choose one of {', '.join(CONVENTIONS)}"
    )
    require(
        c.moe_routing in ROUTING_POLICIES,
        f"model.moe_routing is {c.moe_routing!r}: choose one of {', '.join(ROUTING_POLICIES)}",
    )
    problems += _scope_problems(c)
    problems += _rope_scaling_problems(c.rope_scaling)
    if isinstance(c.rope_scaling, dict) and c.rope_scaling.get("type") == "dynamic":
        require(c.head_dim != 2, "model.head_dim is 2: alpha scaling, theta * alpha^(d / (d - 2)), needs 4 or more")
    return problems


def _scope_problems(c: HunyuanConfig) -> list[str]:
    problems = []
    for name in ("capacity_scope", "balance_scope"):
        if (scope := getattr(c, name)) not in ROUTING_SCOPES:
            problems.append(f"model.{name} is {scope!r}: choose one of {', '.join(ROUTING_SCOPES)}")
        elif scope == "global" and c.is_dense:
            problems.append(f"model.{name} is 'global': a dense model routes nothing, so leave it at micro_batch")
    if problems:
        return problems
    if c.capacity_scope == "global" and c.moe_routing == "dropless":
        problems.append(
            "model.capacity_scope is 'global': dropless experts have no places to share, so set model.moe_routing to "
            "drop or recycle, or leave it at micro_batch"
        )
    if c.balance_scope == "global" and c.router_aux_loss_coef == 0:
        problems.append(
            "model.balance_scope is 'global': there is no load-balance loss, so raise model.router_aux_loss_coef, or "
            "leave it at micro_batch"
        )
    return problems


def _topk_problems(c: HunyuanConfig) -> list[str]:
    each = c.moe_topk if isinstance(c.moe_topk, tuple) else (c.moe_topk,)
    if isinstance(c.moe_topk, tuple) and len(each) != c.num_hidden_layers:
        return [f"model.moe_topk has {len(each)} entries: give one number, or {c.num_hidden_layers}, one a layer"]
    for value in each:
        if isinstance(value, bool) or not isinstance(value, int):
            return [f"model.moe_topk is {value!r}: give a whole number, or a list of them"]
        if value < 1 or value > c.num_experts > 0:
            return [f"model.moe_topk is {value}: with {c.num_experts} experts it must be between 1 and {c.num_experts}"]
    return []


def _rope_scaling_problems(scaling: Any) -> list[str]:
    forms = '{"type": "linear", "factor": F} or {"type": "dynamic", "alpha": A}'
    if scaling is None:
        return []
    if not isinstance(scaling, dict) or scaling.get("type") not in ("linear", "dynamic"):
        return [f"model.rope_scaling is {scaling!r}: give {forms}, or leave it out"]
    key = "factor" if scaling["type"] == "linear" else "alpha"
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return [f"model.rope_scaling has {key} {value!r}: a {scaling['type']} scaling needs a finite number above 0"]
    # The release carries "factor": 1.0 beside alpha; any other value there would be a second scaling that nobody defined.
    if scaling["type"] == "dynamic" and scaling.get("factor", 1.0) != 1.0:
        return [f"model.rope_scaling has factor {scaling['factor']!r} beside alpha: only 1.0 is defined there"]
    return []
