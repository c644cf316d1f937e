"""The document of `hunyuan params`: its keys, its sums, and the report's rules for FLOPs."""

import pytest

from analyses.memory.params import params_report
from model.config import HunyuanConfig
from model.config.load import load_shape
from model.memory import training_memory
from model.parallel.layout import Layout

LARGE = params_report(load_shape("hunyuan-large"), context=8192)


def test_the_contract():
    assert {"model", "total", "activated", "components", "flops_per_token"} <= LARGE.keys()
    assert {"exact", "six_n", "paper"} <= LARGE["flops_per_token"].keys()
    assert list(LARGE["components"]) == ["embedding", "attention", "shared", "routed", "router", "norms", "head"]


def test_hunyuan_large():
    """389B and 52B in the report; 9.59 N + 2.3e8 FLOPs a token (section on scaling laws)."""
    assert (LARGE["total"], LARGE["activated"]) == (388_701_405_440, 51_322_077_440)
    flops = LARGE["flops_per_token"]
    assert flops["six_n"] == 307_932_464_640
    assert flops["paper"] == pytest.approx(492_408_722_649.6, rel=1e-12)
    # Two per activated weight of a product (no norms; the tied embedding is the head's), and 64 layers of 80 heads of 80.
    products = 51_322_077_440 - 835_840
    assert flops["forward"] == 2 * products + 4 * 8192 * 64 * 80 * 80
    assert flops["exact"] == 3 * flops["forward"]


@pytest.mark.parametrize("name", ["toy", "toy-dense", "hunyuan-large", "deepseek-v3", "llama-3.1-8b"])
@pytest.mark.parametrize(
    "choices", [{}, {"batch": 64}, {"context": 32}, {"layout": Layout(processes=8)}, {"precision": "float32"}]
)
def test_parts_add_up(name, choices):
    report = params_report(load_shape(name), **choices)
    for kind in ("total", "activated"):
        assert sum(part[kind] for part in report["components"].values()) == report[kind]
    flops = report["flops_per_token"]
    assert sum(part["forward"] for part in flops["components"].values()) == flops["forward"]
    parts = report["training_memory"]["per_device"]
    for kind in ("bytes", "recomputed_bytes"):
        assert sum(part[kind] for name, part in parts.items() if name != "total") == parts["total"][kind]
    memory = training_memory(load_shape(name), **{"batch": 1, "context": 4096} | choices)
    assert parts["total"]["bytes"] == memory.total
    assert parts["total"]["recomputed_bytes"] == memory.total_recomputed <= memory.total


def test_a_configuration_is_taken_as_well():
    config = HunyuanConfig.from_name("toy")
    assert params_report(config) | {"model": "toy"} == params_report(load_shape("toy"))
