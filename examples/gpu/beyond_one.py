"""A model whose weights, gradients and moments are more than one GPU has, trained on several of one machine.

    python examples/gpu/beyond_one.py --processes 2 --output beyond_one.json

Its depth is the least that cannot be trained on one card, by the closed form of `hunyuan params`: 12 layers of hidden 2048
where that has 80 GB, 20 where it has 141 GB. One batch is seen again and again, so that the loss must fall. The real step, with
AdamW's moments in float32; initial weights are drawn where they lie, and nothing is saved.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from analyses.bench.processes import layouts, ranks
from analyses.bench.training import Workload
from analyses.bench.worker import machine
from model.config import HunyuanConfig
from model.counts import activated_params, total_params
from model.device import memory_bytes, pick_device
from model.memory import state_bytes, training_memory

CONTENDERS = ("fsdp", "ep x fsdp")


def model_of(layers: int, changes: dict[str, Any]) -> HunyuanConfig:
    sizes: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5632, "head_dim": 128, "cla_share_factor": 1}
    return HunyuanConfig.from_name("base", num_hidden_layers=layers, **(sizes | changes))


def beyond(memory: int, changes: dict[str, Any]) -> HunyuanConfig:
    """The least depth, in steps of 4, whose state alone is more than `memory` bytes."""
    depths = range(4, 400, 4)
    return next(
        c
        for c in (model_of(d, changes) for d in depths)
        if state_bytes(c, precision="bfloat16", several=False) > memory
    )


def measure(work: Workload, processes: int, steps: int) -> list[dict[str, Any]]:
    rows = []
    for name in CONTENDERS:
        layout, start = layouts(processes, work.config)[name], time.perf_counter()
        predicted = training_memory(
            work.config, batch=work.batch, context=work.sequence_length, several=False, layout=layout,
            precision="bfloat16" if work.on_gpu else "float32",
        )  # fmt: skip
        row: dict[str, Any] = {"contender": name, "predicted_bytes": predicted.total}
        with ranks(work, layout, processes) as ask:
            first, last = ask(1), ask(steps)
        seconds = sum(last.seconds) / len(last.seconds)
        row |= {"peak_memory_bytes": last.memory, "loss_first": first.loss, "loss_last": last.loss}
        row |= {"tokens_per_second": processes * work.tokens / seconds, "whole_seconds": time.perf_counter() - start}
        rows.append(row)
        sys.stderr.write(f"{json.dumps(row)}\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--memory", type=float, help="bytes of one device, instead of those that it has")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--set", dest="changes", type=json.loads, default={}, help="model keys, as JSON")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    memory = int(chosen.memory or memory_bytes(device) or 0)
    config = beyond(memory, chosen.changes)
    work = Workload(config, chosen.batch, chosen.sequence_length, chosen.device, 2, "beyond one")
    facts = machine(chosen.device) | {
        "processes": chosen.processes, "device_bytes": memory, "layers": config.num_hidden_layers,
        "state_bytes_of_one": state_bytes(config, precision="bfloat16", several=False), "params": total_params(config),
        "activated_params": activated_params(config), "tokens": chosen.processes * work.tokens,
    }  # fmt: skip
    text = json.dumps(facts | {"contenders": measure(work, chosen.processes, chosen.steps)}, indent=1)
    if chosen.output:
        chosen.output.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
