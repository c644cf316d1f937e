"""What a person reads of a sweep: its grid and what to know before it starts, and its results."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import human, human_time, stderr
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from model.sweep.estimate import Estimate
    from model.sweep.plan import Cell
    from model.sweep.runner import Sweep, Text

PIPE_WIDTH, WIDE = 200, 140
GRID = (  # columns of the grid: key, heading, kind of number
    ("cell", "cell", ""), ("status", "status", ""), ("flops", "FLOPs", "flops"), ("activated_params", "N", "params"),
    ("without_embedding_params", "less embedding", "params"), ("total_params", "total", "params"),
    ("tokens", "tokens D", "tokens"), ("tokens_per_param", "D/N", ""), ("steps", "steps", ""),
    ("batch_tokens", "batch", "tokens"), ("learning_rate", "rate", "lr"), ("epochs", "epochs", ""),
    ("expected_seconds", "expected", "seconds"),
)  # fmt: skip
WHERE_WIDE = ("status", "flops", "without_embedding_params", "total_params", "batch_tokens", "epochs")
BEFORE = ("cell", "status", "flops", "activated_params", "tokens", "tokens_per_param", "steps", "batch_tokens",
          "learning_rate", "epochs", "expected_seconds")  # fmt: skip
AFTER = ("cell", "status", "activated_params", "tokens", "steps", "batch_tokens", "learning_rate", "loss",
         "val_bits_per_byte", "seconds", "error")  # fmt: skip
FEW_STEPS = 50  # below, warm-up and annealing leave little training between them


def grid_rows(sweep: "Sweep", estimate: "Estimate | None") -> list[dict[str, Any]]:
    """One row a cell: what it will be, and whether it was."""
    rows = []
    for cell in sweep.cells:
        training, text = cell.settings.training, sweep.text
        row: dict[str, Any] = {"cell": cell.id, "status": sweep.status(cell) or "to do"}
        row |= {"budget": cell.budget, "flops": cell.flops, "model": cell.size, "seed": cell.seed}
        row |= {"activated_params": cell.activated, "without_embedding_params": cell.activated_without_embedding}
        row |= {"total_params": cell.total, "tokens": cell.tokens, "tokens_per_param": cell.tokens / cell.activated}
        row |= {"steps": training.steps, "batch_tokens": training.global_batch_tokens}
        row |= {"learning_rate": training.learning_rate}
        row["epochs"] = cell.tokens / text.train_tokens if text else None
        row["expected_seconds"] = estimate.seconds.get(cell.id) if estimate else None
        rows.append(row)
    return rows


def remarks(sweep: "Sweep", todo: Sequence["Cell"], estimate: "Estimate | None", where: str) -> list[str]:
    """What should be known before it starts, in sentences."""
    lines = [
        f"{len(sweep.cells)} cells, {len(todo)} to do, {human(sum(c.flops for c in todo), 'flops')} FLOPs, {where}"
    ]
    if estimate and todo:
        lines[0] += f": about {human_time(round(estimate.total_seconds))}, an estimate"
    if sweep.text:
        lines.append(_text_line(sweep.text))
        repeated = [cell for cell in sweep.cells if cell.tokens > sweep.text.train_tokens]
        if repeated:
            most = max(cell.tokens for cell in repeated) / sweep.text.train_tokens
            lines.append(
                f"note: {len(repeated)} of the {len(sweep.cells)} cells read the text more than once, up to {most:.1f} times: "
                "repeated tokens teach less than new ones; give more --data, or smaller budgets"
            )
    short = [cell for cell in sweep.cells if cell.settings.training.steps < FEW_STEPS]
    if short:
        fewest = min(short, key=lambda cell: cell.settings.training.steps)
        lines.append(
            f"note: {len(short)} cells have fewer than {FEW_STEPS} steps ({fewest.id}: {fewest.settings.training.steps}): "
            "lower sweep.batch_tokens.value, or leave the largest sizes out"
        )
    return lines


def _text_line(text: "Text") -> str:
    return (
        f"text: {text.documents:,} documents, {text.train_tokens:,} training and {text.validation_tokens:,} validation "
        f"tokens of {text.bytes_per_token:.2f} bytes"
    )


def print_grid(rows: Sequence[Mapping[str, Any]]) -> None:
    """The grid on standard error, with fewer columns where the terminal is narrow."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown = [column for column in GRID if console.width >= WIDE or column[0] not in WHERE_WIDE]
    for name, heading, _ in shown:
        text = name in ("cell", "status")
        table.add_column(Text(heading), justify="left" if text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(human(row[name], kind)) for name, _, kind in shown))
    with console.capture() as capture:
        console.print(table)
    stderr("\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n"))


def _shown(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], format: str, output: Path | None
) -> list[dict[str, Any]]:
    """All there is for programs, the columns that fit a screen for a table; a learning rate has a name of its kind there."""
    if result_format(format, output) != "table":
        return [dict(row) for row in rows]
    short = {"learning_rate": "peak_lr", "tokens_per_param": "per_param"}
    return [{short.get(name, name): row[name] or None for name in names} for row in rows]


def emit_grid(rows: Sequence[Mapping[str, Any]], expected: "Estimate | None", format: str, output: Path | None) -> None:
    """The result of a dry run."""
    total = {"total_flops": sum(row["flops"] for row in rows), "total_tokens": sum(row["tokens"] for row in rows)}
    total |= {"expected_seconds": expected.total_seconds if expected else None}  # of the cells to do
    emit({"cells": _shown(rows, BEFORE, format, output), **total}, format=format, output=output)


def emit_results(sweep: "Sweep", format: str, output: Path | None) -> tuple[int, int]:
    """The table of what ended; how many cells failed or diverged, and how many are left."""
    rows = sweep.rows()
    counts = {status: sum(row["status"] == status for row in rows) for status in ("finished", "failed", "diverged")}
    left = len(sweep.cells) - len(rows)
    emit({"cells": _shown(rows, AFTER, format, output), **counts, "left": left}, format=format, output=output)
    return counts["failed"] + counts["diverged"], left
