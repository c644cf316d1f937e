"""The report's claims on architecture and training at toy scale: every arm over the same seeds, many cells beside each other.

    python examples/sweep_corpus.py corpus.jsonl "$(python -c 'import torch; print(torch.__path__[0])')"
    python examples/claims/study.py --sources stdlib corpus.jsonl --seeds 5 --workers 10 --out runs/claims
    hunyuan compare --seeds runs/claims/runs --baseline report

A seed fixes the first weights, the order of the text and the random places of recycling, so arms are compared in pairs. Each
cell is a run of `hunyuan train`. OUT/cells.csv has a line per run and OUT/curves.csv one per logged step, rewritten as
cells end; a study that was cut goes on where it was. Weights are not kept. figures.py draws the figures of README.md.
"""

import argparse
import csv
import gc
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

BASELINE = "report"  # the toy preset as it is: CLA 2, 16 experts top-1 + shared, dropless, expert rate by the rule
LARGE = {"model.preset": "ladder-256", "model.vocab_size": 2048, "training.learning_rate": 2e-3}
NO_CLA, NO_NORM = {"model.cla_share_factor": 1}, {"model.use_qk_norm": False}
UNBALANCED, HIGH = {"model.router_aux_loss_coef": 0.0}, {"training.learning_rate": 1.6e-2}  # four times the toy's
MEASURED = {"training.measure_noise_scale": True, "training.micro_batch_size": 4}
DROP, RECYCLE = ({"model.moe_routing": policy, "model.capacity_factor": 1.0} for policy in ("drop", "recycle"))


class Arm(NamedTuple):
    changes: dict[str, Any]  # settings that differ from those of `hunyuan train`
    seeds: int = 1000  # at most


ARMS: dict[str, Arm] = {
    BASELINE: Arm({}),
    "no CLA": Arm(NO_CLA),
    "no CLA, one KV head": Arm(NO_CLA | {"model.num_key_value_heads": 1}),  # the cache bytes of the report's
    # Two routed experts instead of a shared and a routed one, and one more to choose from: as many parameters.
    "routed only": Arm({"model.num_shared_expert": 0, "model.moe_topk": 2, "model.num_experts": 17}),
    "no annealing": Arm({"training.anneal_fraction": 0.0}),  # a cosine to 0.3 of the peak
    "cosine to 0.1": Arm({"training.anneal_fraction": 0.0, "training.decay_ratio": 0.1}),
    "no QK norm": Arm(NO_NORM),
    "high rate": Arm(HIGH),
    "high rate, no QK norm": Arm(HIGH | NO_NORM),
    "bias 0.001": Arm(UNBALANCED | {"model.expert_bias_update_rate": 0.001}),
    "bias 0.01": Arm(UNBALANCED | {"model.expert_bias_update_rate": 0.01}),
    "unbalanced": Arm(UNBALANCED),
    "drop": Arm(DROP),
    "recycle": Arm(RECYCLE),
    "unbalanced, drop": Arm(UNBALANCED | DROP),
    "unbalanced, recycle": Arm(UNBALANCED | RECYCLE),
    "large, expert rate 0.31": Arm(LARGE | {"training.expert_lr_scale": 0.31}),
    "large, expert rate 0.56": Arm(LARGE | {"training.expert_lr_scale": 0.56}),
    "large, expert rate 1.0": Arm(LARGE | {"training.expert_lr_scale": 1.0}),
    # The same run but for rounding and a balance loss of each micro-batch's own: what chance does to a difference.
    "measured": Arm(MEASURED),
    "large, measured": Arm(LARGE | MEASURED, seeds=2),
    # Whether the rate of the large arms is near the best one.
    "large, half the rate": Arm(LARGE | {"training.learning_rate": 1e-3, "training.expert_lr_scale": 0.56}, seeds=2),
    "large, twice the rate": Arm(LARGE | {"training.learning_rate": 4e-3, "training.expert_lr_scale": 0.56}, seeds=2),
}  # fmt: skip
ROUTING = ("load_imbalance", "dropped_fraction", "recycled_fraction")  # means over the last tenth of the logged steps
MEASURES = (
    "tokens", "flops", "activated_params", "total_params", "loss", "val_loss", "val_bits_per_byte", *ROUTING,
    "cache_bytes_per_token",
)  # fmt: skip
CURVES = (
    "step", "tokens", "loss", "val_loss", "grad_norm", "load_imbalance", "dropped_fraction", "recycled_fraction",
    "noise_scale", "noise_scale_shared", "noise_scale_routed",
)  # fmt: skip


