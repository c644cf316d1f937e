"""One new token of every row through the whole model by the kernels of model/kernels/decode.py: six a layer for one row.

    norm, queries, keys, values | rotation, cache, attention | output projection, residual
    norm, router, shared gate and up | gate and up of the chosen experts | both `down`, weights, residual

`Hunyuan.step` computes the same and is the oracle; `applies` is the one place that says which of the two serves. Sums are
float32 inside; what goes from kernel to kernel has the precision of the model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels import decode
from model.kernels.choice import uses_triton
from model.kernels.decode import Matrix
from model.layers.attention import Attention
from model.layers.mlp import SwiGLU
from model.layers.rope import inverse_frequencies
from model.moe.experts import Experts
from model.moe.layer import MoE
from model.moe.router import sums_to_one
from model.transformer import Hunyuan

KERNELS = True  # the one switch: False sends every device through the plain path
Slots = dict[int, tuple[Tensor, Tensor]]


def applies(net: Hunyuan, rows: int) -> bool:
    """Whether the kernels serve: a GPU with Triton, a small batch, float32 or bfloat16, and the experts in memory."""
    weight = net.embed_tokens.weight
    in_memory = all(isinstance(layer.mlp.experts, Experts) for layer in net.layers if isinstance(layer.mlp, MoE))
    known = weight.dtype in (torch.float32, torch.bfloat16) and in_memory
    return KERNELS and known and rows <= decode.MOST_ROWS and uses_triton(weight)


class OneTokenStep:
    """tokens (B,) at positions (B,) after what the cache's places (B, G, S', P) hold -> logits (B, V); the cache is written."""

    def __init__(self, net: Hunyuan, rows: int) -> None:
        weight = net.embed_tokens.weight
        self.net = net
        self._frequencies = inverse_frequencies(net.config, weight.device)
        count = rows * net.config.num_key_value_heads  # of the programs that wait for one another
        self._arrived = torch.zeros(count, dtype=torch.int32, device=weight.device)

    def __call__(self, tokens: Tensor, positions: Tensor, slots: Slots) -> Tensor:
        net, owner = self.net, 0
        hidden = F.embedding(tokens, net.embed_tokens.weight)
        for index, layer in enumerate(net.layers):
            attention: Attention = layer.self_attn
            owner = index if attention.owns_cache else owner
            attended = self._attend(attention, hidden, _norm(layer.input_layernorm), positions, slots[owner])
            hidden = decode.project(attended, (_matrix(attention.o_proj),), addend=hidden)
            hidden = self._feed_forward(layer.mlp, hidden, _norm(layer.post_attention_layernorm))
        return decode.project(hidden, (Matrix(net.head_weight),), norm=_norm(net.norm))

    def _attend(
        self,
        attention: Attention,
        hidden: Tensor,
        norm: tuple[Tensor, float],
        positions: Tensor,
        slot: tuple[Tensor, Tensor],
    ) -> Tensor:
        layers = [attention.q_proj]
        if attention.owns_cache:
            layers += [attention.k_proj, attention.v_proj]
        query_norm, key_norm = attention.query_norm, attention.key_norm
        return decode.attend(
            decode.project(hidden, tuple(map(_matrix, layers)), norm=norm),
            None if query_norm is None or key_norm is None else (query_norm, key_norm),
            self._frequencies,
            positions,
            slot,
            self._arrived,
            heads=self.net.config.num_attention_heads,
            owns=attention.owns_cache,
            eps=attention.eps,
        )

    def _feed_forward(self, mlp: MoE | SwiGLU, hidden: Tensor, norm: tuple[Tensor, float]) -> Tensor:
        if isinstance(mlp, SwiGLU):
            activated, _ = decode.gate_up_and_choose(hidden, norm, _matrix(mlp.gate_up_proj), None, None, self._arrived)
            assert activated is not None
            return decode.project(activated, (_matrix(mlp.down_proj),), addend=hidden)
        shared, experts = mlp.shared_mlp, mlp.experts
        assert isinstance(experts, Experts)
        activated, choices = decode.gate_up_and_choose(
            hidden,
            norm,
            None if shared is None else _matrix(shared.gate_up_proj),
            mlp.router.weight,
            mlp.router.expert_bias,
            self._arrived,
            top_k=mlp.top_k,
            sum_to_one=sums_to_one(mlp.top_k, mlp.config.convention),
        )
        assert choices is not None
        routed = decode.routed_gate_up(hidden, norm, Matrix(experts.gate_up, experts.gate_up_scale), choices)
        out = None if shared is None else _matrix(shared.down_proj)
        return decode.down(hidden, activated, out, routed, Matrix(experts.down, experts.down_scale), choices)


def _norm(norm: Any) -> tuple[Tensor, float]:
    return norm.weight, norm.eps


def _matrix(layer: Any) -> Matrix:
    return Matrix(layer.weight, layer.scale, layer.bias)
