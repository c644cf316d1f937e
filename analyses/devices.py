"""Memory and memory bandwidth of devices, one each, from their makers' data sheets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    memory: int  # bytes
    bandwidth: int  # bytes a second
    source: str


DEVICES = {
    "a100-40gb": Device(40 * 10**9, 1_555 * 10**9, "NVIDIA A100 data sheet, SXM 40 GB"),
    "a100-80gb": Device(80 * 10**9, 2_039 * 10**9, "NVIDIA A100 data sheet, SXM 80 GB"),
    "h100": Device(80 * 10**9, 3_350 * 10**9, "NVIDIA H100 data sheet, SXM"),
    "h20": Device(96 * 10**9, 4_000 * 10**9, "NVIDIA H20 data sheet"),
    "h200": Device(141 * 10**9, 4_800 * 10**9, "NVIDIA H200 data sheet"),
    "b200": Device(180 * 10**9, 8_000 * 10**9, "NVIDIA DGX B200 data sheet: an eighth of 1,440 GB and 64 TB/s"),
    "l40s": Device(48 * 10**9, 864 * 10**9, "NVIDIA L40S data sheet"),
    "rtx-4090": Device(24 * 10**9, 1_008 * 10**9, "NVIDIA Ada architecture white paper"),
    "rtx-5090": Device(32 * 10**9, 1_792 * 10**9, "NVIDIA Blackwell RTX architecture white paper"),
    "mi300x": Device(192 * 10**9, 5_300 * 10**9, "AMD Instinct MI300X data sheet"),
    "mi355x": Device(288 * 10**9, 8_000 * 10**9, "AMD Instinct MI355X data sheet"),
    "m3-ultra": Device(512 * 10**9, 819 * 10**9, "Apple Mac Studio (2025) technical specifications"),
}
