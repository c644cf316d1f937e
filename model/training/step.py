"""One optimizer step: gradients of every micro-batch, a look at whether they are finite, the update.

On a processor the look comes before the update. On a GPU the update looks for itself (model/training/split_adamw.py) and the
host does not wait: it reads what a step came to when the next one is under way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.device import autocast, on_its_way
from model.errors import TrainingError
from model.moe.layer import MoE, MoEStats
from model.moe.place_keys import routing_key
from model.moe.router import update_expert_bias
from model.training.graph import RecordedStep, records
from model.training.metrics import merge_stats
from model.training.noise_scale import GradientSquares, signal_and_noise
from model.training.optimizer import set_learning_rate
from model.training.settings import RunSettings
from model.training.split_adamw import SplitAdamW
from model.training.task import MicroBatch, Task, share
from model.transformer import Hunyuan


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: its mean losses, its gradient norm before clipping, and what routing did in its micro-batches."""

    tokens: int  # that went through the model
    loss: float
    aux_loss: float
    grad_norm: float
    routing: MoEStats | None
    measures: list[float]  # sums that the task reports beside its loss
    noise: list[float]  # of training.measure_noise_scale: |G|^2 by role, then S (noise_scale.py)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Launched:
    """A step that a GPU may still be computing."""

    def __init__(
        self, step: int, tokens: int, numbers: Tensor, routing: MoEStats | None, measures: int = 0, noise: int = 0
    ) -> None:
        """What `Found.reported` gives; of `routing` only the form is read, so that a GPU may go on and overwrite it."""
        self.step, self.tokens, self._widths = step, tokens, (measures, noise)
        self._form = None if routing is None else [(part.shape, part.dtype) for part in routing]
        self._event: torch.cuda.Event | None = None
        self._numbers = numbers
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def result(self) -> StepResult:
        """What it came to, as soon as that is known; its tensors are the host's."""
        if self._event is not None:
            self._event.synchronize()
        counts = [] if self._form is None else [shape.numel() for shape, _ in self._form]
        means, measures, noise, *parts = self._numbers.split([3, *self._widths, *counts])
        loss, aux_loss, norm = means.tolist()
        routing = None
        if self._form is not None:
            pairs = zip(parts, self._form, strict=True)
            routing = MoEStats(*(part.view(shape).to(dtype) for part, (shape, dtype) in pairs))
        return StepResult(self.tokens, loss, aux_loss, norm, routing, measures.tolist(), noise.tolist())

    @property
    def is_under_way(self) -> bool:
        """Whether reading it may have to wait for a GPU."""
        return self._event is not None


class Found(NamedTuple):
    """What the forward passes of a step came to."""

    loss: Tensor  # ()
    aux_loss: Tensor  # ()
    measures: Tensor  # (M,)
    noise: Tensor  # (2, R), or (0,) where it is not measured
    routing: MoEStats | None

    def reported(self, grad_norm: Tensor) -> tuple[Tensor, MoEStats | None, int, int]:
        """What `Launched` is given: all numbers in a row, which is one copy to the host, and their form."""
        parts = self.loss, self.aux_loss, grad_norm, self.measures, self.noise, *(self.routing or ())
        numbers = torch.cat([part.double().flatten() for part in parts])  # counts are exact in float64
        return numbers, self.routing, len(self.measures), self.noise.numel()


class Work(NamedTuple):
    """What a step computes from: M micro-batches."""

    batches: list[MicroBatch]
    keys: Tensor  # (M,) int64: the routing key of each
    learning_rate: Tensor  # () float32


