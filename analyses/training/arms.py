"""A study read from its run folders: which runs are arms of it, and which of their seeds make pairs.

    study_of(runs, baseline="", measure="") -> Study     cells and curves of finished runs, for analyses/training/seeds.py

An arm is all runs whose settings are the same but for training.seed, and for what alters none of a run's numbers
(model/training/resume.py). Two runs are a pair when they have the same seed: the same first weights where shapes agree,
and the same order of the text. What is missing for a pair is said in `notes`, and not filled in.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analyses.training.runs import Run, group_name, measures
from model.errors import HunyuanError
from model.training.resume import FREE

SEED = "training.seed"
SHOWN = 4  # settings of an arm in a line
NEUTRAL = {SEED, *(f"{section}.{key}" for section, keys in FREE.items() for key in keys)}
PATHS = {"data.sources", "data.tokenizer"}  # of a run that knows the fingerprint of its text


@dataclass(frozen=True)
class Arm:
    """Finished runs that differ in their seeds."""

    name: str
    runs: tuple[Run, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Arms over seeds, one of them the baseline."""

    arms: list[Arm]
    baseline: str
    measure: str
    cells: pd.DataFrame  # variant, seed, measure: one row a run
    curves: pd.DataFrame  # variant, seed, tokens, measure: one row a logged value
    notes: list[str] = field(default_factory=list)  # what a reader of the table has to know

    def settings_table(self) -> pd.DataFrame:
        """One row an arm: the settings in which it differs from the baseline."""
        base = next(arm for arm in self.arms if arm.name == self.baseline)
        rows = [
            {"variant": arm.name, "differs_in": _describe(base.settings, arm.settings)}
            for arm in self.arms
            if arm is not base
        ]
        return pd.DataFrame(rows, columns=["variant", "differs_in"])


def study_of(runs: Sequence[Run], baseline: str = "", measure: str = "") -> Study:
    """The study that these runs are. Without a baseline, the arm that shares the most settings with the others.

    `measure` is a number of analyses.training.runs.measures; by default val_loss, or loss where a run has none.
    HunyuanError where there is no finished run, no such arm or no such measure.
    """
    done = [run for run in runs if _is_finished(run)]
    if not done:
        raise HunyuanError("none of these runs is finished: differences are taken between finished runs")
    arms = _arms(done)
    notes = _left_out([run for run in runs if not _is_finished(run)])
    numbers = {run.name: measures(run) for run in done}
    measure = measure or ("val_loss" if all(math.isfinite(n["val_loss"]) for n in numbers.values()) else "loss")
    known = [
        name for name in numbers[done[0].name] if any(math.isfinite(n.get(name, math.nan)) for n in numbers.values())
    ]
    if measure not in known:
        raise HunyuanError(f"no run has a '{measure}': there are {', '.join(known)}")
    names = [arm.name for arm in arms]
    if baseline and baseline not in names:
        raise HunyuanError(f"there is no arm '{baseline}': the arms are {', '.join(names)}")
    base = next(arm for arm in arms if arm.name == baseline) if baseline else _most_typical(arms)
    rows, lines = [], []
    for arm in arms:
        for run in arm.runs:
            key = {"variant": arm.name, "seed": _seed(run)}
            rows.append(key | {measure: numbers[run.name].get(measure, math.nan)})
            if measure in run.metrics and "tokens" in run.metrics:
                lines.append(run.metrics[["tokens", measure]].dropna().assign(variant=arm.name, seed=_seed(run)))
    cells = pd.DataFrame(rows)
    columns = ["variant", "seed", "tokens", measure]
    curves = pd.concat(lines)[columns] if lines else pd.DataFrame(columns=columns)
    notes += _about_pairs(cells, base.name, measure) + _about_machines(done)
    return Study(arms, base.name, measure, cells, curves, notes)


def _is_finished(run: Run) -> bool:
    return run.summary.get("status") == "finished" and bool(run.flat_settings)


def _arms(runs: Sequence[Run]) -> list[Arm]:
    found: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in runs:
        settings = _settings(run)
        found.setdefault(json.dumps(settings, sort_keys=True, default=str), (settings, []))[1].append(run)
    names = [_name(members) for _, members in found.values()]
    several = Counter(names)
    numbered: Counter[str] = Counter()
    arms = []
    for name, (settings, members) in zip(names, found.values(), strict=True):
        numbered[name] += 1
        arms.append(Arm(f"{name} ({numbered[name]})" if several[name] > 1 else name, tuple(members), settings))
    return arms


def _name(runs: Sequence[Run]) -> str:
    """What the names have in common; of a single run, its name without the seed: 'wide' of 'wide-s3'."""
    name = group_name(runs)
    if len(runs) > 1:
        return name
    return re.sub(rf"[-_. ](seed|s)?[-_]?{_seed(runs[0])}$", "", name)


def _seed(run: Run) -> int:
    return int(run.flat_settings.get(SEED, 0))


def _settings(run: Run) -> dict[str, Any]:
    """What decides the numbers of a run, but its seed."""
    flat = run.flat_settings
    out = NEUTRAL | PATHS if flat.get("data.fingerprint") else NEUTRAL
    return {key: value for key, value in flat.items() if key not in out}


def _most_typical(arms: Sequence[Arm]) -> Arm:
    """The arm that differs from all the others in the fewest settings together; the first of several."""
    return min(arms, key=lambda arm: sum(len(_differing(arm.settings, other.settings)) for other in arms))


def _differing(base: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys([*base, *other]) if base.get(key) != other.get(key)]


def _describe(base: dict[str, Any], other: dict[str, Any]) -> str:
    keys = _differing(base, other)
    said = [f"{key.partition('.')[2]} = {other.get(key, 'none')}" for key in keys[:SHOWN]]
    return "; ".join(said) + (f"; {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


# --- what is to be said ----------------------------------------------------------------------------------------------


def _left_out(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    names = ", ".join(f"{run.name} ({run.summary.get('status', 'running')})" for run in runs)
    return [f"left out, not finished: {names}"]


def _about_pairs(cells: pd.DataFrame, baseline: str, measure: str) -> list[str]:
    notes = []
    known = cells[cells[measure].notna()]
    seeds = {
        name: known.loc[known["variant"] == name, "seed"].tolist() for name in dict.fromkeys(map(str, cells["variant"]))
    }
    for name, own in seeds.items():
        twice = [seed for seed, count in Counter(own).items() if count > 1]
        if twice:
            notes.append(f"{name}: {_seeds(twice)} was run more than once, and the mean is taken")
        missing, alone = sorted(set(seeds[baseline]) - set(own)), sorted(set(own) - set(seeds[baseline]))
        if name != baseline and missing:
            notes.append(f"{name} lacks {_seeds(missing)} of {baseline}: those are not in its difference")
        if alone:
            notes.append(f"{baseline} lacks {_seeds(alone)} of {name}: those are not in its difference")
        pairs = len(set(own) & set(seeds[baseline]))
        if name != baseline and pairs < 2:
            notes.append(f"{name} has {'one pair' if pairs else 'no pair'} with {baseline}: no interval")
    return notes


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"the seeds {', '.join(map(str, seeds))}"


def _about_machines(runs: Sequence[Run]) -> list[str]:
    found = {str(run.environment.get("accelerator") or run.environment.get("device") or "") for run in runs} - {""}
    return (
        [f"trained on several machines, which round differently: {', '.join(sorted(found))}"] if len(found) > 1 else []
    )
