"""The embedded writer: problems with known answers, made from any text, without a model and without a network.

Every record is a pure function of its id: the same run gives the same bytes. A record's `task` has the family, what it took
from the text and the draw, so that stage 2 can draw it again at another difficulty and stage 3 can answer it. With an error
rate, some responses are wrong on purpose; which, and how, goes to the labels and to no record.
"""

from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import Any

from model.data.synthesis.author import Answer, Evolution, Seed
from model.data.synthesis.families.base import Family, Problem, Split
from model.data.synthesis.families.catalog import FAMILIES
from model.data.synthesis.record import Record, derived, new_record
from model.data.synthesis.store import Done
from model.errors import ConfigError

VERSION = 1  # raise it where the same id would give another record
DRAWS = 100  # tries for a problem of the wanted split before the family is passed over
MISSES = 8  # draws without a problem after which it is passed over, too
RARE_FIRST = 0.5  # how often families that few texts have something for are tried first
NAME = "embedded"


class EmbeddedWriter:
    """An Author (author.py) that needs nothing but the text."""

    def __init__(self, families: Iterable[str] = (), split: str = "train", error_rate: float = 0.0) -> None:
        """`families` are names of the catalog, none: all. `split` says which templates and problems may be drawn."""
        chosen = tuple(families) or tuple(FAMILIES)
        if unknown := [name for name in chosen if name not in FAMILIES]:
            raise ConfigError([f"there is no family {', '.join(unknown)}: choose among {', '.join(FAMILIES)}"])
        self.families, self.split, self.error_rate = chosen, Split(split), error_rate

    @property
    def identity(self) -> Mapping[str, Any]:
        held_out = {name: list(Split("held-out").template_numbers(FAMILIES[name])) for name in self.families}
        return {
            "kind": NAME, "version": VERSION, "families": list(self.families), "split": self.split.name,
            "held_out_templates": held_out, "error_rate": self.error_rate,
        }  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""

    # --- stage 1 ------------------------------------------------------------------------------------------------------

    def instructions(self, units: Iterable[Seed]) -> Iterator[Done]:
        for unit in units:
            yield Done(unit.id, [self._instruction(unit)])

    def _instruction(self, unit: Seed) -> Record:
        random = Random(int(unit.id, 16))
        names = random.sample(self.families, len(self.families))
        if random.random() < RARE_FIRST:
            names.sort(key=lambda name: not FAMILIES[name].rare)
        for name in names:
            family = FAMILIES[name]
            material = family.material(unit.span, random)
            difficulty = min(random.randint(1, 2), family.hardest)
            if material is not None and (found := self._draw(family, material, difficulty, random)):
                draw, problem = found
                number = random.choice(self.split.template_numbers(family))
                return new_record(
                    unit.id, stage=1, operation="seed", domain=family.domain, source=unit.span.source, writer=NAME,
                    instruction=family.templates[number].format(**problem.fields), difficulty=float(difficulty),
                    answer=problem.answer, check=problem.check,
                    task={"family": name, "template": number, "draw": draw, "material": material},
                )  # fmt: skip
        record = new_record(
            unit.id, stage=1, operation="seed", domain=unit.span.domain, source=unit.span.source, writer=NAME,
            instruction="",
        )  # fmt: skip
        record["reasons"] = ["seed: no family finds a problem in this span"]
        return record

    def _draw(
        self, family: Family, material: Mapping[str, Any], difficulty: int, random: Random
    ) -> tuple[int, Problem] | None:
        """A problem of the split, and the number that draws it again."""
        misses = 0
        for _ in range(DRAWS):
            draw = random.getrandbits(32)
            problem = family.problem(dict(material), difficulty, Random(draw))
            if problem is None:
                misses += 1
                if misses == MISSES:
                    return None
            elif self.split.allows(problem.check):
                return draw, problem
        return None

    # --- stage 2 ------------------------------------------------------------------------------------------------------

    def evolutions(self, units: Iterable[Evolution]) -> Iterator[Done]:
        for unit in units:
            yield Done(unit.id, [self._evolved(unit)])

    def _evolved(self, unit: Evolution) -> Record:
        parent, random = unit.parent, Random(int(unit.id, 16))
        task = parent["task"] or {}
        family = FAMILIES[task["family"]]
        child = derived(parent, unit.id, stage=2, operation=unit.operation)
        difficulty = int(parent["difficulty"])
        if unit.operation == "difficulty":
            if difficulty >= family.hardest:
                child["reasons"] = [f"evolution: {family.name} is at its hardest, {difficulty}"]
                return child
            difficulty += 1
        if unit.operation == "clarity":
            problem = _problem_of(parent)
        elif found := self._draw(family, task["material"], difficulty, random):
            task = {**task, "draw": found[0], "template": random.choice(self.split.template_numbers(family))}
            problem = found[1]
        else:
            child["reasons"] = ["evolution: no problem of this kind is left"]
            return child
        form = random.choice(family.form).format(**problem.fields)
        asked = family.templates[task["template"]].format(**problem.fields)
        child |= {
            "instruction": f"{asked}\n\n{form}" if "\n" in asked else f"{asked} {form}",
            "answer": problem.answer, "check": problem.check, "task": task, "difficulty": float(difficulty),
        }  # fmt: skip
        if unit.operation == "expansion" and child["check"] == parent["check"]:
            child["reasons"] = ["evolution: it asks what its parent asks"]
        return child

    # --- stage 3 ------------------------------------------------------------------------------------------------------

    def responses(self, units: Iterable[Answer]) -> Iterator[Done]:
        for unit in units:
            yield self._response(unit)

    def _response(self, unit: Answer) -> Done:
        random = Random(int(unit.id, 16))
        task = unit.parent["task"] or {}
        family, problem = FAMILIES[task["family"]], _problem_of(unit.parent)
        labels = []
        closing = random.choice(family.closings)
        if random.random() < self.error_rate:
            for error in random.sample(sorted(family.errors), len(family.errors)):
                if wrong := family.errors[error](problem, random):
                    problem = wrong
                    labels = [{"id": unit.id, "error": error, "family": family.name}]
                    break
        record = derived(
            unit.parent, unit.id, stage=3, operation="response", answer=problem.answer, writer=NAME,
            response="\n".join((*problem.steps, closing.format(answer=problem.answer))),
            task={"family": family.name, "template": task["template"]},
        )  # fmt: skip
        return Done(unit.id, [record], labels)


def _problem_of(record: Record) -> Problem:
    """The problem that a record's task draws."""
    task = record["task"] or {}
    problem = FAMILIES[task["family"]].problem(task["material"], int(record["difficulty"]), Random(task["draw"]))
    if problem is None:
        raise ValueError(f"record {record['id']} has a task that draws no problem")
    return problem
