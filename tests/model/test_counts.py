"""Parameters in closed form against the built module, on the meta device: the module's shapes without its memory."""

from collections import Counter

import pytest
import torch

from model.config import HunyuanConfig
from model.config.presets import PRESETS
from model.counts import activated_params, parameter_counts, total_params
from model.transformer import Hunyuan

VARIANTS = {
    "bias": {"attention_bias": True},
    "bias-cla": {"attention_bias": True, "cla_share_factor": 3},
    "untied": {"tie_word_embeddings": False},
    "dense": {"num_experts": 1},
    "dense-with-shared": {"num_experts": 1, "num_shared_expert": 2},
    "cla-3": {"cla_share_factor": 3},
    "no-cla": {"cla_share_factor": 1},
    "no-qk-norm": {"use_qk_norm": False},
    "no-shared": {"num_shared_expert": 0},
    "two-shared": {"num_shared_expert": 2},
    "top-2": {"moe_topk": 2},
    "mqa": {"num_key_value_heads": 1},
}
CONFIGS = {name: HunyuanConfig.from_name(name) for name in PRESETS}
CONFIGS |= {f"toy+{name}": HunyuanConfig.from_name("toy", **changes) for name, changes in VARIANTS.items()}


def component(name: str) -> str:
    """Where a parameter belongs, by its place in the module."""
    parts = {"embed_tokens": "embedding", "lm_head": "head", "router": "router", "experts": "routed", "mlp": "shared"}
    if "norm" in name:
        return "norms"
    return next((part for key, part in parts.items() if key in name.split(".")), "attention")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counts_equal_the_module(config):
    with torch.device("meta"):
        net = Hunyuan(config)
    held, used = Counter(), Counter()
    for name, parameter in net.named_parameters():
        part = component(name)
        stacked = part == "routed"  # (E, ...): a token visits K of the E
        assert not stacked or len(parameter) == config.num_experts
        held[part] += parameter.numel()
        used[part] += parameter[: config.moe_topk].numel() if stacked else parameter.numel()
    counts = parameter_counts(config)
    assert {name: count.total for name, count in counts.items() if count.total} == held
    assert {name: count.activated for name, count in counts.items() if count.activated} == used
    assert (total_params(config), activated_params(config)) == (held.total(), used.total())


def test_the_dense_toy_is_the_peer_of_the_toy():
    """The same activated parameters, less the router."""
    toy, dense = CONFIGS["toy"], CONFIGS["toy-dense"]
    assert activated_params(toy) - parameter_counts(toy)["router"].total == activated_params(dense)


def test_the_ladder_climbs_to_a_billion():
    rungs = [name for name in CONFIGS if name.startswith("ladder-") and not name.endswith("-dense")]
    sizes = [activated_params(CONFIGS[name]) for name in rungs]
    assert sizes == sorted(sizes) and sizes[0] < 0.5e6 and 0.8e9 < sizes[-1] < 1.3e9
