"""Whether the fast training of a GPU learns as the plain one does: loss curves of both over a few seeds.

    python examples/gpu/loss_curves.py --output loss_curves.json

fast: as `hunyuan train` runs by itself, in bfloat16 with split weights, kernels, compiled or recorded. plain: float32, no
kernel of this project, one operation after another. A seed has the same weights and batches in both. The difference between
the two is to be held against that between seeds.
"""

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MODES: dict[str, dict[str, Any]] = {
    "fast": {},
    "compiled": {"compile": True, "graph": False},
    "plain": {"precision": "float32", "compile": False, "graph": False},
}
WINDOW = 20  # steps of the mean that is compared


def curve(mode: str, seed: int, model: str, steps: int, device: str, data: list[str]) -> dict[str, Any]:
    """One run: its losses, step by step, and the validation loss at the end."""
    import torch

    from model.kernels import choice
    from model.training import loop
    from model.training.events import Silent
    from model.training.pretraining import pretrain
    from model.training.settings import RunSettings

    if mode == "plain":
        choice.has_triton = lambda: False  # type: ignore[assignment]
    loop.measure_peak_flops = lambda device, dtype: 1.0
    training = {
        "device": device, "steps": steps, "log_every": 1, "evaluate_every": 0, "checkpoint_every": 0, "seed": seed
    } | MODES[mode]  # fmt: skip
    settings = RunSettings.from_sections({"model": {"preset": model}, "training": training, "data": {"sources": data}})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        summary = pretrain(Path(folder, "run"), settings, Silent())
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [round(json.loads(line)["loss"], 5) for line in lines]
    return {"mode": mode, "seed": seed, "val_loss": summary["val_loss"], "losses": losses}


def compare(rows: list[dict[str, Any]], mode: str) -> dict[str, float]:
    """Over windows of steps: the greatest difference of the means over seeds, and the greatest spread of the plain seeds."""

    def means(row: dict[str, Any]) -> list[float]:
        losses = row["losses"]
        return [statistics.mean(losses[at : at + WINDOW]) for at in range(0, len(losses), WINDOW)]

    one, plain = ([means(row) for row in rows if row["mode"] == name] for name in (mode, "plain"))
    apart = [
        abs(statistics.mean(a) - statistics.mean(b))
        for a, b in zip(zip(*one, strict=True), zip(*plain, strict=True), strict=True)
    ]
    spread = [max(values) - min(values) for values in zip(*plain, strict=True)]
    final = [[row["val_loss"] for row in rows if row["mode"] == name] for name in (mode, "plain")]
    return {
        "greatest_difference": max(apart),
        "greatest_spread_of_seeds": max(spread),
        "last_difference": apart[-1],
        "last_spread_of_seeds": spread[-1],
        "val_loss_difference": statistics.mean(final[0]) - statistics.mean(final[1]),
        "val_loss_spread_of_seeds": max(final[1]) - min(final[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy", metavar="PRESET")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fast", "plain"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", nargs="+", default=["stdlib"])
    parser.add_argument("--workers", type=int, default=3, help="runs that share the GPU")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    # The slow ones first.
    runs = [(mode, seed) for mode in sorted(given.modes, reverse=True) for seed in given.seeds]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        rest = given.model, given.steps, given.device, given.data
        waiting = [pool.submit(curve, mode, seed, *rest) for mode, seed in runs]
        rows = [run.result() for run in waiting]
    compared = {mode: compare(rows, mode) for mode in given.modes if mode != "plain" and "plain" in given.modes}
    print(json.dumps(compared, indent=1))
    for row in rows:
        print(
            row["mode"],
            row["seed"],
            f"val {row['val_loss']:.4f}",
            [row["losses"][at] for at in range(9, len(row["losses"]), 40)],
        )
    if given.output:
        import torch

        card = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
        found = {"device": card, "model": given.model, "steps": given.steps, "compared": compared, "rows": rows}
        given.output.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
