"""One token of one sequence as one program: the whole model through torch.compile.

A batch of one reads every activated weight once and computes next to nothing, so its speed is that of reading memory. Eager
products of a single row stop and start a hundred times a token; here each is a sum over rows that the compiler fuses with what
stands around it, reading weights in one stream. The program is the model of model/layers and model/moe for T = 1, which is its
oracle (tests/oracles/test_compiled_step.py). Compilation takes half a minute or more, and a C++ compiler on a processor.

H query heads, G key-value heads, P head size, S places of the cache, D hidden, E experts.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.errors import ConfigError, missing_compiler
from model.layers.attention import Attention
from model.layers.kv_cache import KVCache
from model.layers.mlp import SwiGLU, swiglu
from model.layers.norm import rms_normalize
from model.layers.rope import rope_table, rotate
from model.moe.experts import Experts
from model.moe.layer import MoE
from model.moe.router import choose_experts, weigh
from model.transformer import DecoderLayer, Hunyuan

Slot = tuple[Tensor, Tensor]  # keys and values of one layer, (G, S, P)
Slots = dict[int, Slot]


class CompiledStep:
    """token (1,) after the tokens in a cache of one sequence -> logits (1, V); ConfigError where it cannot be compiled."""

    def __init__(self, net: Hunyuan) -> None:
        mixtures = [layer.mlp for layer in net.layers if isinstance(layer.mlp, MoE)]
        if any(not isinstance(mixture.experts, Experts) for mixture in mixtures):
            raise ConfigError(["a compiled step needs its experts in memory: leave out --compile, or --experts disk"])
        self._net = net
        self._program = _program()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: Slots = {}

    def __call__(self, token: Tensor, cache: KVCache) -> Tensor:
        position = cache.begin(1, token.device)
        slots = {layer: (keys[0], values[0]) for layer, (keys, values) in cache.slots.items()}
        try:
            logits = self._run(token, position, slots)
        except torch._dynamo.exc.TorchDynamoException as error:  # what the compiler of programs and that of C++ raise
            reason = " ".join(str(error).split())[:200]
            said = missing_compiler(error) or f"the step cannot be compiled here ({reason}): leave out --compile"
            raise ConfigError([said]) from error
        cache.advance(1)
        return logits

    def _run(self, token: Tensor, position: Tensor, slots: Slots) -> Tensor:
        if token.device.type != "cuda":
            return self._program(self._net, token, position, slots)
        # On a GPU the launches of a token's kernels would take longer than the kernels: they are recorded once a cache.
        if self._graph is None or self._recorded[0][0].data_ptr() != slots[0][0].data_ptr():
            self._graph = self._record(token, position, slots)
        self._token.copy_(token)
        self._position.copy_(position)
        self._graph.replay()
        return self._logits

    def _record(self, token: Tensor, position: Tensor, slots: Slots) -> torch.cuda.CUDAGraph:
        self._token, self._position = token.clone(), position.clone()
        self._recorded = slots  # held, so that no other cache can come to lie there
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiles, and allocates what the recording must not
            for _ in range(3):
                self._program(self._net, self._token, self._position, slots)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits: Tensor = self._program(self._net, self._token, self._position, slots)
        return graph


@cache
def _program() -> Any:
    """The one program of this process; torch keeps a version of it for each model and size of cache."""
    return torch.compile(_step, fullgraph=True)


def _step(net: Hunyuan, token: Tensor, position: Tensor, slots: Slots) -> Tensor:
    rope = rope_table(net.config, position)
    visible = (
        torch.arange(slots[0][0].shape[1], device=token.device) <= position
    )  # all places, filled or not, are looked at
    hidden = net.embed_tokens.weight.index_select(0, token)[0]  # (D,)
    owner = 0
    for index, layer in enumerate(net.layers):
        owner = index if index in slots else owner
        hidden = _layer(layer, hidden, rope, position, visible, slots[owner])
    return _product(net.norm(hidden), net.head_weight)[None]


def _layer(
    layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], position: Tensor, visible: Tensor, slot: Slot
) -> Tensor:
    assert isinstance(layer, DecoderLayer)
    hidden = hidden + _attend(layer.self_attn, layer.input_layernorm(hidden), rope, position, visible, slot)
    normed = layer.post_attention_layernorm(hidden)
    if isinstance(layer.mlp, SwiGLU):
        return hidden + _swiglu(normed, layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight)
    return hidden + _mixture(layer.mlp, normed)


def _attend(
    attention: Attention,
    hidden: Tensor,
    rope: tuple[Tensor, Tensor],
    position: Tensor,
    visible: Tensor,
    slot: Slot,
) -> Tensor:
    size, (keys, values) = attention.head_dim, slot

    def heads(linear: Any) -> Tensor:
        return _product(hidden, linear.weight, linear.bias).view(1, 1, -1, size)

    queries = rotate(heads(attention.q_proj), *rope)
    if attention.query_norm is not None and attention.key_norm is not None:
        queries = rms_normalize(queries, attention.eps, attention.query_norm * attention.key_norm)
    if attention.owns_cache:
        key = rotate(heads(attention.k_proj), *rope)
        key = rms_normalize(key, attention.eps) if attention.key_norm is not None else key
        keys.index_copy_(1, position, key[0].transpose(0, 1).to(keys.dtype))
        values.index_copy_(1, position, heads(attention.v_proj)[0].transpose(0, 1).to(values.dtype))
    rows = queries.view(keys.shape[0], -1, size)  # (G, H / G, P)
    scores = (rows @ keys.transpose(1, 2).to(rows.dtype)).float() * size**-0.5
    shares = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    attended = shares.to(rows.dtype) @ values.to(rows.dtype)
    return _product(attended.flatten(), attention.o_proj.weight, attention.o_proj.bias)


def _mixture(mixture: MoE, hidden: Tensor) -> Tensor:
    router = mixture.router
    logits = _product(hidden.float(), router.weight.float())[None]
    probabilities, index = choose_experts(logits, mixture.top_k, router.expert_bias)
    weight = weigh(probabilities, index, mixture.config.convention)[0].to(hidden.dtype)
    output = torch.zeros_like(hidden)
    if mixture.shared_mlp is not None:
        output = _swiglu(hidden, mixture.shared_mlp.gate_up_proj.weight, mixture.shared_mlp.down_proj.weight)
    for choice in range(mixture.top_k):
        expert = index[0, choice : choice + 1]
        gate_up = mixture.experts.gate_up.index_select(0, expert)[0]  # read where it lies: the compiler makes no copy
        down = mixture.experts.down.index_select(0, expert)[0]
        output = output + weight[choice] * _swiglu(hidden, gate_up, down)
    return output


def _swiglu(hidden: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return _product(swiglu(_product(hidden, gate_up)), down)


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden (D,), weight (O, D) -> (O,), summed in float32."""
    output = (weight.float() * hidden.float()).sum(dim=-1).to(hidden.dtype)
    return output if bias is None else output + bias
