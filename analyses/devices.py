"""Memory, memory bandwidth and peak FLOP/s of devices, one each, from their makers' data sheets.

The peak is that of bfloat16 matrix products summed in float32, without sparsity; None where the maker gives none.
"""

import difflib
import re
from dataclasses import dataclass

from model.errors import ConfigError


@dataclass(frozen=True)
class Device:
    memory: int  # bytes
    bandwidth: int  # bytes a second
    peak_flops: float | None  # FLOPs a second, bfloat16, dense
    source: str


DEVICES = {
    "a100-40gb": Device(40 * 10**9, 1_555 * 10**9, 312e12, "NVIDIA A100 data sheet, SXM 40 GB"),
    "a100-80gb": Device(80 * 10**9, 2_039 * 10**9, 312e12, "NVIDIA A100 data sheet, SXM 80 GB"),
    "h100": Device(80 * 10**9, 3_350 * 10**9, 989e12, "NVIDIA H100 data sheet, SXM"),
    "h20": Device(96 * 10**9, 4_000 * 10**9, 148e12, "NVIDIA H20 data sheet"),
    "h200": Device(141 * 10**9, 4_800 * 10**9, 989e12, "NVIDIA H200 data sheet"),
    "b200": Device(
        180 * 10**9, 8_000 * 10**9, 2250e12, "NVIDIA DGX B200 data sheet: an eighth of 1,440 GB and 64 TB/s"
    ),
    "l40s": Device(48 * 10**9, 864 * 10**9, 362e12, "NVIDIA L40S data sheet"),
    "rtx-4090": Device(24 * 10**9, 1_008 * 10**9, 165e12, "NVIDIA Ada architecture white paper"),
    "rtx-5090": Device(32 * 10**9, 1_792 * 10**9, 209.5e12, "NVIDIA Blackwell RTX architecture white paper"),
    "mi300x": Device(192 * 10**9, 5_300 * 10**9, 1307e12, "AMD Instinct MI300X data sheet"),
    "mi355x": Device(288 * 10**9, 8_000 * 10**9, 2500e12, "AMD Instinct MI355X data sheet"),
    "m3-ultra": Device(512 * 10**9, 819 * 10**9, None, "Apple Mac Studio (2025) technical specifications"),
}

# Words in the names that drivers, shops and data sheets give a device; they change none of its figures here. PCIe and NVL
# boards are other devices, with less bandwidth, and are not known under their chip's name.
_SILENT = frozenset(
    "nvidia amd apple geforce instinct tesla gpu sxm sxm4 sxm5 oam hbm2e hbm3 hbm3e gddr6x gddr7".split()
)


def find_device(name: str, otherwise: str = "") -> str:
    """The key in DEVICES of a device as people and drivers write it: H100, RTX4090, 4090, NVIDIA H100 80GB HBM3.

    ConfigError names the nearest, or all that it may be, such as both sizes of an a100; `otherwise` is what else can be given.
    """
    words = [word for word in re.split("[^a-z0-9]+", name.lower()) if word and word not in _SILENT]
    asked = "".join(words)
    exact = [key for key, device in DEVICES.items() if asked in _spellings(key, device)]
    if len(exact) == 1:
        return exact[0]
    several = [key for key in DEVICES if key.split("-")[0] == asked]
    if several:
        raise ConfigError([f"--gpu {name!r} may be {' or '.join(several)}: name one of them"])
    near = difflib.get_close_matches("-".join(words), DEVICES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(DEVICES)}{otherwise}"
    raise ConfigError([f"--gpu {name!r} is not known: {hint}"])


def _spellings(key: str, device: Device) -> set[str]:
    """A key without its dashes, with and without rtx and the size of its memory."""
    size = str(device.memory // 10**9)
    plain = key.replace("-", "").removesuffix(f"{size}gb")
    bases = {plain, plain.removeprefix("rtx")}
    sized = {base + size + unit for base in bases for unit in ("", "g", "gb")}
    return sized if key.endswith("gb") else bases | sized
