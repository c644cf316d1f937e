"""What a scaling study is asked for: the options of `hunyuan scale-fit` as one value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analyses.scaling.cost import CostRule
from analyses.scaling.parabola import CMin
from model.errors import HunyuanError

METHODS, INTERVALS = ("quadratic", "parametric", "both", "sparsity"), ("delta", "residual", "case")
SHAPES = ("parabola", "shared")
LEAST_RESAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a fit is asked for; the defaults are the command's."""

    method: str = "quadratic"
    cost: CostRule | None = None  # None: the table's own, else 6 N D
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, float] = field(
        default_factory=dict
    )  # of params, tokens and flops, where not 1 or named by the table
    loss_unit: str | None = None  # nats, bits or perplexity; None: nats, unless the column is called perplexity
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the values of columns that select rows
    best_of: bool = False  # the best learning rate of each size and budget
    batch_tokens: float | None = None  # where the table has no such column
    tolerance: float = 0.1  # relative width of a budget
    c_min: CMin | None = None
    keep_outliers: bool = False
    # Of a budget's losses: parabola, or shared: a cubic and a quartic term besides, the same for all budgets (shared_shape.py).
    # None: shared where there are enough runs for it and intervals are by the delta method.
    shape: str | None = None
    interval: str = "delta"
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    lad: bool = False  # least absolute deviations instead of Huber's loss
    # Of Huber's loss. Besiroglu et al.'s coefficients (arXiv:2404.10102) are those of least absolute deviations, to which this
    # comes within 1%; with Hoffmann et al.'s 1e-3 their B comes out 2.8% larger.
    delta: float = 1e-4
    starts: int = 20  # of the parametric fit
    predict: tuple[float, ...] = ()  # FLOPs
    predict_params: tuple[float, ...] = ()
    predict_loss: tuple[float, ...] = ()
    flat: float = 0.001  # of the least loss
    memory: float | None = None  # total parameters that a memory holds, for the optimum of method sparsity
    served_tokens: float = 0.0  # that the budget serves beside training
    unique_tokens: float | None = None  # of the data: more are repetitions
    last: bool = False  # of several checkpoints of a run the last
    rates: bool = False  # laws of the best learning rate and batch, too; N and D then have the best rate's runs
    interaction: bool = False  # of sparsity with size and tokens, in method sparsity

    def __post_init__(self) -> None:
        chosen = {
            "method": METHODS,
            "interval": INTERVALS,
            "shape": (None, *SHAPES),
            "loss_unit": (None, "nats", "bits", "perplexity"),
        }
        for name, known in chosen.items():
            if getattr(self, name) not in known:
                raise HunyuanError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(filter(None, known))}")
        if self.shape == "shared" and (self.method in ("parametric", "sparsity") or self.interval != "delta"):
            raise HunyuanError(
                "the shared shape is of the quadratic method and has intervals by the delta method: leave out the other"
            )
        surface = self.method != "quadratic"
        if (self.served_tokens or self.unique_tokens is not None) and not surface:
            raise HunyuanError(
                "served_tokens and unique_tokens ask a surface: choose method parametric, both or sparsity"
            )
        if (self.memory is not None or self.interaction) and self.method != "sparsity":
            raise HunyuanError("memory and interaction are of mixtures: choose method sparsity")
        if self.method == "sparsity" and (self.unique_tokens is not None or self.c_min is not None):
            raise HunyuanError("unique_tokens and c_min do not go with method sparsity: leave them or the method out")
        if self.method == "sparsity" and self.rates:
            raise HunyuanError("rates do not go with method sparsity: fit them from runs of one sparsity")
        if self.method == "sparsity" and self.predict_params:
            raise HunyuanError("method sparsity answers predict and predict_loss: leave predict_params out")
        for name in ("memory", "unique_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise HunyuanError(f"{name} is {value:g}: give a number above 0")
        if not 0 <= self.served_tokens < math.inf:
            raise HunyuanError(f"served_tokens is {self.served_tokens:g}: give a number from 0 up")
        for name, low, high in (("confidence", 0, 1), ("flat", 0, 1), ("tolerance", -1e-12, 1), ("delta", 0, 1)):
            if not low < getattr(self, name) < high:
                raise HunyuanError(
                    f"{name} is {getattr(self, name):g}: give a share above {max(0, low):g} and below {high}"
                )
        if self.resamples < LEAST_RESAMPLES or self.starts < 1:
            raise HunyuanError(
                f"give at least {LEAST_RESAMPLES} resamples and one start, for intervals are made of them"
            )
