"""A sweep while it runs: a table of the running cells on a terminal, plain lines in a pipe.

The views implement model.sweep.runner.Watcher; use them as context managers, so that the terminal is given back.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from hunyuan_cli.console import human, human_time, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from model.sweep.estimate import Estimate
    from model.sweep.plan import Cell
    from model.sweep.runner import Sweep

REFRESH_SECONDS = 0.5


class PlainView:
    """A line when a cell starts and when it ends."""

    def __init__(
        self, sweep: "Sweep", todo: Sequence["Cell"], estimate: "Estimate | None", quiet: bool = False
    ) -> None:
        self.sweep, self.todo, self.quiet = sweep, list(todo), quiet
        seconds = estimate.seconds if estimate else {}
        self.weights = {cell.id: seconds.get(cell.id, float(cell.flops)) for cell in todo}
        self.running: dict[str, Cell] = {}
        self.done = self.failed = 0
        self._before: dict[str, float] = {}  # share of a cell that an earlier session did
        self._done_weight = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def started(self, cell: "Cell") -> None:
        self._before[cell.id] = self._share(cell)
        self.running[cell.id] = cell
        step = self.sweep.progress(cell).step
        again = f"from about step {step:,}, " if step else ""
        steps = cell.settings.training.steps
        self.say(f"start    {cell.id}: {again}{steps:,} steps, {human(cell.tokens, 'tokens')} tokens")

    def ended(self, cell: "Cell", row: Mapping[str, Any] | None, note: str) -> None:
        self.running.pop(cell.id, None)
        if row is None:
            stderr(f"stopped  {cell.id}" + (f": {note}" if note else ""))
            return
        self._done_weight += self.weights[cell.id] * (1 - self._before[cell.id])
        self.done, self.failed = self.done + (not row["error"]), self.failed + bool(row["error"])
        counted = f"({self.done + self.failed} of {len(self.todo)})"
        if row["error"]:
            stderr(f"{row['status']:<8} {cell.id} {counted}: {row['error']}")
        else:
            loss, took = human(row["loss"], "loss"), human_time(row["seconds"] or 0.0)
            self.say(f"finished {cell.id} {counted}: loss {loss}, {took}{self._left_text()}")
        if note and not self.quiet:
            stderr(f"note     {cell.id}: {note}")

    def tick(self) -> None:
        pass

    def say(self, line: str) -> None:
        if not self.quiet:
            stderr(line)

    def _share(self, cell: "Cell") -> float:
        return min(1.0, self.sweep.progress(cell).step / cell.settings.training.steps)

    def seconds_left(self) -> float | None:
        """At the pace of this session, each cell weighted by its expected time."""
        part = {id: self._share(cell) - self._before[id] for id, cell in self.running.items()}
        done = self._done_weight + sum(self.weights[id] * max(0.0, share) for id, share in part.items())
        ended = self.done + self.failed
        left = sum(self.weights.values()) - sum(self._before[id] * self.weights[id] for id in self._before) - done
        if done <= 0 or (ended == 0 and sum(part.values()) < 0.02):
            return None
        return max(0.0, (time.monotonic() - self._began) * left / done)

    def _left_text(self) -> str:
        left = self.seconds_left()
        return f", {human_time(round(left))} left" if left else ""


class LiveView(PlainView):
    """A table of the running cells, redrawn in place; what ends stays above it."""

    def __init__(
        self, sweep: "Sweep", todo: Sequence["Cell"], estimate: "Estimate | None", quiet: bool = False
    ) -> None:
        from rich.console import Console

        super().__init__(sweep, todo, estimate, quiet)
        self.console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        from rich.live import Live

        # Redrawn by tick(): rich's own thread would read files while they change hands.
        self._live = Live(self._render(), console=self.console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def started(self, cell: "Cell") -> None:
        self.quiet, quiet = True, self.quiet  # the table has it
        super().started(cell)
        self.quiet = quiet

    def tick(self) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            with suppress(OSError):  # the terminal was closed: the cells go on
                self._live.update(self._render(), refresh=True)

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="dim", padding=(0, 2))
        for name in ("cell", "", "step", "loss", "tokens/s"):
            table.add_column(name, justify="left" if name in ("cell", "") else "right")
        speed = 0.0
        for cell in self.running.values():
            at, steps = self.sweep.progress(cell), cell.settings.training.steps
            speed += at.tokens_per_second or 0.0
            bar = ProgressBar(total=steps, completed=at.step, width=max(8, min(30, self.console.width - 70)))
            rate = human(at.tokens_per_second, "tokens") if at.step else "starting"
            table.add_row(Text(cell.id), bar, f"{at.step:,}/{steps:,}", human(at.loss, "loss"), rate)
        left = len(self.todo) - self.done - self.failed - len(self.running)
        counts = f"{self.done} done, {self.failed} failed, {len(self.running)} running, {left} waiting"
        elapsed = human_time(round(time.monotonic() - self._began))
        line = f"{counts}; {human(speed, 'tokens')} tokens/s; {elapsed} so far{self._left_text()}"
        return Group(table, Text(line, style="bold"))


def make_view(sweep: "Sweep", todo: Sequence["Cell"], estimate: "Estimate | None", quiet: bool) -> PlainView:
    """The view for where standard error goes; quiet leaves only what went wrong."""
    kind = LiveView if sys.stderr.isatty() and not quiet else PlainView
    return kind(sweep, todo, estimate, quiet)
