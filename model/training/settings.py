"""A run's settings: the sections [model], [data] and [training] of its run file, resolved and checked together.

A pre-training run may have stages as well, one table [[stages]] each (model/training/stages.py). Post-training adds a section
of its own, such as [dpo], which a pre-training run does not have.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tomli_w

from model.config.checks import unknown_key
from model.config.hunyuan import HunyuanConfig
from model.data.config import DataConfig
from model.errors import ConfigError
from model.posttraining.dpo_config import DPOConfig
from model.posttraining.reward_config import RewardConfig
from model.posttraining.sft_config import SFTConfig
from model.training.config import TrainingConfig
from model.training.stages import StageConfig, corpus_of, stages_of

SECTIONS = ("model", "data", "training")
STAGES = "stages"  # a list of tables
POSTTRAINING: dict[str, type] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "dpo": DPOConfig,
}  # sections that a run has or has not


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a run, but the machine."""

    model: HunyuanConfig
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: SFTConfig | None = None
    reward: RewardConfig | None = None
    dpo: DPOConfig | None = None
    stages: tuple[StageConfig, ...] = ()

    @classmethod
    def from_sections(cls, sections: dict[str, dict[str, Any]]) -> Self:
        """Settings from a mapping of sections; [model] may name a `preset` and change some of its fields."""
        known = (*SECTIONS, *POSTTRAINING)
        problems = [
            f"[{name}] is not a section: known are {', '.join(known)}"
            for name in sections
            if name not in (*known, STAGES)
        ]
        if problems:
            raise ConfigError(problems)
        _require_tables(sections)
        parts: dict[str, Any] = {}
        makers = {"model": _model, "data": _plain(DataConfig, "data"), "training": _plain(TrainingConfig, "training")}
        makers |= {name: _plain(kind, name) for name, kind in POSTTRAINING.items() if name in sections}
        for name, make in makers.items():
            try:
                parts[name] = make(dict(sections.get(name, {})))
            except ConfigError as error:
                problems += error.problems
        try:
            tables: Any = sections.get(STAGES, ())  # a list, as _require_tables has seen
            parts[STAGES] = tuple(map(StageConfig.from_dict, tables))
        except ConfigError as error:
            problems += error.problems
        if sections.get(STAGES) and (others := [name for name in POSTTRAINING if name in sections]):
            problems.append(f"[[stages]] have no place in a run of hunyuan {others[0]}: leave them out")
        if not problems and parts["training"].sequence_length > parts["model"].max_position_embeddings:
            problems.append(
                f"training.sequence_length is {parts['training'].sequence_length}: the model's context, "
                f"model.max_position_embeddings, is {parts['model'].max_position_embeddings}; lower one or raise the other"
            )
        if problems:
            raise ConfigError(problems)
        settings = cls(**parts)
        if settings.stages:
            stages_of(settings)  # for what it refuses
        return settings

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        return cls.from_sections(read_sections(path))

    def to_toml(self) -> str:
        """The resolved settings as a run file; None, which TOML has not, is left out."""
        written: dict[str, Any] = {
            n: {k: v for k, v in s.items() if v is not None} for n, s in self.to_sections().items()
        }
        return tomli_w.dumps(written | self._stage_tables())

    def to_sections(self) -> dict[str, dict[str, Any]]:
        """The sections that the run has, each as a dict of all its keys; its stages are not among them."""
        there = (name for name in (*SECTIONS, *POSTTRAINING) if getattr(self, name) is not None)
        return {name: dataclasses.asdict(getattr(self, name)) for name in there}

    def replace_sections(self, sections: dict[str, dict[str, Any]]) -> "RunSettings":
        """The settings of other sections, such as to_sections gives, with the same stages."""
        return RunSettings.from_sections(sections | self._stage_tables())

    def _stage_tables(self) -> dict[str, Any]:
        return {STAGES: [stage.to_dict() for stage in self.stages]} if self.stages else {}

    def absolute(self) -> "RunSettings":
        """The same with paths that hold from any working folder."""
        stages = tuple(stage.absolute() for stage in self.stages)
        return dataclasses.replace(self, data=self.data.absolute(), stages=stages)

    @property
    def corpus(self) -> DataConfig:
        """What is read before training: [data], with the sources of all stages."""
        return corpus_of(self)


def read_sections(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file, their keys unchecked."""
    try:
        sections = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"run file {path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"run file {path} is not valid TOML: {error}"]) from error
    _require_tables(sections)
    return sections


def override(sections: dict[str, dict[str, Any]], assignment: str) -> None:
    """Applies `section.key=value` in place; the value is read as TOML, and as plain text where it is not."""
    name, equals, text = assignment.partition("=")
    section, dot, key = name.strip().partition(".")
    known = (*SECTIONS, *POSTTRAINING)
    if not (equals and dot and key) or section not in known:
        raise ConfigError([f"--set {assignment} is not section.key=value: the sections are {', '.join(known)}"])
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    sections.setdefault(section, {})[key] = value


def _require_tables(sections: dict[str, Any]) -> None:
    problems = [
        f"{n} must be a table: write [{n}]" for n, s in sections.items() if n != STAGES and not isinstance(s, dict)
    ]
    stages = sections.get(STAGES, [])
    if not (isinstance(stages, list) and all(isinstance(table, dict) for table in stages)):
        problems.append("stages must be a list of tables: write [[stages]] before each")
    if problems:
        raise ConfigError(problems)


def _model(values: dict[str, Any]) -> HunyuanConfig:
    preset = values.pop("preset", None)
    if preset is None and "hidden_size" not in values:
        preset = "toy"
    needed = [each.name for each in dataclasses.fields(HunyuanConfig) if each.default is dataclasses.MISSING]
    if preset is None and (missing := [name for name in needed if name not in values]):
        raise ConfigError([
            f"[model] has a hidden_size and no preset, so it is read as a whole model, and lacks {', '.join(missing)}: give "
            "them, or name the preset to change (--model toy, or preset = \"toy\" in [model])"
        ])  # fmt: skip
    return HunyuanConfig.from_dict(values) if preset is None else HunyuanConfig.from_name(preset, **values)


def _plain(kind: type, section: str) -> Any:
    def make(values: dict[str, Any]) -> Any:
        known = [f.name for f in dataclasses.fields(kind)]
        problems = [unknown_key(key, known, section) for key in values if key not in known]
        if problems:
            raise ConfigError(problems)
        return kind(**values)

    return make
