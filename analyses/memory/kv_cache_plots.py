"""Pictures of cache memory: bytes against context by variant, and the frontier of batch against context."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from analyses.memory.serving import Serving, cache_bytes, device_memory, largest_batch
from analyses.style import GREY, LINES, color, count_axis, label, legend_below, make_figure
from model.config.variants import Variant


def plot_kv_cache(
    variants: Sequence[Variant], serving: Serving, *, batch: int = 1, contexts: Sequence[int] = (262_144,)
) -> Figure:
    """Bytes on one device against context, log-log; where the memory is known, its line and the largest batch beside it."""
    first, last = min(1024, *contexts), max(2**20, *contexts)
    grid = [first]
    while grid[-1] < last:
        grid.append(min(last, max(grid[-1] + 1, int(grid[-1] * 2**0.25))))
    figure, panels = make_figure(1, 2 if serving.memory else 1, width=11.0 if serving.memory else 7.5, height=4.4)
    several = len({variant.shape.name for variant in variants}) > 1
    for index, variant in enumerate(variants):
        name = f"{variant.shape.name} {variant.name}" if several else variant.name
        style: dict[str, Any] = {
            "color": color(index),
            "linestyle": LINES[index % len(LINES)],
            "linewidth": 2.4 if variant.own and not several else 1.6,
            "label": f"{name} (the model's own)" if variant.own and not several else name,
        }
        # As floats: a whole number beyond 64 bits is no number to matplotlib.
        panels[0].plot(grid, [float(cache_bytes(variant.shape, serving, tokens, batch)) for tokens in grid], **style)
        if serving.memory:
            batches = [largest_batch(variant.shape, serving, tokens) * serving.replicas for tokens in grid]
            fitting = [(tokens, count) for tokens, count in zip(grid, batches, strict=True) if count]
            panels[1].plot([tokens for tokens, _ in fitting], [count for _, count in fitting], **style)
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xlim(first, last)
        panel.set_yscale("log")
        panel.set_xticks([tick for tick in (2**power for power in range(0, 41, 2)) if first <= tick <= last])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: short_context(int(tokens))))
    panels[0].yaxis.set_major_formatter(EngFormatter(unit="B"))
    per_device = " on each device" if serving.devices > 1 else ""
    what = f"{serving.cache.name}, batch {batch}"
    what += f" on {serving.replica_devices} devices" if serving.replica_devices > 1 else ""
    label(panels[0], "context, tokens", f"keys and values{per_device}", f"cache memory ({what})")
    if serving.memory:
        _memory_lines(panels[0], variants, serving, batch)
        count_axis(panels[1].yaxis)
        if not any(largest_batch(variant.shape, serving, first) for variant in variants):
            panels[1].set_ylim(1, 10)  # an empty logarithmic axis has no limits of its own
            nothing = "not even one sequence fits"
            panels[1].text(0.5, 0.5, nothing, transform=panels[1].transAxes, ha="center", color=GREY)
        label(panels[1], "context, tokens", "sequences at once", f"what fits ({_where(serving)})")
    legend_below(figure, panels[0], columns=3)
    return figure


def short_context(tokens: int) -> str:
    """262144 as 256K."""
    for size, unit in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if tokens >= size:
            return f"{tokens / size:.4g}{unit}"
    return str(tokens)


def _memory_lines(panel: Axes, variants: Sequence[Variant], serving: Serving, batch: int) -> None:
    """The device's memory, and what is left of it for the cache beside everything else (of the first own variant)."""
    own = next((variant for variant in variants if variant.own), variants[0])
    terms = device_memory(own.shape, serving, context=serving.prefill_chunk, batch=batch)
    left = serving.memory - sum(size for name, size in terms.items() if name != "cache")
    panel.axhline(serving.memory, color=GREY, linewidth=1.2, label=f"memory of a device, {serving.memory / 1e9:.4g} GB")
    if left > 0:
        name = f"left for the cache of {own.shape.name}, {left / 1e9:.3g} GB"
        panel.axhline(left, color=GREY, linewidth=1.2, linestyle=":", label=name)


def _where(serving: Serving) -> str:
    devices = f"{serving.devices} x " if serving.devices > 1 else ""
    return f"{devices}{serving.memory / 1e9:.4g} GB, weights {serving.weights.name}, cache {serving.cache.name}"
