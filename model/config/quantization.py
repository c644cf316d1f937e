"""The format of a checkpoint's weights, as the quantization_config in its config.json says."""

import reprlib
from typing import Any

from model.config.storage import STORAGE, Storage

# Integers keep a 16-bit scale and a 16-bit zero point for each group, as elsewhere here (model/config/storage.py).
_INTEGER_GROUP_BITS = 32
_NVFP4 = Storage("nvfp4", 4, group_bits=8, group_size=16)  # an fp8 scale for 16 values
_GROUPED = ("awq", "gptq", "auto_gptq", "auto-round")  # bits, and group_size with -1 for one group a row


def stored_weights(values: dict[str, Any]) -> tuple[Storage | None, str]:
    """The format of the weights of attention and experts, and why it is that one.

    None where quantization_config does not say; the reason is then "" where there is none, or what is not understood.
    Sources of the keys: transformers' classes in utils/quantization_config.py, and compressed-tensors' QuantizationArgs.
    """
    found = values.get("quantization_config")
    if found is None:
        return None, ""
    if not isinstance(found, dict):
        return None, f"its quantization_config is {reprlib.repr(found)}, not an object"
    method = str(found.get("quant_method", "")).lower()
    storage = _read(found, method)
    if storage is None:
        return None, f"its quantization_config has the method {reprlib.repr(method)}, whose bits are not known here"
    return storage, f"its quantization_config has the method {method}"


def _read(found: dict[str, Any], method: str) -> Storage | None:
    if method in ("fp8", "fbgemm_fp8"):
        return STORAGE["fp8"]
    if method == "mxfp4":  # OCP Microscaling formats: an 8-bit scale for 32 values
        return Storage("mxfp4", 4, group_bits=8, group_size=32)
    if method == "modelopt":
        algorithm = str(found.get("quant_algo", "")).upper()
        return {"FP8": STORAGE["fp8"], "NVFP4": _NVFP4}.get(algorithm)
    if method == "bitsandbytes":
        return _bitsandbytes(found)
    if method == "compressed-tensors":
        return _compressed(found)
    if method in _GROUPED:
        return _integer(found.get("bits", found.get("w_bit")), found.get("group_size", found.get("q_group_size", 128)))
    return None


def _integer(bits: Any, group_size: Any) -> Storage | None:
    """Integers of so many bits; a group size of -1 or null is one group a row, whose few bytes are left out."""
    group_size = -1 if group_size is None else group_size
    if not _is_count(bits, most=16) or not (group_size == -1 or _is_count(group_size, most=10**9)):
        return None
    if group_size == -1:
        return Storage(f"int{bits}", bits)
    return Storage(f"int{bits}", bits, group_bits=_INTEGER_GROUP_BITS, group_size=group_size)


def _bitsandbytes(found: dict[str, Any]) -> Storage | None:
    """LLM.int8() has a scale a row; QLoRA's 4 bits a float32 scale for 64 values, of 8 bits where quantised once more."""
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        return Storage("int8", 8)
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        scale = 8 if found.get("bnb_4bit_use_double_quant") else 32
        name = "nf4" if found.get("bnb_4bit_quant_type") == "nf4" else "fp4"
        return Storage(name, 4, group_bits=scale, group_size=64)
    return None


def _compressed(found: dict[str, Any]) -> Storage | None:
    """The one format of all groups of layers; None where they differ."""
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return None
    formats = {_scheme(group.get("weights") if isinstance(group, dict) else None) for group in groups.values()}
    return formats.pop() if len(formats) == 1 else None


def _scheme(weights: Any) -> Storage | None:
    if not isinstance(weights, dict):
        return None
    bits, size = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") != "float":
        return _integer(bits, size)
    if bits == 8:
        return STORAGE["fp8"]
    return _NVFP4 if (bits, size) == (4, 16) else None


def _is_count(value: Any, *, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
