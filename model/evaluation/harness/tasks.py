"""lm-eval's tasks by name, with their data from local files where a folder of them is given.

lm-eval indexes all of its 14,000 task files at the start, which takes longer than most evaluations here. So the files of a name
are found by a search of their text, and only the folders around them are indexed.
"""

import difflib
import os
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory

from model.errors import ConfigError, DataError, HunyuanError
from model.evaluation.benchmarks import FOLDERS
from model.evaluation.harness.local_data import LocalSplits

TASKS = Path(lm_eval.tasks.__file__).parent
_KEY = r"^[\"']?(?:task|group|tag)[\"']?:[ \t]*"
_NAME = re.compile(
    (_KEY + r"[\"']?([\w.:/-]+)[\"']?[ \t]*$|" + _KEY + r"\n((?:[ \t]*-[ \t].*\n?)+)").encode(), re.MULTILINE
)
_ITEM = re.compile(rb"-[ \t]*(?:task:|group:)?[ \t]*[\"']?([\w.:/-]+)")


def load_tasks(names: Sequence[str], *, data: Path | None, shots: int | None, seed: int) -> dict[str, Any]:
    """What lm_eval.evaluator.evaluate takes: tasks, groups and which belongs to which.

    `data` None lets lm-eval fetch what it needs; with a folder nothing is fetched. `seed` is for worked examples that are
    drawn, and for tasks that shuffle their choices as they are loaded.
    """
    own = data if data is not None and any(data.glob("*.yaml")) else None
    manager = TaskManager(include_path=[*_folders(names, own), *([own] if own else [])], include_defaults=False)
    random.seed(seed)  # gpqa shuffles its choices with the global generator
    overrides: dict[str, Any] = {} if shots is None else {"num_fewshot": shots}
    if data is not None:
        overrides["custom_dataset"] = lambda config_source, **_: _local(manager, config_source, data, shots, names)
    try:
        built = []
        for name in names:
            # What `load` does with a name, but that takes no overrides for the tasks of a group.
            found = TaskFactory().build(manager.task_index[name], overrides=overrides, registry=manager.task_index)
            built += found if isinstance(found, list) else [found]
        loaded = manager.load(built)
    except HunyuanError:
        raise
    except Exception as error:  # theirs have many kinds; a missing package, no network, a column that is not there
        raise DataError(f"lm-eval cannot load {', '.join(names)}: {_said(error, data)}") from error
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=seed)
    return dict(loaded)


def _local(manager: TaskManager, source: str, data: Path, shots: int | None, names: Sequence[str]) -> Any:
    config = next(entry.cfg for entry in manager.task_index.values() if str(entry.yaml_path) == source and entry.cfg)
    if (builder := config.get("dataset_path")) in ("json", "csv", "parquet", "text"):  # its file says where its data is
        return datasets.load_dataset(builder, config.get("dataset_name"), **(config.get("dataset_kwargs") or {}))
    examples = config.get("num_fewshot") or 0 if shots is None else shots
    drawn = not (config.get("fewshot_config") or {}).get("samples")  # else they stand in the task itself
    return LocalSplits(data, config["task"], config, examples if drawn else 0, names)


def _folders(names: Iterable[str], own: Path | None) -> list[Path]:
    """The folders whose files define the names, and whatever those names are made of."""
    missing = [name for name in names if own is None or not _defines(own, name)]
    if all(name in FOLDERS for name in missing):
        return sorted({TASKS / folder for name in missing for folder in FOLDERS[name]})
    places, members = _index()
    found: set[Path] = set()
    waiting, seen = list(missing), set(missing)
    while waiting:
        name = waiting.pop()
        if name not in places:
            if name in missing:
                near = difflib.get_close_matches(name, places, n=3)
                raise ConfigError(
                    [
                        f"there is no task '{name}', neither here nor in lm-eval"
                        + (f": did you mean {' or '.join(near)}?" if near else "")
                    ]
                )
            continue
        found |= set(places[name])
        new = [member for member in members.get(name, ()) if member not in seen]
        seen |= set(new)
        waiting += new
    return sorted(found)


def _index() -> tuple[dict[str, list[Path]], dict[str, set[str]]]:
    """Folders by the names that their files define, and the members that a file of that name lists."""
    places: dict[str, list[Path]] = {}
    members: dict[str, set[str]] = {}
    for folder, _, files in os.walk(TASKS):
        for file in files:
            if file.endswith(".yaml"):
                names, listed = _names((Path(folder) / file).read_bytes())
                for name in names:
                    places.setdefault(name, []).append(Path(folder))
                    members.setdefault(name, set()).update(listed)
    return places, members


def _names(content: bytes) -> tuple[set[str], set[str]]:
    """The names in a task file: those that it gives, and those that it lists, which may be tags that it gives."""
    names, listed = set(), set()
    for match in _NAME.finditer(content):
        if match[1]:
            names.add(match[1].decode())
        else:
            listed |= {item.decode() for item in _ITEM.findall(match[2])}
    return names | (listed if b"\ngroup:" not in b"\n" + content else set()), listed


def _defines(folder: Path, name: str) -> bool:
    return any(name in _names(path.read_bytes())[0] for path in folder.glob("*.yaml"))


def _said(error: Exception, data: Path | None) -> str:
    first = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"it needs the package {error.name}: install it"
    if data is None and any(word in first.lower() for word in ("offline", "connect", "couldn't reach", "resolve")):
        return f"its data cannot be fetched ({first}): give a folder of it with --task-data"
    return f"{first}: look at its data and its settings"
