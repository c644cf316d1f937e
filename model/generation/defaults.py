"""How a checkpoint asks to be sampled: its generation_config.json. What the command line says goes before it.

The keys mean what they mean to transformers 5, but for one: "top_k": null turns top-k off, as it did in transformers 4, for
which such files were written. In transformers 5 it means 50.
"""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import ConfigError, DataError
from model.generation.sampling import Sampling
from model.tokenizer.folder import end_ids

FILE_NAME = "generation_config.json"
SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}  # if do_sample
LARGEST = 1e300  # beyond it a JSON number is no use as a float, infinity included


class TokenLimit(NamedTuple):
    """How many new tokens an answer may have, and who says so."""

    tokens: int
    source: str


@dataclass(frozen=True)
class GenerationDefaults:
    """What a checkpoint says about generation; None where it says nothing. The first five are fields of Sampling."""

    temperature: float | None = None  # 0, greedy, where the file does not ask for sampling
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_ids: tuple[int, ...] = ()  # any of these tokens ends the text; config.json's where the file names none
    max_new_tokens: int | None = None

    def token_limit(self, asked: int | None, otherwise: int) -> TokenLimit:
        """What was asked for, else what the folder says, else a number of the caller's."""
        if asked is not None:
            return TokenLimit(asked, "--max-new-tokens")
        if self.max_new_tokens is not None:
            return TokenLimit(self.max_new_tokens, FILE_NAME)
        return TokenLimit(otherwise, "the default")


def read_generation_config(folder: str | Path) -> GenerationDefaults:
    """The defaults in a checkpoint's folder; empty ones where it has no generation_config.json."""
    path = Path(folder) / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return GenerationDefaults(eos_ids=end_ids(Path(folder)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON document: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}, not an object of settings")
    return _Keys(path, values).defaults()


def run_defaults(eos_id: int) -> dict[str, Any]:
    """The generation_config.json of a new run. It samples, for the greedy text of a small model repeats itself."""
    return {"do_sample": True, "temperature": 0.8, "top_k": 50, "eos_token_id": eos_id}


def merge(
    defaults: GenerationDefaults,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Sampling:
    """What is given here, else what the checkpoint says, else greedy over every token; field by field."""
    given = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    chosen: dict[str, Any] = {n: getattr(defaults, n) if value is None else value for n, value in given.items()}
    return Sampling(**{name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class _Keys:
    """The keys of one generation_config.json, each of the right type or refused; an absent key is null."""

    path: Path
    values: dict[str, Any]

    def defaults(self) -> GenerationDefaults:
        sampling: dict[str, Any] = {name: self.number(name) for name in SAMPLED if name != "top_k"}
        sampling["top_k"] = 0 if "top_k" in self.values and self.values["top_k"] is None else self.whole("top_k", 0)
        if self.flag("do_sample"):
            sampling = {name: SAMPLED[name] if value is None else value for name, value in sampling.items()}
        else:
            sampling["temperature"] = 0.0
        found = GenerationDefaults(
            **sampling, eos_ids=end_ids(self.path.parent), max_new_tokens=self.whole("max_new_tokens", 1)
        )
        try:
            merge(found)
        except ConfigError as error:
            raise DataError(f"{self.path} cannot be used: {error}") from error
        return found

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refused(name, "true or false")
        return bool(value)

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
            raise self.refused(name, "a number")
        return float(value)

    def whole(self, name: str, least: int) -> int | None:
        value = self.values.get(name)
        if value is not None and not _is_whole(value, least):
            raise self.refused(name, f"a whole number, {least} or above")
        return value

    def refused(self, name: str, wanted: str) -> DataError:
        return DataError(
            f"{self.path} has {name} = {reprlib.repr(self.values[name])}: give {wanted}, or remove the key"
        )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
