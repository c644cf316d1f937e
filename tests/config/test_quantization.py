"""The format of weights, as quantization_config says."""

import pytest

from model.config.quantization import stored_weights

# Bytes of a row of 256 values, worked out by hand: values, then scales (and zero points) of every group.
ROWS = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 256),
    ({"quant_method": "fbgemm_fp8"}, "fp8", 256),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 128 + 2 * 4),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4", 128 + 4 * 4),
    ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 256 + 2 * 4),
    ({"quant_method": "gptq", "bits": 3, "group_size": -1}, "int3", 96),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 256),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", 128 + 4 * 4),
    ({"quant_method": "bitsandbytes", "_load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "fp4", 128 + 4),
    ({"quant_method": "mxfp4"}, "mxfp4", 128 + 8),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 128 + 16),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}},
        "fp8", 256,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
        },
        "int4", 128 + 8 * 4,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "name", "size"), ROWS, ids=[str(row[0].values()) for row in ROWS])
def test_known_methods(config, name, size):
    storage, reason = stored_weights({"quantization_config": config})
    assert storage is not None
    assert (storage.name, storage.row_bytes(256)) == (name, size)
    assert str(config["quant_method"]) in reason


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "quip#"},
        {"quant_method": "awq", "bits": "four"},
        {"quant_method": "gptq", "bits": 4, "group_size": 0},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": 1}},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"weights": {"num_bits": 8}}, "b": {"weights": {"num_bits": 4}}},
        },
        {"bits": 4},
        [1],
    ],
    ids=str,
)
def test_what_is_not_understood_is_said(config):
    storage, reason = stored_weights({"quantization_config": config})
    assert storage is None and "quantization_config" in reason


def test_nothing_is_said_where_there_is_nothing():
    assert stored_weights({}) == stored_weights({"quantization_config": None}) == (None, "")
