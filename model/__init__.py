"""Hunyuan-Large as a library: `from model import Hunyuan, HunyuanConfig`.

Names are resolved on first use, so that configurations and counts need no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Hunyuan": "model.transformer",
    "HunyuanConfig": "model.config",
    "HunyuanError": "model.errors",
    "KVCache": "model.layers.kv_cache",
}
__all__ = ["Hunyuan", "HunyuanConfig", "HunyuanError", "KVCache"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
