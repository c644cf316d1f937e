"""The run folders of `hunyuan train` as a table of runs: one row a summary.json, at any depth."""

import json
import tomllib
from pathlib import Path
from typing import Any

from model.errors import DataError

OF_SUMMARY = ("status", "flops", "activated_params", "total_params", "tokens")
OF_TRAINING = {"learning_rate": "learning_rate", "batch_tokens": "global_batch_tokens", "seed": "seed"}


def read_run_folders(folder: Path) -> dict[str, list[Any]]:
    """Columns run, status, flops, activated_params, total_params, tokens, loss (validation, where there is one), num_experts,
    learning_rate, batch_tokens and seed. DataError where the folder holds no run that has ended.
    """
    rows = []
    for path in sorted(folder.rglob("summary.json")):
        summary = _object(path)
        if not {"flops", "tokens", "activated_params"} <= summary.keys():
            continue  # of something else than a training run
        row = {name: summary.get(name) for name in OF_SUMMARY}
        row |= {"loss": summary.get("val_loss", summary.get("loss"))}
        training = _training(path.with_name("run.toml"))
        row |= {name: training.get(key) for name, key in OF_TRAINING.items()}
        config = path.with_name("config.json")
        row["num_experts"] = _object(config).get("num_experts") if config.exists() else None
        rows.append({"run": str(path.parent.relative_to(folder))} | row)
    if not rows:
        raise DataError(f"{folder} holds no run that has ended: give a table of runs, or a folder with run folders")
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return {name: [row[name] for row in rows] for name in names}


def _object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): mend it, or take the run away") from error
    return document if isinstance(document, dict) else {}


def _training(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("training", {}) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): mend it, or take the run away") from error
    return found if isinstance(found, dict) else {}
