"""Tokens per second of small models by the real training loop on a GPU: eager, compiled, recorded.

    python examples/gpu/small_models.py --output small_models.json

Four modes: eager, compiled (training.compile), graph (training.graph), both. The loop is that of `hunyuan train`, with its
data, its logging and its optimizer. Left out are checkpoints, and the measurement of the ceiling.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from model.counts import activated_params, training_flops_per_token
from model.training import loop
from model.training.pretraining import pretrain
from model.training.settings import RunSettings
from model.transformer import Hunyuan

SIZES = ("toy", "ladder-48", "ladder-96", "ladder-160", "ladder-256", "ladder-448")  # 0.3M to 30M activated
MODES = {"eager": (False, False), "graph": (False, True), "compiled": (True, False), "both": (True, True)}
STEPS = {"eager": 45, "graph": 165, "compiled": 45, "both": 165}


class Clock:
    """A reporter that keeps the speed of each logged stretch."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self.notes: list[str] = []
        self.first = 0.0

    def start(self, plan: object) -> None:
        del plan

    def step(self, row: dict[str, Any]) -> None:
        self.first = self.first or time.perf_counter()
        self.speeds.append(row["tokens_per_second"])

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finish(self, summary: dict[str, Any]) -> None:
        del summary


def measure(
    size: str, mode: str, *, data: list[str], log_every: int = 15, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One run of a size in a mode: its speed is the median over stretches of log_every steps, the first one left out."""
    compiled, recorded = MODES[mode]
    training = {
        "device": "cuda", "steps": STEPS[mode], "log_every": log_every, "evaluate_every": 0, "evaluation_tokens": 256,
        "checkpoint_every": 0, "compile": compiled, "graph": recorded,
    } | (changes or {})  # fmt: skip
    settings = RunSettings.from_sections({"model": {"preset": size}, "training": training, "data": {"sources": data}})
    clock = Clock()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        pretrain(Path(folder, "run"), settings, clock)
    per_token = training_flops_per_token(settings.model, settings.training.sequence_length)
    speed = statistics.median(clock.speeds[1:])
    return {
        "size": size,
        "mode": mode,
        "activated_params": activated_params(settings.model),
        "tokens_per_step": settings.training.global_batch_tokens,
        "log_every": log_every,
        "tokens_per_second": speed,
        "ms_per_step": 1000 * settings.training.global_batch_tokens / speed,
        "flops_per_second": speed * per_token,
        "seconds_to_first_line": clock.first - start,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        "notes": [note for note in clock.notes if not note.startswith("compiling")],
    }


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['size']:11} {row['mode']:9} log {row['log_every']:3} {row['activated_params'] / 1e6:6.2f}M",
        f"{row['tokens_per_second']:12,.0f} tokens/s {row['ms_per_step']:8.3f} ms",
        f"{row['flops_per_second'] / 1e12:7.2f} TFLOP/s first {row['seconds_to_first_line']:5.1f} s",
        f"{row['peak_memory_bytes'] / 2**30:5.2f} GiB",
        *row["notes"],
    )


def on_the_gpu(config: Any, generator: Any) -> Hunyuan:
    """A model whose weights are drawn there: the processor takes seconds for the larger ones."""
    del generator
    with torch.device("cuda"):
        return Hunyuan(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--data", nargs="+", default=["stdlib"])
    parser.add_argument("--seconds", type=float, default=1e9, help="no measurement begins later")
    parser.add_argument("--log-every", type=int, default=15)
    parser.add_argument("--set", nargs="*", default=[], help="key=value of [training], as JSON")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (one.partition("=") for one in given.set)}
    loop.save_checkpoint = lambda *parts: Path()
    loop.measure_peak_flops = lambda device, dtype: 1.0
    loop.Hunyuan = on_the_gpu
    begun, rows = time.perf_counter(), []
    for size in given.sizes:
        torch.compiler.reset()  # of the compiled programs of other sizes
        for mode in given.modes:
            if time.perf_counter() - begun > given.seconds:
                break
            try:
                rows.append(measure(size, mode, data=given.data, log_every=given.log_every, changes=changes))
                show(rows[-1])
            except Exception as error:
                print(size, mode, type(error).__name__, " ".join(str(error).split())[-600:])
    if given.output:
        result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
