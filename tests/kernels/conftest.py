"""Kernels in Triton run on a GPU where there is one; elsewhere test_interpreted.py runs them in Triton's interpreter.

Triton decides at its import which of the two it is, so the interpreter has a process of its own.
"""

import importlib
import os

import pytest
import torch

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if CUDA or INTERPRETED else ["*_triton.py"]
collect_ignore = [] if INTERPRETED else ["test_exchange_triton.py"]  # its ranks are processes without a GPU each


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture(scope="session")
def kernels():
    """kernels("adamw"): the module model.kernels.adamw_triton."""
    return lambda name: importlib.import_module(f"model.kernels.{name}_triton")
