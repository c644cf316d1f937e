"""The mixture-of-experts block: shared expert(s) for every token, plus the routed experts that each token chose."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config.hunyuan import HunyuanConfig
from model.layers.mlp import SwiGLU, swiglu_output
from model.moe.dispatch import combine, dispatch, plan_dispatch
from model.moe.experts import Experts
from model.moe.losses import load_balance_loss, router_z_loss
from model.moe.router import choose_experts, route, weigh


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
            return F.linear(hidden.float(), self.weight.float())
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.weight.float())


class MoE(nn.Module):
    """hidden (T, D) -> (hidden (T, D), aux_loss (), stats)."""

    def __init__(self, config: HunyuanConfig, layer: int = 0) -> None:
        super().__init__()
        self.config, self.layer, self.top_k = config, layer, config.topk(layer)
        self.router = Router(config)
        self.experts = Experts(config.num_experts, config.hidden_size, config.intermediate_size)
        self.shared_mlp: SwiGLU | None = None
        if config.num_shared_expert:
            self.shared_mlp = SwiGLU(config.hidden_size, config.num_shared_expert * config.intermediate_size)

    def forward(self, hidden: Tensor, place_keys: Tensor | None) -> tuple[Tensor, Tensor, MoEStats]:
        c = self.config
        # A capacity is a device of training; an answer should not depend on who else is in the batch.
        policy = c.moe_routing if self.training else "dropless"
        capacity = c.capacity(len(hidden), self.layer)
        no_room = policy == "drop" or (policy == "recycle" and capacity * c.num_experts < len(hidden) * self.top_k)
        logits = self.router(hidden)
        routing = route(
            logits,
            self.top_k,
            policy=policy,
            capacity=capacity,
            place_keys=place_keys,
            expert_bias=self.router.expert_bias,
            convention=c.convention,
        )
        plan = plan_dispatch(routing, may_drop=no_room)
        output = combine(self.experts(dispatch(hidden, plan), plan.ends), plan, routing.expert_weight)
        if self.shared_mlp is not None:
            output = output + self.shared_mlp(hidden)
        balance = load_balance_loss(routing)
        aux_loss = c.router_aux_loss_coef * balance
        if c.router_z_loss_coef:
            aux_loss = aux_loss + c.router_z_loss_coef * router_z_loss(logits)
        stats = MoEStats(
            balance.detach(), routing.choices_per_expert, routing.tokens_per_expert, routing.dropped, routing.recycled
        )
        return output, aux_loss, stats

    def infer(self, hidden: Tensor) -> Tensor:
        """hidden (T, D) -> (T, D): what `forward` computes in evaluation, without its losses and statistics."""
        logits, convention = self.router.forward(hidden), self.config.convention
        shared = torch.zeros_like(hidden) if self.shared_mlp is None else self.shared_mlp.infer(hidden)
        if hidden.device.type == "cpu":
            probabilities, index = choose_experts(logits, self.top_k, self.router.expert_bias)
            weight = weigh(probabilities, index, convention)
            return self._add_experts(shared, hidden, index.tolist(), weight.to(hidden.dtype))
        routing = route(logits, self.top_k, expert_bias=self.router.expert_bias, convention=convention)
        plan = plan_dispatch(routing, may_drop=False)
        return shared + combine(self.experts(dispatch(hidden, plan), plan.ends), plan, routing.expert_weight)

    def _add_experts(self, output: Tensor, hidden: Tensor, index: list[list[int]], weight: Tensor) -> Tensor:
        """Adds to output (T, D) the weighted outputs of the chosen experts, one after the other; weight (T, K)."""
        if len(hidden) == 1:
            for choice, expert in enumerate(index[0]):
                result = swiglu_output(hidden, *self.experts.weights(expert))
                output = torch.addcmul(output, result, weight[:, choice : choice + 1])
            return output
        choices: dict[int, list[tuple[int, int]]] = {}
        for token, experts in enumerate(index):
            for choice, expert in enumerate(experts):
                choices.setdefault(expert, []).append((token, choice))
        for expert, places in sorted(choices.items()):
            tokens, choice_of = torch.tensor(places).t()
            result = swiglu_output(hidden[tokens], *self.experts.weights(expert))
            output.index_add_(0, tokens, result * weight[tokens, choice_of, None])
        return output
