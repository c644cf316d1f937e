"""The mixture-of-experts block: shared expert(s) for every token, plus the routed experts that each token chose."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config.hunyuan import HunyuanConfig, RoutingPolicy
from model.layers.linear import project
from model.layers.mlp import SwiGLU
from model.moe.dispatch import combine, dispatch, plan_dispatch
from model.moe.experts import Experts, of_one_token, reads_choices
from model.moe.losses import balance, load_balance_loss, router_z_loss, shares
from model.moe.router import NO_KEYS, Scope, route, sums_to_one


class MoEStats(NamedTuple):
    """What routing did to one batch, as tensors on the device; stacked over layers in the model's output."""

    balance_loss: Tensor  # () load-balance loss: 1 is balanced
    choices_per_expert: Tensor  # (E,) the router's choices, before any capacity
    tokens_per_expert: Tensor  # (E,) choices that each expert computed
    dropped: Tensor  # () choices without an expert
    recycled: Tensor  # () choices moved to another expert


class Router(nn.Module):
    """hidden (T, D) -> logits (T, E), in float32 whatever the precision around it."""

    expert_bias: Tensor | None  # (E,) added for the choice of an expert alone

    def __init__(self, config: HunyuanConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        balanced = config.expert_bias_update_rate > 0
        self.register_buffer("expert_bias", torch.zeros(config.num_experts) if balanced else None)

    def forward(self, hidden: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(hidden.device.type):
            return project(hidden.float(), self.weight.float())
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.weight.float())


class MoE(nn.Module):
    """hidden (T, D) -> (hidden (T, D), aux_loss (), stats), or None for the last two where `answering`."""

    def __init__(self, config: HunyuanConfig, layer: int = 0) -> None:
        super().__init__()
        self.config, self.layer, self.top_k = config, layer, config.topk(layer)
        self.router = Router(config)
        self.experts = Experts(config.num_experts, config.hidden_size, config.intermediate_size)
        self.shared_mlp: SwiGLU | None = None
        if config.num_shared_expert:
            self.shared_mlp = SwiGLU(config.hidden_size, config.num_shared_expert * config.intermediate_size)
        # In training, where the tokens of several processes share places, or are balanced together.
        self.capacity_scope: Scope | None = None
        self.balance_scope: Scope | None = None

    def forward(
        self, hidden: Tensor, place_keys: Tensor | None = None, *, answering: bool = False, dropless: bool = False
    ) -> tuple[Tensor, Tensor | None, MoEStats | None]:
        c = self.config
        # A capacity is a device of training; an answer should not depend on who else is in the batch.
        policy = c.moe_routing if self.training and not dropless else "dropless"
        scope = self.capacity_scope if self.training else None
        tokens = len(hidden) * (scope.processes if scope is not None else 1)  # that share the places
        capacity = c.capacity(tokens, self.layer)
        places_here = scope is None or policy == "dropless"  # the operator places a process's own tokens
        if not answering and places_here and self._has_operator(hidden):
            return self._in_kernels(hidden, policy, capacity, place_keys)
        no_room = policy == "drop" or (policy == "recycle" and capacity * c.num_experts < tokens * self.top_k)
        logits = self.router(hidden)
        routing = route(
            logits,
            self.top_k,
            policy=policy,
            capacity=capacity,
            place_keys=place_keys,
            expert_bias=self.router.expert_bias,
            convention=c.convention,
            scope=scope,
        )
        if len(hidden) == 1 and self.experts.alone and (torch.compiler.is_compiling() or reads_choices(hidden)):
            index = routing.expert_index[0]
            chosen = index.split(1) if torch.compiler.is_compiling() else index.tolist()
            output = of_one_token(hidden, chosen, routing.expert_weight, self.experts.weights)
        else:
            plan = plan_dispatch(routing, may_drop=no_room)
            output = combine(self.experts(dispatch(hidden, plan), plan.ends), plan, routing.expert_weight)
        if self.shared_mlp is not None:
            output = output + self.shared_mlp(hidden)
        if answering:
            return output, None, None
        balance_loss = load_balance_loss(routing, self.balance_scope if self.training else None)
        z_loss = router_z_loss(logits) if c.router_z_loss_coef else None
        counts = routing.choices_per_expert, routing.tokens_per_expert, routing.dropped, routing.recycled
        return output, self._aux_loss(balance_loss, z_loss), MoEStats(balance_loss.detach(), *counts)

    def _has_operator(self, hidden: Tensor) -> bool:
        return isinstance(self.experts, Experts) and self.experts.has_operator(hidden)

    def _in_kernels(
        self, hidden: Tensor, policy: RoutingPolicy, capacity: int, place_keys: Tensor | None
    ) -> tuple[Tensor, Tensor, MoEStats]:
        """The same as one operator (model/kernels/mixture.py)."""
        c, shared = self.config, self.shared_mlp
        if policy == "recycle" and place_keys is None:
            raise ValueError(NO_KEYS)
        mixed = self.experts.mixture(
            hidden,
            self.router.weight,
            None if shared is None else (shared.gate_up_proj.weight, shared.down_proj.weight),
            self.router.expert_bias,
            place_keys.argsort() if policy == "recycle" and place_keys is not None else None,
            top_k=self.top_k,
            capacity=None if policy == "dropless" else capacity,
            sum_to_one=sums_to_one(self.top_k, c.convention),
        )
        choices, computed, (dropped, recycled) = mixed.counts.split([c.num_experts, c.num_experts, 2])
        scope = self.balance_scope if self.training else None
        balance_loss = balance(shares(choices, len(hidden) * self.top_k, scope), mixed.mean_probability)
        stats = MoEStats(balance_loss.detach(), choices, computed, dropped, recycled)
        return mixed.output, self._aux_loss(balance_loss, mixed.z_loss), stats

    def _aux_loss(self, balance_loss: Tensor, z_loss: Tensor | None) -> Tensor:
        aux_loss = self.config.router_aux_loss_coef * balance_loss
        if z_loss is not None and self.config.router_z_loss_coef:
            aux_loss = aux_loss + self.config.router_z_loss_coef * z_loss
        return aux_loss