class TrainStep:
    """step(number, learning_rate) moves the model's weights by one batch of the task."""

    def __init__(
        self,
        net: Hunyuan,
        optimizer: torch.optim.Optimizer,
        settings: RunSettings,
        task: Task,
        device: torch.device,
        dtype: torch.dtype,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`note` takes the sentence that a step cannot be recorded."""
        self.net, self.optimizer, self.task, self.device, self.dtype = net, optimizer, task, device, dtype
        self.config, self.bias_rate = settings.training, settings.model.expert_bias_update_rate
        self._squares: GradientSquares | None = None
        self._launch: Callable[[Work], tuple[Tensor, MoEStats | None, int, int]] = self._on_device
        if isinstance(optimizer, SplitAdamW) and records(settings.model, settings.training, device):
            self._launch = RecordedStep(self._on_device, optimizer, device, note)

    def __call__(self, number: int, learning_rate: float) -> Launched:
        """Step `number`, from 0. Where its loss or a gradient is not finite, no weight is touched."""
        self.net.train()
        if self.config.measure_noise_scale and self._squares is None:  # now, when the weights are those that will move
            self._squares = GradientSquares(self.optimizer)
        batches = list(self.task.micro_batches(number))  # all at once: each weighs what it has of the whole
        if sum(batch.targets for batch in batches) == 0:
            raise TrainingError(f"step {number + 1} has nothing to learn: every label of its batch is masked")
        tokens = sum(batch.tokens for batch in batches)
        keys = torch.stack([routing_key(self.config.seed, number, index) for index in range(len(batches))])
        work = Work(batches, *(on_its_way(part, self.device) for part in (keys, torch.tensor(learning_rate))))
        if isinstance(self.optimizer, SplitAdamW):
            return Launched(number, tokens, *self._launch(work))
        found = self._gradients(work)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        launched = Launched(number, tokens, *found.reported(norm))
        if not launched.result().is_finite:
            return launched
        if norm > self.config.max_grad_norm:  # most steps are spared a pass over every gradient
            torch.nn.utils.clip_grads_with_norm_(self.net.parameters(), self.config.max_grad_norm, norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._balance(found.routing)
        return launched

    def _on_device(self, work: Work) -> tuple[Tensor, MoEStats | None, int, int]:
        """A step with nothing that the host waits for: what `Launched` is given of it."""
        assert isinstance(self.optimizer, SplitAdamW)
        found = self._gradients(work)
        norm = self.optimizer.update(work.learning_rate, found.loss)
        self._balance(found.routing)
        return found.reported(norm)

    def _gradients(self, work: Work) -> Found:
        """Leaves them in the parameters, those of the mean over the whole step."""
        losses, aux_losses, measures, squares, routing, batches = [], [], [], [], [], work.batches
        targets, tokens = sum(batch.targets for batch in batches), sum(batch.tokens for batch in batches)
        for batch, key in zip(batches, work.keys.unbind(), strict=True):
            with autocast(self.device, self.dtype):
                output = self.task.forward(self.net, batch.data, key)
            assert output.loss is not None and output.aux_loss is not None, "a task's forward pass is given labels"
            loss = share(output.loss, batch.targets, targets)
            aux_loss = share(output.aux_loss, batch.tokens, tokens)
            if self._squares is not None:
                self._squares.begin()
            (loss + aux_loss).backward()
            if self._squares is not None:
                squares.append(self._squares.of_part())
            if isinstance(self.optimizer, SplitAdamW) and len(batches) > 1:
                self.optimizer.collect()
            losses.append(loss.detach())
            aux_losses.append(aux_loss.detach())
            measures.append(loss.new_zeros(0) if output.measures is None else output.measures.detach())
            if output.stats is not None:
                routing.append(output.stats)
        merged = merge_stats(routing, [batch.tokens for batch in batches])
        loss, aux_loss, sums = (torch.stack(parts).sum(dim=0) for parts in (losses, aux_losses, measures))
        noise = loss.new_zeros(0)
        if self._squares is not None:
            shares = [batch.targets / targets for batch in batches]
            noise = signal_and_noise(squares, shares, self._squares.of_step(), tokens)
        return Found(loss, aux_loss, sums, noise, merged)

    def _balance(self, routing: MoEStats | None) -> None:
        """Moves the routers' selection biases, where the model balances its experts that way."""
        if routing is None or self.bias_rate == 0:
            return
        mixtures: list[Any] = [layer.mlp for layer in self.net.layers if isinstance(layer.mlp, MoE)]
        for mixture, choices in zip(mixtures, routing.choices_per_expert, strict=True):
            if mixture.router.expert_bias is not None:
                update_expert_bias(mixture.router.expert_bias, choices, self.bias_rate)
