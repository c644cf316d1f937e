"""Pictures of cache memory: bytes against context by variant, and the frontier of batch against context by device."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from analyses.memory.serving import Serving, cache_bytes, device_memory, largest_batch
from analyses.style import GREY, LINES, color, count_axis, label, legend_below, make_figure
from model.config.variants import Variant

Series = tuple[Variant, Serving]


def plot_kv_cache(series: Sequence[Series], *, batch: int = 1, contexts: Sequence[int] = (262_144,)) -> Figure:
    """Bytes on one device against context, log-log; for each device whose memory is known, the largest batch beside it.

    A colour is a variant of a model, a dash a cache format. Of lines that coincide the earlier ones are drawn wider.
    What does not fit on a device is named in its panel.
    """
    first, last = min(1024, *contexts), max(2**20, *contexts)
    grid = [first]
    while grid[-1] < last:
        grid.append(min(last, max(grid[-1] + 1, int(grid[-1] * 2**0.25))))
    places = list(dict.fromkeys((serving.gpu, serving.memory) for _, serving in series))
    frontiers = [place for place in places if place[1]]
    columns = min(3, 1 + len(frontiers))
    rows = -(-(1 + len(frontiers)) // columns)
    width = 7.5 if columns == 1 else 5.5 * columns
    figure, panels = make_figure(rows, columns, width=width, height=4.4)
    for panel in panels[1 + len(frontiers) :]:
        panel.remove()
    panels = panels[: 1 + len(frontiers)]
    for panel in panels:
        _context_axis(panel, first, last)
    styles = _styles(series)

    here = [pair for pair in series if (pair[1].gpu, pair[1].memory) == places[0]]
    # As floats: a whole number beyond 64 bits is no number to matplotlib.
    sizes = [[float(cache_bytes(v.shape, s, tokens, batch)) for tokens in grid] for v, s in here]
    _lines(panels[0], [grid] * len(here), sizes, [styles[_name(pair, series)] for pair in here])
    panels[0].yaxis.set_major_formatter(EngFormatter(unit="B"))
    one = here[0][1]
    what = ", ".join(dict.fromkeys(serving.cache.name for _, serving in here)) + f", batch {batch}"
    what += f" on {one.replica_devices} devices" if one.replica_devices > 1 else ""
    per_device = " on each device" if one.devices > 1 else ""
    label(panels[0], "context, tokens", f"keys and values{per_device}", f"cache memory ({what})")
    _memory_lines(panels[0], here, frontiers, batch)
    for panel, place in zip(panels[1:], frontiers, strict=True):
        _frontier(panel, [pair for pair in series if (pair[1].gpu, pair[1].memory) == place], series, styles, grid)
    legend_below(figure, panels[0], columns=3)
    return figure


def short_context(tokens: int) -> str:
    """262144 as 256K."""
    for size, unit in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if tokens >= size:
            return f"{tokens / size:.4g}{unit}"
    return str(tokens)


def _context_axis(panel: Axes, first: int, last: int) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xlim(first, last)
    panel.set_yscale("log")
    panel.set_xticks([tick for tick in (2**power for power in range(0, 41, 2)) if first <= tick <= last])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: short_context(int(tokens))))


def _name(pair: Series, series: Sequence[Series]) -> str:
    """What tells a line from the others: the model where there are several, the variant, the format where several."""
    variant, serving = pair
    models = {other.shape.name for other, _ in series}
    name = f"{variant.shape.name} {variant.name}" if len(models) > 1 else variant.name
    name += f" {serving.cache.name}" if len({other.cache.name for _, other in series}) > 1 else ""
    return f"{name} (the model's own)" if variant.own and len(models) == 1 else name


def _styles(series: Sequence[Series]) -> dict[str, dict[str, Any]]:
    variants = list(dict.fromkeys((variant.shape.name, variant.name) for variant, _ in series))
    caches = list(dict.fromkeys(serving.cache.name for _, serving in series))
    styles: dict[str, dict[str, Any]] = {}
    for variant, serving in series:
        index, dash = variants.index((variant.shape.name, variant.name)), caches.index(serving.cache.name)
        dash = dash if len(caches) > 1 else index
        name = _name((variant, serving), series)
        styles[name] = {"color": color(index), "linestyle": LINES[dash % len(LINES)], "label": name}
    return styles


def _lines(
    panel: Axes, xs: Sequence[Sequence[int]], ys: Sequence[Sequence[float]], styles: Iterable[dict[str, Any]]
) -> None:
    """Lines, the first of several that coincide drawn solid and widest, so that each is seen."""
    shown = [tuple(y) for y in ys]
    above = Counter(shown)
    for x, y, style in zip(xs, shown, styles, strict=True):
        above[y] -= 1
        beneath = {"linestyle": "-", "alpha": 0.45} if above[y] else {}
        panel.plot(x, y, **style | {"linewidth": 1.8 + 3 * above[y]} | beneath)


def _frontier(
    panel: Axes, here: Sequence[Series], series: Sequence[Series], styles: dict[str, dict[str, Any]], grid: list[int]
) -> None:
    """The sequences at once on one device or its replicas; what does not fit even once is named."""
    xs, ys, shown, absent = [], [], [], []
    for variant, serving in here:
        counts = [largest_batch(variant.shape, serving, tokens) * serving.replicas for tokens in grid]
        fitting = [(tokens, count) for tokens, count in zip(grid, counts, strict=True) if count]
        name = _name((variant, serving), series)
        if not fitting:
            absent.append(name)
        xs.append([tokens for tokens, _ in fitting])
        ys.append([float(count) for _, count in fitting])
        shown.append(styles[name])
    drawn = [index for index, x in enumerate(xs) if x]
    _lines(panel, [xs[i] for i in drawn], [ys[i] for i in drawn], [shown[i] for i in drawn])
    count_axis(panel.yaxis)
    if not drawn:
        panel.set_ylim(1, 10)  # an empty logarithmic axis has no limits of its own
        nothing = "not even one sequence fits"
        panel.text(0.5, 0.5, nothing, transform=panel.transAxes, ha="center", color=GREY)
    elif absent:
        text = "does not fit: " + "\n".join(absent)
        panel.text(0.03, 0.04, text, transform=panel.transAxes, ha="left", va="bottom", color=GREY, fontsize=8)
    label(panel, "context, tokens", "sequences at once", _where(here))


def _memory_lines(panel: Axes, here: Sequence[Series], places: Sequence[tuple[str, int]], batch: int) -> None:
    """The memory of each device; of a single one also what is left for the cache of the first own variant."""
    for index, (gpu, memory) in enumerate(places):
        name = f"memory of {gpu or 'a device'}, {memory / 1e9:.4g} GB"
        dash = (LINES[0], LINES[1], LINES[3])[index % 3]
        panel.axhline(memory, color=GREY, linewidth=1.2, linestyle=dash, label=name)
    if len(places) == 1:
        variant, serving = next((pair for pair in here if pair[0].own), here[0])
        terms = device_memory(variant.shape, serving, context=serving.prefill_chunk, batch=batch)
        left = serving.memory - sum(size for name, size in terms.items() if name != "cache")
        if left > 0:
            name = f"left for the cache of {variant.shape.name}, {left / 1e9:.3g} GB"
            panel.axhline(left, color=GREY, linewidth=1.2, linestyle=":", label=name)


def _where(here: Sequence[Series]) -> str:
    one = here[0][1]
    gpu = f"{one.gpu}, {one.memory / 1e9:.4g} GB" if one.gpu else f"{one.memory / 1e9:.4g} GB"
    devices = f"{one.devices} x " if one.devices > 1 else ""
    weights = "/".join(dict.fromkeys(serving.weights.name for _, serving in here))
    caches = "/".join(dict.fromkeys(serving.cache.name for _, serving in here))
    return f"what fits ({devices}{gpu}; weights {weights}, cache {caches})"
