"""Configurations and shapes: what a model is, before anything is built; no torch."""

from model.config.hunyuan import HunyuanConfig

__all__ = ["HunyuanConfig"]
