"""A mixture layer in training whose experts lie on several GPUs, as one function: routing, exchanges, products, gradients.

What is computed is that of model/kernels/mixture.py, with the same kernels: a rank takes the rows that it is sent for tokens
with one choice each, whose weights come along. Rows travel while the shared products are made, in a stream of their own:

    forward     place, gather | counts -> | shared gate and up | rows -> | experts | <- rows | shared down | sum
    backward    gather | gradients -> | shared, first half | experts | <- gradients | weight gradients, shared, rest | sum

The host waits once a layer and only in the forward pass, for the number of rows; the shared product is under way then.

T tokens, D hidden, E experts, P ranks, K choices a token, N = T * K, R rows that a rank is sent, F and S intermediate sizes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from model.device import matmul_dtype
from model.kernels.mixture import Mixture

_STREAMS: dict[torch.device, Any] = {}


class Lane:
    """A stream beside the computing one; on a processor there is one order for all.

    Memory of this stream is used by the computing one without being recorded. That is safe because whatever happens here waits
    for a mark which the computing stream set after its last use of memory given up before.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream: Any = None
        if device.type == "cuda":
            self.stream = _STREAMS.get(device) or _STREAMS.setdefault(device, torch.cuda.Stream(device, priority=-1))

    def mark(self) -> Any:
        """What the computing stream has come to."""
        return None if self.stream is None else torch.cuda.current_stream().record_event()

    @contextlib.contextmanager
    def after(self, mark: Any) -> Iterator[None]:
        """What is inside happens in this stream, after the mark."""
        if self.stream is None:
            yield
            return
        self.stream.wait_event(mark)
        with torch.cuda.stream(self.stream):
            yield

    def join(self) -> None:
        """The computing stream goes on after this one."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)


class Sizes:
    """How many rows go where: the counts of all ranks, asked for at once and read by the host later."""

    def __init__(self, counts: Tensor, lane: Lane, group: dist.ProcessGroup) -> None:
        """counts (E,) int64 of this rank's rows."""
        self._ranks, self._event = group.size(), None
        self._counts = counts  # is still read when this returns
        with lane.after(lane.mark()):
            here = torch.empty_like(counts)
            dist.all_to_all_single(here, counts, group=group)
            self.per_expert = here.view(self._ranks, -1)  # (P, E / P), those that come
            self._both = torch.stack([counts, here])
            if lane.stream is not None:
                self._both = torch.empty_like(self._both, device="cpu", pin_memory=True).copy_(
                    self._both, non_blocking=True
                )
                self._event = lane.stream.record_event()

    def read(self) -> tuple[list[int], list[int]]:
        """Rows sent to each rank, and received of each; the host waits for them."""
        if self._event is not None:
            self._event.synchronize()
        sent, received = self._both.view(2, self._ranks, -1).sum(dim=-1).tolist()
        return sent, received


