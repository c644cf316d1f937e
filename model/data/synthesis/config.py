"""What a synthesis is asked for, and which part of it each stage depends on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.data.synthesis.store import SHARD_UNITS
from model.errors import ConfigError


@dataclass(frozen=True)
class SynthesisConfig:
    sources: tuple[str, ...] = ("stdlib",)  # files, folders, globs, hf:NAME or stdlib
    count: int = 1000  # instructions of stage 1
    seed: int = 0
    samples: int = 1  # responses to each instruction
    routes: Mapping[str, str] = field(default_factory=dict)  # domain -> name of the writer that answers it
    harder: float = 0.5  # share of the instructions that stage 2 also makes harder
    expand: float = 0.25  # instructions of rare domains that stage 2 adds, as a share of all
    overlap: float = 0.0  # greatest ROUGE-L to an earlier instruction; 0: not compared
    text_key: str = "text"
    encoding: str = "utf-8"
    shard_units: int = SHARD_UNITS

    def __post_init__(self) -> None:
        problems = [
            f"--{name} is {getattr(self, name)}: give a whole number from {least} on"
            for name, least in (("count", 1), ("samples", 1), ("seed", 0), ("shard_units", 1))
            if getattr(self, name) < least
        ]
        problems += [
            f"--{name} is {getattr(self, name)}: give a share from 0 to {most:g}"
            for name, most in (("harder", 1), ("expand", 4), ("overlap", 1))
            if not (0 <= getattr(self, name) <= most and math.isfinite(getattr(self, name)))
        ]
        if not self.sources:
            problems.append("no source is named: give files, folders, globs, hf:NAME or stdlib")
        if problems:
            raise ConfigError(problems)

    def of_stage(self, stage: int) -> dict[str, Any]:
        """The settings that the bytes of stage 1, 2 or 3 depend on, its input and its writers apart."""
        named = {
            1: ("count", "seed", "overlap", "text_key", "encoding"),
            2: ("seed", "harder", "expand", "overlap"),
            3: ("seed", "samples", "routes"),
        }[stage]
        chosen = {name: getattr(self, name) for name in (*named, "shard_units")}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in chosen.items()}
