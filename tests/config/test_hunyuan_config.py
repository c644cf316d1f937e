"""HunyuanConfig: Hugging Face names, every fault in one error, and no key that is silently ignored."""

import dataclasses
import json
import math

import pytest

from model.config import HunyuanConfig
from model.config.presets import PRESETS
from model.errors import ConfigError

TOY = HunyuanConfig.from_name("toy")  # 4 layers, 4 heads, 16 experts


def problems_of(make) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        make()
    assert all(problem in str(raised.value) for problem in raised.value.problems)
    return raised.value.problems


def test_fields_have_the_names_of_the_released_config():
    released = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
        max_position_embeddings rms_norm_eps tie_word_embeddings rope_theta rope_scaling attention_bias use_qk_norm
        cla_share_factor num_experts num_shared_expert moe_topk capacity_factor"""
    assert set(released.split()) <= {field.name for field in dataclasses.fields(HunyuanConfig)}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_file(name, tmp_path):
    config = HunyuanConfig.from_name(name)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert HunyuanConfig.from_file(tmp_path) == HunyuanConfig.from_file(tmp_path / "config.json") == config


SIZES = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings cla_share_factor num_experts rope_theta rms_norm_eps initializer_range
    capacity_factor""".split()
OFF_OR_ABOVE = "num_shared_expert router_aux_loss_coef router_z_loss_coef expert_bias_update_rate".split()
DYNAMIC = {"type": "dynamic", "alpha": 2.0}


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        *((name, 0, "must be above 0") for name in SIZES),
        *((name, -1, "must be 0 (off) or above") for name in OFF_OR_ABOVE),
        ("head_dim", 31, "must be even"),
        ("num_key_value_heads", 3, "with 4 attention heads it must be one of 1, 2, 4"),
        ("num_key_value_heads", 8, "one of 1, 2, 4"),
        ("cla_share_factor", 5, "with 4 layers it must be between 1 and 4"),
        ("moe_topk", 17, "with 16 experts it must be between 1 and 16"),
        ("moe_topk", 0, "with 16 experts it must be between 1 and 16"),
        ("moe_topk", 1.5, "a whole number, or a list of them"),
        ("convention", "mixtral", "choose one of report, hunyuan-large, hunyuan-a13b"),
        ("moe_routing", "random", "choose one of dropless, drop, recycle"),
        ("capacity_scope", "node", "choose one of micro_batch, global"),
        (
            "capacity_scope",
            "global",
            "dropless experts have no places to share, so set model.moe_routing to drop or recycle",
        ),
        ("balance_scope", "batch", "choose one of micro_batch, global"),
        ("hidden_size", 1.5, "a whole number"),
        ("hidden_size", True, "a whole number"),
        ("attention_bias", 1, "true or false"),
        ("rope_theta", "1e4", "a number"),
        ("capacity_factor", math.inf, "a finite number"),
        ("rms_norm_eps", math.nan, "a finite number"),
        ("rope_scaling", {"type": "yarn"}, "leave it out"),
        ("rope_scaling", 2.0, "leave it out"),
        ("rope_scaling", {"type": "linear"}, "factor None"),
        ("rope_scaling", {"type": "linear", "factor": 0}, "above 0"),
        ("rope_scaling", {"type": "dynamic", "alpha": True}, "a finite number above 0"),
        ("rope_scaling", {"type": "dynamic", "alpha": math.inf}, "a finite number above 0"),
        ("rope_scaling", DYNAMIC | {"factor": 2.0}, "only 1.0 is defined"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_valid(field, value, advice):
    problems = problems_of(lambda: TOY.replace(**{field: value}))
    shown = value["factor"] if advice.startswith("only") else "" if isinstance(value, dict) else value
    assert any(f"model.{field} " in p and f"{shown}" in p and advice in p for p in problems), problems
    assert all(f"model.{field} " in problem for problem in problems)


def test_a_scope_needs_something_to_share():
    dense = {"num_experts": 1, "moe_topk": 1, "num_shared_expert": 0}
    for changes, field in (
        ({"router_aux_loss_coef": 0.0}, "balance_scope"),
        (dense, "balance_scope"),
        (dense, "capacity_scope"),
    ):
        (problem,) = problems_of(lambda changes=changes, field=field: TOY.replace(**changes, **{field: "global"}))
        assert problem.startswith(f"model.{field} is 'global': ") and "leave it at micro_batch" in problem
    assert (
        TOY.replace(balance_scope="global", moe_routing="recycle", capacity_scope="global").capacity_scope == "global"
    )


def test_alpha_needs_a_head_of_more_than_one_pair():
    """alpha^(d / (d - 2)) has no value at d = 2."""
    assert "head_dim" in problems_of(lambda: TOY.replace(head_dim=2, rope_scaling=DYNAMIC))[0]
    assert TOY.replace(head_dim=2, rope_scaling={"type": "linear", "factor": 2.0}).head_dim == 2


def test_five_faults_are_one_error():
    faults = {"head_dim": 7, "num_key_value_heads": 3, "cla_share_factor": 9, "moe_topk": 20, "rope_scaling": {}}
    problems = problems_of(lambda: TOY.replace(**faults))
    assert [problem.split()[0] for problem in problems] == [
        "model.head_dim", "model.num_key_value_heads", "model.cla_share_factor", "model.moe_topk", "model.rope_scaling"
    ]  # fmt: skip


def test_unknown_and_missing_keys_are_named():
    values = {key: value for key, value in TOY.to_dict().items() if key != "head_dim"} | {"hiden_size": 8, "zzz": 1}
    misspelt, unknown, missing = problems_of(lambda: HunyuanConfig.from_dict(values))
    assert misspelt == "model.hiden_size is not a setting: did you mean 'hidden_size'?"
    assert unknown.startswith("model.zzz is not a setting: known keys are vocab_size, hidden_size")
    assert missing == "model.head_dim is missing"
    assert "hunyuan-large" in problems_of(lambda: HunyuanConfig.from_name("gpt"))[0]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot be read"), ("{", "is not a JSON document"), ("[1]", "holds a list")]
)
def test_a_file_that_is_no_config_is_named(content, sentence, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    (problem,) = problems_of(lambda: HunyuanConfig.from_file(path))
    assert problem.startswith(f"{path} {sentence}")


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TOY.hidden_size = 1


@pytest.mark.parametrize(("layers", "share", "owners"), [(5, 1, (0, 1, 2, 3, 4)), (5, 2, (0, 2, 4)), (4, 3, (0, 3))])
def test_the_first_layer_of_each_group_owns_a_cache(layers, share, owners):
    """A last group may be short."""
    assert TOY.replace(num_hidden_layers=layers, cla_share_factor=share).cache_layers == owners


@pytest.mark.parametrize(
    ("factor", "top_k", "tokens", "capacity"),
    [(1.0, 1, 32, 2), (1.0, 1, 33, 3), (1.25, 1, 64, 5), (1.0, 2, 32, 4), (1.1, 1, 800, 55), (0.01, 1, 16, 1)],
)
def test_capacity_is_the_share_of_a_balanced_load_rounded_up(factor, top_k, tokens, capacity):
    """16 experts; 1.1 * 800 / 16 is 55.00000000000001 in binary and must not buy a 56th place."""
    assert TOY.replace(capacity_factor=factor, moe_topk=top_k).capacity(tokens) == capacity


def test_capacity_follows_the_top_k_of_the_layer():
    config = TOY.replace(capacity_factor=1.0, num_experts=16, moe_topk=(1, 2, 4, 1))
    assert [config.capacity(160, layer) for layer in range(4)] == [10, 20, 40, 10]