def by_expert(per_expert: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Rows that lie by sender, then by expert, (P, E / P) of them -> the order by expert, then by sender; and its inverse."""
    shape, here = per_expert.shape, per_expert.flatten()
    there = per_expert.t().flatten()
    moved = ((there.cumsum(0) - there).view(shape[::-1]).t() - (here.cumsum(0) - here).view(shape)).to(torch.int32)
    at = torch.arange(rows, device=here.device, dtype=torch.int32)
    order = at - torch.repeat_interleave(moved.t().flatten(), there, output_size=rows)
    return order, at + torch.repeat_interleave(moved.flatten(), here, output_size=rows)


def exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """rows (sum of sent and more, ...) -> (sum of received, ...), in the order of the senders."""
    output = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(output, rows[: sum(sent)], received, sent, group=group)
    return output


def parallel_mixture(
    hidden: Tensor,
    router_weight: Tensor,
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    place_order: Tensor | None,
    group: dist.ProcessGroup,
    *,
    top_k: int,
    capacity: int | None,
    sum_to_one: bool,
) -> Mixture:
    """As `mixture` of model/kernels/mixture.py, where `experts` are those of this rank of the group, E / P."""
    dtype = matmul_dtype(hidden)
    cast = [None if weight is None else weight.to(dtype) for weight in (*experts, *(shared or (None, None)))]
    routing = bias, place_order, top_k, capacity, sum_to_one, group
    return Mixture(*_Mixture.apply(hidden.to(dtype).contiguous(), router_weight, *cast, *routing))


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from model.kernels.experts_triton import gather_rows, sum_rows, swiglu
        from model.kernels.routing_triton import place

        lane, experts = Lane(hidden.device), len(router_weight)
        p = place(hidden, router_weight, bias, place_order, top_k=top_k, capacity=capacity, sum_to_one=sum_to_one)
        sizes = Sizes(p.counts[experts : 2 * experts].clone(), lane, group)
        own_rows = gather_rows(hidden, p.order, p.ends, top_k)
        own_weight = p.weight.flatten().index_select(0, p.order.clamp(0, len(p.order) - 1))
        gathered = lane.mark()
        shared_both = hidden.new_empty(0) if shared_gate_up is None else hidden @ shared_gate_up.t()
        shared_activated = None if shared_gate_up is None else swiglu(shared_both)
        sent, received = sizes.read()
        with lane.after(gathered):
            there = exchange(own_rows, sent, received, group)
            weight = exchange(own_weight, sent, received, group)
        lane.join()
        del own_rows, own_weight
        order, inverse = (_at_least_one(index) for index in by_expert(sizes.per_expert, len(there)))
        ends = sizes.per_expert.sum(dim=0).cumsum(0).to(torch.int32)
        rows = gather_rows(there, order, ends, 1)
        del there, sizes
        both = F.grouped_mm(rows, gate_up.transpose(1, 2), offs=ends)
        activated = swiglu(both, weight, order, ends)
        made = gather_rows(F.grouped_mm(activated, down.transpose(1, 2), offs=ends), inverse, ends, 1)
        with lane.after(lane.mark()):
            back = exchange(made, received, sent, group)
        shared_output = None
        if shared_activated is not None and shared_down is not None:
            shared_output = shared_activated @ shared_down.t()
        lane.join()
        output = sum_rows(back, p.position, shared_output)
        ctx.sent, ctx.received, ctx.group, ctx.sum_to_one = sent, received, group, sum_to_one
        weights = hidden, router_weight, gate_up, down, shared_gate_up, shared_down
        of_routing = p.logits, p.chosen, p.final, p.order, p.position, p.ends
        ctx.save_for_backward(*weights, *of_routing, order, inverse, ends, weight, rows, both, shared_both)
        ctx.mark_non_differentiable(p.counts)
        ctx.set_materialize_grads(False)
        return output, p.mean_probability, p.z_loss, p.counts

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        from model.kernels.experts_triton import gather_rows, sum_rows, swiglu_gradient
        from model.kernels.router_gradient_triton import logits_gradient, router_weight_gradient

        hidden, router_weight, gate_up, down, shared_gate_up, shared_down, *kept = ctx.saved_tensors
        logits, chosen, final, own_order, position, own_ends, order, inverse, ends, weight, rows, both, shared_both = (
            kept
        )
        grad, d_mean, d_z, _ = grads
        grad = torch.zeros_like(hidden) if grad is None else grad.to(hidden.dtype).contiguous()
        lane, sent, received, group = Lane(hidden.device), ctx.sent, ctx.received, ctx.group

        own_rows = gather_rows(grad, own_order, own_ends, position.shape[1])
        with lane.after(lane.mark()):
            there = exchange(own_rows, sent, received, group)
        d_shared_both = d_shared = d_shared_gate_up = d_shared_down = None
        if shared_gate_up is not None and shared_down is not None:
            d_shared_both, activated, _ = swiglu_gradient(shared_both, grad @ shared_down)
            d_shared_down = grad.t() @ activated
            del activated
        lane.join()
        del own_rows
        d_rows = gather_rows(there, order, ends, 1)
        del there
        d_activated = F.grouped_mm(d_rows, down, offs=ends)
        d_both, activated, d_weight = swiglu_gradient(both, d_activated, weight, order, ends)
        assert d_weight is not None
        del d_activated
        made = gather_rows(F.grouped_mm(d_both, gate_up, offs=ends), inverse, ends, 1)
        with lane.after(lane.mark()):
            back = exchange(made, received, sent, group)
            d_own_weight = exchange(d_weight, received, sent, group)
        d_down = F.grouped_mm(d_rows.t(), activated, offs=ends)
        d_gate_up = F.grouped_mm(d_both.t(), rows, offs=ends)
        del d_rows, activated, d_both
        if d_shared_both is not None and shared_gate_up is not None:
            d_shared_gate_up = d_shared_both.t() @ hidden
            d_shared = d_shared_both @ shared_gate_up
        lane.join()
        del made, d_weight
        d_choice = d_own_weight.index_select(0, position.flatten().clamp(min=0)).view_as(position)
        d_logits = logits_gradient(logits, chosen, final, d_choice, d_mean, d_z, sum_to_one=ctx.sum_to_one)
        d_router = router_weight_gradient(d_logits, hidden).to(router_weight.dtype)
        d_hidden = sum_rows(back, position, d_shared, d_logits, router_weight)
        gradients = d_hidden, d_router, d_gate_up, d_down, d_shared_gate_up, d_shared_down
        return *gradients, None, None, None, None, None, None


def _at_least_one(index: Tensor) -> Tensor:
    """A rank without rows has one that no expert ends after: products of nothing are none that kernels know."""
    return index if len(index) else index.new_zeros(1)