def sections_of(arm: str, seed: int, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The run file of a cell."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in (common | ARMS[arm].changes | {"training.seed": seed}).items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def run_cell(folder: Path, sections: dict[str, dict[str, Any]], end: float) -> str:
    """Trains one cell, or goes on with it, until time.time() is `end`; how that ended."""
    if time.time() >= end:
        return "not begun"
    import torch

    from model.training.events import Silent
    from model.training.pretraining import pretrain
    from model.training.settings import RunSettings

    class Notes(Silent):
        def note(self, message: str) -> None:
            print(f"{folder.name}: {message}", flush=True)

    torch.set_num_threads(1)
    resume = (folder / "checkpoints").is_dir()
    if folder.exists() and not resume:
        shutil.rmtree(folder)  # it was killed before its first checkpoint
    settings = RunSettings.from_sections(sections)
    status = pretrain(folder, settings, Notes(), resume=resume, should_stop=lambda: time.time() >= end)["status"]
    gc.collect()  # a recorded step holds the memory of its graph
    if status == "finished":
        shutil.rmtree(folder / "checkpoints")
    return str(status)


def finished(folder: Path) -> dict[str, Any]:
    """The summary of a finished cell; empty for another."""
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("status") == "finished" else {}


def write_tables(folders: dict[tuple[str, int], Path], cells: Path, curves: Path) -> None:
    """cells.csv and curves.csv of the cells that are finished, in the order of the plan."""
    from model.config import HunyuanConfig
    from model.counts import kv_cache_bytes

    done = {key: (folder, summary) for key, folder in folders.items() if (summary := finished(folder))}
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for (arm, seed), (folder, summary) in done.items():
        model = HunyuanConfig.from_file(folder)
        cache = kv_cache_bytes(model, tokens=1)
        steps = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        last = steps[-max(1, len(steps) // 10) :]  # one step's routing is noise
        routing = {name: sum(step[name] for step in last) / len(last) for name in ROUTING}
        numbers = summary | routing | {"cache_bytes_per_token": cache}
        rows.append({"variant": arm, "seed": seed} | {name: numbers.get(name, "") for name in MEASURES})
        lines += [{"variant": arm, "seed": seed} | line for line in _lines(steps)]
    for path, columns, table in (
        (cells, ("variant", "seed", *MEASURES), rows),
        (curves, ("variant", "seed", *CURVES), lines),
    ):
        aside = path.with_suffix(".writing")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(table)
        aside.replace(path)


def _lines(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in steps:
        found = ((name, line.get(name, "")) for name in CURVES)
        yield {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=["stdlib"], help="the text: files, folders or stdlib")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these arms alone")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200, help="of 4,096 tokens")
    parser.add_argument("--evaluation-tokens", type=int, default=131_072)
    parser.add_argument("--workers", type=int, default=1, help="cells at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which cells stop, to go on another time")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--tables", type=Path, help="the folder of cells.csv and curves.csv; by default OUT")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(ARMS):
        parser.error(f"no arm {', '.join(sorted(unknown))}: there are {', '.join(ARMS)}")

    from model.data.config import DataConfig
    from model.data.corpus import prepare_corpus

    end = time.time() + 60 * options.minutes
    data = DataConfig(sources=tuple(options.sources)).absolute()
    prepare_corpus(data, 2048)  # once, not by every worker
    common = {
        "data.sources": list(data.sources),
        "training.steps": options.steps,
        "training.device": options.device,
        "training.evaluate_every": max(1, options.steps // 12),
        "training.evaluation_tokens": options.evaluation_tokens,
        "training.checkpoint_every": 0,
        "training.log_every": max(1, options.steps // 60),
    }
    names = [arm for arm in ARMS if arm in (options.only or ARMS)]
    plan = [
        (arm, seed) for seed in range(options.seeds) for arm in names if seed < ARMS[arm].seeds
    ]  # whole seeds first
    folders = {
        (arm, seed): options.out / "runs" / f"{arm.replace(', ', '-').replace(' ', '-')}-s{seed}" for arm, seed in plan
    }
    tables = options.tables or options.out
    for folder in (options.out / "runs", tables):
        folder.mkdir(parents=True, exist_ok=True)

    began = time.time()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {
            pool.submit(run_cell, folders[key], sections_of(*key, common), end): key
            for key in plan
            if not finished(folders[key])
        }
        count = 0
        for done in as_completed(waiting):
            (arm, seed), error = waiting[done], done.exception()
            status = f"{type(error).__name__}: {error}" if error is not None else done.result()
            if status == "not begun":
                continue
            count += 1
            loss = finished(folders[arm, seed]).get("val_loss", float("nan"))
            print(f"{time.time() - began:5.0f} s {count}/{len(waiting)} {arm} {seed}: {status}, {loss:.4f}", flush=True)
            write_tables(folders, tables / "cells.csv", tables / "curves.csv")
    write_tables(folders, tables / "cells.csv", tables / "curves.csv")


if __name__ == "__main__":
    main()
