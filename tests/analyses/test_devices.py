"""Devices by the names that people and drivers give them."""

import pytest

from analyses.devices import DEVICES, find_device
from model.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("H100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("a100 40GB", "a100-40gb"),
        ("4090", "rtx-4090"),
        ("RTX4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Apple M3 Ultra", "m3-ultra"),
        *((key, key) for key in DEVICES),
    ],
)
def test_a_device_is_found(name, key):
    assert find_device(name) == key


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a100", "a100-40gb or a100-80gb: name one"),
        ("h2000", "did you mean 'h200'"),
        ("H100 PCIe", "is not known"),  # another board, with less bandwidth
        ("A100-PCIE-40GB", "is not known"),
        ("NVIDIA", "choose from"),
        ("", "choose from"),
    ],
)
def test_another_name_is_refused_with_what_may_be_meant(name, says):
    with pytest.raises(ConfigError, match=says):
        find_device(name)
