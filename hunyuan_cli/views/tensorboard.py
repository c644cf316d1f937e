"""Training as TensorBoard event files beside metrics.jsonl: the same scalars, over steps."""

from typing import TYPE_CHECKING, Any, Self

from hunyuan_cli.console import number
from model.errors import MissingExtraError

if TYPE_CHECKING:
    from model.training.events import RunPlan

TAGS = {
    "loss": "loss/training", "val_loss": "loss/validation", "val_bits_per_byte": "loss/validation_bits_per_byte",
    "aux_loss": "loss/aux", "balance_loss": "loss/balance", "lr": "optimizer/lr", "grad_norm": "optimizer/grad_norm",
    "noise_scale": "optimizer/noise_scale",
    "tokens_per_second": "speed/tokens_per_second", "mfu": "speed/mfu", "tokens": "progress/tokens",
    "flops": "progress/flops", "load_imbalance": "routing/load_imbalance",
    "dropped_fraction": "routing/dropped_fraction", "recycled_fraction": "routing/recycled_fraction",
}  # fmt: skip


class TensorBoardReporter:
    """Writes RUN/tensorboard; view it with: tensorboard --logdir RUN."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # now, rather than at the first step
            raise MissingExtraError("tensorboard", "tensorboard", "writing TensorBoard files") from None
        self._make_writer = SummaryWriter
        self._writer: Any = None
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def start(self, plan: "RunPlan") -> None:
        self.__exit__()  # of the stage before
        # purge_step: after a resume, what the lost steps had written is taken back.
        self._writer = self._make_writer(log_dir=str(plan.folder / "tensorboard"), purge_step=plan.start_step + 1)

    def step(self, row: dict[str, Any]) -> None:
        self._step = int(row.get("step", self._step + 1))
        scores = {name: f"score/{name.removeprefix('score_')}" for name in row if name.startswith("score_")}
        for name, tag in (TAGS | scores).items():
            value = number(row, name)
            if value is not None and self._writer is not None:
                self._writer.add_scalar(tag, value, self._step)

    def note(self, message: str) -> None:
        if self._writer is not None:
            self._writer.add_text("notes", message, self._step)

    def finish(self, summary: dict[str, Any]) -> None:
        self.__exit__()
