"""What a person sees of a training run: a display on a terminal, plain lines in a pipe or log file.

Both implement model.training.events.Reporter. Use them as context managers, so that the terminal is given back however
training ends:

    with make_reporter() as reporter:
        train(..., reporter=reporter)
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from hunyuan_cli.console import human, human_count, human_time, number, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from model.training.events import RunPlan

BARS = "▁▂▃▄▅▆▇█"
REFRESH_SECONDS = 0.25
LINE_SECONDS = 2.0
FACTS = (
    ("loss", "loss"), ("val loss", "val_loss"), ("bits/byte", "val_bits_per_byte"),
    ("accuracy", "val_accuracy"), ("margin", "val_margin"), ("KL", "kl"), ("proxy reward", "proxy_reward"),
    ("true reward", "true_reward"), ("other skills", "other_reward"), ("answer length", "answer_length"),
    ("chosen reward", "chosen_reward"), ("rejected", "rejected_reward"), ("chosen logp", "chosen_logp_change"),
    ("online", "online_share"), ("no pair", "unusable_share"), ("tokens", "tokens"),
    ("tokens/s", "tokens_per_second"), ("MFU", "mfu"), ("lr", "lr"), ("grad norm", "grad_norm"),
    ("noise scale", "noise_scale"),
    ("imbalance", "load_imbalance"), ("recycled", "recycled_fraction"), ("dropped", "dropped_fraction"),
)  # fmt: skip


class Reporter(Protocol):
    """model.training.events.Reporter, to be closed."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...
    def start(self, plan: "RunPlan") -> None: ...
    def step(self, row: dict[str, Any]) -> None: ...
    def note(self, message: str) -> None: ...
    def finish(self, summary: dict[str, Any]) -> None: ...


def make_reporter(quiet: bool = False) -> Reporter:
    """The display for where standard error goes; quiet leaves only the notes and the last line."""
    if quiet:
        return PlainReporter(interval=math.inf)
    return LiveReporter() if sys.stderr.isatty() else PlainReporter()


def run_reporter(quiet: bool, tensorboard: bool) -> Reporter:
    """The display, and TensorBoard's events beside it."""
    if not tensorboard:
        return make_reporter(quiet)
    from hunyuan_cli.views.tensorboard import TensorBoardReporter

    return Reporters([make_reporter(quiet), TensorBoardReporter()])


class Reporters:
    """Several reporters as one."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = list(reporters)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for reporter in self.reporters:
            self._stack.enter_context(reporter)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def start(self, plan: "RunPlan") -> None:
        for reporter in self.reporters:
            reporter.start(plan)

    def step(self, row: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.step(row)

    def note(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.note(message)

    def finish(self, summary: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.finish(summary)


# --- what both show --------------------------------------------------------------------------------------------------


class _Clock:
    """How long the rest will take, at the pace since the first row of this session."""

    def __init__(self, plan: "RunPlan") -> None:
        self.steps = plan.steps
        self._first: tuple[int, float] | None = None

    def left(self, step: int) -> float | None:
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        first, began = self._first
        return (self.steps - step) * (now - began) / (step - first) if step > first else None


def heading(plan: "RunPlan") -> list[str]:
    """The run in two lines, those on the lengths of its documents, one on its stage if it has any, and one where the model
    cannot leave for transformers."""
    fresh = plan.start_step == 0
    size = plan.batch or f"{human_count(plan.global_batch_tokens)} tokens, {human_count(plan.tokens)} in all"
    third = f"transformers cannot run this model ({plan.not_for_transformers}): --model toy-hf can be converted for it"
    return [
        f"{'training' if fresh else f'resuming at step {plan.start_step:,} of'} {plan.folder} on {plan.device}: "
        f"{human_count(plan.total_params)} parameters, {human_count(plan.activated_params)} activated, "
        f"{human_count(plan.flops_per_token)} FLOPs per token",
        f"{plan.steps:,} steps of {size}; {plan.data}",
        *(plan.documents if fresh else ()),
        *([plan.stage] if plan.stage else []),
        *([third] if fresh and plan.not_for_transformers else []),
    ]


def group_rows(plan: "RunPlan") -> list[tuple[str, ...]]:
    """The parameter groups of the optimizer, a heading first."""
    rows: list[tuple[str, ...]] = [("group", "tensors", "parameters", "rate", "relative", "decay")]
    for group in plan.groups:
        scale = number(group, "lr_scale")
        rows.append((
            str(group.get("name", "?")), str(group.get("tensors", "?")), human_count(number(group, "params") or 0),
            f"{number(group, 'lr') or 0.0:.2e}", "–" if scale is None else f"{scale:.3g}x",
            human(group.get("weight_decay")),
        ))  # fmt: skip
    return rows


def loads(row: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """The load of each expert relative to an even one: the mean over layers, and the layer worst off."""
    layers = [
        (index, [count * len(counts) / sum(counts) for count in counts])
        for index, counts in enumerate(row.get("tokens_per_expert") or [])
        if counts and sum(counts) > 0
    ]
    if not layers:
        return []
    worst, load = max(layers, key=lambda item: max(item[1]))
    lines = [(f"layer {worst}, busiest {max(load):.2f}x", load)]
    if len({len(load) for _, load in layers}) == 1:
        mean = [sum(column) / len(layers) for column in zip(*(load for _, load in layers), strict=True)]
        lines.insert(0, (f"all layers, busiest {max(mean):.2f}x", mean))
    return lines


def bar_chart(load: Sequence[float]) -> str:
    """One character an expert; an even load is half height, twice that or more is full."""
    return "".join(BARS[min(7, round(value * 3.5))] for value in load)


def facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Titles and values of what there is to say about a row or a summary."""
    values = ((title, name, number(row, name)) for title, name in FACTS)
    return [(title, human(value, name)) for title, name, value in values if value is not None]


