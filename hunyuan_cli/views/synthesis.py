"""A synthesis while it runs: a line a stage, redrawn in place on a terminal, with its cost and what it drops."""

import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hunyuan_cli.console import human, human_time, printable, stderr
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from model.data.synthesis.pipeline import Synthesis
    from model.data.synthesis.store import Done

REFRESH_SECONDS = 0.5
QUIET_SECONDS = 10.0  # between lines of a stage that is read in a pipe


class PlainView:
    """A line when a stage begins and ends, and every few seconds between."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.stage = self.total = self.before = 0
        self.kept = self.units = 0
        self.filter = ""  # of stage 4, at work
        self.dropped: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def begun(self, stage: int, total: int, done: int) -> None:
        if stage != self.stage:
            self.stage, self.total, self.before = stage, total, done
            self.kept = self.units = 0
            self.dropped.clear()
            self._began = self._told = time.monotonic()
            self.say(f"{_name(stage)}: {total:,} to do")
        elif self.units == 0:
            self.before = done

    def advanced(self, done: "Done") -> None:
        self.units += 1
        for record in done.records:
            if record["reasons"]:
                self.dropped[record["reasons"][0].partition(":")[0]] += 1
            else:
                self.kept += 1
            if record["usage"]:
                self.usage.update(record["usage"])
        if not self.units % 16:
            self.tick()

    def filtered(self, name: str, count: int) -> None:
        self.filter = name
        if name == "record":
            self.units += count
        self.tick()

    def ended(self, stage: int, manifest: Mapping[str, Any], seconds: float) -> None:
        if not seconds:
            self.say(f"{_name(stage)}: {manifest['rows']:,} kept, made before")
            return
        dropped = _dropped_text(manifest["dropped"])
        self.say(f"{_name(stage)}: {manifest['rows']:,} kept{dropped}, {human_time(seconds)}{self._cost()}")
        if entropy := manifest.get("entropy"):
            self.say(f"{_name(stage)}: entropy of the domains {entropy['before']:.3f} to {entropy['after']:.3f} bits")

    def tick(self) -> None:
        if time.monotonic() - self._told >= QUIET_SECONDS:
            self._told = time.monotonic()
            self.say(self._line())

    def say(self, line: str) -> None:
        if not self.quiet:
            stderr(line)

    def _line(self) -> str:
        done, seconds = self.before + self.units, time.monotonic() - self._began
        rate = self.units / seconds if seconds > 0 else 0.0
        left = f", {human_time(round((self.total - done) / rate))} left" if rate and self.total > done else ""
        if self.filter not in ("", "record"):
            return f"{_name(self.stage)}: {self.filter}"
        counts = f"{_name(self.stage)}: {done:,} of {self.total:,}, {rate:,.0f} a second{left}"
        return f"{counts}{_dropped_text(self.dropped)}{self._cost()}"

    def _cost(self) -> str:
        tokens = self.usage["prompt_tokens"] + self.usage["completion_tokens"]
        cost = f", cost {self.usage['cost']:.4g}" if self.usage["cost"] else ""
        return f", {human(int(tokens), 'tokens')} tokens{cost}" if tokens else ""


class LiveView(PlainView):
    """The stage under way redrawn in place; what ended stays above it."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        super().__init__(quiet)
        self.console = Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live("", console=self.console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def tick(self) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._told >= REFRESH_SECONDS:
            self._told = now
            with suppress(OSError):  # the terminal was closed: the work goes on
                self._live.update(self._render(), refresh=True)

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=max(1, self.total), completed=self.before + self.units, width=40)
        return Group(bar, Text(self._line(), style="bold"))


def make_view(quiet: bool) -> PlainView:
    """The view for where standard error goes."""
    return LiveView() if sys.stderr.isatty() and not quiet else PlainView(quiet)


def emit_funnel(folder: Path, examples: int, format: str, output: Path | None) -> None:
    """The result of a run: what every stage kept and dropped, and some of the pairs that were kept."""
    from analyses.synthesis.funnel import dropped_table, funnel_table

    result: dict[str, Any] = {"stages": funnel_table(folder), "dropped": dropped_table(folder)}
    pairs = _examples(folder, examples)
    if result_format(format, output) == "json":
        result["examples"] = pairs
    emit(result, format=format, output=output)
    if format == "table" and output is None:
        for pair in pairs:
            print(
                f"\n{printable(pair['instruction'])}\n> {printable(pair['response']).replace(chr(10), f'{chr(10)}> ')}"
            )


def _examples(folder: Path, count: int) -> list[dict[str, str]]:
    """Kept pairs, of as many domains as there are, in the order of their ids."""
    from model.data.synthesis.record import STAGES
    from model.data.synthesis.store import read_records

    by_domain: dict[str, list[dict[str, str]]] = {}
    for record in itertools.islice(read_records(folder / STAGES[3]), 100 * count):
        pair = {key: str(record.get(key)) for key in ("id", "domain", "instruction", "response")}
        by_domain.setdefault(record["domain"], []).append(pair)
    rounds = itertools.zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    return list(itertools.islice((pair for turn in rounds for pair in turn if pair), count))


def emit_outlook(synthesis: "Synthesis", stages: Sequence[int], format: str, output: Path | None) -> None:
    """The result of a dry run: units of work, and what the endpoints among the writers would be asked for."""
    from model.data.synthesis.outlook import outlook

    work = [{"stage": _name(stage), "units": synthesis.expected(stage)} for stage in stages if stage < 4]
    rows = outlook(synthesis, stages)
    note = "" if rows else "No endpoint is asked: this costs nothing."
    emit({"work": work, "requests": rows}, format=format, output=output, note=note)


def _name(stage: int) -> str:
    from model.data.synthesis.record import STAGES

    return STAGES[stage - 1]


def _dropped_text(dropped: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count:,} by {name}" for name, count in sorted(dropped.items()) if count)
    return f", dropped {counts}" if counts else ""
