"""The pictures of cache memory: what is drawn, at which values, against which line."""

import sys

import pytest

from analyses.memory.kv_cache_plots import plot_kv_cache, short_context
from analyses.memory.serving import Serving, cache_bytes, largest_batch
from model.config.load import load_shape
from model.config.storage import STORAGE
from model.config.variants import own_variant, variants_of

LARGE = load_shape("hunyuan-large")
H200 = Serving(memory=141 * 10**9, devices=8)


def series(variants, *servings):
    return [(variant, serving) for variant in variants for serving in servings]


def by_label(panel):
    return {line.get_label(): line for line in panel.lines}


def test_bytes_against_context_for_every_variant():
    (panel,) = plot_kv_cache(series(variants_of(LARGE), Serving()), batch=4).axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    lines = by_label(panel)
    assert list(lines) == ["MHA", "GQA", "MQA", "CLA", "GQA+CLA (the model's own)"]
    for label, per_token in (("MHA", 1_638_400), ("GQA+CLA (the model's own)", 81_920)):
        contexts, sizes = lines[label].get_data()
        assert (contexts[0], contexts[-1]) == (1024, 2**20)
        assert list(sizes) == [4 * per_token * context for context in contexts]


def test_the_device_and_what_is_left_on_it():
    panel, frontier = plot_kv_cache(series(variants_of(LARGE), H200)).axes
    lines = by_label(panel)
    assert set(lines["memory of a device, 141 GB"].get_ydata()) == {141e9}
    (left,) = (line for label, line in lines.items() if label.startswith("left for the cache"))
    batch = largest_batch(LARGE, H200, 2**17)
    assert cache_bytes(LARGE, H200, 2**17, batch) <= left.get_ydata()[0] < cache_bytes(LARGE, H200, 2**17, batch + 1)
    for variant in variants_of(LARGE):
        label = f"{variant.name} (the model's own)" if variant.own else variant.name
        contexts, batches = by_label(frontier)[label].get_data()
        assert list(batches) == [largest_batch(variant.shape, H200, int(context)) for context in contexts]
        assert min(batches) >= 1  # nothing is drawn where nothing fits


def test_models_side_by_side_are_named():
    shapes = [load_shape(name) for name in ("toy", "deepseek-v2")]
    variants = [variant for shape in shapes for variant in variants_of(shape, [own_variant(shape)])]
    (panel,) = plot_kv_cache(series(variants, Serving()), contexts=[64]).axes
    assert list(by_label(panel)) == ["toy GQA+CLA", "deepseek-v2 MLA"]
    assert panel.lines[0].get_xdata()[0] == 64


def test_where_not_even_one_sequence_fits_it_says_so():
    _, frontier = plot_kv_cache(series(variants_of(LARGE), Serving(memory=10**9))).axes
    assert [text.get_text() for text in frontier.texts] == ["not even one sequence fits"]


def test_no_global_state_is_left():
    plot_kv_cache(series(variants_of(load_shape("toy")), H200))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(("tokens", "text"), [(1, "1"), (1024, "1K"), (262_144, "256K"), (2**21, "2M"), (2**30, "1G")])
def test_contexts_are_written_short(tokens, text):
    assert short_context(tokens) == text


def test_every_format_is_drawn_lines_that_coincide_are_seen_and_what_does_not_fit_is_named():
    small, large = load_shape("toy"), load_shape("llama-3.1-405b")
    variants = [variant for shape in (small, large) for variant in variants_of(shape, [own_variant(shape)])]
    places = [Serving(gpu="h200", memory=141 * 10**9, cache=STORAGE[name]) for name in ("bf16", "fp8")]
    panel, frontier = plot_kv_cache(series(variants, *places)).axes
    names = [f"{model} {cache}" for model in ("toy GQA+CLA", "llama-3.1-405b GQA") for cache in ("bf16", "fp8")]
    assert list(by_label(panel)) == [*names, "memory of h200, 141 GB", "left for the cache of toy, 127 GB"]
    assert list(by_label(frontier)) == names[:2]
    assert [text.get_text() for text in frontier.texts] == ["does not fit: " + "\n".join(names[2:])]
    assert "h200, 141 GB" in frontier.get_title(loc="left")
    same = variants_of(small, ["GQA:1", "MQA"])[:2]
    under, over = plot_kv_cache(series(same, Serving())).axes[0].lines[:2]
    assert list(under.get_ydata()) == list(over.get_ydata()) and under.get_linewidth() > over.get_linewidth()


def test_each_device_has_a_panel_of_its_own():
    places = [Serving(gpu=name, memory=size * 10**9) for name, size in (("h100", 80), ("h200", 141))]
    panels = plot_kv_cache(series(variants_of(load_shape("llama-3.1-8b"), ["GQA"]), *places)).axes
    assert [panel.get_title(loc="left")[:15] for panel in panels[1:]] == ["what fits (h100", "what fits (h200"]
    assert list(by_label(panels[0])) == [
        "GQA (the model's own)", "memory of h100, 80 GB", "memory of h200, 141 GB",
    ]  # fmt: skip