def _stage(row: Mapping[str, Any]) -> str:
    """The stage that a row is of, where its run has any."""
    return f" ({row['stage']})" if row.get("stage") else ""


def closing(summary: Mapping[str, Any]) -> str:
    """The run's end in one line."""
    said = [f"{summary.get('status', 'ended')} after {human(summary.get('steps'))} steps"]
    if (seconds := number(summary, "seconds")) is not None:
        said[0] += f" and {human_time(seconds)}"
    return ", ".join(said + [f"{title} {value}" for title, value in facts(summary)])


# --- lines -----------------------------------------------------------------------------------------------------------


class PlainReporter:
    """A line for the first, the last and every evaluated step, and for others once in `interval` seconds."""

    def __init__(self, interval: float = LINE_SECONDS) -> None:
        self.interval = interval
        self._said = -math.inf
        self._clock: _Clock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def start(self, plan: "RunPlan") -> None:
        again, self._clock = self._clock is not None, _Clock(plan)
        if self.interval == math.inf:
            return
        if again:  # the next stage of the same run
            stderr(plan.stage)
            return
        for line in heading(plan):
            stderr(line)
        rows = group_rows(plan)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *numbers in rows:
            cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            stderr("  " + "  ".join([name.ljust(widths[0]), *cells]))

    def step(self, row: dict[str, Any]) -> None:
        now, step = time.monotonic(), int(row.get("step", 0))
        steps = self._clock.steps if self._clock else step
        left = self._clock.left(step) if self._clock else None
        due = now - self._said >= self.interval or number(row, "val_loss") is not None or step == steps
        if due and self.interval < math.inf:
            self._said = now
            stderr(self._line(row, step, steps, left))

    def _line(self, row: Mapping[str, Any], step: int, steps: int, left: float | None) -> str:
        parts = [f"step {step:,}/{steps:,}{_stage(row)}", *(f"{title} {value}" for title, value in facts(row))]
        return "  ".join(parts + ([f"left {human_time(round(left))}"] if left else []))

    def note(self, message: str) -> None:
        stderr(message)

    def finish(self, summary: dict[str, Any]) -> None:
        stderr(closing(summary))


# --- a display -------------------------------------------------------------------------------------------------------


class LiveReporter:
    """A display redrawn in place, at most four times a second; notes stay above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.row: dict[str, Any] = {}
        self._live: Live | None = None
        self._clock: _Clock | None = None
        self._drawn = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.update(self._render())
            live.stop()

    def start(self, plan: "RunPlan") -> None:
        from rich.live import Live
        from rich.table import Table

        again, self._clock = self._clock is not None, _Clock(plan)
        if again:  # the next stage of the same run; notes and such lines stay above the display
            self._print(plan.stage)
            return
        for line in heading(plan):
            self._print(line)
        names, *rows = group_rows(plan)
        table = Table(box=None, header_style="dim", padding=(0, 2))
        for index, name in enumerate(names):
            table.add_column(name, justify="right" if index else "left")
        for cells in rows:
            table.add_row(*cells)
        self.console.print(table)
        # Redrawn by step(), not by rich's thread, which would draw while the loop computes.
        self._live = Live(self._render(), console=self.console, auto_refresh=False)
        self._live.start()

    def step(self, row: dict[str, Any]) -> None:
        validation = {name: value for name, value in self.row.items() if name.startswith("val_")}
        self.row = validation | row  # the last evaluation stays on display
        step, now = int(row.get("step", 0)), time.monotonic()
        self.row["left"] = self._clock.left(step) if self._clock else None
        if self._live is not None and now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            with suppress(OSError):  # the terminal was closed: training goes on
                self._live.update(self._render(), refresh=True)

    def note(self, message: str) -> None:
        self._print(message, style="yellow")

    def finish(self, summary: dict[str, Any]) -> None:
        self.__exit__(None, None, None)
        self._print(closing(summary), style="bold")

    def _print(self, message: str, style: str = "") -> None:
        from rich.text import Text

        self.console.print(Text(message, style=style))

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row, step, steps = self.row, int(self.row.get("step", 0)), self._clock.steps if self._clock else 1
        left = number(row, "left")
        top = Table.grid(padding=(0, 1))
        top.add_row(
            Text(f"step {step:,}/{steps:,}{_stage(row)}", style="bold"),
            ProgressBar(total=max(steps, 1), completed=step, width=max(8, min(40, self.console.width - 45))),
            Text(f"{step / max(steps, 1):.0%}" + (f"  {human_time(round(left))} left" if left else "")),
        )
        lines = [Text()]
        for title, value in facts(row):  # broken by hand: a title and its value stay together
            style = "bold cyan" if title in ("loss", "val loss", "bits/byte") else ""
            fact = Text.assemble((f"{title} ", "dim"), (value, style), "   ")
            if lines[-1] and lines[-1].cell_len + fact.cell_len > self.console.width:
                lines.append(Text())
            lines[-1].append_text(fact)
        parts: list[RenderableType] = [top, *lines]
        for title, load in loads(row):
            room = max(8, self.console.width - 34)
            chart = Text(f"{title:<32}", style="dim", no_wrap=True, overflow="crop")
            parts.append(chart.append(bar_chart(load[:room]), style="cyan").append("…" if len(load) > room else ""))
        return Group(*parts)
