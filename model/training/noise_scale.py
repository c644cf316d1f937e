"""The gradient noise scale: how large a batch must be before its gradient says more than its noise.

McCandlish et al., arXiv:1812.06162, appendix A.1. A gradient g of b tokens has E|g|^2 = |G|^2 + S / b, where G is the true
gradient and S the trace of the covariance of a token's. A step of B tokens in M micro-batches of b = B / M shows both ends:

    small = mean |g of a micro-batch|^2     S     = B (small - large) / (M - 1)
    large = |g of the whole step|^2         |G|^2 = (M large - small) / (M - 1)

Both are unbiased; their ratio S / |G|^2 is not, so each is averaged over steps before it is taken: B_noise, in tokens. S is b
times the sample variance of the micro-batches' gradients, summed over weights.

Roles are measured apart, because the report gives them rates of their own: the routed experts, and the shared part, which is
all the rest. Gradients are those before clipping, and hold the routing losses, which are trained on as well.

Cost: one pass over the gradients of each micro-batch (1.5% of the toy's step on a processor), and no memory. Weights move as
they do without it, to the bit. A GPU pays for the micro-batches themselves, which a small model would do without. Of several
processes each sees the micro-batches that it computes; expert parallelism pays more (model/parallel/gradients.py).
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.parallel.gradients import watch_gradients
from model.parallel.shard import Shards
from model.training.split_adamw import SplitAdamW

DECAY = 0.99  # of the averages: about the last 100 steps
ROUTED = "routed_experts"  # the name of their group (optimizer.py)


class GradientSquares:
    """Sees each micro-batch's own gradient on its way into the parameters, where it is summed up with the others.

    Of several processes, which hold the parameters in `shards`, what it gives are this one's shares of sums over all.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, shards: Shards | None = None) -> None:
        self.optimizer, self.roles = optimizer, roles_of(optimizer)
        self._turns = 1 if shards is None else shards.ranks.layout.data_parallel  # micro-batches under way
        self._copies = {} if shards is None else shards.copies()
        self._role_of: dict[str, int] = {}
        self.begin()
        for group in optimizer.param_groups:
            self._role_of |= dict.fromkeys(group["names"], self._role(group))
            for name, parameter in zip(group["names"], group["params"], strict=True) if shards is None else ():
                parameter.register_hook(partial(self._see, name, 0))
        if shards is not None:
            watch_gradients(shards, self._see)

    def _role(self, group: dict[str, Any]) -> int:
        return self.roles.index("routed" if group["name"] == ROUTED else "shared")

    def _see(self, name: str, turn: int, gradient: Tensor) -> None:
        self._seen[turn][self._role_of[name]].append(_square(gradient))

    def begin(self) -> None:
        """A backward pass begins: what was seen before it is forgotten."""
        self._seen: list[list[list[Tensor]]] = [[[] for _ in self.roles] for _ in range(self._turns)]

    def of_parts(self) -> list[Tensor]:
        """The squared norms (R,) of the micro-batches that have just gone backward, as they weigh in the step."""
        some = next(square for roles in self._seen for squares in roles for square in squares)
        return [_by_role(roles, some) for roles in self._seen]

    def of_step(self) -> Tensor:
        """The squared norms (R,) of the gradients that the step has gathered; before the update, which clips them."""
        totals: list[list[Tensor]] = [[] for _ in self.roles]
        collected = self.optimizer.gradients() if isinstance(self.optimizer, SplitAdamW) else {}
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if (gradient := collected.get(p, p.grad)) is not None:
                    totals[self._role(group)].append(_square(gradient) / self._copies.get(p, 1))
        return _by_role(totals, next(square for squares in totals for square in squares))


def roles_of(optimizer: torch.optim.Optimizer) -> list[str]:
    """The roles that are measured apart: a dense model has one."""
    mixture = any(group["name"] == ROUTED for group in optimizer.param_groups)
    return ["shared", "routed"] if mixture else ["shared"]


def _by_role(squares: list[list[Tensor]], some: Tensor) -> Tensor:
    """Their sums (R,), tensors like `some`; that of a role without a gradient is 0."""
    return torch.stack([torch.stack([*role, torch.zeros_like(some)]).sum() for role in squares])


def _square(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32).double().square()


def signal_and_noise(parts: Sequence[Tensor], shares: Sequence[float], whole: Tensor, tokens: int) -> Tensor:
    """Unbiased |G|^2 and S (2, R) of one step, NaN where fewer than two micro-batches have something to learn.

    `parts` are squared norms (R,) of the micro-batches as they weigh in the step, which is by their `shares` of its targets.
    Both are sums over parts and whole: of shares in those, as a process has, come shares in the estimates.
    With unequal shares s the mean of |g|^2 is weighted by them: E sum_i s_i |g_i|^2 = |G|^2 + M S / B holds as before.
    """
    used = [(part, share) for part, share in zip(parts, shares, strict=True) if share > 0]
    count = len(used)
    if count < 2:
        return torch.full((2, len(whole)), math.nan, dtype=torch.float64, device=whole.device)
    small = torch.stack([part / share for part, share in used]).sum(dim=0)
    return torch.stack([count * whole - small, tokens * (small - whole)]) / (count - 1)


class NoiseScale:
    """The averages over a run. Its state is plain numbers, so that a resumed run goes on exactly."""

    def __init__(self, roles: Sequence[str], state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.roles = list(roles)
        self.weight = float(state.get("weight", 0.0))  # of all measurements in the averages: 1 - DECAY^n
        self.signal = [float(value) for value in state.get("signal", [0.0] * len(self.roles))]
        self.noise = [float(value) for value in state.get("noise", [0.0] * len(self.roles))]

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight, "signal": self.signal, "noise": self.noise}

    def add(self, measured: Sequence[float]) -> None:
        """The numbers of `signal_and_noise` of a step, in a row; those of a step that could not be measured are left out."""
        if not measured or not all(map(math.isfinite, measured)):
            return
        count = len(self.roles)
        self.weight = DECAY * self.weight + 1 - DECAY
        for average, values in ((self.signal, measured[:count]), (self.noise, measured[count:])):
            average[:] = [DECAY * old + (1 - DECAY) * new for old, new in zip(average, values, strict=True)]

    def figures(self) -> dict[str, float]:
        """Keys of a line of metrics.jsonl; a noise scale is left out while the average of |G|^2 is not above 0.

        noise_scale in tokens, of all weights and by role; gradient_signal_ROLE is |G|^2, gradient_noise_ROLE is S.
        """
        if not self.weight:
            return {}
        signal, noise = ([value / self.weight for value in values] for values in (self.signal, self.noise))
        pairs = {"noise_scale": (sum(signal), sum(noise))}
        pairs |= {
            f"noise_scale_{role}": pair for role, pair in zip(self.roles, zip(signal, noise, strict=True), strict=True)
        }
        scales = {name: noise / signal for name, (signal, noise) in pairs.items() if signal > 0}
        parts = {f"gradient_signal_{role}": value for role, value in zip(self.roles, signal, strict=True)}
        return scales | parts | {f"gradient_noise_{role}": v for role, v in zip(self.roles, noise, strict=True)}
