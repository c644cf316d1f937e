"""One optimizer step: gradients of every micro-batch, a look at whether they are finite, the update.

On a processor the look comes before the update. On a GPU the update looks for itself (model/training/split_adamw.py) and the
host does not wait: it reads what a step came to when the next one is under way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.device import autocast, on_its_way
from model.errors import TrainingError
from model.moe.layer import MoE, MoEStats
from model.moe.place_keys import routing_key
from model.moe.router import update_expert_bias
from model.parallel.shard import Shards
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
    stop: bool = False  # whether a process of the run was asked to stop

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Launched:
    """A step that a GPU may still be computing."""

    def __init__(self, step: int, tokens: int, row: Tensor, form: "Form") -> None:
        """`row` of that form is copied at once: a GPU may go on and overwrite it."""
        self.step, self.tokens, self._row, self._form = step, tokens, row, form
        self._event: torch.cuda.Event | None = None
        if row.is_cuda:
            self._row = torch.empty(row.shape, dtype=row.dtype, pin_memory=True)
            self._row.copy_(row, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def result(self) -> StepResult:
        """What it came to, as soon as that is known; its tensors are the host's."""
        if self._event is not None:
            self._event.synchronize()
        found = self._form.read(self._row)
        loss, aux_loss, norm, stop = self._row[:4].tolist()
        return StepResult(
            self.tokens, loss, aux_loss, norm, found.routing, found.measures.tolist(), found.noise.tolist(), bool(stop)
        )

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

    def in_a_row(self, grad_norm: Tensor, stop: bool = False) -> Tensor:
        """All that a step reports as one vector, which is one copy to the host; counts are exact in float64."""
        asked = torch.full_like(grad_norm, float(stop))
        parts = self.loss, self.aux_loss, grad_norm, asked, self.measures, self.noise, *(self.routing or ())
        return torch.cat([part.double().flatten() for part in parts])

    def form(self) -> "Form":
        """How such a vector is to be read."""
        routing = None if self.routing is None else [(part.shape, part.dtype) for part in self.routing]
        return Form(len(self.measures), self.noise.numel(), routing)


class Form(NamedTuple):
    """The sizes of the parts of a row."""

    measures: int
    noise: int
    routing: list[tuple[torch.Size, torch.dtype]] | None

    def read(self, row: Tensor) -> Found:
        """The loss, the auxiliary loss, the gradient norm and whether to stop stand first; then the parts."""
        counts = [shape.numel() for shape, _ in self.routing or ()]
        _, measures, noise, *parts = row.split([4, self.measures, self.noise, *counts])
        routing = None
        if self.routing is not None:
            pairs = zip(parts, self.routing, strict=True)
            routing = MoEStats(*(part.view(shape).to(dtype) for part, (shape, dtype) in pairs))
        return Found(row[0], row[1], measures, noise, routing)


