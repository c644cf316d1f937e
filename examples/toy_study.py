"""Many seeds of the toy preset side by side: mixture against dense, routing policies, expert learning rates, precisions.

    python examples/toy_study.py main --seeds 5 --steps 1600 --workers 15 --out runs/toy-study

Every cell is an ordinary training run (hunyuan train makes the same one) in OUT/runs; OUT/cells.csv has a line per run and
OUT/curves.csv its validations. `hunyuan compare OUT/runs` tabulates them; examples/README.md says what came out.
"""

import argparse
import csv
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

# variant -> settings that differ from those of `hunyuan train`. The expert scale of 0 is the report's rule, 0.31 here.
RATES, SCALES = (2e-3, 4e-3, 8e-3), (0.1, 0.31, 0.56, 1.0, 1.8)
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "tune": {
        f"mixture rate {rate} scale {scale}": {"training.learning_rate": rate, "training.expert_lr_scale": scale}
        for rate in RATES
        for scale in SCALES
    }
    | {
        f"dense rate {rate}": {"model.preset": "toy-dense", "training.learning_rate": rate}
        for rate in (1e-3, *RATES, 1.6e-2)
    },
    "main": {
        "mixture": {},  # dropless, expert rate by the rule
        "dense": {"model.preset": "toy-dense"},
        "drop 1.0": {"model.moe_routing": "drop", "model.capacity_factor": 1.0},
        "drop 1.25": {"model.moe_routing": "drop", "model.capacity_factor": 1.25},
        "recycle 1.0": {"model.moe_routing": "recycle", "model.capacity_factor": 1.0},
        "recycle 1.25": {"model.moe_routing": "recycle", "model.capacity_factor": 1.25},
        "expert scale 1.0": {"training.expert_lr_scale": 1.0},
        "expert scale 0.56": {"training.expert_lr_scale": 0.56},  # the best of "tune" at the default rate
        "expert scale 0.1": {"training.expert_lr_scale": 0.1},
    },
    "precision": {name: {"training.precision": name} for name in ("float32", "bfloat16")},
}


def run_cell(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Trains one cell, in a process of its own."""
    import torch

    from model.training.events import Silent
    from model.training.pretraining import pretrain
    from model.training.settings import RunSettings

    torch.set_num_threads(1)
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return pretrain(folder, RunSettings.from_sections(sections), Silent(), resume=(folder / "checkpoints").is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants of the study alone")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--evaluation-tokens", type=int, default=131_072)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/toy-study"))
    options = parser.parse_args()
    variants = STUDIES[options.study]
    if unknown := set(options.only or ()) - set(variants):
        parser.error(f"no variant {', '.join(sorted(unknown))} in {options.study}: it has {', '.join(variants)}")

    from model.config import HunyuanConfig
    from model.data.config import DataConfig
    from model.data.corpus import prepare_corpus

    prepare_corpus(DataConfig(), HunyuanConfig.from_name("toy").vocab_size)  # once, not by every worker
    common = {
        "training.steps": options.steps,
        "training.device": options.device,
        "training.evaluate_every": max(1, options.steps // 16),
        "training.evaluation_tokens": options.evaluation_tokens,
        "training.checkpoint_every": 0,
        "training.log_every": 20,
    }
    cells = {
        (variant, seed): common | changes | {"training.seed": seed}
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for variant, changes in variants.items()
        if variant in (options.only or variants)
    }
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        (options.out / "cells.csv").open("w", newline="") as cells_file,
        (options.out / "curves.csv").open("w", newline="") as curves_file,
        ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool,
    ):
        cell_rows, curve_rows = csv.writer(cells_file), csv.writer(curves_file)
        measures = "tokens flops activated_params total_params loss val_loss val_bits_per_byte load_imbalance".split()
        measures += ["dropped_fraction", "recycled_fraction", "tokens_per_second"]
        cell_rows.writerow(["variant", "seed", *measures])
        curve_rows.writerow(["variant", "seed", "tokens", "flops", "val_loss", "val_bits_per_byte"])
        folders = {key: options.out / "runs" / "-".join(map(str, key)).replace(" ", "-") for key in cells}
        waiting = {pool.submit(run_cell, folders[key], changes): key for key, changes in cells.items()}
        for done in as_completed(waiting):
            key = waiting[done]
            summary = done.result()
            cell_rows.writerow([*key, *(summary[name] for name in measures)])
            for line in (folders[key] / "metrics.jsonl").read_text().splitlines():
                row = json.loads(line)
                if "val_loss" in row:
                    curve_rows.writerow([*key, *(row[k] for k in ("tokens", "flops", "val_loss", "val_bits_per_byte"))])
            cells_file.flush()
            curves_file.flush()
            print(f"{' '.join(map(str, key))}: {summary['val_bits_per_byte']:.4f} bits per byte", flush=True)


if __name__ == "__main__":
    main()
