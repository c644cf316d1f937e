"""What a training run tells the outside. The loop prints nothing: it calls a Reporter, which may draw, log or ignore."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunPlan:
    """What is about to happen, told once before the first step."""

    folder: Path
    device: str
    steps: int
    start_step: int  # above 0 when resumed
    tokens: int
    global_batch_tokens: int
    total_params: int
    activated_params: int
    flops_per_token: float
    peak_flops: float  # the device's matmul ceiling in FLOP/s, measured
    groups: list[dict[str, Any]]  # optimizer.describe_groups
    data: str  # one line on the corpus
    documents: tuple[str, ...] = ()  # lines on how long the documents of its sources are
    batch: str = ""  # what a step learns from, where that is not global_batch_tokens of text
    stage: str = ""  # which one begins or goes on, in a line; empty for a run without stages
    not_for_transformers: str = ""  # why the model cannot be converted for transformers


class Reporter(Protocol):
    """Receives a run's events, in this order: start, any number of step and note, finish.

    A run of stages starts once for each of them, and finishes once.
    """

    def start(self, plan: RunPlan) -> None: ...

    def step(self, row: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""

    def note(self, message: str) -> None:
        """A sentence that the user should read."""

    def finish(self, summary: dict[str, Any]) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def start(self, plan: RunPlan) -> None:
        del plan

    def step(self, row: dict[str, Any]) -> None:
        del row

    def note(self, message: str) -> None:
        del message

    def finish(self, summary: dict[str, Any]) -> None:
        del summary
