"""What training runs did: read from their folders, put side by side, summarised over seeds.

    load_runs([folder, ...]) -> [Run]     a folder is a run, or holds runs at any depth
    runs_table(runs)                      one row a run
    group_runs(runs) -> [RunGroup]        runs that differ by nothing but training.seed
    groups_table(groups)                  one row a group: mean, and standard deviation as NAME_sd
    config_differences(runs)              the settings that are not the same everywhere, one column a run

Numbers that a run has not logged are NaN. Damaged files are one sentence, as a CheckpointError.
"""

import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from model.data.config import DataConfig
from model.errors import CheckpointError
from model.files import LOCK, is_held
from model.parallel.layout import Layout
from model.training.config import TrainingConfig, begun_in

MEASURES = (
    "activated_params", "total_params", "tokens", "flops", "seconds", "loss", "val_loss", "best_val_loss",
    "val_bits_per_byte", "tokens_per_second", "mfu", "load_imbalance", "dropped_fraction", "recycled_fraction",
)  # fmt: skip
# Of runs of hunyuan dpo alone.
PREFERENCES = (
    "chosen_reward", "rejected_reward", "margin", "accuracy", "chosen_logp_change", "online_share", "unusable_share", "kl",
    "answer_length", "proxy_reward", "true_reward", "other_reward", "average_kl", "average_proxy_reward",
    "average_true_reward", "average_other_reward",
)  # fmt: skip
COUNTS = ("activated_params", "total_params", "tokens")
ROUTING = ("load_imbalance", "dropped_fraction", "recycled_fraction")
SCOPES = ("model.capacity_scope", "model.balance_scope")
SECTIONS: dict[str, DataConfig | TrainingConfig] = {"data": DataConfig(), "training": TrainingConfig()}
# What a run.toml of an older version means by a key that it does not have.
DEFAULTS: dict[str, Any] = {
    f"{section}.{key}": list(value) if isinstance(value, tuple) else value
    for section, config in SECTIONS.items()
    for key, value in asdict(config).items()
} | dict.fromkeys(SCOPES, "micro_batch")


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    folder: Path
    name: str  # the folder's name, with as much of the path as tells it from the others
    config: dict[str, Any]  # config.json: the model
    settings: dict[str, Any]  # run.toml: [model] [data] [training]
    metrics: pd.DataFrame  # metrics.jsonl: one row a logged step, in order
    summary: dict[str, Any]  # summary.json; empty while the run goes on
    environment: dict[str, Any] = field(default_factory=dict)  # environment.json: machine, versions, data

    @cached_property
    def flat_settings(self) -> dict[str, Any]:
        """Every setting by its dotted name; the configuration that was built says more than the one asked for."""
        settings = dict(_flatten(self.settings)) | {f"model.{key}": value for key, value in _flatten(self.config)}
        if self.settings:
            settings = DEFAULTS | settings
        if not (settings and self.environment):
            return settings
        # The same settings may mean another precision, by the device, another scope, by the processes, and another text:
        # the default one is the interpreter's.
        if settings.get("training.precision") == "auto":
            settings["training.precision"] = begun_in(self.environment)
        if "global" in map(settings.get, SCOPES):  # which goes by the processes
            settings["layout.data_parallel"] = Layout(**self.environment.get("layout", {})).data_parallel
        fingerprint = self.environment.get("data", {}).get("fingerprint")
        return settings | ({"data.fingerprint": fingerprint} if fingerprint else {})

    def last(self, column: str) -> float:
        """The last value logged, or what the summary says; NaN where there is neither."""
        if column in self.metrics and self.metrics[column].notna().any():
            return float(self.metrics[column].dropna().iloc[-1])
        value = self.summary.get(column)
        return float(value) if isinstance(value, (int, float)) else math.nan


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration with different seeds."""

    name: str
    runs: tuple[Run, ...]


# --- reading ---------------------------------------------------------------------------------------------------------


def load_run(folder: Path | str) -> Run:
    """Read one run folder; what is wrong with it is one sentence."""
    folder = Path(folder)
    if not folder.exists():
        raise CheckpointError(f"there is no folder '{folder}'")
    if not is_run(folder):
        raise CheckpointError(f"'{folder}' is not a run: it has neither metrics.jsonl nor run.toml")
    return Run(
        folder=folder,
        name=folder.resolve().name,
        config=_read_json(folder / "config.json"),
        settings=_read_toml(folder / "run.toml"),
        metrics=_read_metrics(folder / "metrics.jsonl"),
        summary=_read_json(folder / "summary.json"),
        environment=_read_json(folder / "environment.json"),
    )


def load_runs(folders: Iterable[Path | str]) -> list[Run]:
    """Read runs, and for a folder that is none, every run below it; each once, each with a name of its own."""
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        below = [folder] if is_run(folder) or not folder.is_dir() else list(_runs_below(folder))
        if not below:
            raise CheckpointError(f"'{folder}' neither is a run nor holds one: no metrics.jsonl or run.toml below it")
        for run in below:
            found.setdefault(run.resolve(), run)
    names = _distinct_names(list(found))
    return [replace(load_run(run), name=name) for run, name in zip(found.values(), names, strict=True)]


def is_run(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file() or (folder / "run.toml").is_file()


def _runs_below(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "metrics.jsonl" in files or "run.toml" in files:
            folders.clear()  # checkpoints are no runs
            yield Path(path)


def _distinct_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=1) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"'{path}' is not valid JSON ({error}): restore it or leave this run out") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"'{path}' should hold one JSON object: restore it or leave this run out")
    return document


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"'{path}' is not valid TOML ({error}): restore it or leave this run out") from None


def _read_metrics(path: Path) -> pd.DataFrame:
    """The logged rows by step; a last line cut short is a run being written or killed, any other is damage."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row  # a step done again after a resume replaces the first
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise CheckpointError(
                f"line {number} of '{path}' is not a row of metrics: delete that line or leave this run out"
            ) from None
    frame = pd.DataFrame([rows[step] for step in sorted(rows)])
    for column in frame.columns.drop(["tokens_per_expert", "stage"], errors="ignore"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name; of stages, a list of tables, their names in order and each one's values by its name."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(table, Mapping) for table in value):
            names = [str(table.get("name", place)) for place, table in enumerate(value, start=1)]
            yield prefix + key, names
            yield from _flatten(dict(zip(names, value, strict=True)), f"{prefix}{key}.")
        else:
            yield prefix + key, value


# --- tables ----------------------------------------------------------------------------------------------------------


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run.

    `loss` is the last one logged; load_imbalance and the dropped and recycled fractions are means over the last tenth
    of the logged steps, one step being noise; tokens_per_second and mfu are the summary's, or the median step's.
    """
    rows = [{"name": run.name, "status": _status(run)} | measures(run) for run in runs]
    return pd.DataFrame(rows).astype(dict.fromkeys(COUNTS, "Int64"))


def _status(run: Run) -> str:
    """How the run ended; before that, whether a process is at it: a run that was killed, or copied here, is unfinished."""
    return str(run.summary.get("status") or ("running" if is_held(run.folder / LOCK) else "unfinished"))


def measures(run: Run) -> dict[str, float]:
    """The numbers of one run, NaN where it has none."""
    metrics = run.metrics
    numbers = {name: run.last(name) for name in MEASURES}
    if "val_loss" in metrics:
        numbers["best_val_loss"] = float(metrics["val_loss"].min())
    numbers |= {
        name: run.last(name) for name in map(str, metrics) if name.startswith("score_")
    }  # of training.evaluate_tasks
    for name in ("tokens_per_second", "mfu"):
        if isinstance(run.summary.get(name), (int, float)):
            numbers[name] = float(run.summary[name])
        elif name in metrics:
            numbers[name] = float(metrics[name].median())
    for name in ROUTING:
        if name in metrics:
            numbers[name] = float(metrics[name].tail(max(1, len(metrics) // 10)).mean())
    return numbers | {name: run.last(name) for name in PREFERENCES if name in metrics}


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Put together the runs that have the same settings but for training.seed, and have come as far."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.flat_settings.items() if key != "training.seed"}
        key = json.dumps([settings, run.last("tokens")], sort_keys=True, default=str)
        # Without its settings there is no telling what a run is a repetition of.
        groups.setdefault(key if settings else str(run.folder), []).append(run)
    return [RunGroup(group_name(members), tuple(members)) for members in groups.values()]


def group_name(runs: Sequence[Run]) -> str:
    """What the names have in common: 'wide-seed0' and 'wide-seed1' are 'wide'."""
    if len(runs) == 1:
        return runs[0].name
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*(run.name for run in runs), strict=False))
    common = "".join(letters[0] for letters in shared).rstrip("-_./ 0123456789")
    for word in ("seed", "s"):
        stem = common.removesuffix(word)
        if stem != common and stem.endswith(("-", "_", ".", "/")):
            return stem.rstrip("-_./ ")
    return common or f"{runs[0].name} and {len(runs) - 1} more"


def groups_table(groups: Sequence[RunGroup]) -> pd.DataFrame:
    """One row a group: its seeds, the mean of each number, and beside it the sample standard deviation (n - 1)."""
    rows = []
    for group in groups:
        numbers = pd.DataFrame([measures(run) for run in group.runs])
        row: dict[str, Any] = {"name": group.name, "seeds": len(group.runs)}
        for name in map(str, numbers):
            row[name] = numbers[name].mean()
            if numbers[name].nunique() > 1:
                row[f"{name}_sd"] = numbers[name].std(ddof=1)
        rows.append(row)
    frame = pd.DataFrame(rows)
    order = [name for measure in (*MEASURES, *PREFERENCES) for name in (measure, f"{measure}_sd") if name in frame]
    return frame[["name", "seeds", *order]]


def config_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """The settings in which the runs differ, one row a setting, one column a run; empty when there are none."""
    settings = [run.flat_settings for run in runs]
    keys = dict.fromkeys(key for flat in settings for key in flat)
    rows = []
    for key in keys:
        values = [flat.get(key) for flat in settings]
        if any(value != values[0] for value in values[1:]):
            rows.append({"setting": key} | {run.name: value for run, value in zip(runs, values, strict=True)})
    return pd.DataFrame(rows, columns=["setting", *(run.name for run in runs)])


def representatives(groups: Sequence[RunGroup]) -> list[Run]:
    """The first run of each group under the group's name."""
    return [replace(group.runs[0], name=group.name) for group in groups]
