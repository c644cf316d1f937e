"""How fast a GPU computes and sends, for plans: rates that were measured with this project, and links from data sheets.

The rates are of an H100 in bfloat16, forward and backward; an H200 has the same chip, other devices are taken in proportion to
their peak. tests/analyses/planning/test_layouts.py holds them against the files that they come from.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    flops_per_second: float
    source: str


@dataclass(frozen=True)
class Links:
    """Bytes a second that one GPU sends, in one direction."""

    inside: float  # to the other GPUs of its machine
    outside: float  # to other machines
    machine: int  # GPUs in one
    source: str


MEASURED_ON = "h100"
# By hidden size: a dense SwiGLU, and a whole mixture layer with its routing, of which there are measurements.
DENSE = {
    2048: Rate(611.9e12, "examples/gpu/layer.json: dense SwiGLU, 2048/5632, 16,384 tokens"),
    6400: Rate(666.0e12, "examples/gpu/layer.json: dense SwiGLU, 6400/18304, 8,192 tokens"),
}
MIXTURE = {
    2048: Rate(529.9e12, "examples/gpu/layer.json: recycle 1.25, 2048/5632, 16,384 tokens"),
    6400: Rate(609.4e12, "examples/gpu/layer.json: recycle 1.25, 6400/18304, 8,192 tokens"),
}
SCORES = Rate(291e12, "examples/gpu/LOG.md: attention, 17 ms of a step of 12 layers, heads of 64, causal half of 2,048")

_LINKS = Links(450e9, 50e9, 8, "NVIDIA DGX H100 and H200 data sheets: NVLink 900 GB/s both ways, 400 Gb/s a GPU")
LINKS = {"h100": _LINKS, "h200": _LINKS}


def nearest(rates: dict[int, Rate], hidden: int) -> Rate:
    """The rate of the hidden size that is nearest by its logarithm."""
    return rates[min(rates, key=lambda size: max(size, hidden) / min(size, hidden))]
