"""The memory of a training step on a GPU, as measured and in closed form (model/memory.py).

    python examples/training_memory.py --output training_memory.json

Prints a JSON row per model, precision and recomputation. A step is two micro-batches, so that gradients are there while
activations are, and the second of two steps is measured, with AdamW's moments in place. With --compile the blocks are compiled,
which then keep less than the closed form says. Without a GPU it says so and stops.
"""

import argparse
import gc
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

from model.config import HunyuanConfig
from model.memory import training_memory

WORKLOADS = {"toy": (16, 256), "small": (8, 2048), "base": (2, 4096)}  # preset -> sequences per micro-batch, tokens
MICRO_BATCHES = 2
PRECISIONS = ("bfloat16", "float32")  # torch compiles experts in the first alone


def cells(models: list[str], compile: bool = False) -> list[dict[str, Any]]:
    """What is to be measured, one dictionary a step."""
    return [
        {
            "model": model,
            "batch": WORKLOADS[model][0],
            "context": WORKLOADS[model][1],
            "precision": precision,
            "recompute": recompute,
            "compile": compile,
        }
        for model, precision, recompute in product(models, PRECISIONS[: 1 if compile else 2], (False, True))
    ]


def closed_form_bytes(cell: dict[str, Any]) -> int:
    config = HunyuanConfig.from_name(cell["model"])
    memory = training_memory(config, **{key: cell[key] for key in ("batch", "context", "precision")})
    return memory.total_recomputed if cell["recompute"] else memory.total


def row_of(cell: dict[str, Any], measured_bytes: int) -> dict[str, Any]:
    """The cell with both counts and closed form over measured."""
    expected = closed_form_bytes(cell)
    return cell | {
        "measured_bytes": measured_bytes,
        "closed_form_bytes": expected,
        "ratio": round(expected / measured_bytes, 4),
    }


def measure(cell: dict[str, Any]) -> int:
    """The most bytes that tensors take on the GPU in the second training step of a new model."""
    import torch

    peak = _peak_bytes(cell)
    gc.collect()
    return peak - torch.cuda.memory_allocated()  # what is left are the workspaces of the libraries


def _peak_bytes(cell: dict[str, Any]) -> int:
    import torch

    from model.device import compute_dtype
    from model.training.config import TrainingConfig
    from model.training.optimizer import build_optimizer
    from model.training.prepare import prepare
    from model.training.settings import RunSettings
    from model.training.step import TrainStep
    from model.training.task import SameBatch
    from model.transformer import Hunyuan

    class Twice(SameBatch):
        def micro_batches(self, step: int) -> list[Any]:
            return MICRO_BATCHES * super().micro_batches(step)

    device, config = torch.device("cuda"), HunyuanConfig.from_name(cell["model"])
    batch, context = cell["batch"], cell["context"]
    training = TrainingConfig(
        sequence_length=context,
        micro_batch_size=batch,
        global_batch_tokens=MICRO_BATCHES * batch * context,
        precision=cell["precision"],
        recompute=cell["recompute"],
        compile=cell["compile"],
        graph=False,
        device="cuda",
    )
    with device:
        net = Hunyuan(config).train()
        ids = torch.randint(config.vocab_size, (batch, context + 1))
    optimizer = build_optimizer(net, config, training)
    prepare(net, training, device)
    settings, dtype = RunSettings(model=config, training=training), compute_dtype(training.precision, device)
    step = TrainStep(net, optimizer, settings, Twice(ids), device, dtype)
    for number in range(2):
        torch.cuda.reset_peak_memory_stats()
        step(number, training.learning_rate)
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="PRESET")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the rows as one JSON document")
    options = parser.parse_args(arguments)

    import torch

    if not torch.cuda.is_available():
        print("torch sees no CUDA device here: nothing was measured", file=sys.stderr)
        return
    rows = []
    for cell in cells(options.models, options.compile):
        rows.append(row_of(cell, measure(cell)))
        print(json.dumps(rows[-1]), flush=True)
        if options.output:  # what was measured stays when a later cell does not fit
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
