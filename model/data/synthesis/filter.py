"""What a record must pass to be kept, from cheap to dear, and the vote among several answers to one instruction.

    of each record by itself   length, repetition, language, refusal, contamination, check, execution
    of all that passed         vote, duplicate, critique

A filter gives a score and a reason; the first reason drops the record, under the filter's name.
model/data/synthesis/filter_run.py applies them to files.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from model.data.confinement import run
from model.data.synthesis import quality
from model.data.synthesis.answers import majority
from model.data.synthesis.checks import CheckError, needs_execution, verify
from model.data.synthesis.decontaminate import Contamination
from model.data.synthesis.duplicates import rows_of_a_band
from model.errors import ConfigError

__all__ = ["FILTERS", "FilterConfig", "RecordFilters", "Verdict", "majority"]

FILTERS = (
    "format", "length", "repetition", "language", "refusal", "contamination", "check", "execution", "vote", "duplicate",
    "critique",
)  # fmt: skip


@dataclass(frozen=True)
class FilterConfig:
    """What the filters ask for; 0 or nothing turns one off."""

    min_characters: int = 1  # of a response
    max_characters: int = 32_000
    repetition: float = 0.6  # greatest share of a response that repeats itself
    languages: tuple[str, ...] = ()  # codes such as en, zh; none: all
    language_share: float = 0.5  # least share of the letters in their scripts
    refusals: bool = True
    against: tuple[str, ...] = ()  # files of evaluation sets
    contamination: float = 0.5  # least share of an item that counts as a copy
    checks: bool = True
    execute: bool = True  # run programs of checks, confined
    seconds: float = 5.0  # of one program
    allow_weaker: bool = False  # run them where the kernel lacks a layer of confinement
    vote: bool = False  # keep the answers that more than half of those to the same instruction give
    duplicates: float = 0.8  # least similarity of a near duplicate
    critique: str = ""  # a run folder or Hugging Face folder
    critique_least: float = 0.0  # nats a token that an instruction must make its response likelier

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}: give a share from 0 to 1"
            for name in ("repetition", "language_share", "contamination", "duplicates")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not 0 <= self.min_characters <= self.max_characters:
            problems.append(f"no response has {self.min_characters} to {self.max_characters} characters: swap them")
        if unknown := [code for code in self.languages if code not in quality.LANGUAGES]:
            problems.append(
                f"no script is known of the language {', '.join(unknown)}: give {' '.join(quality.LANGUAGES)}"
            )
        if problems:
            raise ConfigError(problems)
        if self.duplicates:
            rows_of_a_band(self.duplicates)

    def as_dict(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True)
class Verdict:
    """`filter` is the name of the one that dropped the record, "" where it stays."""

    filter: str = ""
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return not self.filter


class RecordFilters:
    """The filters that judge a record by itself; safe to call from several threads."""

    def __init__(self, config: FilterConfig, contamination: Contamination | None) -> None:
        self._config, self._contamination = config, contamination
        self._run = partial(run, seconds=config.seconds, allow_weaker=config.allow_weaker)
        self._filters: tuple[tuple[str, Callable[[Mapping[str, Any]], tuple[float | None, str]]], ...] = (
            ("format", _format),
            ("length", lambda record: quality.length(record, config.min_characters, config.max_characters)),
            ("repetition", self._repetition),
            ("language", lambda record: quality.language(record, config.languages, config.language_share)),
            ("refusal", lambda record: quality.refusal(record) if config.refusals else (None, "")),
            ("contamination", self._copies),
            ("check", self._recomputed),
            ("execution", self._executed),
        )

    def __call__(self, record: Any) -> Verdict:
        scores: dict[str, float] = {}
        for name, judge in self._filters:
            score, reason = judge(record)
            if score is not None:
                scores[name] = score
            if reason:
                return Verdict(name, reason, scores)
        return Verdict(scores=scores)

    def _repetition(self, record: Mapping[str, Any]) -> tuple[float | None, str]:
        """A response that a check confirms may repeat itself: so does the output of a loop."""
        if not self._config.repetition or (self._config.checks and record.get("check")):
            return None, ""
        return quality.repetition(record, self._config.repetition)

    def _copies(self, record: Mapping[str, Any]) -> tuple[float | None, str]:
        if self._contamination is None:
            return None, ""
        share, name = self._contamination((record["instruction"], record["response"]))
        if share < self._config.contamination:
            return share, ""
        return share, f"{share:.0%} of an evaluation item stands in it ({name})"

    def _recomputed(self, record: Mapping[str, Any]) -> tuple[float | None, str]:
        check = record.get("check")
        if not check or not self._config.checks or needs_execution(check):
            return None, ""
        return _verified(check, record["response"], None)

    def _executed(self, record: Mapping[str, Any]) -> tuple[float | None, str]:
        check = record.get("check")
        if not check or not self._config.execute or not needs_execution(check):
            return None, ""
        return _verified(check, record["response"], self._run)


def _format(record: Any) -> tuple[float | None, str]:
    if not isinstance(record, Mapping):
        return None, "it is no JSON object"
    wrong = [key for key in ("instruction", "response") if not isinstance(record.get(key), str)]
    if wrong:
        return None, f"it has no text under '{wrong[0]}'"
    check = record.get("check")
    return None, "" if check is None or isinstance(check, Mapping) else "its check is no JSON object"


def _verified(check: Mapping[str, Any], response: str, run_program: Any) -> tuple[float, str]:
    try:
        reason = verify(check, response, run_program)
    except CheckError as error:
        reason = str(error)
    return float(not reason), reason
