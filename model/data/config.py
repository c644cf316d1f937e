"""The section [data] of a run file: where the text comes from and in which shares."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.task_source import TaskSource, is_task
from model.errors import ConfigError

MAX_SOURCES = 1000  # each gets at least one of the 1,000 draws of a block, see order.Mixture


def absolute_source(source: str) -> str:
    """A source whose path holds from any working folder; those without a path stay."""
    named = source == "stdlib" or source.startswith("hf:") or is_task(source)
    return source if named else str(Path(source).expanduser().absolute())


@dataclass(frozen=True)
class DataConfig:
    sources: tuple[str, ...] = (
        "stdlib",
    )  # "stdlib", files, folders, globs, hf:NAME, hf:NAME:SUBSET, or tasks:NAME:OPTIONS (task_source.py)
    join: tuple[str, ...] = ()  # those of the sources whose files are joined, folder by folder (sources.py)
    weights: tuple[float, ...] = ()  # share of the draws of each source; empty: in proportion to its tokens
    anneal_sources: tuple[str, ...] = ()  # the mixture of the annealing phase; empty: the same sources
    anneal_weights: tuple[float, ...] = ()  # shares of the annealing phase; empty: as `weights`, or by tokens
    text_key: str = "text"  # the key of a jsonl line, the column of a parquet file or data set
    encoding: str = "utf-8"  # of text and JSON files, as Python names it: latin-1, utf-16, ...
    validation_fraction: float = 0.05  # share of the documents that is never trained on
    document_mask: bool = (
        False  # attention stays inside a document, whose positions count from 0; else all of a row is seen
    )
    tokenizer: str = ""  # a tokenizer.json, or a folder with one; empty: one is trained on the corpus
    cache_dir: str = ""  # empty: $HUNYUAN_CACHE, else $XDG_CACHE_HOME/hunyuan, else ~/.cache/hunyuan

    def __post_init__(self) -> None:
        for name in ("sources", "join", "weights", "anneal_sources", "anneal_weights"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)  # TOML gives lists
        problems = [
            *_source_problems("data.sources", self.sources),
            *_source_problems("data.anneal_sources", self.anneal_sources),
            *_join_problems(self.join),
            *_weight_problems("data.weights", self.weights, "data.sources", self.sources),
            *_weight_problems("data.anneal_weights", self.anneal_weights, "data.anneal_sources", self._anneal_sources),
        ]
        if self.sources == ():
            problems.append('data.sources is empty: name a file, a folder, or "stdlib"')
        if not (isinstance(self.text_key, str) and self.text_key):
            problems.append(f"data.text_key is {self.text_key!r}: give the name of the key that holds the text")
        if not _is_encoding(self.encoding):
            problems.append(
                f"data.encoding is {self.encoding!r}: give utf-8, latin-1, utf-16 or another that Python knows"
            )
        if not (_is_number(self.validation_fraction) and 0 < self.validation_fraction < 1):
            problems.append(f"data.validation_fraction is {self.validation_fraction!r}: give a share between 0 and 1")
        if not isinstance(self.document_mask, bool):
            problems.append(f"data.document_mask is {self.document_mask!r}: give true or false")
        for name in ("tokenizer", "cache_dir"):
            if not isinstance(getattr(self, name), str):
                problems.append(f"data.{name} is {getattr(self, name)!r}: give a path as a string, or leave it out")
        if problems:
            raise ConfigError(problems)

    def absolute(self) -> "DataConfig":
        """The same with paths that hold from any working folder, as a run that is resumed elsewhere needs them."""

        return dataclasses.replace(
            self,
            sources=tuple(map(absolute_source, self.sources)),
            join=tuple(map(absolute_source, self.join)),
            anneal_sources=tuple(map(absolute_source, self.anneal_sources)),
            tokenizer=self.tokenizer and absolute_source(self.tokenizer),
            cache_dir=self.cache_dir and absolute_source(self.cache_dir),
        )

    @property
    def all_sources(self) -> tuple[str, ...]:
        """Every source once, those of the annealing phase last."""
        return tuple(dict.fromkeys((*self.sources, *self.anneal_sources)))

    @property
    def _anneal_sources(self) -> tuple[str, ...]:
        return self.anneal_sources or self.sources

    def weights_by_source(self, tokens: dict[str, int]) -> tuple[dict[str, float], dict[str, float]]:
        """The mixture of pre-training and that of annealing, given the training tokens of each source."""
        main = self.weights or [tokens[source] for source in self.sources]
        if self.anneal_weights:
            anneal: Sequence[float] = self.anneal_weights
        elif self.anneal_sources:
            anneal = [tokens[source] for source in self.anneal_sources]
        else:
            anneal = main
        return (
            dict(zip(self.sources, main, strict=True)),
            dict(zip(self._anneal_sources, anneal, strict=True)),
        )


def _is_encoding(name: object) -> bool:
    try:
        return isinstance(name, str) and "".encode(name) is not None
    except (LookupError, ValueError):
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _source_problems(name: str, sources: object) -> list[str]:
    if not (isinstance(sources, tuple) and all(isinstance(source, str) and source for source in sources)):
        return [f"{name} is {sources!r}: give a list of paths or names"]
    if len(set(sources)) < len(sources):
        return [f"{name} names a source twice: name each once and set its share in the weights"]
    for source in filter(is_task, sources):
        try:
            TaskSource.parse(source)
        except ConfigError as error:
            return [f"{name}: {problem}" for problem in error.problems]
    if len(sources) > MAX_SOURCES:
        return [f"{name} has {len(sources)} entries, more than {MAX_SOURCES}: name folders or globs instead of files"]
    return []


def _join_problems(join: object) -> list[str]:
    if not (isinstance(join, tuple) and all(isinstance(source, str) and source for source in join)):
        return [f"data.join is {join!r}: give a list of those of the sources whose files are to be joined"]
    if generated := [source for source in join if source.startswith("hf:") or is_task(source)]:
        return [f"data.join names {generated[0]}, which has no folders: leave it out"]
    return []


def _weight_problems(name: str, weights: object, sources_name: str, sources: object) -> list[str]:
    if not (isinstance(weights, tuple) and all(_is_number(weight) and weight >= 0 for weight in weights)):
        return [f"{name} is {weights!r}: give a list of numbers that are not negative"]
    if weights and isinstance(sources, tuple) and len(weights) != len(sources):
        return [f"{name} has {len(weights)} numbers for {len(sources)} {sources_name}: give one for each"]
    if weights and not sum(weights):
        return [f"{name} are all zero: give at least one source a share"]
    return []
