"""Checks that every section of settings shares: misspelt keys and values of the wrong type, one sentence each."""

import dataclasses
import difflib
import math
from typing import Any


def unknown_key(key: str, known: Any, section: str) -> str:
    """The sentence for a misspelt setting, with the nearest known one."""
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
    return f"{section}.{key} is not a setting: {hint}"


def type_problems(config: Any, section: str) -> list[str]:
    """Fields of a dataclass instance whose value is not of the annotated plain type (an int passes for a float)."""
    kinds: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
    problems = []
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), kinds.get(field.type)
        if kind is None:
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
            problems.append(f"{section}.{field.name} is {value!r}: give {_A[field.type]}")
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{section}.{field.name} is {value!r}: give a finite number")
    return problems


_A: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
