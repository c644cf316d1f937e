"""The AdamW of a GPU: weights in two halves, the norm and the clipping inside, and nothing for the host to wait for.

The large weights become bfloat16 parameters as soon as they are all in place (`begin`). The optimizer keeps the remainder of
their float32 value (model/kernels/adamw.py). Embedding, head, routers and vectors stay float32: they are few, and they decide.
Checkpoints hold the joined float32 value.

A step whose loss or gradient is not finite writes nothing, and neither does a later one: the host learns of it afterwards.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from model.kernels.adamw import Rates, join, noise, split, update
from model.kernels.choice import uses_triton

Agree = Callable[[Tensor], tuple[Tensor, Tensor]]  # squares () of a rank -> those of all ranks, and the loss of all
WHOLE = (".router.", "embed_tokens.", "lm_head.", "reward_head.")  # in the names of weights that stay float32


def is_split(name: str, parameter: nn.Parameter) -> bool:
    """Whether a weight's products take it in bfloat16, so that its float32 value lies in two halves."""
    return parameter.dim() >= 2 and not any(part in name for part in WHOLE)


class SplitAdamW(torch.optim.Optimizer):
    """AdamW over groups of parameters with `names`, `lr_scale` and `weight_decay`; steps are taken with `update`."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        rates: Rates,
        max_grad_norm: float,
        split_weights: bool,
        moments: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, {})
        self.rates, self.max_grad_norm, self.moments, self.seed = rates, max_grad_norm, moments, seed
        self._split_weights = split_weights
        self.copies: dict[nn.Parameter, int] = {}  # ranks that hold the same; they share its part of the norm
        self._sums: dict[nn.Parameter, Tensor] = {}  # of gradients of several micro-batches, in float32
        self._launch: Any = None

    @torch.no_grad()
    def begin(self) -> None:
        """Splits the weights, once they are those to go on with, and makes what is missing of the moments."""
        device = self.param_groups[0]["params"][0].device
        done = next((float(state["step"]) for state in self.state.values() if "step" in state), 0.0)
        self.done = torch.tensor(done, device=device)  # steps, in float32 as torch's AdamW has them
        for name, parameter in self._named():
            state = self.state[parameter]
            for key in ("exp_avg", "exp_avg_sq"):
                moment = state.get(key)
                state[key] = torch.zeros_like(parameter) if moment is None else moment
                state[key] = state[key].to(self.moments).contiguous()
            state["step"] = self.done
            if self._split_weights and is_split(name, parameter) and "low" not in state:
                high, state["low"] = split(parameter.detach())
                parameter.data = high
        self.goes_on = torch.ones((), device=device)

    def collect(self) -> None:
        """Adds the gradients of a micro-batch to float32 sums: bfloat16 would lose what several add."""
        for parameter in self._halved():
            self._collect(parameter)

    def _collect(self, parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            total = self._sums.get(parameter)
            self._sums[parameter] = parameter.grad.float() if total is None else total.add_(parameter.grad)
            parameter.grad = None

    def collected(self, parameter: nn.Parameter) -> Tensor | None:
        """The gradient of all micro-batches so far, the newest one's included."""
        if parameter in self._sums:
            self._collect(parameter)
        return self._sums.get(parameter, parameter.grad)

    def gradients(self) -> dict[nn.Parameter, Tensor]:
        """What `update` will take: the sums of several micro-batches, or the one gradient."""
        found = ((p, self._sums.get(p, p.grad)) for _, p in self._named())
        return {p: gradient for p, gradient in found if gradient is not None}

    @torch.no_grad()
    def update(self, learning_rate: float | Tensor, loss: Tensor, agree: Agree | None = None) -> Tensor:
        """One step from the gradients, which are given up; the norm () before clipping. `loss` () is looked at with it.

        Where ranks hold the parameters between them, `agree` makes the squared norm and the loss those of all.
        """
        present = {p: gradient.contiguous() for p, gradient in self.gradients().items()}
        if uses_triton(loss):
            if self._launch is None:
                from model.kernels.adamw_triton import Launch

                self._launch = Launch(self)
            norm = self._launch(present, learning_rate, loss, agree)
        else:
            norm = self._plainly(present, learning_rate, loss, agree)
        self._sums.clear()
        self.zero_grad(set_to_none=True)
        return norm

    def settle(self) -> Any:
        """To be called when an `update` was recorded in a CUDA graph: what is to be kept as long as the graph."""
        return None if self._launch is None else self._launch.settle()

    def forget(self) -> None:
        """Gives up the gradients, and the tables of a recording that failed."""
        self._sums.clear()
        if self._launch is not None:
            self._launch.forget()
        self.zero_grad(set_to_none=True)

    def step(self, closure: Any = None) -> Any:
        """One step at the rate that the groups hold, for callers that know no more than torch's optimizers."""
        group = self.param_groups[0]
        self.update(group["lr"] / group["lr_scale"], torch.zeros_like(self.done))

    def _plainly(
        self, gradients: dict[nn.Parameter, Tensor], learning_rate: float | Tensor, loss: Tensor, agree: Agree | None
    ) -> Tensor:
        """The oracle of the kernels, tensor by tensor."""
        squares = torch.stack([g.float().square().sum() / self.copies.get(p, 1) for p, g in gradients.items()]).sum()
        if agree is not None:
            squares, loss = agree(squares)
        norm = squares.float().sqrt()
        self.goes_on *= (norm + loss).isfinite()
        if not self.goes_on:
            return norm
        clip = self.max_grad_norm / (norm + 1e-6) if norm > self.max_grad_norm else 1.0
        self.done += 1
        step = int(self.done)
        for group, parameter, start in self.places():
            if parameter not in gradients:
                continue
            state = self.state[parameter]
            bits = None
            if self.moments == torch.bfloat16:
                bits = noise(self.seed, step, start, parameter.numel(), parameter.device)
            low = state.get("low")
            new = update(
                parameter if low is None else join(parameter, low),
                gradients[parameter],
                state["exp_avg"],
                state["exp_avg_sq"],
                self.rates,
                step=step,
                learning_rate=learning_rate * group["lr_scale"],
                weight_decay=group["weight_decay"],
                clip=clip,
                bits=bits,
            )
            if low is None:
                parameter.copy_(new)
            else:
                high, rest = split(new)
                parameter.copy_(high)
                low.copy_(rest)
        return norm

    def places(self) -> Iterator[tuple[dict[str, Any], nn.Parameter, int]]:
        """Each group and parameter, with the number of its first value in the model."""
        start = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                yield group, parameter, start
                start += parameter.numel()

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for group in self.param_groups:
            yield from zip(group["names"], group["params"], strict=True)

    def _halved(self) -> Iterator[nn.Parameter]:
        return (parameter for _, parameter in self._named() if "low" in self.state[parameter])