class Work(NamedTuple):
    """What a step computes from: M micro-batches, all of the step or those of this process."""

    batches: list[MicroBatch]
    keys: Tensor  # (M,) int64: the routing key of each
    learning_rate: Tensor  # () float32
    each: list[int]  # the targets of every micro-batch of the step
    tokens: int  # of the whole step
    stop: bool = False  # whether this process was asked to stop

    @property
    def targets(self) -> int:
        """Of the whole step."""
        return sum(self.each)


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
        shards: Shards | None = None,
    ) -> None:
        """`note` takes the sentence that a step cannot be recorded, `shards` are a process's pieces of a shared-out model."""
        self.net, self.optimizer, self.task, self.device, self.dtype = net, optimizer, task, device, dtype
        self.config, self.bias_rate = settings.training, settings.model.expert_bias_update_rate
        self.shards, self.shares_places = shards, settings.model.capacity_scope == "global"
        self._squares: GradientSquares | None = None
        self._launch: Callable[[Work], tuple[Tensor, Form]] = self._on_device
        if shards is None and isinstance(optimizer, SplitAdamW) and records(settings.model, settings.training, device):
            self._launch = RecordedStep(self._on_device, optimizer, device, note)

    def __call__(self, number: int, learning_rate: float, stop: bool = False) -> Launched:
        """Step `number`, from 0. Where its loss or a gradient is not finite, no weight is touched.

        Of several processes each learns from the result whether one was asked to `stop`.
        """
        self.net.train()
        if self.config.measure_noise_scale and self._squares is None:  # now, when the weights are those that will move
            self._squares = GradientSquares(self.optimizer, self.shards)
        batches = list(self.task.micro_batches(number))  # all at once: each weighs what it has of the whole
        targets, tokens = [batch.targets for batch in batches], sum(batch.tokens for batch in batches)
        if not any(targets):
            raise TrainingError(f"step {number + 1} has nothing to learn: every label of its batch is masked")
        own = range(len(batches)) if self.shards is None else self.shards.ranks.micro_batches(len(batches))
        # Micro-batches that are routed as one have the key that they would have as one.
        together = self.shards.ranks.layout.data_parallel if self.shards is not None and self.shares_places else 1
        keys = torch.stack([routing_key(self.config.seed, number, index // together) for index in own])
        keys, rate = (on_its_way(part, self.device) for part in (keys, torch.tensor(learning_rate)))
        work = Work([batches[index] for index in own], keys, rate, targets, tokens, stop)
        if isinstance(self.optimizer, SplitAdamW):
            return Launched(number, tokens, *self._launch(work))
        found = self._gradients(work)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
        if self.shards is None:
            row = found.in_a_row(torch.nn.utils.get_total_norm(gradients.values()))
        else:
            row = self._agree(found, self.shards.squares(gradients), stop)
        launched = Launched(number, tokens, row, found.form())
        if not launched.result().is_finite:
            return launched
        norm = row[2].float()
        if norm > self.config.max_grad_norm:  # most steps are spared a pass over every gradient
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._balance(found.form().read(row).routing)
        return launched

    def _on_device(self, work: Work) -> tuple[Tensor, Form]:
        """A step with nothing that the host waits for: what `Launched` is given of it."""
        assert isinstance(self.optimizer, SplitAdamW)
        found = self._gradients(work)
        if self.shards is None:
            norm = self.optimizer.update(work.learning_rate, found.loss)
            self._balance(found.routing)
            return found.in_a_row(norm), found.form()
        rows: list[Tensor] = []

        def agree(squares: Tensor) -> tuple[Tensor, Tensor]:
            rows.append(self._agree(found, squares, work.stop))
            return rows[0][2].square(), rows[0][0].float()

        self.optimizer.update(work.learning_rate, found.loss, agree)
        self._balance(found.form().read(rows[0]).routing)
        return rows[0], found.form()

    def _agree(self, found: Found, squares: Tensor, stop: bool) -> Tensor:
        """The row of all processes, by one message: sums of what each found, and the norm from their shares of its square."""
        assert self.shards is not None
        row = self.shards.ranks.sum_(found.in_a_row(squares, stop))
        # One process adds its losses up in float32: rounded, those of two are the same.
        row[:2], row[2] = row[:2].float().double(), row[2].sqrt().float().double()
        return row

    def _gradients(self, work: Work) -> Found:
        """Leaves them in the parameters, those of the mean over the whole step."""
        losses, aux_losses, measures, squares, routing, batches = [], [], [], [], [], work.batches
        several = len(batches) > 1
        for number, (batch, key) in enumerate(zip(batches, work.keys.unbind(), strict=True), start=1):
            with autocast(self.device, self.dtype):
                output = self.task.forward(self.net, batch.data, key)
            assert output.loss is not None and output.aux_loss is not None, "a task's forward pass is given labels"
            loss = share(output.loss, batch.targets, work.targets)
            aux_loss = share(output.aux_loss, batch.tokens, work.tokens)
            if self._squares is not None:
                self._squares.begin()
            if self.shards is not None:
                self.shards.before_backward(self._gradient_of if number == len(batches) else None)
            (loss + aux_loss).backward()
            if self.shards is not None:
                self.shards.take_gradients()
            if self._squares is not None:
                squares += self._squares.of_parts()
            if isinstance(self.optimizer, SplitAdamW) and several:
                self.optimizer.collect()
            losses.append(loss.detach())
            aux_losses.append(aux_loss.detach())
            measures.append(loss.new_zeros(0) if output.measures is None else output.measures.detach())
            if output.stats is not None:
                routing.append(output.stats)
        routed = work.tokens
        if self.shards is not None:
            self.shards.sum_copies()
            routed *= self.shards.ranks.layout.context_parallel  # each part of a sequence has the balance loss of all
        merged = merge_stats(routing, [batch.tokens for batch in batches], routed)
        loss, aux_loss, sums = (torch.stack(parts).sum(dim=0) for parts in (losses, aux_losses, measures))
        noise = loss.new_zeros(0)
        if self._squares is not None:
            shares = [targets / work.targets for targets in work.each]
            noise = signal_and_noise(squares, shares, self._squares.of_step(), work.tokens)
        return Found(loss, aux_loss, sums, noise, merged)

    def _gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """What a rank has of a plain parameter's gradient when its last backward pass has come to it."""
        if isinstance(self.optimizer, SplitAdamW):
            return self.optimizer.collected(parameter)
        return parameter.grad

    def _balance(self, routing: MoEStats | None) -> None:
        """Moves the routers' selection biases, where the model balances its experts that way."""
        if routing is None or self.bias_rate == 0:
            return
        mixtures: list[Any] = [layer.mlp for layer in self.net.layers if isinstance(layer.mlp, MoE)]
        for mixture, choices in zip(mixtures, routing.choices_per_expert, strict=True):
            if mixture.router.expert_bias is not None:
                update_expert_bias(mixture.router.expert_bias, choices, self.bias_rate)
