"""Numbers of the Hunyuan-Large report (arXiv:2411.02265) and of its released config.json, as literals."""

import pytest
import torch

from model.config import HunyuanConfig
from model.config.storage import STORAGE
from model.counts import activated_params, kv_cache_bytes, total_params
from model.moe.router import drop, recycle

LARGE = HunyuanConfig.from_name("hunyuan-large")
HEADS = {"MHA": (80, 1), "GQA": (8, 1), "MQA": (1, 1), "CLA": (80, 2), "GQA+CLA": (8, 2)}


def variant(name: str) -> HunyuanConfig:
    key_value_heads, share = HEADS[name]
    return LARGE.replace(num_key_value_heads=key_value_heads, cla_share_factor=share)


def test_table_1():
    sizes = {
        "num_hidden_layers": 64, "hidden_size": 6400, "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 80,
        "num_shared_expert": 1, "num_experts": 16, "moe_topk": 1, "intermediate_size": 18304, "vocab_size": 129024,
        "tie_word_embeddings": True, "use_qk_norm": True, "cla_share_factor": 2, "max_position_embeddings": 256 * 1024,
        "moe_routing": "recycle",
    }  # fmt: skip
    assert {name: getattr(LARGE, name) for name in sizes} == sizes


def test_total_and_activated_parameters():
    """389B and 52B in the report; exactly, with the sizes of the released config (tests/model/test_counts.py: built)."""
    assert (total_params(LARGE), activated_params(LARGE)) == (388_701_405_440, 51_322_077_440)


@pytest.mark.parametrize(
    ("name", "expected"), [("MHA", 1_638_400), ("GQA", 163_840), ("MQA", 20_480), ("CLA", 819_200), ("GQA+CLA", 81_920)]
)
def test_kv_bytes_per_token_match_table_2(name, expected):
    assert kv_cache_bytes(variant(name), tokens=1) == expected


@pytest.mark.parametrize(("name", "gib"), [("MHA", 400), ("GQA+CLA", 20)])
def test_kv_cache_at_256k_tokens(name, gib):
    """The saving of "almost 95%"; and bytes grow with the batch and the width of a value."""
    config = variant(name)
    assert kv_cache_bytes(config, tokens=256 * 1024) == gib * 2**30
    assert kv_cache_bytes(config, tokens=128 * 1024, batch=3, storage=STORAGE["fp32"]) == 3 * gib * 2**30


def test_released_rope_base():
    """10000 * 1000^(80/78), of {"type": "dynamic", "alpha": 1000.0}."""
    assert LARGE.rope_base == pytest.approx(11_937_766.417, rel=1e-9)


def test_figure_2():
    """4 experts of capacity 2: token D is one too many for expert 1; only expert 4 has room, so D goes there."""
    #                       A    B    C    D    E    F    G
    chosen = torch.tensor([[0], [0], [1], [0], [1], [2], [2]])
    moved = recycle(chosen, num_experts=4, capacity=2, place_keys=torch.rand(8))
    assert moved.flatten().tolist() == [0, 0, 1, 3, 1, 2, 2]
    assert drop(chosen, num_experts=4, capacity=2).flatten().tolist() == [0, 0, 1, 4, 1, 2, 2]  # 4: no expert
