"""The settings of a writer that is a model of this machine; apart from it, for they need no torch."""

from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """How a local model is asked; None is what its folder says."""

    folder: Path
    max_tokens: int = 512  # of one reply
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    batch_size: int = 16
    dtype: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        numbers = {"max_tokens": self.max_tokens, "batch_size": self.batch_size}
        problems = [
            f"{name} of a local writer is {value}: give at least 1" for name, value in numbers.items() if value < 1
        ]
        if problems:
            raise ConfigError(problems)
