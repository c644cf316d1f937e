"""A mixture layer in training on a GPU: routing, shared and routed experts, and every gradient, as one operator.

Between the products stand the kernels of routing_triton.py, router_gradient_triton.py and experts_triton.py. The plain path
of model/moe/layer.py is the oracle, and serves where Triton is not. One operator, because the router's gradient needs that of
the weights, which comes out of the experts' backward pass, and the gradients of the hidden states from the router, the shared
and the routed experts are then summed in one pass.

T tokens, D hidden, E experts, F intermediate, S intermediate of the shared experts, K choices a token, C places per expert.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.device import matmul_dtype
from model.kernels.choice import uses_triton

FUSED = True  # the one switch: False sends every device through the plain path


class Mixture(NamedTuple):
    """The output of the layer, and what its losses and statistics are made of."""

    output: Tensor  # (T, D)
    mean_probability: Tensor  # (E,) of the router, over tokens; float32
    z_loss: Tensor  # () mean squared log-partition of the router's logits; float32
    counts: Tensor  # (2E + 2,) int64: choices per expert, tokens per expert, dropped, recycled


def mixture_applies(hidden: Tensor, gate_up: Tensor) -> bool:
    """Whether `mixture` takes these operands: products in bfloat16 on a GPU with Triton, whose rows are whole 16 bytes."""
    whole = hidden.shape[-1] % 8 == 0 and gate_up.shape[1] % 16 == 0
    return FUSED and uses_triton(hidden) and matmul_dtype(hidden) == torch.bfloat16 and whole


def mixture(
    hidden: Tensor,
    router_weight: Tensor,
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    place_order: Tensor | None,
    *,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> Mixture:
    """hidden (T, D), router_weight (E, D), experts and shared: gate and up (E, 2F, D) and (2S, D), down (E, D, F) and (D, S).

    `bias` (E,) is added for the choice. Without `capacity` routing is dropless; with it a choice over capacity is dropped, or
    goes to the next free place of `place_order` (E * C,), the random order of all places. Weights sum to 1 where `sum_to_one`.
    The router sees the hidden states in the precision of products.
    """
    dtype = matmul_dtype(hidden)
    cast = [None if weight is None else weight.to(dtype) for weight in (*experts, *(shared or (None, None)))]
    found = _mixture(
        hidden.to(dtype).contiguous(), router_weight, *cast, bias, place_order, top_k, capacity, sum_to_one
    )
    return Mixture(*found[:4])


@torch.library.custom_op("hunyuan::mixture", mutates_args=())
def _mixture(
    hidden: Tensor,
    router_weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_down: Tensor | None,
    bias: Tensor | None,
    place_order: Tensor | None,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor,  # the fields of Mixture, and what the backward pass reads:
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
]:  # fmt: skip
    from model.kernels.experts_triton import gather_rows, sum_rows, swiglu
    from model.kernels.routing_triton import place

    p = place(hidden, router_weight, bias, place_order, top_k=top_k, capacity=capacity, sum_to_one=sum_to_one)
    final = p.final.clone() if p.final is p.chosen else p.final  # an operator's results may not share memory
    shared_both, shared_output = hidden.new_empty(0), None
    if shared_gate_up is not None and shared_down is not None:
        shared_both = hidden @ shared_gate_up.t()
        shared_output = swiglu(shared_both) @ shared_down.t()
    rows = gather_rows(hidden, p.order, p.ends, top_k)
    both = F.grouped_mm(rows, gate_up.transpose(1, 2), offs=p.ends)
    # The weight goes into the activation: what comes out of `down` is only to be summed.
    expert_output = F.grouped_mm(swiglu(both, p.weight, p.order, p.ends), down.transpose(1, 2), offs=p.ends)
    output = sum_rows(expert_output, p.position, shared_output)
    results = output, p.mean_probability, p.z_loss, p.counts
    return *results, p.logits, p.chosen, final, p.weight, p.order, p.position, p.ends, rows, both, shared_both


@_mixture.register_fake
def _(
    hidden: Tensor,
    router_weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_down: Tensor | None,
    bias: Tensor | None,
    place_order: Tensor | None,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> tuple[Tensor, ...]:
    tokens, experts = hidden.shape[0], router_weight.shape[0]

    def real(*shape: int) -> Tensor:
        return hidden.new_empty(shape, dtype=torch.float32)

    def whole(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return hidden.new_empty(shape, dtype=dtype)

    choices = tokens * top_k
    shared_both = hidden.new_empty(0 if shared_gate_up is None else (tokens, shared_gate_up.shape[0]))
    return (
        torch.empty_like(hidden), real(experts), real(), whole(2 * experts + 2, dtype=torch.int64),
        real(tokens, experts), whole(tokens, top_k), whole(tokens, top_k), real(tokens, top_k),
        whole(choices), whole(tokens, top_k), whole(experts),
        hidden.new_empty(choices, hidden.shape[1]), hidden.new_empty(choices, gate_up.shape[1]), shared_both,
    )  # fmt: skip


@torch.library.custom_op("hunyuan::mixture_backward", mutates_args=())
def _gradients(
    grad: Tensor,
    d_mean: Tensor | None,
    d_z: Tensor | None,
    hidden: Tensor,
    router_weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_down: Tensor | None,
    logits: Tensor,
    chosen: Tensor,
    index: Tensor,
    weight: Tensor,
    order: Tensor,
    position: Tensor,
    ends: Tensor,
    rows: Tensor,
    both: Tensor,
    shared_both: Tensor,
    sum_to_one: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from model.kernels.experts_triton import gather_rows, sum_rows, swiglu_gradient
    from model.kernels.router_gradient_triton import logits_gradient, router_weight_gradient

    d_shared = None
    d_shared_gate_up, d_shared_down = grad.new_empty(0), grad.new_empty(0)
    if shared_gate_up is not None and shared_down is not None:
        d_both, activated, _ = swiglu_gradient(shared_both, grad @ shared_down)
        d_shared_down, d_shared_gate_up = grad.t() @ activated, d_both.t() @ hidden
        d_shared = d_both @ shared_gate_up
        del d_both, activated
    d_rows = gather_rows(grad, order, ends, position.shape[1])
    d_activated = F.grouped_mm(d_rows, down, offs=ends)
    d_both, activated, d_weight = swiglu_gradient(both, d_activated, weight, order, ends)
    assert d_weight is not None
    d_down = F.grouped_mm(d_rows.t(), activated, offs=ends)
    del d_activated, activated, d_rows
    d_gate_up = F.grouped_mm(d_both.t(), rows, offs=ends)
    d_rows = F.grouped_mm(d_both, gate_up, offs=ends)
    del d_both
    d_logits = logits_gradient(logits, chosen, index, d_weight, d_mean, d_z, sum_to_one=sum_to_one)
    d_router = router_weight_gradient(d_logits, hidden).to(router_weight.dtype)
    d_hidden = sum_rows(d_rows, position, d_shared, d_logits, router_weight)
    return d_hidden, d_router, d_gate_up, d_down, d_shared_gate_up, d_shared_down


@_gradients.register_fake
def _(
    grad: Tensor,
    d_mean: Tensor | None,
    d_z: Tensor | None,
    hidden: Tensor,
    router_weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_down: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    weights = hidden, router_weight, gate_up, down
    shared = [grad.new_empty(0) if w is None else torch.empty_like(w) for w in (shared_gate_up, shared_down)]
    return *(torch.empty_like(weight) for weight in weights), *shared


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *weights, _, _, _, _, ctx.sum_to_one = inputs
    ctx.save_for_backward(*weights, *output[4:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, d_mean: Tensor | None, d_z: Tensor | None, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    grad = torch.zeros_like(saved[0]) if grad is None else grad.to(saved[0].dtype).contiguous()
    *gradients, d_shared_gate_up, d_shared_down = _gradients(grad, d_mean, d_z, *saved, ctx.sum_to_one)
    shared = (None, None) if saved[4] is None else (d_shared_gate_up, d_shared_down)
    return *gradients, *shared, None, None, None, None, None


_mixture.register_autograd(_backward, setup_context=_save)
