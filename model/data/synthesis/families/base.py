"""A family of problems: what it takes from a text, how it asks, and how the answer is known.

    material = family.material(span, random)              what it needs of a span, as JSON, or None
    problem  = family.problem(material, difficulty, random)   fields of the templates, answer, check, steps

The same material, difficulty and draw give the same problem: a record can be made harder, or answered, from its `task`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from model.data.synthesis.spans import Span

HELD_OUT_TEMPLATES = 2  # of each family, its last ones: never in the split `train`
HELD_OUT_SHARE = 26 / 256  # of all problems, by the digest of their check
HARDEST = 6  # the greatest difficulty; 1 is the least

Material = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    fields: Mapping[str, str]  # what the templates name
    answer: str
    check: dict[str, Any]
    steps: tuple[str, ...] = ()  # lines of the response before the answer
    others: tuple[str, ...] = ()  # wrong answers that look right
    details: Any = None  # what the family needs to plant errors of its own


Wrong = Callable[
    [Problem, Random], Problem | None
]  # the same problem with an error in its answer; None where it has none


@dataclass(frozen=True)
class Family:
    name: str
    domain: str
    templates: tuple[str, ...]  # at least 8, the last HELD_OUT_TEMPLATES held out
    form: tuple[str, ...]  # sentences that say what the answer looks like, which clarity adds
    material: Callable[[Span, Random], Material | None]
    problem: Callable[[Material, int, Random], Problem | None]
    errors: Mapping[str, Wrong]  # by their names
    closings: tuple[str, ...] = ("{answer}",)  # how a response ends
    executes: bool = False  # whether its check runs a program
    rare: bool = False  # whether only few texts have something for it
    hardest: int = HARDEST


@dataclass(frozen=True)
class Split:
    """Which templates and problems may be drawn: `train`, `held-out`, or `all`."""

    name: str = "train"
    held_out_templates: int = field(default=HELD_OUT_TEMPLATES)

    def template_numbers(self, family: Family) -> range:
        count = len(family.templates)
        first_held_out = count - self.held_out_templates
        return {"train": range(first_held_out), "held-out": range(first_held_out, count)}.get(self.name, range(count))

    def allows(self, check: Mapping[str, Any]) -> bool:
        return self.name == "all" or is_held_out(check) == (self.name == "held-out")


def is_held_out(check: Mapping[str, Any]) -> bool:
    """Whether a problem belongs to the held-out tenth, whatever its wording: by the digest of its check alone."""
    digest = hashlib.sha256(json.dumps(check, sort_keys=True).encode()).digest()
    return digest[0] < 256 * HELD_OUT_SHARE
